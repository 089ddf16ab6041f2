"""How fast does a GPU embed? A programme in resumable steps, each call within its minutes. Rehearsed on a CPU; not run on a GPU.

    python -m exporter.run RUN ARTEFACT --precision fp16
    python -m benchmarks.embed_gpu --artefact ARTEFACT --checkpoint RUN --work WORK --state embed.json    # until all is done
    python -m benchmarks.embed_gpu ... --rehearse                                                # a CPU, tiny; means nothing

Every step (gpu_steps.py) is a process of its own: what one leaves on the GPU cannot disturb the next, and one that fails is told
and left behind after its second failure.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import ledger, rounds
from benchmarks.embed import facts_of
from benchmarks.gpu_steps import Options, steps
from benchmarks.ledger import Runner
from benchmarks.rounds import Figure
from service.errors import ServiceError

LEAST_S = 90  # a step is not begun with less left of the call
MARGIN_S = 10  # of a call for the state and the table


def read_state(path: Path, options: Options) -> dict[str, Any]:
    """Reads the state, or begins one. Raises ValueError when it is broken or belongs to other settings."""
    settings = {"artefact": facts_of(options.artefact)["model_id"], "rehearse": options.rehearse}
    if not path.exists():
        return {"schema_version": 1, "settings": settings, "steps": {}}
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        begun, _ = state["settings"], state["steps"].items()
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"--state: got {path}, no state of this programme ({error}); name another file to begin anew") from error
    if begun != settings:
        raise ValueError(f"--state: {path} was begun with {begun}, got {settings}; use the same options or another file")
    return state


def is_finished(entry: dict[str, Any]) -> bool:
    """Returns whether a step needs nothing more: done, or failed twice."""
    return entry.get("status") in ("done", "skipped")


def work(args: argparse.Namespace, options: Options, run: Runner, clock: Callable[[], float]) -> dict[str, Any]:
    """Takes one step after the other until the time is used, and writes the state after each; returns the state."""
    deadline = clock() + 60 * args.minutes - MARGIN_S
    state = read_state(args.state, options)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in chosen(steps(options), args.only):
        entry = state["steps"].get(name, {})
        if is_finished(entry):
            continue
        left = deadline - clock()
        if left < LEAST_S:
            print(f"{name}: not begun, {max(left, 0):.0f} s are left of this call", flush=True)
            break
        print(f"{name} ...", flush=True)
        state["steps"][name] = take(args, name, entry, run, left)
        ledger.write_state(args.state, state)
        print(f"{name}: {state['steps'][name]['status']}", flush=True)
    return state


def chosen(names: Iterable[str], only: Sequence[str]) -> list[str]:
    """Returns the steps that begin with a wanted name; all of them when none is wanted."""
    return [name for name in names if not only or any(name.startswith(wanted) for wanted in only)]


def take(args: argparse.Namespace, name: str, entry: dict[str, Any], run: Runner, seconds: float) -> dict[str, Any]:
    """Runs a step in a process of its own and returns what the state is to say of it."""
    told, log = args.work / "step.json", args.work / f"{name.replace(' ', '_')}.log"
    told.unlink(missing_ok=True)
    command = ["python", "-m", "benchmarks.embed_gpu", "--artefact", str(args.artefact), "--checkpoint", str(args.checkpoint)]
    command += ["--step", name, "--json", str(told), *(["--rehearse"] if args.rehearse else [])]
    ended = run(command, log, seconds)
    about = {"machine": ledger.machine(), "versions": rounds.versions()}
    if ended.code == 0 and told.is_file():
        return {"status": "done", "figures": json.loads(told.read_text()), **about}
    failures = entry.get("failures", 0) + 1
    status = "skipped" if failures >= ledger.MAX_FAILURES else "failed"
    return {"status": status, "failures": failures, "exit_status": ended.code, "output": ended.tail, **about}


def shown(state: dict[str, Any]) -> str:
    """Returns every figure there is as a table, products in G multiply-adds, and the end of what failed."""
    parts = []
    for name, entry in state["steps"].items():
        figures = [Figure(**one) for one in entry.get("figures", [])]
        products = [one for one in figures if "product" in one.name]
        rest = [one for one in figures if "product" not in one.name]
        parts += [rounds.table(products, unit="G MAC/s", scale=1e9)] if products else []
        parts += [rounds.table(rest)] if rest else []
        if not figures:
            parts.append(f"{name}: {entry['status']}, exit status {entry['exit_status']}\n{entry['output']}")
    return "\n".join(parts)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artefact", type=Path, required=True, metavar="DIR", help="exported model, fp16 on a GPU")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run folder it was exported from")
    parser.add_argument("--work", type=Path, metavar="DIR", help="logs; stays between calls")
    parser.add_argument("--state", type=Path, metavar="FILE", help="what is done, with figures: one JSON file")
    parser.add_argument("--minutes", type=float, default=9, metavar="X", help="time this call may take (9)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="steps that begin so")
    parser.add_argument("--rehearse", action="store_true", help="tiny steps on a CPU: their figures mean nothing")
    parser.add_argument("--step", metavar="NAME", help="run one step in this process and write its figures to --json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures of --step")
    args = parser.parse_args(argv)
    needed = ("json",) if args.step else ("work", "state")
    if absent := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"{', '.join(absent)} missing")
    return args


def main(
    argv: Sequence[str] | None = None, *, run: Runner = ledger.run_command, clock: Callable[[], float] = time.monotonic
) -> None:
    args = parse(argv)
    options = Options(args.artefact, args.checkpoint, args.rehearse)
    try:
        if args.step:
            if args.step not in steps(options):
                raise ValueError(f"--step: got {args.step!r}, wanted one of {', '.join(steps(options))}")
            figures = steps(options)[args.step](options)
            if all(one.error for one in figures):
                raise ValueError(f"{args.step}: {figures[0].error}")
            args.json.write_text(json.dumps([asdict(one) for one in figures]))
        else:
            print(shown(work(args, options, run, clock)))
    except (ValueError, OSError, RuntimeError, ServiceError) as error:
        sys.exit(f"embed_gpu: {error}")


if __name__ == "__main__":
    main()
