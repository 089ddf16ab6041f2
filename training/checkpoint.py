"""Checkpoints: weights as safetensors, everything else as readable JSON beside them, each written whole or not at all.

RUN/checkpoint.safetensors   the model's tensors
RUN/checkpoint.json          configuration, number of identities, epoch, metrics
RUN/resume.pt                optimisers, centers, raw weights: for --resume only
"""

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from training.config import TrainConfig, from_json, to_json
from training.model import BNNeck

SCHEMA_VERSION = 2
WEIGHTS, FACTS, RESUME = "checkpoint.safetensors", "checkpoint.json", "resume.pt"
# What version 1 trained with, by fields it did not have: it knew one neck, and neither erasing nor centers.
VERSION_1 = {
    "neck": "bnneck",
    "erasing_prob": 0.0,
    "erasing_fill": "code",
    "center_weight": 0.0,
    "center_lr": 0.5,
    "warmup": "code",
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "test_feature": "f_i",
    "test_metric": "cosine",
    "flip_test": False,
    "compile": False,
    "deterministic": False,
}


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself: configuration, identities of its classifier, epochs trained, what it was trained on,
    the weights it started from, the final evaluation if there was one, batches of the next epoch already done, and
    whether cameras counted."""

    config: TrainConfig
    num_ids: int
    epoch: int
    trained_on: str
    started_from: str
    metrics: dict[str, Any] | None
    num_batches: int = 0
    has_cameras: bool = True


def write_whole(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Calls each writer on a temporary file beside its path, then puts all of them in place, the last one last.

    A write that fails leaves every old file; a kill leaves all old files, or a set that `finish_write` puts in place.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in writers}
    try:
        for path, write in writers.items():
            temporaries[path].touch()
            mode = stat.S_IMODE(temporaries[path].stat().st_mode)
            write(temporaries[path])
            temporaries[path].chmod(mode)  # what the user's mask allows: safetensors makes files for their owner alone
            with temporaries[path].open("rb") as file:
                os.fsync(file.fileno())
        if len(writers) == 1:
            (path,) = writers
            temporaries[path].replace(path)
            sync_folder(path.parent)
            return
        for path, temporary in temporaries.items():
            temporary.replace(ready(path))
    except BaseException:
        for path, temporary in reversed(temporaries.items()):  # the last one's stands for all of them: it goes first
            ready(path).unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
        raise
    finish_write(list(writers))


def ready(path: Path) -> Path:
    """Returns the name of a file that is whole but not yet in place."""
    return path.with_name(f".{path.name}.new")


def finish_write(paths: Sequence[Path]) -> None:
    """Puts files in place that a killed `write_whole` left ready, or drops them when they are not all there.

    The last one is made ready last and put in place last: while it is ready, so were all.
    """
    is_whole = ready(paths[-1]).exists()
    for path in paths:
        if is_whole and ready(path).exists():
            ready(path).replace(path)
        ready(path).unlink(missing_ok=True)
    sync_folder(paths[0].parent)


def sync_folder(path: Path) -> None:
    """Makes renames in a folder last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def finish_save(folder: Path) -> None:
    """Finishes a `save` that was killed; for the process that trains in this folder alone."""
    if folder.is_dir():
        for name in (RESUME, WEIGHTS, FACTS):
            for left in folder.glob(f".{name}.*.tmp"):
                left.unlink()
        finish_write([folder / name for name in (RESUME, WEIGHTS, FACTS)])


def save(folder: Path, model: nn.Module, facts: Facts, resume: dict[str, Any]) -> None:
    """Writes a checkpoint and its resume state; a failure leaves the previous files as they were.

    Raises OSError when they cannot be written, such as on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    place = {"epoch": f"{facts.epoch}+{facts.num_batches}"}  # one key: the library writes several in any order
    writers: dict[Path, Callable[[Path], object]] = {
        folder / RESUME: lambda path: torch.save(resume | place, path),
        folder / WEIGHTS: lambda path: save_file(state, path, metadata=place),
        folder / FACTS: lambda path: path.write_text(to_text(facts)),
    }
    try:
        write_whole(writers)
    except (SafetensorError, RuntimeError) as error:  # how the two libraries report a full disk
        reason = " ".join(str(error).split())[:120]
        raise OSError(f"{folder}: epoch {facts.epoch} cannot be saved ({reason}); the previous checkpoint is whole") from error


def save_facts(folder: Path, facts: Facts) -> None:
    """Writes checkpoint.json."""
    write_whole({folder / FACTS: lambda path: path.write_text(to_text(facts))})


def to_text(facts: Facts) -> str:
    """Returns what checkpoint.json holds."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "config": to_json(facts.config),
        "num_ids": facts.num_ids,
        "epoch": facts.epoch,
        "num_batches": facts.num_batches,
        "has_cameras": facts.has_cameras,
        "trained_on": facts.trained_on,
        "started_from": facts.started_from,
        "metrics": facts.metrics,
    }
    return json.dumps(values, indent=2) + "\n"


