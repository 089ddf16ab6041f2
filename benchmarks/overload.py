"""What does overload do? The running service at 2 and 10 times its capacity, then among slow, broken and idle connections.

    python -m benchmarks.overload --minutes 2
    python -m benchmarks.overload --quick
    python -m benchmarks.overload --apart        # the last core for the clients, the others for the service

Capacity is what 32 clients get that each wait for their answer, measured before and after every overload, whose share is of
the mean of both: a machine's speed wanders within minutes. A second capacity's share is of the one before. In an overload
requests come by the clock. Told are the goodput (good answers a second) as a share of capacity, the time to a refusal from
its sending, a new connection included, and what the accepted waited from when they were due; `lag` is how late the generator
itself was, which shares the cores unless it is kept apart. In the end four good clients work alone, beside idle connections,
trickled heads and bodies and broken uploads, and alone again.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load, rounds
from benchmarks.bad_clients import crowd
from benchmarks.end_to_end import running_service
from benchmarks.http import jpegs
from benchmarks.ledger import machine
from service.errors import ServiceError
from service.server import connection_limit

CLIENTS = 32
GOOD_CLIENTS = 4
FACTORS = (2.0, 10.0)
NO_ANSWER = 0  # in place of a status: the connection broke
GATHER_S = 60.0  # for the crowd to connect
RECOVERY_S = 60.0  # a service that needs longer has not recovered

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One request: its status, when it was due and sent, and when its answer was whole, on one clock."""

    status: int
    due: float
    sent: float
    done: float


class Caller:
    """Sends requests over kept connections, a new one when none is free, and notes every answer."""

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        self._url, self._requests = url, requests
        self._free: list[load.Connection] = []
        self.answers: list[Answer] = []

    async def send(self, number: int, due: float) -> Answer:
        """Sends one request."""
        sent, status, connection = time.perf_counter(), NO_ANSWER, None
        try:
            connection = self._free.pop() if self._free else await load.Connection.open(self._url)
            status = await connection.ask(self._requests[number % len(self._requests)])
            self._free.append(connection)
        except (OSError, asyncio.IncompleteReadError):
            pass  # counted as no answer
        finally:
            if status == NO_ANSWER and connection is not None:
                connection.close()
        answer = Answer(status, due, sent, time.perf_counter())
        self.answers.append(answer)
        return answer

    def close(self) -> None:
        for connection in self._free:
            connection.close()


async def by_the_clock(url: str, requests: Sequence[bytes], *, per_s: float, seconds: float) -> list[Answer]:
    """Sends requests at a fixed rate for so long, whether or not they are answered."""
    caller = Caller(url, requests)
    await load.paced(caller.send, per_s=per_s, seconds=seconds)
    caller.close()
    return caller.answers


async def one_by_one(url: str, requests: Sequence[bytes], *, clients: int, seconds: float) -> list[Answer]:
    """Sends requests from so many clients for so long, each its next one when the last is answered."""
    caller, until = Caller(url, requests), time.perf_counter() + seconds

    async def client(first: int) -> None:
        for number in count(first):
            now = time.perf_counter()
            if now >= until:
                return
            await caller.send(number, now)

    await asyncio.gather(*(client(first) for first in range(clients)))
    caller.close()
    return caller.answers


def figures(answers: Sequence[Answer]) -> Row:
    """Returns goodput, times of the accepted and the refused in milliseconds, lag of the generator, and statuses."""
    good = [answer for answer in answers if answer.status == 200]
    refused = [1000 * (answer.done - answer.sent) for answer in answers if answer.status == 503]
    span_s = max(answer.done for answer in answers) - min(answer.due for answer in answers)
    waited = [1000 * (answer.done - answer.due) for answer in good]
    lag = [1000 * (answer.sent - answer.due) for answer in answers]
    row: Row = {"good_per_s": len(good) / span_s, "requests": len(answers)}
    row |= {f"accepted_p{share}_ms": percentile(waited, share) for share in (50, 99)}
    row |= {f"refused_p{share}_ms": percentile(refused, share) for share in (50, 99, 100)}
    return row | {"lag_p99_ms": percentile(lag, 99), "statuses": dict(Counter(answer.status for answer in answers))}


def percentile(values: Sequence[float], share: float) -> float | None:
    """Returns a percentile, None of nothing."""
    return float(np.percentile(values, share)) if values else None


async def recovery_s(url: str, requests: Sequence[bytes], *, usual_s: float, limit_s: float = RECOVERY_S) -> float | None:
    """Returns the seconds until a request takes at most twice as long as usual, None when that does not come to pass."""
    begun, caller = time.perf_counter(), Caller(url, requests)
    with contextlib.closing(caller), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                answer = await caller.send(0, time.perf_counter())
                if answer.status == 200 and answer.done - answer.sent <= 2 * usual_s:
                    return answer.done - begun
                await asyncio.sleep(0.01)
    return None


def require_good(case: str, row: Row) -> None:
    """Refuses a figure to compare with that is none."""
    if not row["good_per_s"]:
        raise RuntimeError(f"{case}: got {row['statuses']}, wanted good answers; look at the service's log")


