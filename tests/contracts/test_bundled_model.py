"""The artefact in service/model/: whole, small, honest about itself, and the same alone, in a batch and under load."""

import asyncio
import json
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest

from exporter.manifest import sha256_of
from exporter.parity import drawn_crops
from service.app import create_app
from service.embedder import Embedder
from service.settings import Settings

MODEL = Path(__file__).parents[2] / "service" / "model"
MANIFEST = json.loads((MODEL / "manifest.json").read_text())


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.open(MODEL, provider="cpu", threads=2)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """64 drawn people, uint8 [64, H, W, 3]."""
    return drawn_crops(64, height=MANIFEST["input"]["height"], width=MANIFEST["input"]["width"])


def test_the_file_is_the_one_that_the_manifest_names() -> None:
    assert sha256_of(MODEL / "model.onnx") == MANIFEST["model_id"]


def test_the_file_stays_small_enough_for_the_repository() -> None:
    assert (MODEL / "model.onnx").stat().st_size < 26_000_000


def test_the_model_card_states_the_measured_figures() -> None:
    card = (MODEL / "README.md").read_text()
    metrics = MANIFEST["metrics"]
    assert f"{100 * metrics['cmc'][0]:.1f} / {100 * metrics['mAP']:.1f}" in card
    assert "research" in card and "research" in MANIFEST["licence_note"]


def test_a_crop_embeds_alike_alone_and_in_a_batch_of_32(embedder: Embedder, crops: np.ndarray) -> None:
    together = embedder.embed(crops[:32])
    alone = np.concatenate([embedder.embed(crops[row : row + 1]) for row in range(32)])
    assert np.abs(together - alone).max() < 1e-5


def test_64_crops_at_once_each_get_the_embedding_they_get_alone(embedder: Embedder, crops: np.ndarray, tmp_path: Path) -> None:
    settings = Settings(gallery=tmp_path / "gallery", deadline_s=600, _env_file=None)  # however slow the machine
    app = create_app(settings, embed=embedder)

    async def ask_all() -> list[httpx.Response]:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120)
        headers = {"Content-Type": "application/x-npy"}
        async with app.router.lifespan_context(app), client as http:
            return await asyncio.gather(*(http.post("/embed", content=npy(crop[None]), headers=headers) for crop in crops))

    answers = asyncio.run(ask_all())
    for crop, answer in zip(crops, answers, strict=True):
        got = np.array(answer.json()["results"][0]["embedding"])
        assert np.abs(got - embedder.embed(crop[None])[0]).max() < 1e-5


def npy(crops: np.ndarray) -> bytes:
    """One .npy file."""
    buffer = BytesIO()
    np.save(buffer, crops)
    return buffer.getvalue()