def folder_of(path: Path) -> Path:
    """Returns the run folder that `path` names: itself, or the one that holds it when it is a checkpoint's file."""
    return path.parent if path.name in (WEIGHTS, FACTS) else path


def load(path: Path) -> tuple[BNNeck, Facts]:
    """Reads a checkpoint (its folder, or either of its files) as a model in evaluation mode and its facts.

    Raises ValueError when a file is missing, unreadable, of another schema, or does not fit the network its JSON names.
    """
    folder = folder_of(path)
    facts = load_facts(folder)
    model = build(facts.config, facts.num_ids)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            check_place(folder / WEIGHTS, file.metadata() or {}, facts)  # and read from one opening: a run may replace the file
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{folder / WEIGHTS}: got no such file, wanted the weights that {FACTS} belongs to") from None
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every tensor
        wanted = f"a whole file for the {facts.config.backbone} of {FACTS}; copy the run folder again"
        raise ValueError(f"{folder / WEIGHTS}: got weights that do not fit, wanted {wanted} ({reason})") from error
    return model.eval(), facts


def build(config: TrainConfig, num_ids: int) -> BNNeck:
    """Returns the untrained network of a configuration."""
    return BNNeck(backbone=config.backbone, num_ids=num_ids, last_stride=config.last_stride, neck=config.neck)


def check_place(path: Path, place: Mapping[str, str], facts: Facts) -> None:
    """Raises ValueError when a file was saved at another epoch or batch than its JSON."""
    epoch, _, num_batches = str(place.get("epoch", facts.epoch)).partition("+")
    got, wanted = (
        f"epoch {one} and {more or 0} batches" for one, more in ((epoch, num_batches), (facts.epoch, facts.num_batches))
    )
    if got != wanted:
        raise ValueError(
            f"{path}: got {got}, wanted {wanted}: the files are of two saves; if it is training try again, "
            "else go on with --resume, or copy the run again"
        )


def load_facts(folder: Path) -> Facts:
    """Reads checkpoint.json; raises ValueError as `load` does."""
    try:
        values = json.loads((folder / FACTS).read_text())
        version = values["schema_version"]
        if version not in (1, SCHEMA_VERSION):
            raise ValueError(f"got schema version {version}, wanted {SCHEMA_VERSION}")
        return Facts(
            config=from_json(VERSION_1 | values["config"] if version == 1 else values["config"]),
            num_ids=values["num_ids"],
            epoch=values["epoch"],
            trained_on=values["trained_on"],
            started_from=values["started_from"],
            metrics=values["metrics"],
            num_batches=0 if version == 1 else values["num_batches"],
            has_cameras=True if version == 1 else values["has_cameras"],
        )
    except FileNotFoundError:
        raise ValueError(f"{folder / FACTS}: got no such file, wanted a checkpoint folder made by training.run") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / FACTS}: not a checkpoint of this version ({error}); train again or copy it again") from error


def load_resume(folder: Path, facts: Facts) -> dict[str, Any]:
    """Reads resume.pt; raises ValueError when it is missing, of an older version, or of another epoch or batch."""
    path = folder / RESUME
    try:
        saved: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch has no family of errors for a broken file
        reason = type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); without it --resume is not possible: use a new folder") from error
    if "model" not in saved:
        raise ValueError(
            f"{path}: got an older version's state, wanted this one's: start anew with --backbone-weights {folder / WEIGHTS}"
        )
    check_place(path, saved, facts)
    return saved
