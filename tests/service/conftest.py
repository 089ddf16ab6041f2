"""Fixtures of the service's tests: a tiny real artefact, a deterministic double, an application, drawn pictures."""

import asyncio
import functools
import hashlib
import io
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import trustme
from fastapi import FastAPI
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.app import create_app
from service.manifest import ModelInfo, Thresholds
from service.settings import Settings

HEIGHT, WIDTH, DIM = 32, 16, 16


def tiny_graph(*, dim: int = DIM, normalise: bool = True) -> onnx.ModelProto:
    """uint8 [N, 32, 16, 3] -> pooled colours -> a fixed random projection -> unit rows [N, dim]."""
    random = np.random.default_rng(7)
    weights = random.normal(size=(24, dim)).astype(np.float32)
    bias = random.normal(scale=0.1, size=dim).astype(np.float32)
    constants = {"half": np.float32(127.5), "weights": weights, "bias": bias}
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["unit"], axis=1, p=2),
        helper.make_node("Identity", ["unit" if normalise else "projected"], ["embeddings"]),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", HEIGHT, WIDTH, 3])
    rows = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", dim])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [crops], [rows], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tiny_manifest(model: bytes, **changes: Any) -> dict[str, Any]:
    """The manifest that the exporter would write for the tiny graph."""
    manifest = {
        "schema_version": 1,
        "model_id": hashlib.sha256(model).hexdigest(),
        "space_id": "5" * 64,
        "architecture": "tiny",
        "feature": "f_i",
        "embedding_dim": DIM,
        "input": {
            "name": "crops",
            "height": HEIGHT,
            "width": WIDTH,
            "dtype": "uint8",
            "layout": "NHWC",
            "channels": "RGB",
        },
        "output": {"name": "embeddings"},
        "preprocessing": {"resize": "bilinear", "antialias": True, "height": HEIGHT, "width": WIDTH},
        "precision": "fp32",
        "opset": 17,
        "model_bytes": len(model),
        "training_config": None,
        "metrics": {"mAP": 0.5},
        "thresholds": {"default": 0.9, "margin": 0.02, "far": {"0.1": 0.5, "0.001": 0.9}, "source": "drawn"},
        "parity": None,
        "licence_note": "drawn by the tests",
        "created_at": "2026-01-01T00:00:00Z",
    }
    return {**manifest, **changes}


def write_tiny(folder: Path, *, model: bytes | None = None, **changes: Any) -> Path:
    """Write an artefact folder; `changes` overwrite fields of its manifest."""
    content = tiny_graph().SerializeToString() if model is None else model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(tiny_manifest(content, **changes)))
    return folder


@dataclass
class FakeEmbedder:
    """Embeds a crop as its mean colour and its first pixel, scaled to unit length; `before` runs first."""

    before: Callable[[int], None] = lambda size: None
    thresholds: Thresholds | None = Thresholds(0.9, 0.02, ((0.001, 0.9), (0.1, 0.5)), "drawn")
    provider: str = "fake"
    batch_max: int = 16

    @property
    def model(self) -> ModelInfo:
        """Facts of no real model."""
        names = {"input_name": "crops", "output_name": "embeddings", "manifest": {"architecture": "fake"}}
        return ModelInfo("f" * 64, "5" * 64, 8, HEIGHT, WIDTH, thresholds=self.thresholds, **names)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] -> float32 [B, 8]."""
        self.before(len(crops))
        flat = crops.astype(np.float64) - 127.5
        corners = [flat.mean(axis=(1, 2)), flat[:, 0, 0], np.full((len(crops), 2), 8.0)]
        rows = np.concatenate(corners, axis=1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def documented() -> dict[str, dict[str, set[str]]]:
    """The statuses that the OpenAPI document gives to every operation, and the codes of errors."""
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    calls = [call for methods in paths.values() for call in methods.values()]
    return {call["operationId"]: {status: codes_of(answer) for status, answer in call["responses"].items()} for call in calls}


def codes_of(answer: dict[str, Any]) -> set[str]:
    """The codes that an error's description gives."""
    return set(answer["content"].get("application/json", {}).get("examples", {}))


