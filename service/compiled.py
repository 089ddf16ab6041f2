"""OpenVINO in ONNX Runtime's place on a CPU: the same checked file, for processors with a matrix unit (AMX)."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import ArtefactRefused, one_line


class CompiledModel:
    """A model that is called as ONNX Runtime's session is; by several threads at once, each with a request of its own.

    Args:
        path: for refusals.
        content: of a file that ONNX Runtime has opened with everything outside it refused.
        threads: of all passes together.
        streams: passes at the same time, which share the threads.

    Raises:
        ArtefactRefused: when OpenVINO cannot compile it.
    """

    def __init__(self, path: Path, content: bytes, *, threads: int, streams: int) -> None:
        import openvino  # an extra; nobody else needs it loaded

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "f32",  # what the file says, not bfloat16 wherever the processor has it
            "ENABLE_CPU_PINNING": False,  # the cores serve decoding and answering too
        }
        try:
            core = openvino.Core()
            self._model = core.compile_model(core.read_model(content, b""), "CPU", settings)
        except RuntimeError as error:  # all that it raises
            raise ArtefactRefused(
                f"{path}: got {one_line(error)}, wanted a file that OpenVINO can compile; use REID_PROVIDER=cpu"
            ) from None
        self._own = threading.local()

    def run(self, _: Sequence[str], feed: Mapping[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Run one batch, as ONNX Runtime's session does; the output is the caller's."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        (rows,) = self._own.request.infer(feed, share_inputs=True).values()
        return [rows]
