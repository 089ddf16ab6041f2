"""Interleaved rounds: every case a little in every round, so that a machine shared with others disturbs all cases alike.

What to read are the ratios: a case's rate over the reference's of the same round, and the median of those. The second ratio
counts this process's CPU seconds instead of the clock's: the one to read on a busy machine, with one thread.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ledger import machine
from training import checkpoint

Work = Callable[[], float]  # does something once and returns how much it did: crops, or multiply-adds
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torchreid", "numpy", "pillow", "uvicorn")
NOT_INSTALLED = "not installed"
LEAST_CPU_S = 1e-6  # the clock of a call that does nothing may not move


@dataclass(frozen=True)
class Turn:
    """One case in one round: what was done per second, per second of CPU time, and the seconds of one call."""

    per_s: float
    per_cpu_s: float
    call_s: float


@dataclass(frozen=True)
class Figure:
    """One line of a table: medians over the rounds; ratios are to the reference, by the clock and by CPU time; `error`
    instead where a case cannot run."""

    name: str
    per_s: float = 0.0
    slowest: float = 0.0
    fastest: float = 0.0
    ms: float = 0.0
    ratio: float | None = None
    cpu_ratio: float | None = None
    rounds: int = 0
    error: str | None = None


def measure(cases: Mapping[str, Work], *, rounds: int, least_s: float, reference: str | None = None) -> list[Figure]:
    """Runs every case once to warm it up, then for at least `least_s` seconds in each of `rounds` rounds, in turning order.

    A case that raises has its error told in place of figures, and takes no further part.
    """
    errors: dict[str, str] = {}
    taken: dict[str, list[Turn]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        order = list(cases)
        first = number % len(order) if order else 0
        for name in [*order[first:], *order[:first]]:
            if name in errors:
                continue
            try:
                turn = take_turn(cases[name], least_s if number else 0)
            except Exception as error:  # a compiler, a library or memory that is not there: told in the table
                errors[name] = told(error)
                continue
            if number:
                taken[name].append(turn)
    return [figure(name, taken, errors, reference) for name in cases]


def take_turn(work: Work, least_s: float) -> Turn:
    """Calls `work` for at least so long."""
    begun, begun_cpu, done, num_calls = time.perf_counter(), time.process_time(), 0.0, 0
    while num_calls == 0 or time.perf_counter() - begun < least_s:
        done += work()
        num_calls += 1
    took_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    return Turn(done / took_s, done / max(cpu_s, LEAST_CPU_S), took_s / num_calls)


def told(error: Exception) -> str:
    """Returns an error in one line; a library that is not there as "not installed"."""
    return (
        NOT_INSTALLED
        if isinstance(error, ModuleNotFoundError)
        else f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    )


def figure(name: str, taken: Mapping[str, list[Turn]], errors: Mapping[str, str], reference: str | None) -> Figure:
    """Returns a case's medians; ratios are of the same round."""
    if name in errors:
        return Figure(name, error=errors[name])
    own, theirs = taken[name], taken.get(reference or "", [])
    rates = [one.per_s for one in own]
    middle = (median(rates), min(rates), max(rates), 1000 * median(one.call_s for one in own))
    if len(theirs) != len(own):
        return Figure(name, *middle, rounds=len(own))
    pairs = list(zip(own, theirs, strict=True))
    by_clock, by_cpu = median(a.per_s / b.per_s for a, b in pairs), median(a.per_cpu_s / b.per_cpu_s for a, b in pairs)
    return Figure(name, *middle, by_clock, by_cpu, len(own))


def table(figures: list[Figure], *, unit: str = "crops/s", scale: float = 1) -> str:
    """Returns figures as people read them; `scale` divides the rates."""
    lines = [f"{'':<46}{unit:>10}   slowest   fastest        ms     ratio   per CPU"]
    for one in figures:
        if one.error:
            lines.append(f"{one.name:<46}{one.error}")
            continue
        rates = "".join(f"{rate / scale:>10.1f}" for rate in (one.per_s, one.slowest, one.fastest))
        ratios = "".join(f"{ratio:>10.2f}" for ratio in (one.ratio, one.cpu_ratio) if ratio is not None)
        lines.append(f"{one.name:<46}{rates}{one.ms:>10.1f}{ratios}")
    return "\n".join(lines)


def report(figures: Mapping[str, list[Figure]], **settings: Any) -> dict[str, Any]:
    """Returns what is written as JSON: machine, commit, versions, settings, and every table's figures."""
    tables = {name: [asdict(one) for one in rows] for name, rows in figures.items()}
    return {"schema_version": 1, "machine": machine(), "versions": versions(), "settings": settings, "figures": tables}


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that take part, those that are not installed left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(path: Path | None, content: Mapping[str, Any]) -> None:
    """Writes a report whole, when a file was named."""
    if path is not None:
        checkpoint.write_whole({path: lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n")})
