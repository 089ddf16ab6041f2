"""Does the code reach the paper's figures? The whole GPU programme in resumable steps, each call within its minutes.

    python -m benchmarks.reproduce_gpu --data Market-1501 --weights ssl_fp16.safetensors --work WORK --state reproduce.json
    python -m benchmarks.reproduce_gpu ... --plan                       # steps, cost, what is missing; runs nothing
    python -m benchmarks.reproduce_gpu ... --only table1 --keep KEPT    # Table I; the best strong baseline as small parts
    python -m benchmarks.reproduce_gpu --join KEPT --out runs/strong    # the parts as a checkpoint again
    python -m benchmarks.reproduce_gpu --pack-weights resnet50.pth ssl_fp16.safetensors

A call works until --minutes are used: a training that does not fit saves itself and is gone on with by the next call. WORK must
stay while a training is unfinished or untested; the state file and the kept parts are all that is needed afterwards. Needs no
network: training images (30 MB), initial weights (47 MB as fp16), test images (53 MB; evaluations wait for them).
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from benchmarks import ledger, parts, programme, verdicts
from benchmarks.ledger import Runner
from benchmarks.programme import STRONG, Options, Step, Training
from training import dataset
from training.config import Backbone, Precision

MARKET_COUNTS = {"train": 12936, "query": 3368, "gallery": 15913}  # crops without junk; the bands are for these
MARKET_MB = {"training images": 30, "weights": 47, "test images": 53}
LEAST_S = {"speed": 180, "train": 90, "test": 60}  # a step is not begun with less left of the call
MARGIN_S = 10  # of a call for the state, the table and the kept parts


@dataclass(frozen=True)
class Call:
    """One call: settings, the whole programme, the steps this call may take and whether they were named, where the state is,
    what runs commands and where, and when it must end."""

    options: Options
    programme: Sequence[Step]
    plan: Sequence[Step]
    is_named: bool
    machine: Mapping[str, Any]
    state_file: Path
    run: Runner
    clock: Callable[[], float]
    deadline: float


def missing_inputs(options: Options) -> dict[str, str]:
    """Returns why each of "training images", "test images" and the two weights files cannot be used, those that can left out."""
    missing = {str(path): "not there" for path in (options.weights, options.v1_weights) if path and not path.is_file()}
    try:
        data = dataset.read_dataset(options.data)
    except ValueError as error:
        return missing | {"training images": str(error), "test images": str(error)}
    for name, lists in (("training images", ("train",)), ("test images", ("query", "gallery"))):
        for one in lists:
            got, wanted = len(getattr(data, one)), MARKET_COUNTS[one]
            if got == 0 or (got != wanted and not options.smoke):
                missing[name] = f"got {got:,} {one} crops, wanted the {wanted:,} of Market-1501"
    return missing


def waits_for(options: Options, step: Step, missing: Mapping[str, str]) -> str | None:
    """Returns what a step cannot be run without yet."""
    if step.kind == "test":
        assert step.training is not None
        if not ledger.is_trained(options, step.training):
            return f"{step.training.name} is not trained in {options.work}"
        return f"test images ({missing['test images']})" if "test images" in missing else None
    if "training images" in missing:
        return f"training images ({missing['training images']})"
    weights = str(step.training.weights) if step.training else ""
    return f"{weights} ({missing[weights]})" if weights in missing else None


def is_finished(call: Call, step: Step, state: Mapping[str, Any]) -> bool:
    """Returns whether a step needs nothing more; a training is needed again when its run folder went before it was tested."""
    status = state["steps"].get(step.name, {}).get("status")
    if status == "skipped":
        return not call.is_named
    if status != "done" or step.kind != "train" or step.training is None:
        return bool(status == "done")
    tests = [one for one in call.programme if one.kind == "test" and one.training is step.training]
    untested = [one for one in tests if state["steps"].get(one.name, {}).get("status") not in ("done", "skipped")]
    return not untested or ledger.is_trained(call.options, step.training)


def work(call: Call, state: dict[str, Any]) -> None:
    """Takes one step after the other until the time is used, and writes the state after each."""
    missing = missing_inputs(call.options)
    for step in call.plan:
        if is_finished(call, step, state):
            continue
        reason = waits_for(call.options, step, missing)
        if reason:
            print(f"{step.name}: waits for {reason}", flush=True)
            continue
        left = call.deadline - call.clock()
        if left < LEAST_S[step.kind]:
            print(f"{step.name}: not begun, {max(left, 0):.0f} s are left of this call", flush=True)
            return
        state["steps"][step.name] = take(call, step, state["steps"].get(step.name, {}), left)
        ledger.write_state(call.state_file, state)
        print(f"{step.name}: {said(state['steps'][step.name])}", flush=True)


def take(call: Call, step: Step, entry: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Runs a step's command and returns what the state is to say of it."""
    command = programme.command(call.options, step)
    log = call.options.work / "logs" / f"{step.name.replace(' ', '_')}.log"
    for folder in (log.parent, call.options.work / "figures", call.options.work / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    print(f"{step.name}: {' '.join(command)}", flush=True)
    before = ledger.place_of(call.options, step.training) if step.training else (0, 0)
    is_anew = step.kind != "train" or before == (0, 0)
    begun = call.clock()
    ended = call.run(command, log, seconds)
    wall_s = call.clock() - begun + (0 if is_anew else entry.get("wall_s", 0))
    told = {"command": command, "wall_s": round(wall_s, 1), "machine": call.machine, "ended_at": now()}
    return {**entry, **told, **ledger.judged(call.options, step, entry, ended, before)}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def said(entry: Mapping[str, Any]) -> str:
    """Returns a step's outcome in a line, or the end of its output when it failed."""
    if entry["status"] == "stopped":
        return f"saved after {entry['epoch']} epochs and {entry['num_batches']} batches, {entry['wall_s']:.0f} s in all"
    if entry["status"] == "done":
        return f"done in {entry['wall_s']:.0f} s"
    return f"{entry['status']}, exit status {entry['exit_status']}, attempt {entry['failures']}:\n{entry['output']}"


def keep(call: Call, state: dict[str, Any], folder: Path) -> None:
    """Leaves the best strong baseline that WORK holds as parts in `folder`, unless a better one has been kept before."""
    found = [
        (mean_ap(step, state), step.training)
        for step in call.programme
        if step.training and step.evaluation and STRONG in step.evaluation.recipes
        if ledger.is_trained(call.options, step.training)
    ]
    if not found:
        print(f"kept nothing: {call.options.work} holds no finished strong baseline", flush=True)
        return
    score, best = max(found, key=lambda pair: pair[0])
    earlier = state["kept"]
    if earlier and earlier["training"] != best.name and (earlier["mAP"] or 0) > score:
        print(
            f"kept nothing: {earlier['training']} with mAP {100 * earlier['mAP']:.1f} was kept before and is better", flush=True
        )
        return
    about = {"training": best.name, "weights": best.weights.name, "mAP": score if score >= 0 else None}
    parts.cut(call.options.work / "runs" / best.name, folder, about=about)
    state["kept"] = about
    ledger.write_state(call.state_file, state)
    print(f"kept {best.name} ({f'mAP {100 * score:.1f}' if score >= 0 else 'not tested yet'}) in {folder}", flush=True)


def mean_ap(step: Step, state: Mapping[str, Any]) -> float:
    """Returns the mAP of an evaluation, -1 when it has not been made."""
    figures = state["steps"].get(step.name, {}).get("figures")
    return float(figures["mAP"]) if figures else -1.0


def describe(call: Call, state: Mapping[str, Any]) -> str:
    """Returns the plan as people read it: inputs, steps with their status, and what is left to pay."""
    missing = missing_inputs(call.options)
    names = {"training images": "training images", str(call.options.weights): "weights", "test images": "test images"}
    lines = [f"needs {kind} ({MARKET_MB[kind]} MB): {missing.get(key, 'there')}" for key, kind in names.items()]
    if call.options.v1_weights:
        lines.append(f"needs torchvision's weights: {missing.get(str(call.options.v1_weights), 'there')}")
    left = []
    for step in call.plan:
        status = state["steps"].get(step.name, {}).get("status", "to do")
        if status == "done" and not is_finished(call, step, state):
            status = "to do again: its run folder is gone before it was tested"
        rows = f"  ({', '.join(step.evaluation.recipes)})" if step.evaluation else ""
        lines.append(f"  {step.name:<44}{status}{rows}")
        if step.kind == "train" and step.training and not is_finished(call, step, state):
            left.append(step.training)
    return "\n".join([*lines, cost(call, state, left)])


def cost(call: Call, state: Mapping[str, Any], left: Sequence[Training]) -> str:
    """Returns what the trainings left cost: crops, in those of 256 x 128 too, and hours at the pace of those that are done."""
    crops = {one.name: one.config.epochs * MARKET_COUNTS["train"] for one in left}
    weighed = sum(crops[one.name] * one.config.height * one.config.width / (256 * 128) for one in left)
    text = f"left: {len(left)} trainings, {sum(crops.values()) / 1e6:.1f} M crops, as dear as {weighed / 1e6:.1f} M of 256 x 128"
    name = f"{STRONG}_seed{call.options.seeds[0]} train"
    figures = state["steps"].get(name, {}).get("figures")
    return text + (f": {weighed / figures['crops_per_s'] / 3600:.1f} hours at the pace of {name}" if figures else "")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="Market-1501")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="initial weights: the self-supervised ResNet-50")
    parser.add_argument("--v1-weights", type=Path, metavar="FILE", help="torchvision's IMAGENET1K_V1, for the paper's own start")
    parser.add_argument("--work", type=Path, metavar="DIR", help="run folders, logs, figures; stays between calls")
    parser.add_argument("--state", type=Path, metavar="FILE", help="what is done, with figures: one JSON file")
    parser.add_argument("--minutes", type=float, default=9, metavar="X", help="time this call may take (9); 0 runs nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="steps or recipes beginning so; skipped ones too")
    parser.add_argument("--plan", action="store_true", help="print the steps, their cost and what is missing")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the best strong baseline here as small parts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the strong baseline (0 1 2)")
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16", help="of every training (bf16)")
    parser.add_argument("--compile", action="store_true", help="torch.compile in every training")
    parser.add_argument("--smoke", action="store_true", help="tiny trainings on any data: a rehearsal, its figures mean nothing")
    parser.add_argument("--join", type=Path, metavar="DIR", help="check the parts in DIR and write the checkpoint to --out")
    parser.add_argument("--out", type=Path, metavar="RUN", help="checkpoint folder of --join")
    parser.add_argument("--pack-weights", nargs=2, metavar=("FILE", "OUT"), help="write initial weights as fp16 safetensors")
    parser.add_argument("--backbone", choices=get_args(Backbone), default="resnet50", help="of --pack-weights (resnet50)")
    args = parser.parse_args(argv)
    needed = ["out"] if args.join else [] if args.pack_weights else ["data", "weights", "work", "state"]
    if absent := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"{', '.join(absent)} missing")
    return args


