"""What does re-ranking cost and bring, and is it the dense algorithm's? Time, peak memory and mAP of both, and how they differ.

    OMP_NUM_THREADS=2 python -m benchmarks.rerank --crops 30000 95000 --dim 2048
    OMP_NUM_THREADS=2 python -m benchmarks.rerank --features market.npz --dense-up-to 20000

The features are arrays query, gallery [n, D] with query_pids, gallery_pids, query_camids, gallery_camids [n]; without a file they
are drawn around 25 crops an identity, and their mAP compares the forms, nothing else. Every form runs in a process of its own, on
features it makes or reads itself; peak memory is that process's, these included, time is without the scoring.

The public code is that of the package fastreid, where it is installed: its dense re-ranking, and its Jaccard distances over
FAISS's neighbours, which are dense behind that, one neighbour short and not blended with the original ones. With --lists the
neighbour lists are held against those of a sort of every row.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gallery import neighbours, rerank
from training import metrics
from training.metrics import Ids

PER_IDENTITY = 25  # crops; Market-1501's gallery has about 20
QUERY_SHARE = 3368 / 19281  # as in Market-1501
NOISE = 1.6  # of a crop around its identity's centre, per dimension: about half of the closest 20 are right
CHUNK = 256  # queries whose distances are held at a time
COMPARED = 100  # queries of which all distances are compared


@dataclass(frozen=True, eq=False)
class Features:
    """Unit rows float32 [n, D] of two sets and whose they are."""

    query: np.ndarray
    gallery: np.ndarray
    query_ids: Ids
    gallery_ids: Ids


def draw(num_crops: int, dim: int) -> Features:
    """Clustered unit embeddings, always the same ones."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, num_crops // PER_IDENTITY), dim), dtype=np.float32)
    sets: list[np.ndarray] = []
    pids: list[np.ndarray] = []
    for num in (round(num_crops * QUERY_SHARE), num_crops - round(num_crops * QUERY_SHARE)):
        crops = rng.standard_normal((num, dim), dtype=np.float32)
        pids.append(rng.integers(1, 1 + len(centres), size=num))
        crops *= NOISE
        for start in range(0, num, 1024):  # in runs: the peak of memory is to be the re-ranking's
            crops[start : start + 1024] += centres[pids[-1][start : start + 1024] - 1]
        sets.append(unit_rows(crops))
    return Features(sets[0], sets[1], *(Ids(own, np.full(len(own), camera)) for camera, own in enumerate(pids)))


def read(path: Path) -> Features:
    """The features of a file."""
    with np.load(path) as file:
        ids = (Ids(file[f"{name}_pids"], file[f"{name}_camids"]) for name in ("query", "gallery"))
        return Features(unit_rows(file["query"].astype(np.float32)), unit_rows(file["gallery"].astype(np.float32)), *ids)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The same rows scaled to unit length, in place."""
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, np.newaxis]
    return rows


def cosine_form(features: Features) -> Iterator[np.ndarray]:
    """No re-ranking; squared distances, like the others in chunks [R, G]."""
    for start in range(0, len(features.query), CHUNK):
        yield 2 - 2 * (features.query[start : start + CHUNK] @ features.gallery.T)


def sparse_form(features: Features) -> Iterator[np.ndarray]:
    """Ours."""
    prepared = rerank.prepare(features.query, features.gallery)
    for start in range(0, len(features.query), CHUNK):
        yield rerank.distances(prepared, slice(start, start + CHUNK))


def public_form(features: Features) -> Iterator[np.ndarray]:
    """What the package fastreid ships, given the distances that it squares; its file alone, without all that it imports."""
    spec = find_spec("fastreid")
    assert spec is not None and spec.submodule_search_locations, "This is a bug: only run where it is installed."
    file = Path(spec.submodule_search_locations[0]) / "evaluation" / "rerank.py"
    query, gallery = features.query, features.gallery
    sets = [
        np.sqrt(np.maximum(2 - 2 * (left @ right.T), 0)) for left, right in ((query, gallery), (query, query), (gallery, gallery))
    ]
    yield from np.split(runpy.run_path(str(file))["re_ranking"](*sets), range(CHUNK, len(query), CHUNK))


def public_faiss_form(features: Features) -> Iterator[np.ndarray]:
    """Jaccard distances as the package fastreid computes them of features, with FAISS on the CPU."""
    import torch  # here alone: the others' memory is to be their own

    both = torch.from_numpy(np.concatenate([features.query, features.gallery]))
    jaccard = import_module("fastreid.utils.compute_dist").compute_jaccard_distance(both, search_option=3)
    num_query = len(features.query)
    yield from np.split(jaccard[:num_query, num_query:], range(CHUNK, num_query, CHUNK))


def dense_form(features: Features, *, k1: int = 20, k2: int = 6, blend: float = 0.3) -> Iterator[np.ndarray]:
    """The usual algorithm on N x N matrices, as public code has it, in float32."""
    both = np.concatenate([features.query, features.gallery])
    num, num_query, half = len(both), len(features.query), int(np.around(k1 / 2)) + 1
    scaled = 2 - 2 * (both @ both.T)
    scaled /= scaled.max(axis=1, keepdims=True)
    order = np.argsort(scaled, axis=1)

    def reciprocal(crop: int, length: int) -> np.ndarray:
        forward = order[crop, :length]
        return forward[(order[forward, :length] == crop).any(axis=1)]

    weights = np.zeros_like(scaled)
    for crop in range(num):
        core = reciprocal(crop, k1 + 1)
        halves = [reciprocal(other, half) for other in core]
        joining = [one for one in halves if len(np.intersect1d(one, core)) > 2 / 3 * len(one)]
        members = np.unique(np.concatenate([core, *joining]))
        weights[crop, members] = np.exp(-scaled[crop, members])
        weights[crop] /= weights[crop].sum()
    weights = np.stack([weights[order[crop, :k2]].mean(axis=0) for crop in range(num)])
    inverted = [np.flatnonzero(column) for column in weights.T]
    blended = blend * scaled[:num_query]
    for crop in range(num_query):
        shared = np.zeros(num, np.float32)
        for column in np.flatnonzero(weights[crop]):
            rows = inverted[column]
            shared[rows] += np.minimum(weights[crop, column], weights[rows, column])
        blended[crop] += (1 - blend) * (1 - shared / (2 - shared))
    yield from np.split(blended[:, num_query:], range(CHUNK, num_query, CHUNK))


FORMS = {
    "cosine": cosine_form,
    "sparse": sparse_form,
    "dense": dense_form,
    "fastreid": public_form,
    "faiss": public_faiss_form,
}


def measure(form: str, num_crops: int, dim: int, path: Path | None) -> tuple[dict, np.ndarray]:
    """Runs one form in this process: its figures, and the distances of the first queries."""
    features = draw(num_crops, dim) if path is None else read(path)
    before = peak_mib()
    chunks, scores, kept, first = FORMS[form](features), [], [], 0
    wall = cpu = 0.0
    while True:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        distances = next(chunks, None)
        wall, cpu = wall + time.perf_counter() - begun, cpu + time.process_time() - cpu_begun
        if distances is None:
            break
        kept.append(distances[: max(0, COMPARED - first)].copy())  # a view would keep all of them
        rows = slice(first, first + len(distances))
        scores.append(metrics.score_queries(-distances, features.query_ids.at(rows), features.gallery_ids))
        first = rows.stop
    found = metrics.join(scores)
    figures = {
        "form": form,
        "queries": len(features.query),
        "gallery": len(features.gallery),
        "dim": features.query.shape[1],
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "before_mib": before,
        "peak_mib": peak_mib(),
        "rank1": float(metrics.cmc(found)[0]),
        "mAP": float(found.ap[found.is_valid].mean()),
    }
    return figures, np.concatenate(kept)


def peak_mib() -> int:
    """The most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux counts in KiB


