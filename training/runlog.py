"""What a run leaves beside its checkpoint, for people and for programs.

RUN/run.json       how it was started: command line, configuration, versions, data
RUN/log.jsonl      one line per epoch; evaluations too
RUN/steps.csv      losses and accuracy of every batch
RUN/tensorboard/   the same for TensorBoard
RUN/metrics.json, RUN/pictures/   the final evaluation
"""

import csv
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from training.checkpoint import write_whole
from training.config import TrainConfig, to_json
from training.loop import SCALARS

LOG, STEPS, METRICS = "log.jsonl", "steps.csv", "metrics.json"


def write_start(folder: Path, config: TrainConfig, *, device: torch.device, data: str, crops: str) -> None:
    """Writes run.json; a resumed run writes its own again."""
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    values = {
        "command": sys.argv,
        "config": to_json(config),
        "data": data.splitlines(),
        "crops": crops,
        "device": device_name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole({folder / "run.json": lambda path: path.write_text(json.dumps(values, indent=2) + "\n")})


def write_metrics(folder: Path, figures: Mapping[str, Any]) -> None:
    """Writes metrics.json."""
    write_whole({folder / METRICS: lambda path: path.write_text(json.dumps(figures, indent=2) + "\n")})


def add_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Appends one line to log.jsonl."""
    with (folder / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines(folder: Path) -> list[dict[str, Any]]:
    """Returns the epochs that log.jsonl tells of, the last line of each."""
    return list({line["epoch"]: line for line in read_lines(folder) if "lr" in line}.values())


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of log.jsonl; a last one that a full disk or a kill tore is left out."""
    if not (folder / LOG).exists():
        return []
    *whole, last = (folder / LOG).read_text().split("\n")  # what follows the last newline is torn, or empty
    return [json.loads(line) for line in whole]


def rewind(folder: Path, epoch: int) -> None:
    """Drops what was logged after `epoch`: a run that was killed between two checkpoints trains those epochs again."""
    told = [line for line in read_lines(folder) if line["epoch"] <= epoch]
    steps = [row for row in read_steps(folder) if int(row["epoch"]) <= epoch]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(
        {
            folder / LOG: lambda path: path.write_text("".join(f"{json.dumps(line)}\n" for line in told)),
            folder / STEPS: lambda path: write_steps(path, steps),
        }
    )
    (folder / METRICS).unlink(missing_ok=True)  # the figures of other weights


def read_steps(folder: Path) -> list[dict[str, str]]:
    """Returns the batches of steps.csv, none when there is no such file; a torn last row is left out."""
    if not (folder / STEPS).exists():
        return []
    with (folder / STEPS).open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def write_steps(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", *SCALARS])
        writer.writeheader()
        writer.writerows(rows)


def add_steps(folder: Path, *, epoch: int, rows: np.ndarray) -> int:
    """Appends an epoch's batches (SCALARS, float [S, 4]) to steps.csv; returns the number of its first batch, from 1."""
    if not (folder / STEPS).exists():
        write_steps(folder / STEPS, [])
    first_step = len(read_steps(folder)) + 1
    with (folder / STEPS).open("a", newline="") as file:
        writer = csv.writer(file)
        for step, row in enumerate(rows, start=first_step):
            writer.writerow([epoch, step, *(f"{value:.6g}" for value in row)])
    return first_step


def add_events(folder: Path, *, first_step: int, rows: np.ndarray, line: Mapping[str, Any]) -> None:
    """Writes the same rows, and the epoch's line, for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter  # seconds to import

    with SummaryWriter(str(folder / "tensorboard")) as board:
        for step, row in enumerate(rows, start=first_step):
            for name, value in zip(SCALARS, row, strict=True):
                board.add_scalar(f"step/{name}", float(value), step)
        for name in line.keys() - {"epoch"}:
            board.add_scalar(f"epoch/{name}", float(line[name]), line["epoch"])
