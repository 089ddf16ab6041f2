"""What does re-ranking add to a search, and what does it cost in mAP that only the shortlist is looked at?

    OMP_NUM_THREADS=1 python -m benchmarks.rerank_online --entries 100000                 # milliseconds, drawn embeddings
    python -m benchmarks.rerank_online --entries 0 --features market.npz --every 12       # mAP, features as for benchmarks.rerank

Searches take turns with and without re-ranking, on one gallery. mAP ranks the whole gallery, entries behind the shortlist by
their cosines; `whole set` is the protocol with all queries and the gallery together. `cached` re-ranks the same shortlists as
one would with exact neighbour lists over the whole gallery, kept and maintained: its lists are those of the gallery and the
picked queries, so few of these that they hardly vote.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scans
from benchmarks.gallery_cases import LOADING, SPACE, new_entries
from benchmarks.rerank import Features, read
from benchmarks.scans import People
from gallery import rerank
from gallery.local import LocalGallery
from gallery.online import Rerank, overlaps
from gallery.rerank import Neighbourhoods
from training import metrics

K = 10
SIZES = (100, 200, 500)  # of the shortlist
CHUNK = 64  # queries scored at a time
Overlaps = Callable[[int, np.ndarray], np.ndarray]  # number of a query, its shortlist [S] -> [S]


def latencies(entries: int, dim: int, *, rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Milliseconds of searches with and without, and what re-ranking added at the median."""
    people = People(entries, dim)
    queries = people.queries(calls * rounds)
    with tempfile.TemporaryDirectory() as scratch, LocalGallery.open(Path(scratch), space_id=SPACE, dim=dim) as gallery:
        coming = new_entries(people)
        while some := list(islice(coming, LOADING)):
            gallery.enroll(some, space_id=SPACE)
        cases: dict[str, scans.Call] = {}
        for group in ("identity", "entry"):
            for size in (0, *SIZES):
                how = Rerank(shortlist=size) if size else None

                def call(number: int, group=group, how=how) -> object:
                    return gallery.search(queries[number], k=K, group_by=group, rerank=how)

                cases[f"{group} {size or 'plain'}"] = call
        turns = scans.interleaved(cases, rounds=rounds, calls=calls, num=len(queries))
    table = {name: scans.Latency.of(turns[name], turns[f"{name.split()[0]} plain"]).as_json() for name in cases}
    for name, row in table.items():
        plain = table[f"{name.split()[0]} plain"]
        row |= {f"added_{kind}": row[kind] - plain[kind] for kind in ("median_ms", "cpu_ms")}
    return table


def accuracies(features: Features, *, every: int) -> Iterator[tuple[str, float, float]]:
    """Name, rank-1 and mAP of every way to rank, for one query of `every`."""
    picked = np.arange(0, len(features.query), every)
    prepared = rerank.prepare(features.query, features.gallery)
    yield "cosine", *scored(features, picked, lambda number, cosines: 1 - cosines)
    yield "whole set", *scored(features, picked, lambda number, cosines: rerank.distances(prepared, slice(number, number + 1))[0])
    listed_all = rerank.prepare(features.query[picked], features.gallery, blend=0)
    ways: dict[str, Overlaps] = {
        "shortlist": lambda number, listed: shortlist_overlaps(features, number, listed),
        "cached": lambda number, listed: cached_overlaps(listed_all, number // every, listed),
    }
    for size in SIZES:
        for name, way in ways.items():
            yield f"{name} {size}", *scored(features, picked, lambda *one, way=way, size=size: online_distances(*one, way, size))


def scored(features: Features, picked: np.ndarray, distances: Callable[[int, np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Rank-1 and mAP of the picked queries, given each one's distances [G] by its number and cosines."""
    parts = []
    for start in range(0, len(picked), CHUNK):
        numbers = picked[start : start + CHUNK]
        cosines = features.query[numbers] @ features.gallery.T
        scores = -np.stack([distances(int(number), row) for number, row in zip(numbers, cosines, strict=True)])
        ids = metrics.Ids(features.query_ids.pids[numbers], features.query_ids.camids[numbers])
        parts.append(metrics.score_queries(scores, ids, features.gallery_ids))
    found = metrics.join(parts)
    return float(metrics.cmc(found)[0]), float(found.ap[found.is_valid].mean())


def online_distances(number: int, cosines: np.ndarray, way: Overlaps, size: int) -> np.ndarray:
    """Re-ranked distances [G] of one query: gallery.online's, entries one by one."""
    listed = np.argsort(-cosines, kind="stable")[:size]
    jaccard = np.ones(len(cosines))
    jaccard[listed] -= way(number, listed)
    return Rerank.blend * (1 - cosines) / (1 - cosines[listed[-1]]) + (1 - Rerank.blend) * jaccard


def shortlist_overlaps(features: Features, number: int, listed: np.ndarray) -> np.ndarray:
    """Ours: neighbourhoods inside the query and its shortlist."""
    return overlaps(np.concatenate([features.query[number][np.newaxis], features.gallery[listed]]), k1=Rerank.k1, k2=Rerank.k2)


def cached_overlaps(prepared: Neighbourhoods, place: int, listed: np.ndarray) -> np.ndarray:
    """Neighbourhoods over the whole gallery and the picked queries, prepared with a blend of 0."""
    return 1 - rerank.distances(prepared, slice(place, place + 1))[0][listed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000, help="entries of the gallery that is searched; 0: no searches")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=10, help="searches of a kind in a round")
    parser.add_argument("--features", type=Path, help="npz as for benchmarks.rerank; measures mAP")
    parser.add_argument("--every", type=int, default=12, help="one query of so many")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    report: dict[str, Any] = {}
    if args.entries:
        report["latencies"] = latencies(args.entries, args.dim, rounds=args.rounds, calls=args.calls)
        print(f"{args.entries} entries{'':12}ms   p95 ms   CPU ms    added  by CPU")
        for name, row in report["latencies"].items():
            shown = (row[kind] for kind in ("median_ms", "p95_ms", "cpu_ms", "added_median_ms", "added_cpu_ms"))
            print(f"{name:20}" + "".join(f"{value:9.2f}" for value in shown), flush=True)
    if args.features:
        report["accuracies"] = {}
        print("                    rank-1      mAP")
        for name, rank1, mean_ap in accuracies(read(args.features), every=args.every):
            report["accuracies"][name] = {"rank1": rank1, "mAP": mean_ap}
            print(f"{name:20}{100 * rank1:6.2f}{100 * mean_ap:9.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
