"""The same artefacts on OpenVINO, where it is installed: continuous integration goes without (docs/LOG.md, 2026-11-30)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from service.compiled import CompiledModel
from service.embedder import Embedder
from service.errors import ArtefactRefused
from service.routes.console import FOLDER
from service.settings import BUNDLED_MODEL

openvino = pytest.importorskip("openvino")

CROPS = np.random.default_rng(3).integers(0, 256, size=(33, 32, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_rows_are_onnx_runtimes(tiny, threads, count):
    rows = Embedder.open(tiny, provider="openvino", threads=threads).embed(CROPS[:count])
    assert rows.shape == (count, 16) and rows.dtype == np.float32
    assert np.abs(rows - Embedder.open(tiny, provider="cpu", threads=1).embed(CROPS[:count])).max() < 1e-5


def test_the_bundled_model_finds_the_same_neighbours():
    # Integers are rounded at other places than by ONNX Runtime: 0.0075 of cosine in the mean, and no mAP (docs/LOG.md).
    ours, theirs = (Embedder.open(BUNDLED_MODEL, provider=provider) for provider in ("cpu", "openvino"))
    assert theirs.provider == "OpenVINO"
    people = np.stack([np.asarray(Image.open(file).resize((96, 192))) for file in sorted((FOLDER / "samples").glob("*.jpg"))])
    assert (ours.embed(people) * theirs.embed(people)).sum(axis=1).min() > 0.98


def test_several_threads_get_their_own_rows_and_keep_them(tiny):
    embedder = Embedder.open(tiny, provider="openvino", threads=2)
    batches = [CROPS[start : start + size] for start in range(8) for size in (1, 3, 8, 25)]
    wanted = [embedder.embed(batch) for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        got = list(callers.map(embedder.embed, batches))
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(got, wanted, strict=True))


def test_a_file_that_it_cannot_compile_is_refused(tiny, monkeypatch):
    def fails(*_):
        raise RuntimeError("Exception from src/core.cpp:\nno such operation")

    monkeypatch.setattr(openvino.Core, "read_model", fails)
    with pytest.raises(ArtefactRefused, match="model.onnx: got Exception from src/core.cpp: no such .*use REID_PROVIDER=cpu"):
        Embedder.open(tiny, provider="openvino")


def test_a_pass_that_fails_says_why(tiny):
    path = tiny / "model.onnx"
    model = CompiledModel(path, path.read_bytes(), threads=1, streams=1)
    with pytest.raises(RuntimeError):
        model.run(["embeddings"], {"crops": np.zeros((1, 5, 5, 3), np.uint8)})
