"""What does HTTP cost? The running service under closed-loop and constant-arrival load, beside the bare runtime in the same run.

    python -m benchmarks.http --artefact service/model
    python -m benchmarks.http --batch-max 1 16        # does batching across requests pay?

Drawn crops as JPEG files go to POST /embed (base64 answers). Server and load generator share the machine: the generator's CPU
time is told. Every round measures every case; medians over the rounds. `share` is the rate over the bare runtime's best of the
same round; `added` is the median wait over the bare runtime's time for one crop. Constant arrival is a share of 32 clients' rate.
"""

import argparse
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks import load, rounds
from benchmarks.end_to_end import running_service
from benchmarks.ledger import machine
from exporter.parity import drawn_crops
from service.embedder import Embedder
from service.errors import ServiceError

CLIENTS = (1, 8, 32)
PER_REQUEST = 8  # crops of a request with several
ARRIVALS = (0.5, 0.8, 1.2)  # of the rate that 32 clients got
BARE_SIZES = (1, 8, 16)

Row = dict[str, float]


def jpegs(num_crops: int, *, height: int = 128, width: int = 64) -> list[bytes]:
    """Returns drawn crops as JPEG files."""
    files = []
    for crop in drawn_crops(num_crops, height=height, width=width):
        buffer = BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def bare(embedder: Embedder, *, batch_size: int, seconds: float) -> Row:
    """Times the embedder alone, without HTTP and decoding."""
    crops = drawn_crops(batch_size, height=embedder.model.height, width=embedder.model.width)

    def work() -> float:
        embedder.embed(crops)
        return batch_size

    work()
    turn = rounds.take_turn(work, seconds)
    return {"crops_per_s": turn.per_s, "p50_ms": 1000 * turn.call_s}


def batch_sizes(url: str) -> dict[str, float]:
    """Returns how many forward passes the service has made so far, by largest size; cumulative, as Prometheus counts."""
    text = httpx.get(f"{url}/metrics").text
    return {bound: float(value) for bound, value in re.findall(r'reid_batch_size_bucket\{le="([^"]+)"\} (\S+)', text)}


def histogram(before: dict[str, float], after: dict[str, float]) -> dict[str, int]:
    """Returns the forward passes between two readings, by largest size, empty ones left out."""
    grown = [(bound, after[bound] - before.get(bound, 0)) for bound in after]
    single = [(bound, int(value - earlier)) for (bound, value), (_, earlier) in zip(grown, [("", 0.0), *grown], strict=False)]
    return {bound: value for bound, value in single if value}


def loads(url: str, files: Sequence[bytes], args: argparse.Namespace) -> dict[str, tuple[Row, dict[str, int]]]:
    """Puts every load on a running service once."""
    single = load.jpeg_requests(url, files, crops_per_request=1)
    several = load.jpeg_requests(url, files, crops_per_request=PER_REQUEST)
    found = {}

    def note(name: str, waits: load.Waits, before: dict[str, float], crops_per_request: int = 1) -> Row:
        row = waits.figures(crops_per_request=crops_per_request)
        found[name] = (row, histogram(before, batch_sizes(url)))
        return row

    rate = 0.0
    for clients in CLIENTS:
        before = batch_sizes(url)
        waits = load.run(load.closed_loop(url, single, clients=clients, num_requests=args.num_crops))
        rate = note(f"{clients} clients", waits, before)["crops_per_s"]
    before = batch_sizes(url)
    num_requests = max(1, args.num_crops // PER_REQUEST)
    waits = load.run(load.closed_loop(url, several, clients=PER_REQUEST, num_requests=num_requests))
    note(f"{PER_REQUEST} clients, {PER_REQUEST} crops a request", waits, before, PER_REQUEST)
    for share in ARRIVALS:
        before = batch_sizes(url)
        waits = load.run(load.constant_arrival(url, single, per_s=share * rate, seconds=args.num_crops / rate))
        note(f"constant arrival, {share:.0%}", waits, before)
    return found


def measure(args: argparse.Namespace) -> tuple[dict[str, Row], dict[str, dict[str, int]]]:
    """Runs every case once a round; returns medians over the rounds, and the batches of all rounds by largest size."""
    files, embedder = jpegs(64), Embedder.open(args.artefact, provider="cpu", threads=args.threads)
    seen: dict[str, list[Row]] = defaultdict(list)
    batches: dict[str, dict[str, int]] = defaultdict(dict)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        for batch_max in args.batch_max:
            settings = {"REID_BATCH_MAX": str(batch_max), "REID_THREADS": str(args.threads)}
            urls[batch_max] = stack.enter_context(running_service(args.artefact, folder / str(batch_max), **settings))
        for _ in range(args.rounds):
            alone = {size: bare(embedder, batch_size=size, seconds=args.seconds) for size in BARE_SIZES}
            best = max(row["crops_per_s"] for row in alone.values())
            for size, row in alone.items():
                seen[f"bare runtime, batch {size}"].append(row)
            for batch_max, url in urls.items():
                for name, (row, sizes) in loads(url, files, args).items():
                    case = f"HTTP, batches up to {batch_max}, {name}"
                    compared = {"share": row["crops_per_s"] / best, "added_ms": row["p50_ms"] - alone[1]["p50_ms"]}
                    seen[case].append(row | compared)
                    batches[case] = {key: batches[case].get(key, 0) + sizes.get(key, 0) for key in {**batches[case], **sizes}}
    return {case: medians(rows) for case, rows in seen.items()}, dict(batches)


def medians(rows: Sequence[Row]) -> Row:
    """Returns the median of every figure."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def line(case: str, row: Row) -> str:
    """Returns a case as the table shows it."""
    text = f"{case:<56}{row['crops_per_s']:>9.1f} crops/s  p50 {row['p50_ms']:>7.1f}"
    if "p95_ms" not in row:
        return f"{text} ms"
    tail = f" p95 {row['p95_ms']:>7.1f} p99 {row['p99_ms']:>7.1f} ms  share {row['share']:.2f}  added {row['added_ms']:>6.1f} ms"
    return f"{text}{tail}  refused {row['refused']:.0%}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (the bundled one)"
    )
    parser.add_argument("--batch-max", type=int, nargs="+", default=[16], metavar="N", help="REID_BATCH_MAX of the services (16)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the runtime (every granted core)")
    parser.add_argument("--num-crops", type=int, default=256, metavar="N", help="crops of each case and round (256)")
    parser.add_argument("--seconds", type=float, default=2, metavar="X", help="of the bare runtime, each size and round (2)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which medians are told (3)")
    parser.add_argument("--quick", action="store_true", help="one round of 32 crops")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.num_crops, args.seconds = 1, 32, 0.0
    if min(args.rounds, args.num_crops, *args.batch_max) < 1 or args.threads < 0:
        parser.error("got rounds, crops or batches below 1, or threads below 0")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        table, batches = measure(args)
    except (ServiceError, OSError, RuntimeError) as error:
        sys.exit(f"http: {error}")
    for case, row in table.items():
        print(line(case, row))
    for case, sizes in batches.items():
        print(f"{case}: forward passes by largest size {dict(sorted(sizes.items(), key=lambda pair: float(pair[0])))}")
    settings = {"threads": args.threads, "num_crops": args.num_crops, "rounds": args.rounds}
    content: dict[str, Any] = {"machine": machine(), "versions": rounds.versions(), "settings": settings}
    rounds.write(args.json, {"schema_version": 1, **content, "cases": table, "batches": batches})


if __name__ == "__main__":
    main()
