"""From JPEG bytes to embeddings without HTTP: what each stage costs, and what is kept of the bare runtime's rate.

    python -m benchmarks.pipeline --artefact service/model
    python -m benchmarks.pipeline --size 150x300 --decode-threads 1 2 4

Stages are timed one after the other in one thread: microseconds of CPU time a crop. The service's own pipeline (decoding in
threads, batches, the runtime; scheduled like the service's) then takes crops from 64 callers; its ratio is to the bare runtime
in the same round.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import rounds
from benchmarks.http import jpegs
from benchmarks.rounds import Figure, Work
from exporter.parity import drawn_crops
from service import crops
from service.embedder import Embedder, granted_cores
from service.errors import ServiceError
from service.pipeline import Pipeline, content_hash
from service.processor import compute_in_long_turns
from service.telemetry import Telemetry

CALLERS = 64
BATCH = 32
MAX_PIXELS = 16_000_000


def cpu_us(call: Callable[[Any], object], items: Sequence[Any], *, rounds: int) -> float:
    """Returns the median CPU time of a call in this thread, in microseconds."""
    found = []
    for _ in range(rounds):
        begun = time.thread_time()
        for item in items:
            call(item)
        found.append((time.thread_time() - begun) / len(items))
    return 1e6 * median(found)


def stages(embedder: Embedder, files: Sequence[bytes], *, num_rounds: int) -> dict[str, float]:
    """Returns what a crop costs in each stage, in microseconds of CPU time; `infer` counts all of the runtime's threads."""
    model = embedder.model
    images = [crops.decode(file, max_pixels=MAX_PIXELS) for file in files]
    batch = np.stack([crops.resize(image, height=model.height, width=model.width) for image in images[:BATCH]])
    embedder.embed(batch)
    passes = []
    for _ in range(num_rounds):
        begun = time.process_time()
        embedder.embed(batch)
        passes.append((time.process_time() - begun) / len(batch))
    return {
        "hash": cpu_us(content_hash, files, rounds=num_rounds),
        "decode": cpu_us(lambda file: crops.decode(file, max_pixels=MAX_PIXELS), files, rounds=num_rounds),
        "resize": cpu_us(lambda image: crops.resize(image, height=model.height, width=model.width), images, rounds=num_rounds),
        "stack": cpu_us(np.stack, [list(batch)], rounds=num_rounds) / len(batch),
        "infer": 1e6 * median(passes),
    }


class Running:
    """The service's pipeline on an event loop of its own; `work` puts every file through it once, from 64 callers."""

    def __init__(self, embedder: Embedder, files: Sequence[bytes], *, decode_threads: int) -> None:
        self._files, self._loop = files, asyncio.new_event_loop()
        self._pipeline = self._run(self._open(embedder, decode_threads))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    async def _open(self, embedder: Embedder, decode_threads: int) -> Pipeline:
        limits = {"batch_max": embedder.batch_max, "queue_max": 4 * CALLERS, "max_wait_s": 0.0, "max_pixels": MAX_PIXELS}
        limits["deadline_s"] = 600.0
        pipeline = Pipeline(embedder, Telemetry(), decode_threads=decode_threads, **limits)  # type: ignore[arg-type]
        await pipeline.start()
        return pipeline

    async def _embed_all(self) -> None:
        waiting = iter(self._files)

        async def caller() -> None:
            for file in waiting:
                with self._pipeline.admit(1) as room:
                    await self._pipeline.embed([file], room)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    def work(self) -> float:
        """Embeds every file; returns how many."""
        self._run(self._embed_all())
        return len(self._files)

    def close(self) -> None:
        """Stops its threads."""
        self._run(self._pipeline.close())
        self._loop.close()


def bare(embedder: Embedder) -> Work:
    """Returns one call of the embedder on decoded crops."""
    batch = drawn_crops(BATCH, height=embedder.model.height, width=embedder.model.width)

    def work() -> float:
        embedder.embed(batch)
        return BATCH

    return work


def rates(embedder: Embedder, files: Sequence[bytes], args: argparse.Namespace) -> list[Figure]:
    """Measures the bare runtime and the pipeline with every number of decoding threads, in the same rounds."""
    running = {
        f"pipeline, {count} decoding threads": Running(embedder, files, decode_threads=count) for count in args.decode_threads
    }
    cases: dict[str, Work] = {f"bare runtime, batch {BATCH}": bare(embedder), **{name: one.work for name, one in running.items()}}
    try:
        return rounds.measure(cases, rounds=args.rounds, least_s=args.seconds, reference=next(iter(cases)))
    finally:
        for one in running.values():
            one.close()


def size_of(text: str) -> tuple[int, int]:
    """Reads WIDTHxHEIGHT."""
    width, height = map(int, text.split("x"))
    return width, height


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    cores = granted_cores()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (the bundled one)"
    )
    parser.add_argument("--size", type=size_of, default=(64, 128), metavar="WxH", help="of the JPEG files (64x128)")
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu", help="which runtime (cpu: ONNX Runtime)")
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help="of the runtime (every granted core)")
    parser.add_argument(
        "--decode-threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(1 2); the service takes 2 or more"
    )
    parser.add_argument("--num-crops", type=int, default=128, metavar="N", help="crops of each call (128)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of which medians are told (7)")
    parser.add_argument("--seconds", type=float, default=2, metavar="X", help="least time of a case in a round (2)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 32 crops")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.num_crops, args.seconds = 2, 32, 0.0
    if min(args.rounds, args.num_crops, args.threads, *args.decode_threads) < 1:
        parser.error("got rounds, crops or threads below 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    width, height = args.size
    compute_in_long_turns()  # as the service does
    try:
        embedder = Embedder.open(args.artefact, provider=args.provider, threads=args.threads)
    except ServiceError as error:
        sys.exit(f"pipeline: {error}")
    files = jpegs(args.num_crops, height=height, width=width)
    costs = stages(embedder, files[:64], num_rounds=args.rounds)
    whole = sum(costs.values())
    print(f"{width} x {height} JPEG files of {sum(map(len, files)) / len(files) / 1000:.1f} kB, {args.threads} runtime threads")
    for name, cost in costs.items():
        print(f"  {name:<8}{cost:>10.0f} us of CPU a crop{100 * cost / whole:>8.1f} %")
    figures = rates(embedder, files, args)
    print(rounds.table(figures))
    settings = {"size": args.size, "threads": args.threads, "provider": args.provider, "num_crops": args.num_crops}
    rounds.write(args.json, rounds.report({"rates": figures}, **settings) | {"stages_us": costs})


if __name__ == "__main__":
    main()