async def overload(url: str, requests: Sequence[bytes], *, seconds: float) -> dict[str, Row]:
    """Measures capacity, then each overload, and how soon a request is as quick as before."""
    alone = figures(await one_by_one(url, requests, clients=1, seconds=min(seconds, 5.0)))
    require_good("one client", alone)
    rows = {"one client": alone, "capacity": figures(await one_by_one(url, requests, clients=CLIENTS, seconds=seconds))}
    require_good("capacity", rows["capacity"])
    before = rows["capacity"]["good_per_s"]
    for factor in FACTORS:
        answers = await by_the_clock(url, requests, per_s=factor * before, seconds=seconds)
        row = rows[f"{factor:g} times capacity"] = figures(answers)
        row["recovery_s"] = await recovery_s(url, requests, usual_s=alone["accepted_p50_ms"] / 1000)
        again = rows[f"capacity after {factor:g} times"] = figures(
            await one_by_one(url, requests, clients=CLIENTS, seconds=seconds)
        )
        after = again["good_per_s"]
        again["share"], row["share"] = after / before, row["good_per_s"] / ((before + after) / 2)
        before = after
    return rows


async def besieged(url: str, requests: Sequence[bytes], *, seconds: float, idle: int, slow: int, broken: int) -> dict[str, Row]:
    """Measures good clients alone, in the crowd, and alone again."""
    good = {"clients": GOOD_CLIENTS, "seconds": seconds}
    rows = {"good clients alone": figures(await one_by_one(url, requests, **good))}
    require_good("good clients alone", rows["good clients alone"])
    async with crowd(url, requests[0], idle=idle, slow=slow, broken=broken) as members:
        await members.gather(limit_s=GATHER_S)
        before = dict(members.open)
        row = figures(await one_by_one(url, requests, **good))
        rows["good clients in the crowd"] = row | {"cut_off": dict(members.cuts), "open": [before, dict(members.open)]}
    rows["good clients afterwards"] = figures(await one_by_one(url, requests, **good))
    for name in list(rows)[1:]:
        rows[name]["share"] = rows[name]["good_per_s"] / rows["good clients alone"]["good_per_s"]
    return rows


def measure(args: argparse.Namespace) -> dict[str, Row]:
    """Runs everything against a service of its own."""
    connection_limit()  # this process, too, opens thousands
    seconds, cores = 60 * args.minutes, sorted(os.sched_getaffinity(0))
    if args.apart:
        os.sched_setaffinity(0, cores[:-1])  # which the service inherits
    with tempfile.TemporaryDirectory() as folder:
        settings = {"REID_THREADS": str(args.threads), "REID_RECEIVE_S": str(args.receive_s)}
        with running_service(args.artefact, Path(folder) / "gallery", **settings) as url:
            if args.apart:
                os.sched_setaffinity(0, cores[-1:])
            requests = load.jpeg_requests(url, jpegs(64), crops_per_request=1)
            rows = load.run(overload(url, requests, seconds=seconds))
            numbers = {"idle": args.idle, "slow": args.slow, "broken": args.broken}
            return rows | load.run(besieged(url, requests, seconds=seconds, **numbers))


def line(case: str, row: Row) -> str:
    """Returns a case as the table shows it."""
    share = f" ({row['share']:.0%})" if "share" in row else ""
    accepted = " ".join(f"p{share} {told(row[f'accepted_p{share}_ms'])}" for share in (50, 99))
    refused = " ".join(f"p{share} {told(row[f'refused_p{share}_ms'])}" for share in (50, 99, 100))
    more = f", as before: {told(row['recovery_s'], else_=f'not within {RECOVERY_S:g}')} s" if "recovery_s" in row else ""
    more += f", cut off {row['cut_off']}, open before and after {row['open']}" if "cut_off" in row else ""
    return (
        f"{case:<28}{row['good_per_s']:>7.1f}/s{share:<7} accepted {accepted} ms, refused {refused} ms, "
        f"lag p99 {told(row['lag_p99_ms'])} ms, {row['statuses']}{more}"
    )


def told(value: float | None, *, else_: str = "-") -> str:
    """Returns a figure as people read it."""
    return else_ if value is None else f"{value:.1f}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (bundled)")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="X", help="of every case (1); there are nine")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the runtime (every granted core)")
    parser.add_argument("--receive-s", type=float, default=30.0, metavar="X", help="REID_RECEIVE_S (30)")
    parser.add_argument("--idle", type=int, default=5000, metavar="N", help="connections that say nothing (5000)")
    parser.add_argument("--slow", type=int, default=200, metavar="N", help="that trickle a head, and as many a body (200)")
    parser.add_argument("--broken", type=int, default=20, metavar="N", help="clients that hang up within uploads (20)")
    parser.add_argument("--apart", action="store_true", help="the last core for the clients, the others for the service")
    parser.add_argument("--quick", action="store_true", help="four seconds of every case, 500 idle connections")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.minutes, args.idle, args.slow, args.receive_s = 4 / 60, 500, 20, 2.0
    if args.minutes <= 0 or min(args.threads, args.idle, args.slow, args.broken) < 0:
        parser.error("got no time, or a number below 0")
    if args.apart and len(os.sched_getaffinity(0)) < 2:
        parser.error("--apart: got one core, wanted two or more")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        table = measure(args)
    except (ServiceError, OSError, RuntimeError) as error:
        sys.exit(f"overload: {error}")
    for case, row in table.items():
        print(line(case, row))
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "artefact")}
    content = {"schema_version": 1, "machine": machine(), "versions": rounds.versions(), "settings": settings, "cases": table}
    rounds.write(args.json, content)


if __name__ == "__main__":
    main()
