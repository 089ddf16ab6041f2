"""What the tests of the GPU programme share: drawn people, and a machine that only pretends to train."""

import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ledger, reproduce_gpu
from benchmarks.ledger import Ended
from training import checkpoint, run, runlog, start, synthetic
from training.checkpoint import Facts
from training.dataset import GALLERY, QUERY, TRAIN

EPOCH_S, OTHER_S = 100.0, 10.0  # what the pretending machine takes for an epoch, and for any other command
BATCHES = 5  # of its epochs


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people: 4 identities of 4 crops to train on, 3 to test with, enough of them to re-rank."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    cameras = [synthetic.draw_camera(np.random.default_rng((0, number))) for number in range(2)]
    files = [(TRAIN, pid, camera, shot) for pid in (2, 5, 7, 11) for camera in (1, 2) for shot in (0, 1)]
    files += [(QUERY, pid, 1, 0) for pid in (3, 4, 6)]
    files += [(GALLERY, pid, camera, shot) for pid in (3, 4, 6) for camera in (1, 2) for shot in (1, 2, 3, 4)]
    for place, pid, camera, shot in files:
        (folder / place).mkdir(parents=True, exist_ok=True)
        person = synthetic.draw_person(np.random.default_rng((1, pid)))
        crop = synthetic.draw_crop(person, cameras[camera - 1], np.random.default_rng((2, pid, camera, shot)))
        crop.save(folder / place / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg")
    return folder


class Pretender:
    """A runner with a clock of its own: it writes the small files that commands leave, and trains nothing.

    A command with one of `broken` in it fails. Trainings save themselves where their time ends, as training.run does.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.commands: list[str] = []
        self.broken: set[str] = set()
        self.mean_ap = 0.86

    def clock(self) -> float:
        return self.now

    def run(self, command: Sequence[str], log: Path, seconds: float) -> Ended:
        self.commands.append(" ".join(command[2:]))
        if any(word in command for word in self.broken):
            self.now += 1
            return Ended(1, "out of memory")
        if command[2] == "training.run":
            return self.train(command[3:], seconds - ledger.SAVE_S)
        told = Path(command[command.index("--json") + 1])
        again = {"rank1": 0.955, "mAP": 0.942, "mINP": 0.9}
        figures = {"cmc": [0.94, 0.98], "mAP": self.mean_ap, "mINP": 0.6, "intra_inter": 0.5, "rerank": again, "cases": []}
        told.write_text(json.dumps(figures))
        self.now += OTHER_S
        return Ended(0, "")

    def train(self, flags: Sequence[str], seconds: float) -> Ended:
        args = run.parse(flags)
        settings = start.settings_of(args)
        try:
            done = checkpoint.load_facts(args.out).epoch
        except ValueError:
            done = 0
        reached = min(settings.epochs, done + int(seconds / EPOCH_S))
        args.out.mkdir(parents=True, exist_ok=True)
        for epoch in range(done + 1, reached + 1):
            runlog.add_line(args.out, {"epoch": epoch, "lr": 0.1, "crops_per_s": 200.0})
            runlog.add_steps(args.out, epoch=epoch, rows=np.zeros((BATCHES, 4), np.float32))
        is_whole = reached == settings.epochs
        facts = Facts(settings, 4, reached, "people", Path(args.backbone_weights).name, None, 0 if is_whole else 1)
        checkpoint.save_facts(args.out, facts)
        self.now += EPOCH_S * (reached - done) if is_whole else seconds
        return Ended(0 if is_whole else ledger.STOPPED, "")


@pytest.fixture
def pretender() -> Pretender:
    return Pretender()


Call = Callable[..., str]


@pytest.fixture
def call(drawn: Path, tmp_path: Path, pretender: Pretender, capsys: pytest.CaptureFixture[str]) -> Call:
    """call(flag ...): one call of the rehearsal on the pretending machine, or on `run`; returns what it printed."""
    weights = tmp_path / "resnet.safetensors"
    weights.write_bytes(b"weights")

    def main(*flags: object, data: Path = drawn, run: ledger.Runner = pretender.run) -> str:
        files = ["--data", data, "--weights", weights, "--work", tmp_path / "work", "--state", tmp_path / "state.json"]
        reproduce_gpu.main([str(one) for one in ("--smoke", *files, *flags)], run=run, clock=pretender.clock)
        return capsys.readouterr().out

    return main


@pytest.fixture
def entries(tmp_path: Path) -> Callable[[], dict[str, dict]]:
    """entries(): the steps of the state file."""
    return lambda: json.loads((tmp_path / "state.json").read_text())["steps"]


def run_here(command: Sequence[str], log: Path, seconds: float) -> Ended:
    """Runs a command of ours in this process: the same entry, flags and exit status, without seconds of imports."""
    with log.open("a") as out, redirect_stdout(out), redirect_stderr(out):
        try:
            importlib.import_module(command[2]).main(command[3:])
        except SystemExit as stop:
            return Ended(stop.code if isinstance(stop.code, int) else 1, str(stop.code))
    return Ended(0, "")


def run_briefly(command: Sequence[str], log: Path, seconds: float) -> Ended:
    """Runs a command as `run_here` does and asks it to stop as soon as it trains."""
    started, is_over = Path(command[list(command).index("--out") + 1]) / "run.json", threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            if started.exists():  # written right before the first epoch
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return run_here(command, log, seconds)
    finally:
        is_over.set()
        asking.join()


@pytest.fixture(name="run_here")
def run_here_fixture() -> ledger.Runner:
    return run_here


@pytest.fixture(name="run_briefly")
def run_briefly_fixture() -> ledger.Runner:
    return run_briefly