def run_programme(args: argparse.Namespace, run: Runner, clock: Callable[[], float]) -> None:
    """Reads the state, works through the plan or prints it, keeps the best checkpoint, prints what has been measured."""
    begun = clock()
    shared = {"seeds": tuple(args.seeds), "precision": args.precision, "compile": args.compile, "smoke": args.smoke}
    options = Options(args.data, args.weights, args.v1_weights, args.work, **shared)
    whole = programme.steps(options)
    plan = programme.chosen(whole, args.only)
    deadline = begun + 60 * args.minutes - MARGIN_S
    call = Call(options, whole, plan, bool(args.only), ledger.machine(), args.state, run, clock, deadline)
    state = ledger.read_state(args.state, options)
    if args.plan:
        print(describe(call, state))
        return
    if args.minutes > 0:
        work(call, state)
        state["calls"].append({"ended_at": now(), "wall_s": round(clock() - begun, 1), "machine": call.machine})
        ledger.write_state(args.state, state)
    if args.keep:
        keep(call, state, args.keep)
    print(verdicts.report(whole, state))


def main(
    argv: Sequence[str] | None = None, *, run: Runner = ledger.run_command, clock: Callable[[], float] = time.monotonic
) -> None:
    args = parse(argv)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(ledger.STOPPED))  # so that a running training is asked to save
    try:
        if args.join:
            parts.join(args.join, args.out)
            print(f"{args.out}: a whole checkpoint")
        elif args.pack_weights:
            num_bytes = parts.pack_weights(args.pack_weights[0], Path(args.pack_weights[1]), backbone=args.backbone)
            print(f"{args.pack_weights[1]}: {num_bytes / 1e6:.1f} MB")
        else:
            run_programme(args, run, clock)
    except (ValueError, OSError) as error:
        sys.exit(f"reproduce_gpu: {error}")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
