"""What does HTTP cost? The running service under closed-loop and constant-arrival load, beside the bare runtime in the same run.

    python -m benchmarks.http --artefact service/model
    python -m benchmarks.http --batch-max 1 16        # does batching across requests pay?

Drawn crops as JPEG files go to POST /embed (base64 answers). Server and load generator share the machine; the JSON has the
generator's CPU time. The bare runtime is measured before and after every load. `share`: crops a second over its best;
of CPU: what the bare runtime needs of CPU time for a crop, over what the service needs (the one to read on a busy machine);
`added`: median wait over the bare runtime's time for one crop. Constant arrival comes at a share of what 32 clients got.
"""

import argparse
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
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

CLIENTS = (1, 8, 32, 64)  # the last: a batch waits whenever one runs
PER_REQUEST = 8  # crops of a request with several
ARRIVALS = (0.5, 0.8, 1.2)  # of the rate that the most clients got
BARE_SIZES = (1, 8, 16)

Row = dict[str, float]
Load = Coroutine[Any, Any, load.Waits]


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
    return {"crops_per_s": turn.per_s, "p50_ms": 1000 * turn.call_s, "cpu_ms": 1000 / turn.per_cpu_s}


@dataclass(frozen=True)
class Reading:
    """What the service has done so far: forward passes by largest size (cumulative, as Prometheus counts) and CPU seconds."""

    sizes: dict[str, float]
    cpu_s: float


def read_metrics(url: str) -> Reading:
    """Reads the service's own metrics."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    sizes = {bound: float(value) for bound, value in re.findall(r'reid_batch_size_bucket\{le="([^"]+)"\} (\S+)', text)}
    found = re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)
    return Reading(sizes, float(found[1]) if found else float("nan"))


def histogram(before: dict[str, float], after: dict[str, float]) -> dict[str, int]:
    """Returns the forward passes between two readings, by largest size, empty ones left out."""
    grown = [(bound, after[bound] - before.get(bound, 0)) for bound in after]
    single = [(bound, int(value - earlier)) for (bound, value), (_, earlier) in zip(grown, [("", 0.0), *grown], strict=False)]
    return {bound: value for bound, value in single if value}


def alone(embedder: Embedder, *, seconds: float) -> Row:
    """Times the bare runtime as the reference of a load: its best rate, its least CPU time a crop, one crop's time."""
    rows = {size: bare(embedder, batch_size=size, seconds=seconds) for size in BARE_SIZES}
    return {
        "crops_per_s": max(row["crops_per_s"] for row in rows.values()),
        "cpu_ms": min(row["cpu_ms"] for row in rows.values()),
        "p50_ms": rows[1]["p50_ms"],
    }


