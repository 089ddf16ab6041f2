"""A tiny checkpoint, a dataset of drawn people, and the artefacts exported from them: each made once."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter import export, parity, run
from training import checkpoint, evaluate, synthetic, transforms
from training.checkpoint import Facts
from training.config import TrainConfig
from training.dataset import GALLERY, QUERY, TRAIN, read_dataset
from training.model import BNNeck

HEIGHT, WIDTH = 64, 32


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of drawn people: 45 training crops to calibrate on, 6 identities to test with, one of them a distractor."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    cameras = [synthetic.draw_camera(np.random.default_rng((0, number))) for number in range(3)]
    files = [(TRAIN, pid, camera, shot) for pid in range(10, 15) for camera in (1, 2, 3) for shot in range(3)]
    files += [(QUERY, pid, camera, 0) for pid in range(1, 6) for camera in (1, 2)]
    files += [(GALLERY, pid, camera, 1) for pid in range(6) for camera in (1, 2, 3)]
    for place, pid, camera, shot in files:
        person = synthetic.draw_person(np.random.default_rng((1, pid)))
        crop = synthetic.draw_crop(person, cameras[camera - 1], np.random.default_rng((2, pid, camera, shot)))
        (folder / place).mkdir(parents=True, exist_ok=True)
        crop.save(folder / place / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg")
    return folder


@pytest.fixture(scope="session")
def crops() -> np.ndarray:
    """uint8 [42, 64, 32, 3]: as many as the gate needs."""
    return parity.drawn_crops(sum(parity.BATCH_SIZES), height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="session")
def model(crops: np.ndarray) -> BNNeck:
    """A ResNet-18 of random weights whose batch norms know the drawn people, so that embeddings differ as trained ones do."""
    torch.manual_seed(0)
    network = BNNeck(backbone="resnet18", num_ids=5, last_stride=1).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for start in (0, 14, 28, 0, 14, 28):
            network(transforms.normalize(torch.from_numpy(crops[start : start + 14])))
    return network.eval()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, model: BNNeck, drawn: Path) -> Path:
    """The checkpoint of that model, with its figures on the drawn people."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = replace(TrainConfig(), backbone="resnet18", height=HEIGHT, width=WIDTH)
    result = evaluate.evaluate(evaluate.torch_embedder(model), read_dataset(drawn), height=HEIGHT, width=WIDTH)
    facts = Facts(config, num_ids=5, epoch=7, trained_on="people", started_from="none", metrics=asdict(result))
    checkpoint.save(folder, model, facts, {})
    return folder


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The checkpoint exported in fp32."""
    out = tmp_path_factory.mktemp("fp32") / "artefact"
    run.main([str(trained), str(out), "--licence-note", "drawn by the tests"])
    return out


@pytest.fixture(scope="session")
def int8_artefact(tmp_path_factory: pytest.TempPathFactory, trained: Path, drawn: Path) -> Path:
    """The checkpoint exported in int8, measured on the drawn people, into a folder whose parent is not there yet."""
    out = tmp_path_factory.mktemp("int8") / "new" / "artefact"
    options = ["--precision", "int8", "--calibrate", str(drawn), "--data", str(drawn), "--max-map-drop", "20"]  # 10 queries
    run.main([str(trained / checkpoint.WEIGHTS), str(out), *options])
    return out


@pytest.fixture(scope="session")
def fp16_artefact(tmp_path_factory: pytest.TempPathFactory, trained: Path, model: BNNeck, artefact: Path, drawn: Path) -> Path:
    """The fp32 file above finished as fp16, its cost measured on two of the drawn people: the slow export is run once less."""
    out = tmp_path_factory.mktemp("fp16") / "artefact"
    out.mkdir()
    shutil.copy(artefact / export.MODEL, out / export.REFERENCE)
    options = ["--precision", "fp16", "--data", str(drawn), "--cost-identities", "2", "--max-map-drop", "20"]  # 4 queries
    args = run.parse([str(trained), str(out), *options])
    run.finish(args, model, checkpoint.load_facts(trained), read_dataset(drawn), out)
    return out
