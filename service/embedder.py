"""manifest.json + model.onnx -> embed(crops): synchronous, one ONNX Runtime session, no asyncio, no torch."""

import hashlib
import logging
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.errors import ArtefactRefused, InferenceFailed, SettingRefused
from service.manifest import MODEL_NAME, ModelInfo, read_manifest

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
UNIT_TOLERANCE = 1e-3

log = logging.getLogger("service")


class Embeds(Protocol):
    """Whatever turns crops into embeddings: the Embedder, or a test's double."""

    @property
    def model(self) -> ModelInfo:
        """The manifest's facts."""

    @property
    def provider(self) -> str:
        """What computes, for people: a provider name."""

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map uint8 [B, H, W, 3] RGB to float32 [B, D], rows of unit length."""


class Embedder:
    """One artefact, loaded and checked; `embed` may be called from one thread at a time."""

    def __init__(self, model: ModelInfo, session: Any, provider: str) -> None:
        self.model, self.provider, self._session = model, provider, session

    @classmethod
    def open(cls, folder: Path, *, provider: str = "auto", threads: int = 0) -> "Embedder":
        """Load an artefact, refusing one whose bytes, graph or output are not what its manifest says.

        Args:
            provider: auto, cpu, cuda or tensorrt.
            threads: of the runtime; 0 takes the cores granted to the process.

        Raises:
            ArtefactRefused: naming the file, what was got and what was wanted.
            SettingRefused: when the provider asked for is not to be had.
        """
        model = read_manifest(folder)
        path = folder / MODEL_NAME
        content = read_model(path, model.model_id)
        session = open_session(path, content, provider=provider, threads=threads or granted_cores())
        check_graph(path, session, model)
        embedder = cls(model, session, session.get_providers()[0])
        check_output(path, embedder)
        return embedder

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map uint8 [B, H, W, 3] RGB to float32 [B, D], rows of unit length.

        Raises:
            InferenceFailed: when the runtime returns another shape, or a row that is not finite.
        """
        (rows,) = self._session.run([self.model.output_name], {self.model.input_name: crops})
        if rows.shape != (len(crops), self.model.dim) or not np.isfinite(rows).all():
            raise InferenceFailed(f"got {rows.dtype} {rows.shape}, wanted finite {(len(crops), self.model.dim)}")
        return np.asarray(rows, dtype=np.float32)


def read_model(path: Path, model_id: str) -> bytes:
    """Read model.onnx and compare its sha256 with the manifest's model_id."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"{path}: got {error.strerror}, wanted the model; export it again") from None
    got = hashlib.sha256(content).hexdigest()
    if got != model_id:
        raise ArtefactRefused(f"{path}: got sha256 {got}, wanted model_id {model_id}; copy or export the model again")
    return content


def open_session(path: Path, content: bytes, *, provider: str, threads: int) -> Any:
    """Open a session over the model's checked bytes; weights outside them are refused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle runtime threads spin by default, and would take the cores from decoding, hashing and answering.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors; the rest speaks of graph optimisation
    # External data would escape the sha256. A path below a file can never exist, so nothing can be read from there.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path / "refused"))
    wanted = choose_providers(provider)
    preload_cuda(wanted)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=wanted)
    except Exception as error:  # ONNX Runtime raises its own classes and RuntimeError, all for a bad model
        raise ArtefactRefused(
            f"{path}: got {one_line(error)}, wanted one self-contained ONNX file this runtime can run; export it again"
        ) from None
    check_providers(provider, wanted=wanted, got=session.get_providers())
    return session


def preload_cuda(wanted: list[str], runtime: Any = onnxruntime) -> None:
    """Load the CUDA libraries that came as Python packages; the runtime looks for them nowhere else but in the system."""
    if "CUDAExecutionProvider" in wanted and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()


def check_providers(provider: str, *, wanted: list[str], got: list[str]) -> None:
    """Notice that the runtime fell back to the CPU, which it does without raising."""
    if got[0] == wanted[0]:
        return
    if provider != "auto":
        raise SettingRefused(f"REID_PROVIDER={provider}: wanted {wanted[0]}, got {got}; install its libraries or use cpu")
    log.warning(f"{wanted[0]} is listed and did not start, {got[0]} computes; install its libraries, or set REID_PROVIDER=cpu")


def choose_providers(provider: str) -> list[str]:
    """Name the execution providers to ask for, best first."""
    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return PROVIDERS["cuda" if "CUDAExecutionProvider" in available else "cpu"]
    wanted = PROVIDERS[provider]
    if wanted[0] not in available:
        raise SettingRefused(
            f"REID_PROVIDER={provider}: got a runtime with {available}, wanted {wanted[0]}; "
            "install onnxruntime-gpu instead of onnxruntime, or use cpu"
        )
    return wanted


def check_graph(path: Path, session: Any, model: ModelInfo) -> None:
    """Compare the graph's input and output with the manifest."""
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    wanted_input = ("tensor(uint8)", [None, model.height, model.width, 3])
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    wanted_output = ("tensor(float)", [None, model.dim])
    for kind, name, nodes, wanted in (
        ("input", model.input_name, inputs, wanted_input),
        ("output", model.output_name, outputs, wanted_output),
    ):
        got = nodes.get(name)
        if got is None or got[0] != wanted[0] or not fits(got[1], wanted[1]) or (kind == "input" and len(nodes) > 1):
            raise ArtefactRefused(
                f"{path}: {kind}: got {nodes}, wanted {name} {wanted[0]} {wanted[1]} by the manifest, "
                "None being any number; export the model again"
            )


def fits(shape: list[Any], wanted: list[int | None]) -> bool:
    """Tell whether a graph's shape admits the wanted one: a dimension that varies is a name or None there."""
    if len(shape) != len(wanted) or isinstance(shape[0], int):
        return False
    return all(not isinstance(got, int) or got == want for got, want in zip(shape[1:], wanted[1:], strict=True))


def check_output(path: Path, embedder: Embedder) -> None:
    """Run two crops once: the first pass is slow, and a wrong output is better found now."""
    model = embedder.model
    ramp = np.linspace(0, 255, num=2 * model.height * model.width * 3).astype(np.uint8)
    try:
        rows = embedder.embed(ramp.reshape(2, model.height, model.width, 3))
    except Exception as error:  # ONNX Runtime's own classes again
        raise ArtefactRefused(f"{path}: got {one_line(error)} on two test crops; export the model again") from None
    lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
        raise ArtefactRefused(f"{path}: got rows of length {lengths.tolist()}, wanted 1; export the model again")


def one_line(error: Exception) -> str:
    """Give an error's text without its line breaks."""
    return " ".join(str(error).split())[:600]


def granted_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the cores this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()  # "max 100000" or "150000 100000"
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return max(1, cores)
