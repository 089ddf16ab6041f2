"""Does memory grow? Mixed traffic against the running service for long, its resident memory and its open files every second.

    python -m benchmarks.soak --minutes 30

Crops are embedded, enrolled under a fixed number of identities, searched, listed and erased, one picture in ten is broken, and
some callers hang up; a call without an answer is counted as such. The first third warms up, under the same load, and should be
long: an allocator's heap follows the busiest moment so far, and such moments get rarer. The rest is cut into twelve blocks; a
line through their means has a slope, told with its 95 % confidence interval: block means because neighbouring readings
resemble each other, which would make the interval too narrow. Growth is a slope above its interval; no growth is told only
where the interval is narrower than 5 % of the first block an hour, which would show a leak.
"""

import argparse
import asyncio
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks import rounds
from benchmarks.end_to_end import running_service
from benchmarks.http import jpegs
from benchmarks.ledger import machine
from service.errors import ServiceError

CLIENTS = 8
IDENTITIES = 50
BLOCKS = 12
T_95 = 2.228  # Student's t, two-sided 95 %, BLOCKS - 2 degrees of freedom
WARM_UP = 1 / 3  # of the time
READ_S = 1.0
SHARP = 0.05  # an interval wider than this share of the first block, an hour, would hide a leak
MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """What /metrics said at a time."""

    at_s: float
    rss: float
    files: float
    entries: float


@dataclass(frozen=True)
class Slope:
    """How a quantity grew: an hour, give or take, its first and last block, and the means of all."""

    per_hour: float
    give_or_take: float
    first: float
    last: float
    blocks: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What the slope and its interval show."""
        if self.per_hour > self.give_or_take:
            return "GROWS"
        if self.give_or_take > SHARP * self.first:
            return "INCONCLUSIVE, give it more time"
        return "no growth to be told from none"


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Returns the slope of a line through the means of equal blocks; wants at least as many values as blocks."""
    hours = np.array([block.mean() for block in np.array_split(np.asarray(at_s) / 3600, BLOCKS)])
    means = np.array([block.mean() for block in np.array_split(np.asarray(values, dtype=float), BLOCKS)])
    spread = hours - hours.mean()
    per_hour = float(spread @ (means - means.mean()) / (spread @ spread))
    left = means - means.mean() - per_hour * spread
    error = float(np.sqrt(left @ left / (BLOCKS - 2) / (spread @ spread)))
    return Slope(per_hour, T_95 * error, float(means[0]), float(means[-1]), tuple(means.tolist()))


async def read(http: httpx.AsyncClient, begun: float) -> Reading | None:
    """Reads the service's metrics; None when it did not answer or does not know one of them."""
    try:
        text = (await http.get("/metrics")).raise_for_status().text
    except httpx.HTTPError:
        return None
    names = ("process_resident_memory_bytes", "process_open_fds", "reid_gallery_entries")
    values = [float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in names]  # type: ignore[index]
    return None if any(map(math.isnan, values)) else Reading(time.monotonic() - begun, *values)


async def act(http: httpx.AsyncClient, files: Sequence[bytes], source: random.Random) -> str:
    """Makes one call of the mix; returns what it was and how it was answered."""
    number = source.randrange(len(files))
    file, pid = files[number], f"soak-{number % IDENTITIES}"
    if source.random() < 0.1:
        file = file[: source.randrange(len(file))]
    kind = source.choices(("embed", "enroll", "search", "list", "erase", "hang up"), (50, 15, 25, 5, 0.2, 4.8))[0]
    if kind == "hang up":
        try:
            await http.post("/embed", files={"crops": file}, timeout=source.random() / 20)
        except httpx.TimeoutException:
            pass  # that was meant
        except httpx.HTTPError as error:
            return f"{kind} {type(error).__name__}"
        return kind
    call = {
        "embed": lambda: http.post("/embed", files=[("crops", file)] * source.randint(1, 8)),
        "enroll": lambda: http.post("/gallery", files={"crops": file}, data={"pid": pid, "camid": str(number % 6)}),
        "search": lambda: http.post("/search", files={"crops": file}),
        "list": lambda: http.get("/gallery", params={"pid": pid}),
        "erase": lambda: http.delete(f"/gallery/identities/{pid}"),
    }[kind]
    try:
        return f"{kind} {(await call()).status_code}"
    except httpx.HTTPError as error:
        return f"{kind} {type(error).__name__}"


async def soak(url: str, files: Sequence[bytes], *, seconds: float, seed: int) -> tuple[list[Reading], Counter[str]]:
    """Sends the mix for so long; returns the readings and how often each answer came."""
    answers: Counter[str] = Counter()
    begun = time.monotonic()

    async def client(number: int) -> None:
        source = random.Random(f"{seed} {number}")
        while time.monotonic() < begun + seconds:
            answers[await act(http, files, source)] += 1

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        clients = asyncio.gather(*map(client, range(CLIENTS)))
        readings = []
        while not clients.done():
            if reading := await read(http, begun):
                readings.append(reading)
            else:
                answers["metrics none"] += 1
            await asyncio.wait({clients}, timeout=READ_S)
        await clients
    return readings, answers


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Runs everything against a service of its own; returns the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(
            args.artefact, Path(folder) / "gallery", REID_THREADS=str(args.threads), REID_PROVIDER=args.provider
        ) as url,
    ):
        readings, answers = asyncio.run(soak(url, jpegs(500), seconds=60 * args.minutes, seed=args.seed))
    warm = [reading for reading in readings if reading.at_s > WARM_UP * 60 * args.minutes]
    if len(warm) < BLOCKS:
        raise RuntimeError(f"got {len(warm)} readings after the warm-up, wanted at least {BLOCKS}; give it more time")
    times = [reading.at_s for reading in warm]
    return {
        "rss_mib": slope(times, [reading.rss / MIB for reading in warm]),
        "open_files": slope(times, [reading.files for reading in warm]),
        "entries": slope(times, [reading.entries for reading in warm]),
        "answers": dict(answers),
    }


def line(name: str, found: Slope) -> str:
    """Returns a slope as people read it."""
    change = f"{found.per_hour:+.2f} an hour, give or take {found.give_or_take:.2f}"
    return f"{name:<12}{found.first:>9.1f} -> {found.last:>9.1f}, {change}: {found.verdict}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (bundled)")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="X", help="how long (30)")
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu", help="which runtime (cpu: ONNX Runtime)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the runtime (every granted core)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mix (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.threads < 0:
        parser.error("got no time, or threads below 0")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        found = measure(args)
    except (ServiceError, OSError, RuntimeError) as error:
        sys.exit(f"soak: {error}")
    slopes = {name: value for name, value in found.items() if isinstance(value, Slope)}
    for name, value in slopes.items():
        print(line(name, value))
    print(f"answers: {found['answers']}")
    content = {name: {**vars(value), "verdict": value.verdict} for name, value in slopes.items()}
    settings = {"minutes": args.minutes, "threads": args.threads, "provider": args.provider, "seed": args.seed}
    rounds.write(args.json, {"machine": machine(), "settings": settings, **content, "answers": found["answers"]})


if __name__ == "__main__":
    main()
