"""The bundled model embeds drawn pictures as it did when it was put in: pixels, runtime and graph are the same."""

import base64
import json

import numpy as np
import pytest

from service.embedder import Embedder
from service.settings import BUNDLED_MODEL
from tests.service.make_embedding import GOLDEN, crops

LEAST_COSINE = 0.9999  # other processors and runtimes round otherwise; swapped channels or another resize are far below


@pytest.fixture(scope="module", name="embedder")
def embedder_fixture():
    return Embedder.open(BUNDLED_MODEL, provider="cpu", threads=1)


@pytest.fixture(scope="module", name="golden")
def golden_fixture():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module", name="pixels")
def pixels_fixture(embedder):
    return crops(height=embedder.model.height, width=embedder.model.width)


def cosines(embedder, pixels, golden):
    wanted = np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in golden["float32_base64"]])
    return np.einsum("nd,nd->n", embedder.embed(pixels), wanted)


def test_pictures_are_embedded_as_when_the_model_was_put_in(embedder, pixels, golden):
    assert golden["model_id"] == embedder.model.model_id, "another model: python -m tests.service.make_embedding"
    assert cosines(embedder, pixels, golden).min() > LEAST_COSINE


@pytest.mark.parametrize(
    "change", [lambda pixels: pixels[..., ::-1], lambda pixels: pixels[:, ::-1], lambda pixels: np.roll(pixels, 1, axis=2)]
)
def test_swapped_channels_and_shifted_pixels_would_be_seen(embedder, pixels, golden, change):
    assert cosines(embedder, np.ascontiguousarray(change(pixels)), golden).min() < LEAST_COSINE
