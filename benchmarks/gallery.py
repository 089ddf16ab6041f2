"""How fast is the gallery, and what would one have with a bare scan or another store? Enrolling, opening, searching.

    python -m benchmarks.gallery --sizes 20000 100000 --json gallery.json     # add 500000: 12 GB of memory and disk
    python -m benchmarks.gallery --quick                                      # the same on 2,000 entries of 256 dimensions

Cases take turns in every round, so that whatever else the machine does disturbs all alike: read the ratios, and of those the
ones by CPU time where OMP_NUM_THREADS=1. `opened` is measured in processes of their own, with the file in the page cache.
usearch, lancedb and qdrant-client take part when they are installed. A batch of the gallery is one search after another.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import faiss

from benchmarks import gallery_cases, scans
from benchmarks.gallery_cases import BATCH, WRITERS, Table
from benchmarks.scans import People

PACKAGES = ("numpy", "faiss-cpu", "usearch", "lancedb", "qdrant-client")


def bars(size: int, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What the figures of one size must reach: name, value, limit, whether it does."""
    single = figures["single"]
    found = []

    def bar(name: str, value: float, limit: float, *, at_least: bool = False) -> None:
        is_met = value >= limit if at_least else value <= limit
        found.append({"name": f"{size}: {name}", "value": value, "limit": limit, "at_least": at_least, "is_met": bool(is_met)})

    bar(
        "durable single-row enrolments/s, 32 writers",
        figures["enrolled"][f"1 a call, {WRITERS} threads"]["per_s"],
        2000,
        at_least=True,
    )
    if size <= 20_000:
        for group in ("entry", "identity"):
            bar(f"exact by {group} / best exact scan, clock", single[f"exact {group}"]["ratio"], 1.2)
            bar(f"exact by {group} / best exact scan, CPU", single[f"exact {group}"]["cpu_ratio"], 1.2)
    if size >= 100_000:
        flat = single.get("faiss flat fp32")
        for group in ("entry", "identity"):
            own = single[f"quantised {group}"]
            if flat is not None:
                bar(f"quantised by {group} / flat, clock", own["median_ms"] / flat["median_ms"], 0.1)
                bar(f"quantised by {group} / flat, CPU", own["cpu_ms"] / flat["cpu_ms"], 0.1)
            bar(f"recall@10, quantised by {group}", own["recall_at_10"], 0.999, at_least=True)
        bar("open, s", figures["opened"]["auto"]["open_s"], 5 * size / 100_000)
    return found


def rates(table: Table) -> str:
    """Durable enrolments as people read them."""
    lines = [f"{'durable enrolment':<34}{'entries/s':>10}{'CPU ms a call':>15}"]
    for name, row in table.items():
        lines.append(
            f"  {name:<32}{row['per_s']:>10.0f}" + (f"{row['cpu_ms_per_call']:>15.2f}" if "cpu_ms_per_call" in row else "")
        )
    return "\n".join(lines)


def opens(table: Table) -> str:
    """Opening as people read it."""
    lines = []
    for choice, row in table.items():
        parts = ", ".join(f"{name} {took:.2f}" for name, took in row["parts_cpu_s"].items())
        lines.append(f"open ({choice}: {row['index']}): {row['open_s']:.2f} s, CPU {row['open_cpu_s']:.2f} s ({parts})")
        lines.append(
            f"  memory {row['before_mib']:.0f} MiB before, {row['resident_mib']:.0f} after, {row['peak_mib']:.0f} at most; "
            f"files {row['file_mib']:.0f} MiB"
        )
    return "\n".join(lines)


def latencies(title: str, table: Table) -> str:
    """Latencies as people read them."""
    lines = [f"{title:<34}{'ms':>9}{'p95 ms':>9}{'CPU ms':>9}{'ratio':>8}{'by CPU':>8}{'recall@10':>11}{'top-1':>8}"]
    return "\n".join(
        [*lines, *(f"  {name:<32}" + (row["error"] if "error" in row else shown(row)) for name, row in table.items())]
    )


def shown(row: dict[str, Any]) -> str:
    """One line of latencies."""
    text = f"{row['median_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['cpu_ms']:>9.2f}{row['ratio']:>8.2f}{row['cpu_ratio']:>8.2f}"
    found = f"{row['recall_at_10']:>11.4f}{row['top1']:>8.4f}" if "recall_at_10" in row else ""
    return text + found + ("  the best exact scan" if row.get("best") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000], help="entries; at least 10,000")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="2,000 entries of 256 dimensions, one round: does it run?")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    rounds, calls, enrolls = (1, 3, 8) if args.quick else (args.rounds, 10, 32)
    report: dict[str, Any] = {**machine(), "sizes": {}, "bars": []}
    for size in [2000] if args.quick else args.sizes:
        people = People(size, 256 if args.quick else args.dim)
        print(f"\n{size} entries of {people.dim} dimensions, {people.num_identities} identities", flush=True)
        figures = report["sizes"][size] = measured(people, rounds, calls, enrolls, num_queries=max(BATCH, args.queries))
        report["bars"] += [] if args.quick else bars(size, figures)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    print()
    for bar in report["bars"]:
        sign = ">=" if bar["at_least"] else "<="
        print(f"{'pass' if bar['is_met'] else 'MISS'}  {bar['name']}: {bar['value']:.4g}, wanted {sign} {bar['limit']:g}")


def measured(people: People, rounds: int, calls: int, enrolls: int, *, num_queries: int) -> dict[str, Any]:
    """Everything about one size, each table printed as soon as it stands."""
    with tempfile.TemporaryDirectory(prefix="gallery-") as scratch:
        folder = Path(scratch) / "gallery"
        figures: dict[str, Any] = {"fsync_ms": scans.fsync_ms(Path(scratch), 50)}
        print(f"one fdatasync of 4 KB: {figures['fsync_ms']:.2f} ms")
        figures["enrolled"] = gallery_cases.enrolled(folder, people, rounds=max(1, rounds // 2), calls=enrolls)
        print(rates(figures["enrolled"]), flush=True)
        figures["opened"] = gallery_cases.opening(folder, rounds=min(rounds, 3))
        print(opens(figures["opened"]), flush=True)
        found = gallery_cases.searching(folder, people, rounds=rounds, calls=calls, num_queries=num_queries)
    figures |= dict(zip(("single", "batches", "stores"), found, strict=True))
    if figures["stores"]:
        print(rates(figures["stores"]))
    print(latencies("one query", figures["single"]))
    print(latencies(f"{BATCH} queries", figures["batches"]), flush=True)
    return figures


def machine() -> dict[str, Any]:
    """Where and with what this runs."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "machine": platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "omp_threads": faiss.omp_get_max_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": commit,
        "versions": versions,
    }


if __name__ == "__main__":
    main()