def apart(*arguments: object) -> tuple[dict, np.ndarray]:
    """Measures in a fresh process, whose peak of memory nothing else has raised."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def line(figures: dict) -> str:
    """One line of the table."""
    return (
        f"{figures['form']:9}{figures['queries']:8}{figures['gallery']:9}{figures['dim']:6}{figures['seconds']:9}"
        f"{figures['cpu_seconds']:9}{figures['before_mib']:12}{figures['peak_mib']:10}{100 * figures['rank1']:8.2f}"
        f"{100 * figures['mAP']:12.6f}  {figures.get('largest_difference', '')}"
    )


def compared(num_crops: int, dim: int, path: Path | None, *, dense_up_to: int) -> Iterator[dict]:
    """The figures of every form that can run, each with how far the first queries' distances are from ours."""
    ours, kept = apart("sparse", num_crops, dim, path)
    yield apart("cosine", num_crops, dim, path)[0]
    yield ours
    is_small = ours["queries"] + ours["gallery"] <= dense_up_to
    public = ("fastreid", "faiss") if find_spec("fastreid") else ()
    for form in ("dense", *public) if is_small else ():
        figures, distances = apart(form, num_crops, dim, path)
        yield {**figures, "largest_difference": float(np.abs(distances - kept).max())}


def differing_lists(features: Features, *, k: int = 21) -> tuple[int, float]:
    """In how many of our lists another crop stands than after a sort of the whole row, and how far its cosine is off.

    Products of other shapes differ in their last bits, and crops as close as that may change places.
    """
    both = np.concatenate([features.query, features.gallery])
    found = neighbours.find_neighbours(features.query, features.gallery, k=k)
    differing, off = 0, 0.0
    for start in range(0, len(both), CHUNK):
        rows = slice(start, start + CHUNK)
        cosines = both[rows] @ both.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = np.inf
        index = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        differing += int((index != found.index[rows]).any(axis=1).sum())
        wanted = np.take_along_axis(cosines, index, axis=1)
        off = max(off, float(np.abs(wanted[:, 1:] - found.cosine[rows, 1:]).max()))
    return differing, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, nargs="+", default=[5000, 19281], help="crops in all, query and gallery")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--features", type=Path, help="npz as told above, in place of drawn ones")
    parser.add_argument("--dense-up-to", type=int, default=5000, help="crops up to which the dense forms run too: 16 N^2 bytes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--lists", action="store_true", help="compare the neighbour lists with a sort of every row too")
    args = parser.parse_args()
    table = []
    print("form      queries  gallery   dim   wall s    cpu s  before MiB  peak MiB  rank-1         mAP  largest difference")
    for num_crops in [0] if args.features else args.crops:
        for figures in compared(num_crops, args.dim, args.features, dense_up_to=args.dense_up_to):
            table.append(figures)
            print(line(figures), flush=True)
        if args.lists:
            features = read(args.features) if args.features else draw(num_crops, args.dim)
            differing, off = differing_lists(features)
            print(f"{differing} lists differ from those of a sort, their cosines by at most {off:.1e}", flush=True)
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        report = {"machine": platform.processor() or platform.machine(), "threads": os.environ.get("OMP_NUM_THREADS")}
        report |= {"load": os.getloadavg()[0], "python": sys.version.split()[0], "commit": commit}
        args.json.write_text(json.dumps({**report, "cases": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
