"""Why the service's session is opened as it is: every option beside the service's own, and memory with and without a ladder.

    python -m benchmarks.session_options --artefact service/model            # rates, interleaved; ratios to the service's own
    python -m benchmarks.session_options --artefact service/model --memory   # resident memory under random batch sizes

"the service's, again" shows how much of a ratio is noise. Memory is of a process for each case, in the order of its batches.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import rounds
from benchmarks.rounds import Figure, Work
from exporter.parity import drawn_crops
from service.embedder import granted_cores
from service.ladder import cut
from service.session import session_options

Change = Callable[[Any], None]

SPIN, STOP = "session.intra_op.allow_spinning", "session.force_spinning_stop"
CHANGES: dict[str, Change] = {
    "the service's": lambda options: None,
    "unsigned weights": lambda options: options.add_session_config_entry("session.x64quantprecision", "1"),
    "spins when idle": lambda options: options.add_session_config_entry(STOP, "0"),
    "never spins": lambda options: options.add_session_config_entry(SPIN, "0"),
    "work in finer blocks": lambda options: options.add_session_config_entry("session.dynamic_block_base", "4"),
    "no arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "denormals are zero": lambda options: options.add_session_config_entry("session.set_denormal_as_zero", "1"),
    "fewer graph optimisations": lambda options: setattr(
        options, "graph_optimization_level", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ),
    "the service's, again": lambda options: None,
}
LADDERS = {"any size": None, "ladder to 8": (1, 2, 4, 8), "ladder to 16": (1, 2, 4, 8, 16)}
READINGS = 8  # of a process's memory


def open_session(artefact: Path, *, threads: int, change: Change = CHANGES["the service's"]) -> Any:
    """Returns a session opened as the service's, with one change."""
    path = artefact / "model.onnx"
    options = session_options(path, threads=threads)
    change(options)
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def pass_over(session: Any, crops: np.ndarray, sizes: Sequence[int]) -> Work:
    """Returns one call on a batch, cut into so many rows each."""
    name = session.get_inputs()[0].name

    def work() -> float:
        start = 0
        for size in sizes:
            session.run(None, {name: crops[start : start + size]})
            start += size
        return start

    return work


def rates(args: argparse.Namespace, crops: np.ndarray) -> dict[str, list[Figure]]:
    """Measures every option at every batch size, and the largest batch whole and in halves."""
    sessions = {name: open_session(args.artefact, threads=args.threads, change=change) for name, change in CHANGES.items()}
    tables, first = {}, next(iter(CHANGES))
    settings = {"rounds": args.rounds, "least_s": args.seconds}
    for size in args.batch_sizes:
        cases = {name: pass_over(session, crops[:size], [size]) for name, session in sessions.items()}
        tables[f"batch {size}"] = rounds.measure(cases, reference=first, **settings)
    whole, half = len(crops), len(crops) // 2
    cuts = {f"{whole} at once": [whole], f"{half} and {half}": [half, half], "one by one": whole * [1]}
    cases = {name: pass_over(sessions[first], crops, sizes) for name, sizes in cuts.items()}
    tables[f"{whole} crops"] = rounds.measure(cases, reference=f"{whole} at once", **settings)
    return tables


def resident_mb() -> float:
    """Returns this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def grow(artefact: Path, *, ladder: Sequence[int] | None, most: int, num_batches: int) -> list[float]:
    """Returns resident megabytes at READINGS moments of so many batches of random sizes up to `most`."""
    session = open_session(artefact, threads=1)
    height, width = session.get_inputs()[0].shape[1:3]
    crops = np.zeros((most, height, width, 3), np.uint8)
    found = [resident_mb()]
    for number, size in enumerate(np.random.default_rng(0).integers(1, most + 1, num_batches).tolist(), start=1):
        sizes = [rows for rows, _ in cut(size, ladder, most_padding=0)] if ladder else [size]
        pass_over(session, crops[:size], sizes)()
        if number * READINGS // num_batches > (number - 1) * READINGS // num_batches:
            found.append(resident_mb())
    return found


def memory(args: argparse.Namespace) -> dict[str, list[float]]:
    """Lets every ladder grow in a process of its own."""
    found = {}
    for name in LADDERS:
        command = [sys.executable, "-m", "benchmarks.session_options", "--artefact", str(args.artefact), "--grow", name]
        command += ["--batch-sizes", str(max(args.batch_sizes)), "--batches", str(args.batches)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = [float(one) for one in printed.split()]
        readings = "".join(f"{one:>8.0f}" for one in found[name])
        print(f"up to {max(args.batch_sizes)} crops, {name:<14}{readings}  MB", flush=True)
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.session_options", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--artefact", type=Path, default=Path("service/model"), metavar="DIR", help="exported model (the bundled one)"
    )
    parser.add_argument("--threads", type=int, default=granted_cores(), metavar="N", help="of the runtime (every granted core)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], metavar="N", help="(1 8 16)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="of which medians are told (9)")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="X", help="least time of a case in a round (0.3)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of rates")
    parser.add_argument("--batches", type=int, default=100, metavar="N", help="random batches of --memory (100)")
    parser.add_argument("--grow", choices=LADDERS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    most = max(args.batch_sizes)
    if args.grow:
        print(*grow(args.artefact, ladder=LADDERS[args.grow], most=most, num_batches=args.batches))
        return
    if args.memory:
        rounds.write(args.json, rounds.report({}, batches=args.batches, most=most) | {"resident_mb": memory(args)})
        return
    height, width = open_session(args.artefact, threads=1).get_inputs()[0].shape[1:3]
    tables = rates(args, drawn_crops(most, height=height, width=width))
    for name, figures in tables.items():
        print(f"\n{name}, {args.threads} threads\n{rounds.table(figures)}")
    rounds.write(args.json, rounds.report(tables, threads=args.threads))


if __name__ == "__main__":
    main()