def plan(url: str, files: Sequence[bytes], num_crops: int, rows: dict[str, Row]) -> Iterator[tuple[str, int, Load]]:
    """Yields name, crops of a request and load of every case; `rows` are those that have been measured."""
    single = load.jpeg_requests(url, files, crops_per_request=1)
    several = load.jpeg_requests(url, files, crops_per_request=PER_REQUEST)
    for clients in CLIENTS:
        yield f"{clients} clients", 1, load.closed_loop(url, single, clients=clients, num_requests=num_crops)
    num_requests = max(1, num_crops // PER_REQUEST)
    name = f"{PER_REQUEST} clients, {PER_REQUEST} crops a request"
    yield name, PER_REQUEST, load.closed_loop(url, several, clients=PER_REQUEST, num_requests=num_requests)
    rate = rows[f"{CLIENTS[-1]} clients"]["crops_per_s"]
    for share in ARRIVALS:
        arrivals = load.constant_arrival(url, single, per_s=share * rate, seconds=num_crops / rate)
        yield f"constant arrival, {share:.0%}", 1, arrivals


def measure_round(
    url: str, files: Sequence[bytes], reference: Callable[[], Row], *, num_crops: int
) -> tuple[dict[str, Row], dict[str, dict[str, int]]]:
    """Puts every load on a running service once, the bare runtime measured before and after each; returns rows and batches."""
    rows: dict[str, Row] = {}
    batches = {}
    earlier = reference()
    for name, crops_per_request, work in plan(url, files, num_crops, rows):
        before = read_metrics(url)
        waits = load.run(work)
        after = read_metrics(url)
        later = reference()
        row = waits.figures(crops_per_request=crops_per_request)
        num_requests = waits.warming + len(waits.seconds)  # what refusals took is charged to them
        row["cpu_ms"] = 1000 * (after.cpu_s - before.cpu_s) / max(1, crops_per_request * num_requests)
        rows[name] = row | compared(row, {key: (earlier[key] + later[key]) / 2 for key in earlier})
        batches[name] = histogram(before.sizes, after.sizes)
        earlier = later
    return rows, batches


def compared(row: Row, bare_row: Row) -> Row:
    """Returns a load's figures beside the bare runtime's of the same minute."""
    return {
        "bare_crops_per_s": bare_row["crops_per_s"],
        "share": row["crops_per_s"] / bare_row["crops_per_s"],
        "cpu_share": bare_row["cpu_ms"] / row["cpu_ms"] if row["cpu_ms"] else float("nan"),
        "added_ms": row["p50_ms"] - bare_row["p50_ms"],
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, Row], dict[str, dict[str, int]]]:
    """Runs every case once a round; returns medians over the rounds, and the batches of all rounds by largest size."""
    files, embedder = jpegs(64), Embedder.open(args.artefact, provider=args.provider, threads=args.threads)
    reference = partial(alone, embedder, seconds=args.seconds)
    seen: dict[str, list[Row]] = defaultdict(list)
    batches: dict[str, Counter[str]] = defaultdict(Counter)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        for batch_max in args.batch_max:
            settings = {"REID_BATCH_MAX": str(batch_max), "REID_THREADS": str(args.threads), "REID_PROVIDER": args.provider}
            urls[batch_max] = stack.enter_context(running_service(args.artefact, folder / str(batch_max), **settings))
        for _ in range(args.rounds):
            for batch_max, url in urls.items():
                rows, sizes = measure_round(url, files, reference, num_crops=args.num_crops)
                for name, row in rows.items():
                    seen[f"batches up to {batch_max}, {name}"].append(row)
                    batches[f"batches up to {batch_max}, {name}"].update(sizes[name])
    return {case: medians(rows) for case, rows in seen.items()}, {case: dict(sizes) for case, sizes in batches.items()}


def medians(rows: Sequence[Row]) -> Row:
    """Returns the median of every figure."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def line(case: str, row: Row) -> str:
    """Returns a case as the table shows it."""
    waits = f"p50 {row['p50_ms']:>7.1f} p95 {row['p95_ms']:>7.1f} p99 {row['p99_ms']:>7.1f} ms, added {row['added_ms']:>6.1f}"
    shares = f"share {row['share']:.2f}, of CPU {row['cpu_share']:.2f}"
    rate = f"{row['crops_per_s']:>8.1f} of {row['bare_crops_per_s']:>7.1f} crops/s"
    return f"{case:<48}{rate}  {waits}  {shares}  refused {row['refused']:.0%}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (the bundled one)"
    )
    parser.add_argument(
        "--batch-max", type=int, nargs="+", default=[0], metavar="N", help="REID_BATCH_MAX of the services (0: what suits)"
    )
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu", help="which runtime (cpu: ONNX Runtime)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the runtime (every granted core)")
    parser.add_argument("--num-crops", type=int, default=1024, metavar="N", help="crops of each case and round (1024)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="X", help="of the bare runtime, each size and time (0.5)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which medians are told (3)")
    parser.add_argument("--quick", action="store_true", help="one round of 32 crops")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.num_crops, args.seconds = 1, 32, 0.0
    if min(args.rounds, args.num_crops) < 1 or min(args.threads, *args.batch_max) < 0:
        parser.error("got rounds or crops below 1, or threads or batches below 0")
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
    settings = {"threads": args.threads, "provider": args.provider, "num_crops": args.num_crops, "rounds": args.rounds}
    content: dict[str, Any] = {"machine": machine(), "versions": rounds.versions(), "settings": settings}
    rounds.write(args.json, {"schema_version": 1, **content, "cases": table, "batches": batches})


if __name__ == "__main__":
    main()
