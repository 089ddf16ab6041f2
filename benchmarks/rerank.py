"""What does re-ranking cost, and is it the dense algorithm's? Time and peak memory of both, and the largest difference.

    OMP_NUM_THREADS=1 python -m benchmarks.rerank
    python -m benchmarks.rerank --embeddings market.npz --dense-up-to 20000   # arrays query [Q, D] and gallery [G, D]

Without a file the embeddings are random ones around 25 crops an identity: their distances say nothing about accuracy. Every form
runs in a process of its own, on embeddings it makes or reads itself; peak memory is that process's, these included.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gallery import rerank

PER_IDENTITY = 25  # crops; Market-1501's gallery has about 20
QUERY_SHARE = 3368 / 19281  # as in Market-1501
NOISE = 1.6  # of a crop around its identity's centre, per dimension: about half of the closest 20 are right
CHUNK = 256  # queries whose distances are held at a time
COMPARED = 100  # queries of which all distances are compared


def draw(num_crops: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Clustered unit embeddings, always the same ones: float32 query [Q, D], gallery [G, D]."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, num_crops // PER_IDENTITY), dim), dtype=np.float32)
    sets = []
    for num in (round(num_crops * QUERY_SHARE), num_crops - round(num_crops * QUERY_SHARE)):
        crops = rng.standard_normal((num, dim), dtype=np.float32)
        crops *= NOISE
        for start in range(0, num, 1024):  # in runs: the peak of memory is to be the re-ranking's
            crops[start : start + 1024] += centres[rng.integers(len(centres), size=len(crops[start : start + 1024]))]
        crops /= np.sqrt(np.einsum("nd,nd->n", crops, crops))[:, np.newaxis]
        sets.append(crops)
    return sets[0], sets[1]


def sparse_form(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Ours; returns the distances of the first queries, after having computed all."""
    with tqdm(total=len(query) + len(gallery), desc="neighbours", disable=None) as bar:
        prepared = rerank.prepare(query, gallery, progress=bar.update)
    kept = []
    for start in range(0, len(query), CHUNK):
        distances = rerank.distances(prepared, slice(start, start + CHUNK))
        kept.append(distances[: max(0, COMPARED - start)])
    return np.concatenate(kept)


def dense_form(query: np.ndarray, gallery: np.ndarray, *, k1: int = 20, k2: int = 6, blend: float = 0.3) -> np.ndarray:
    """The usual algorithm on N x N matrices, as public code has it, in float32; returns the distances of the first queries."""
    both = np.concatenate([query, gallery])
    num, half = len(both), int(np.around(k1 / 2)) + 1
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
    blended = blend * scaled[: len(query)]
    for crop in range(len(query)):
        shared = np.zeros(num, np.float32)
        for column in np.flatnonzero(weights[crop]):
            rows = inverted[column]
            shared[rows] += np.minimum(weights[crop, column], weights[rows, column])
        blended[crop] += (1 - blend) * (1 - shared / (2 - shared))
    return blended[:COMPARED, len(query) :]


FORMS = {"sparse": sparse_form, "dense": dense_form}


def measure(form: str, num_crops: int, dim: int, embeddings: Path | None) -> tuple[dict, np.ndarray]:
    """Runs one form in this process: its figures, and the distances of the first queries."""
    if embeddings is None:
        query, gallery = draw(num_crops, dim)
    else:
        with np.load(embeddings) as file:
            query, gallery = file["query"], file["gallery"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    distances = FORMS[form](query, gallery)
    figures = {
        "form": form,
        "queries": len(query),
        "gallery": len(gallery),
        "dim": query.shape[1],
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "embeddings_mib": round((query.nbytes + gallery.nbytes) / 2**20),
        "before_mib": round(before / 1024),  # Linux counts in KiB
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    return figures, distances


def apart(*arguments: object) -> tuple[dict, np.ndarray]:
    """Measures in a fresh process, whose peak of memory nothing else has raised."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def line(figures: dict) -> str:
    """One line of the table."""
    return (
        f"{figures['form']:8}{figures['queries']:9}{figures['gallery']:9}{figures['dim']:6}{figures['seconds']:9}"
        f"{figures['cpu_seconds']:9}{figures['before_mib']:12}{figures['peak_mib']:10}  {figures.get('largest_difference', '')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, nargs="+", default=[5000, 19281], help="crops in all, query and gallery")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--embeddings", type=Path, help="npz with unit rows query and gallery, in place of drawn ones")
    parser.add_argument("--dense-up-to", type=int, default=5000, help="crops up to which the dense form runs too")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    table = []
    print("form      queries  gallery   dim   wall s    cpu s  before MiB  peak MiB  largest difference")
    for num_crops in [0] if args.embeddings else args.crops:
        figures, kept = apart("sparse", num_crops, args.dim, args.embeddings)
        table.append(figures)
        print(line(figures), flush=True)
        if figures["queries"] + figures["gallery"] <= args.dense_up_to:
            figures, distances = apart("dense", num_crops, args.dim, args.embeddings)
            figures["largest_difference"] = float(np.abs(distances - kept).max())
            table.append(figures)
            print(line(figures), flush=True)
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        report = {"machine": platform.processor() or platform.machine(), "python": sys.version.split()[0], "commit": commit}
        args.json.write_text(json.dumps({**report, "cases": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
