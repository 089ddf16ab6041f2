"""Checkpoints: weights as safetensors, everything else as readable JSON beside them, each written whole or not at all.

RUN/checkpoint.safetensors   the model's tensors
RUN/checkpoint.json          configuration, number of identities, epoch, metrics
RUN/resume.pt                the optimiser's state, for --resume only
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.config import TrainConfig, from_json, to_json
from training.model import BNNeck

SCHEMA_VERSION = 1
WEIGHTS, FACTS, RESUME = "checkpoint.safetensors", "checkpoint.json", "resume.pt"


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself: configuration, identities of its classifier, epochs trained, what it was trained on,
    the weights it started from, and the final evaluation if there was one."""

    config: TrainConfig
    num_ids: int
    epoch: int
    trained_on: str
    started_from: str
    metrics: dict[str, Any] | None


def write_whole(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Calls each writer on a temporary file beside its path, then renames one after the other.

    A write that fails leaves every old file; only a kill between two renames can mix them, which --resume notices.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in writers}
    try:
        for path, write in writers.items():
            write(temporaries[path])
            with temporaries[path].open("rb") as file:
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def save(folder: Path, model: BNNeck, facts: Facts, optimizer: torch.optim.Optimizer) -> None:
    """Writes a checkpoint and its resume state; a failure leaves the previous files as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_whole(
        {
            folder / RESUME: lambda path: torch.save({"epoch": facts.epoch, "optimizer": optimizer.state_dict()}, path),
            folder / WEIGHTS: lambda path: save_file(state, path, metadata={"epoch": str(facts.epoch)}),
            folder / FACTS: lambda path: path.write_text(to_text(facts)),
        }
    )


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
    model = BNNeck(backbone=facts.config.backbone, num_ids=facts.num_ids, last_stride=facts.config.last_stride)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise ValueError(f"{folder / WEIGHTS}: got no such file, wanted the weights that {FACTS} belongs to") from None
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every tensor
        wanted = f"a whole file for the {facts.config.backbone} of {FACTS}; copy the run folder again"
        raise ValueError(f"{folder / WEIGHTS}: got weights that do not fit, wanted {wanted} ({reason})") from error
    return model.eval(), facts


def load_facts(folder: Path) -> Facts:
    """Reads checkpoint.json; raises ValueError as `load` does."""
    try:
        values = json.loads((folder / FACTS).read_text())
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"got schema version {values['schema_version']}, wanted {SCHEMA_VERSION}")
        return Facts(
            config=from_json(values["config"]),
            num_ids=values["num_ids"],
            epoch=values["epoch"],
            trained_on=values["trained_on"],
            started_from=values["started_from"],
            metrics=values["metrics"],
        )
    except FileNotFoundError:
        raise ValueError(f"{folder / FACTS}: got no such file, wanted a checkpoint folder made by training.run") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / FACTS}: not a checkpoint of this version ({error}); train again or copy it again") from error


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, *, epoch: int) -> None:
    """Restores the optimiser's state of `epoch`; raises ValueError when resume.pt is missing or of another epoch."""
    path = folder / RESUME
    try:
        state = torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        reason = type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); without it --resume is not possible: use a new folder") from error
    if state["epoch"] != epoch:
        raise ValueError(f"{path}: got the state of epoch {state['epoch']}, wanted {epoch}: the run was stopped while saving")
    optimizer.load_state_dict(state["optimizer"])
