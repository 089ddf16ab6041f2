"""Folders of drawn people, small enough to train on in seconds, and one training of them."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from training import run, synthetic
from training.dataset import GALLERY, QUERY, TRAIN, Dataset, Sample
from training.model import BNNeck

Flags = Callable[..., list[str]]


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Path]:
    """layout(train=names, query=names, gallery=names): a dataset folder of empty files; a list that is None has no folder."""

    def make(
        train: Sequence[str] | None = ("0001_c1_a.jpg",),
        query: Sequence[str] | None = ("0002_c1_a.jpg",),
        gallery: Sequence[str] | None = ("0002_c2_a.jpg",),
    ) -> Path:
        for place, names in ((TRAIN, train), (QUERY, query), (GALLERY, gallery)):
            if names is not None:
                (tmp_path / "data" / place).mkdir(parents=True)
                for name in names:
                    (tmp_path / "data" / place / name).touch()
        return tmp_path / "data"

    return make


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of drawn people: 4 identities of 4 crops to train on, 3 to test with, one distractor and one junk file."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    cameras = [synthetic.draw_camera(np.random.default_rng((0, number))) for number in range(2)]
    for place in (TRAIN, QUERY, GALLERY):
        (folder / place).mkdir(parents=True)
    files = [(TRAIN, pid, camera, shot) for pid in (2, 5, 7, 11) for camera in (1, 2) for shot in (0, 1)]
    files += [(QUERY, pid, 1, 0) for pid in (3, 4, 6)]
    files += [(GALLERY, pid, camera, 1) for pid in (0, 3, 4, 6, -1) for camera in (1, 2)]
    for place, pid, camera, shot in files:
        person = synthetic.draw_person(np.random.default_rng((1, pid + 1)))
        crop = synthetic.draw_crop(person, cameras[camera - 1], np.random.default_rng((2, pid + 1, camera, shot)))
        crop.save(
            folder / place / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg" if pid >= 0 else folder / place / f"-1_c{camera}.jpg"
        )
    return folder


@pytest.fixture(scope="session")
def flags(drawn: Path) -> Flags:
    """flags(out, more ...): the command line of a tiny training."""
    tiny = "--recipe synthetic --backbone-weights none --precision fp32 --height 64 --width 32 --ids-per-batch 2 --crops-per-id 2"
    schedule = "--epochs 2 --lr 0.001 --warmup-epochs 0 --decay-epochs 1 --no-tensorboard --no-pictures"
    return lambda out, *more: ["--data", str(drawn), "--out", str(out), *tiny.split(), *schedule.split(), *map(str, more)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, flags: Flags) -> Path:
    """The run folder of two epochs; a test that changes it works on a copy."""
    out = tmp_path_factory.mktemp("trained") / "run"
    run.main(flags(out))
    return out


@pytest.fixture(scope="session")
def tiny() -> Callable[..., BNNeck]:
    """tiny(): a ResNet-18 model of four identities, every one with the same random weights; num_ids can be given."""
    ready = {4: BNNeck(backbone="resnet18", num_ids=4, last_stride=1)}

    def make(num_ids: int = 4) -> BNNeck:
        return copy.deepcopy(ready.get(num_ids) or BNNeck(backbone="resnet18", num_ids=num_ids, last_stride=1))

    return make


@pytest.fixture(scope="session")
def hollow() -> BNNeck:
    """A ResNet-18 model that has shapes but no numbers: nothing can be loaded into it by mistake."""
    with torch.device("meta"):
        return BNNeck(backbone="resnet18", num_ids=4, last_stride=1)


@pytest.fixture
def people() -> Callable[..., Dataset]:
    """people(query=[(pid, camid), ...], gallery=[...]): a dataset without files."""

    def listed(ids: Sequence[tuple[int, int]]) -> tuple[Sample, ...]:
        return tuple(Sample(Path(f"{number}.jpg"), pid, camid) for number, (pid, camid) in enumerate(ids))

    return lambda query, gallery: Dataset(Path("somewhere/people"), (), listed(query), listed(gallery), 0)
