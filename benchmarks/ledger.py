"""What has been done of the GPU programme: one JSON file, written whole after every step; and how a step's command is run.

A step is "done", "stopped" (its training saved itself when time was up), "failed" (to be tried again by the next call) or
"skipped" (failed twice; --only NAME tries it once more). What a training has reached is read from its run folder, not from here.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision

from benchmarks.programme import Options, Step, Training, figures_file, run_folder
from service.processor import CPUINFO, has_amx, has_vnni
from training import checkpoint, runlog

SAVE_S = 25  # seconds before the end at which a training is asked to save; a ResNet-50 with Adam's state takes a few
TAIL_CHARS = 1500  # of a failed command's output that are kept
MAX_FAILURES = 2
STOPPED = 143  # how training.run ends on SIGTERM


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: the signal that killed it) and the end of what it printed."""

    code: int
    tail: str


Runner = Callable[[Sequence[str], Path, float], Ended]  # command, file for its output, seconds it may take


def run_command(command: Sequence[str], log: Path, seconds: float, *, save_s: float = SAVE_S) -> Ended:
    """Runs a command with its output in `log`; `save_s` before the time is up asks it to end (SIGTERM), then kills it."""
    program = [sys.executable, *command[1:]]
    with log.open("ab") as out:
        begun_at = out.tell()
        child = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            child.wait(max(seconds - save_s, 0.1))
        except subprocess.TimeoutExpired:
            pass  # its time is up: it is ended below, as it is when this process is asked to end itself
        finally:
            end(child, save_s)
    with log.open("rb") as printed:
        printed.seek(begun_at)
        text = printed.read().decode(errors="replace")
    return Ended(child.returncode, text.replace("\r", "\n")[-TAIL_CHARS:])


def end(child: "subprocess.Popen[bytes]", save_s: float) -> None:
    """Asks a command that still runs to end, and kills it when it has not after `save_s`."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(save_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def read_state(path: Path, options: Options) -> dict[str, Any]:
    """Reads the state, or begins one. Raises ValueError when it is broken or belongs to a programme with other settings."""
    settings = settings_of(options)
    if not path.exists():
        return {"schema_version": 1, "settings": settings, "calls": [], "steps": {}, "kept": None}
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        begun = dict(state["settings"])
        if state["schema_version"] != 1 or not isinstance(state["steps"], dict):
            raise ValueError("wanted schema version 1")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--state: got {path}, no state of this programme ({error}); name another file to begin anew") from error
    differing = {name: (begun.get(name), value) for name, value in settings.items() if begun.get(name, value) != value}
    if differing:
        name, (got, wanted) = next(iter(differing.items()))
        raise ValueError(f"--state: {path} was begun with {name} {got}, got {wanted}; use the same options or another file")
    return state | {"settings": begun | settings}


def settings_of(options: Options) -> dict[str, Any]:
    """Returns what every call of a programme must agree on; a file of weights that is not there yet is left open."""
    files = {"weights": options.weights, "v1_weights": options.v1_weights}
    digests = {f"{name}_sha256": file_digest(path) for name, path in files.items() if path and path.is_file()}
    return {"precision": options.precision, "compile": options.compile, "smoke": options.smoke} | digests


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the state whole: a call that is killed leaves that of the step before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole({path: lambda temporary: temporary.write_text(json.dumps(state, indent=1) + "\n")})


def machine() -> dict[str, Any]:
    """Returns where and with what a step is run."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "commit": commit,
    }


def processor() -> str:
    """Returns the processor's name, and whether it has what decides int8's speed."""
    try:
        named = [line for line in CPUINFO.read_text().splitlines() if line.startswith("model name")]
    except OSError:
        named = []
    name = named[0].partition(":")[2].strip() if named else platform.machine()
    return ", ".join([name] + ["VNNI"] * has_vnni() + ["AMX"] * has_amx())


def place_of(options: Options, training: Training) -> tuple[int, int]:
    """Returns the epochs, and the batches of the next one, that a run folder holds of this very training; (0, 0) for none."""
    try:
        facts = checkpoint.load_facts(run_folder(options, training))
    except ValueError:
        return (0, 0)
    return (facts.epoch, facts.num_batches) if facts.config == training.config else (0, 0)


def is_trained(options: Options, training: Training) -> bool:
    """Returns whether a run folder holds the whole training."""
    return place_of(options, training) == (training.config.epochs, 0)


def judged(options: Options, step: Step, entry: Mapping[str, Any], ended: Ended, before: tuple[int, int]) -> dict[str, Any]:
    """Returns a step's new status: its figures, or how far it came from `before`, or how it failed."""
    after = place_of(options, step.training) if step.training else (0, 0)
    if step.kind == "train" and ended.code == STOPPED and after > before:
        return {"status": "stopped", "epoch": after[0], "num_batches": after[1]}
    try:
        if ended.code == 0:
            return {"status": "done", "figures": figures(options, step), "output": None}
        reason = ended.tail
    except (OSError, KeyError, ValueError) as error:
        reason = f"{ended.tail}\n{error}"
    failures = entry.get("failures", 0) + 1
    status = "skipped" if failures >= MAX_FAILURES else "failed"
    return {"status": status, "failures": failures, "exit_status": ended.code, "output": reason}


def figures(options: Options, step: Step) -> dict[str, Any]:
    """Returns what a finished step gave; raises OSError, KeyError or ValueError when its files do not say."""
    if step.kind == "train":
        return training_figures(options, step)
    found: dict[str, Any] = json.loads(figures_file(options, step).read_text())
    if step.training is None or step.evaluation is None:
        return found
    run, config = run_folder(options, step.training), step.training.config
    if (step.evaluation.feature, step.evaluation.metric) == (config.test_feature, config.test_metric):
        facts = checkpoint.load_facts(run)
        checkpoint.save_facts(run, replace(facts, metrics=found))  # as training.run does when it evaluates itself
        runlog.write_metrics(run, found)
    return {"rank1": found["cmc"][0]} | {name: found[name] for name in ("mAP", "mINP", "intra_inter", "rerank")}


def training_figures(options: Options, step: Step) -> dict[str, Any]:
    """Returns a training's pace and its last losses, from its log."""
    assert step.training is not None
    folder, config = run_folder(options, step.training), step.training.config
    if not is_trained(options, step.training):
        raise ValueError(f"{folder}: got epoch {place_of(options, step.training)[0]}, wanted {config.epochs}")
    lines = runlog.lines(folder)
    steps = runlog.read_steps(folder)
    crops = len(steps) * config.ids_per_batch * config.crops_per_id
    crops_per_s = median(line["crops_per_s"] for line in lines)
    return {
        "epochs": config.epochs,
        "batches": len(steps),
        "crops": crops,
        "crops_per_s": crops_per_s,
        "seconds_per_epoch": round(crops / config.epochs / crops_per_s, 3),
        "last": lines[-1],
        "weights": step.training.weights.name,
    }
