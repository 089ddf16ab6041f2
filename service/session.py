"""Opening ONNX Runtime sessions: checked bytes in, a runner out; every option with the reason why it is set."""

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.compiled import CompiledModel
from service.errors import ArtefactRefused, SettingRefused, StartupError, one_line
from service.gpu import BoundRunner, provider_options
from service.ladder import CPU_LADDER, cut
from service.manifest import ModelInfo
from service.opset import is_ort_format, read_opset
from service.processor import CPUINFO, has_vnni
from service.providers import OPENVINO, Choice, check_started, preload_cuda
from service.worker import Crew

Rows = npt.NDArray[np.float32]
Runner = Callable[[npt.NDArray[np.uint8]], Rows]  # uint8 [B, H, W, 3], any B -> float32 [B, D]

FEWEST_APART = 2  # crops a core from which on a batch is run in parts


class SessionRunner:
    """Runs crops on the CPU, in batches of the ladder's sizes: a batch in parts, which the cores take in the order of their
    coming, each by itself, so that none waits for another while any batch has parts left; a few crops are run by all together.

    May be called from several threads at once.

    Args:
        together: a session, or a CompiledModel, whose every pass all the cores share: the sooner for a crop alone.
        apart: one whose passes take a thread each, for several at the same time; None where there is one core.
        cores: how many take parts of a batch.
    """

    def __init__(self, together: Any, model: ModelInfo, *, apart: Any = None, cores: int = 1) -> None:
        self._together, self._model, self._apart = together, model, apart or together
        self._cores: Crew[Rows] = Crew("core", cores)
        self._all_cores = threading.Lock()  # held by whom all of them serve together

    def __call__(self, crops: npt.NDArray[np.uint8]) -> Rows:
        """Map uint8 [B, H, W, 3] to float32 [B, D]."""
        if len(crops) < FEWEST_APART * len(self._cores) and self._all_cores.acquire(blocking=False):
            try:
                return self._run(self._together, crops)
            finally:
                self._all_cores.release()
        size = min(CPU_LADDER[-1], -(-len(crops) // len(self._cores)))
        parts = [crops[start : start + size] for start in range(0, len(crops), size)]
        return np.concatenate(self._cores.run_all([partial(self._run, self._apart, part) for part in parts]))

    def _run(self, session: Any, crops: npt.NDArray[np.uint8]) -> Rows:
        """Run crops one piece after the other."""
        start, parts = 0, []
        for rows, _ in cut(len(crops), CPU_LADDER, most_padding=0):
            feed = {self._model.input_name: crops[start : start + rows]}
            parts.append(session.run([self._model.output_name], feed)[0])
            start += rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def open_runner(path: Path, content: bytes, model: ModelInfo, choice: Choice, *, threads: int, ladder: tuple[int, ...]) -> Runner:
    """Open a session over the model's checked bytes, compare it with the manifest, and make it ready to run.

    Args:
        threads: of the runtime on a CPU.
        ladder: batch sizes that a GPU captures; a CPU has its own.

    Raises:
        ArtefactRefused: when the graph cannot be run, or is not what the manifest says.
        SettingRefused: when the provider is not to be had.
    """
    preload_cuda(choice)
    session = open_session(path, content, choice, provider_options(choice, model, ladder), threads=threads)
    check_started(choice, session.get_providers())
    check_graph(path, session, model)
    if choice is OPENVINO:
        together = CompiledModel(path, content, threads=threads, streams=1)
        apart = CompiledModel(path, content, threads=threads, streams=threads) if threads > 1 else None
        return SessionRunner(together, model, apart=apart, cores=threads)
    if not choice.is_gpu:
        apart = open_session(path, content, choice, provider_options(choice, model, ladder), threads=1) if threads > 1 else None
        return SessionRunner(session, model, apart=apart, cores=threads)
    try:
        return BoundRunner(session, model, ladder=ladder)
    except Exception as error:  # the runtime's classes once more: too little memory, a node that no graph can hold
        raise StartupError(
            f"{path}: got {one_line(error)} while binding batches of {ladder} on {choice.name}, wanted room and nodes for each; "
            "set a smaller REID_BATCH_MAX, or use cpu"
        ) from None


def open_session(path: Path, content: bytes, choice: Choice, providers: Any, *, threads: int) -> Any:
    """Open one session over the model's bytes; raises what open_runner does."""
    try:
        return onnxruntime.InferenceSession(content, session_options(path, threads=threads), providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises its own classes and RuntimeError: of a bad model, or of a GPU's libraries
        if choice.is_gpu:
            raise SettingRefused(
                f"REID_PROVIDER={choice.name}: got {one_line(error)}, wanted {choice.providers[0]} to open {path}; "
                "install its libraries, or use cpu"
            ) from None
        raise ArtefactRefused(
            f"{path}: got {one_line(error)}, wanted one self-contained ONNX file this runtime can run; export it again"
        ) from None


def session_options(path: Path, *, threads: int, cpuinfo: Path = CPUINFO) -> Any:
    """Set what was measured to be fastest, and refuse weights outside the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle runtime threads spin by default, and would take the cores from decoding, hashing and answering.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Without VNNI the runtime's int8 products saturate in 16 bits: rows at cosine 0.994 to those of other processors. With it the
    # remedy, unsigned weights, changes no bit and takes 2.4 times as long.
    options.add_session_config_entry("session.x64quantprecision", "0" if has_vnni(cpuinfo) else "1")
    options.log_severity_level = 3  # errors; the rest speaks of graph optimisation
    # External data would escape the sha256. A path below a file can never exist, so nothing can be read from there.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path / "refused"))
    return options


def read_model(path: Path, model: ModelInfo) -> bytes:
    """Read model.onnx and compare its sha256 and its opset with the manifest's."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"{path}: got {error.strerror}, wanted the model; export it again") from None
    got = hashlib.sha256(content).hexdigest()
    if got != model.model_id:
        raise ArtefactRefused(f"{path}: got sha256 {got}, wanted model_id {model.model_id}; copy or export the model again")
    opset = read_opset(content)
    if opset is None:  # an ORT-format file would run, and say nothing of its operators
        got = "an ORT-format file" if is_ort_format(content) else "bytes that are no ONNX file"
        raise ArtefactRefused(f"{path}: got {got}, wanted one self-contained ONNX file; export the model again")
    if opset != model.manifest.get("opset"):
        raise ArtefactRefused(
            f"{path}: got opset {opset}, wanted {model.manifest.get('opset')} by the manifest; export the model again"
        )
    return content


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