def watched(app: FastAPI) -> Callable[[Any, Any, Any], Coroutine[Any, Any, None]]:
    """The application, of which no call may answer a status or an error's code that the document does not give it."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        status = ""

        async def check(message: Any) -> None:
            nonlocal status
            call = getattr(scope.get("route"), "name", None)
            status = str(message.get("status", status))
            if call in documented() and status != "499":  # what nobody reads
                assert status in documented()[call], f"{call} answered {status}, which is not documented"
                if message["type"] == "http.response.body" and status >= "400":
                    code = json.loads(message["body"])["error"]["code"]
                    assert code in documented()[call][status], f"{call} answered {status} {code}, which is not documented"
            await send(message)

        await app(scope, receive, check)

    return serve


class Client:
    """Calls an application that lives, lifespan and all, on an event loop of its own in another thread."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)  # no exit waits for one that was left
        self._thread.start()
        self._lifespan = app.router.lifespan_context(app)
        self.run(self._lifespan.__aenter__())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(watched(app)), base_url="http://localhost")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send one request."""
        return self.run(self.http.request(method, url, **options))

    def get(self, url: str, **options: Any) -> httpx.Response:
        """Send a GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        """Send a POST."""
        return self.request("POST", url, **options)

    def delete(self, url: str, **options: Any) -> httpx.Response:
        """Send a DELETE."""
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """Shut the application down; harmless when repeated."""
        if self.loop.is_closed():
            return
        self.run(self.http.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def draw(seed: int, *, size: tuple[int, int] = (24, 48)) -> Image.Image:
    """Draw a crop of coloured blocks, different for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, size=(4, 2, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def picture(seed: int, *, form: str = "PNG", size: tuple[int, int] = (24, 48), **options: Any) -> bytes:
    """Encode a drawn crop."""
    buffer = io.BytesIO()
    draw(seed, size=size).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(name="tiny", scope="session")
def tiny_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny artefact on disk."""
    return write_tiny(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(name="pair", scope="session")
def pair_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for localhost with the authority that vouches for it, and its key, on disk: the settings of HTTPS."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    names = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    names["tls_cert"].write_bytes(certificate.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
    certificate.private_key_pem.write_to_path(names["tls_key"])
    return names


@pytest.fixture(name="other_key", scope="session")
def other_key_fixture() -> bytes:
    """The key of another certificate, as PEM."""
    return trustme.CA().private_key_pem.bytes()


@pytest.fixture(name="pictures")
def pictures_fixture() -> Callable[..., bytes]:
    """The encoder of drawn crops."""
    return picture


@pytest.fixture(name="drawn")
def drawn_fixture() -> Callable[..., Image.Image]:
    """The drawer of crops."""
    return draw


@pytest.fixture(name="artefact")
def artefact_fixture() -> Callable[..., Path]:
    """The writer of artefacts."""
    return write_tiny


@pytest.fixture(name="graph")
def graph_fixture() -> Callable[..., onnx.ModelProto]:
    """The builder of tiny graphs."""
    return tiny_graph


@pytest.fixture(name="fake")
def fake_fixture() -> type[FakeEmbedder]:
    """The embedder's double."""
    return FakeEmbedder


@pytest.fixture(name="settings")
def settings_fixture(tmp_path: Path, tiny: Path) -> Settings:
    """Settings of a test: nothing from the environment, everything in a temporary folder."""
    return Settings(_env_file=None, model=tiny, gallery=tmp_path / "gallery", snapshots=tmp_path / "snapshots", threads=1)


@pytest.fixture(name="serving")
def serving_fixture(settings: Settings) -> Iterator[Callable[..., Client]]:
    """Start an application with some settings changed; every one is closed when the test ends."""
    opened: list[Client] = []

    def serve(*, embed: Any = None, **changes: Any) -> Client:
        opened.append(Client(create_app(settings.model_copy(update=changes), embed=embed)))
        return opened[-1]

    yield serve
    for client in opened:
        client.close()


@pytest.fixture(name="client")
def client_fixture(serving: Callable[..., Client]) -> Client:
    """A client of an application that serves the tiny artefact."""
    return serving()


@pytest.fixture(name="without")
def without_fixture(fake: type[FakeEmbedder]) -> Callable[..., FakeEmbedder]:
    """A double with some fields changed."""
    return lambda **changes: replace(fake(), **changes)


@pytest.fixture(name="gate")
def gate_fixture() -> Iterator[threading.Event]:
    """A gate that is open at the test's end, whoever waits there."""
    gate = threading.Event()
    yield gate
    gate.set()
