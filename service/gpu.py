"""Embedding on a GPU through ONNX Runtime: fixed batch sizes, buffers bound once, uint8 pixels across the bus.

Written from the runtime's documentation and Python sources (1.32); not run on a GPU.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.ladder import cut
from service.manifest import ModelInfo
from service.providers import Choice

MOST_PADDING = 0.25  # of a batch: less than what a second launch of a smaller batch costs
WARM_UP = 3  # passes of every size: the first allocates, the second is captured, the third is replayed
CUDART = ("libcudart.so.13", "libcudart.so.12")

Crops = npt.NDArray[np.uint8]

log = logging.getLogger("service")


@dataclass(frozen=True)
class Rung:
    """One batch size: its buffers on the device, bound to the session, and the options under which it is captured."""

    source: Any
    target: Any
    binding: Any
    options: Any


def lock_pages(buffer: Crops, load: Callable[[str], Any] = ctypes.CDLL) -> str:
    """Lock a buffer's pages while the process lives, so that the GPU copies from it directly; tells why not, or nothing."""
    for name in CUDART:
        try:
            library = load(name)
        except OSError:
            continue
        status = library.cudaHostRegister(ctypes.c_void_p(buffer.ctypes.data), ctypes.c_size_t(buffer.nbytes), ctypes.c_uint(0))
        return f"cudaHostRegister of {name} gave status {status} for {buffer.nbytes} bytes" if status else ""
    return f"none of {', '.join(CUDART)} can be loaded"


class BoundRunner:
    """Runs crops through a session on a GPU; not run on a GPU.

    A CUDA graph reads and writes the addresses it was captured with, so every size of the ladder has its own bound buffers and
    graph id. The runtime keeps graphs per thread: everything happens in one thread of this object, whoever calls.
    """

    def __init__(
        self,
        session: Any,
        model: ModelInfo,
        *,
        ladder: Sequence[int],
        runtime: Any = onnxruntime,
        pin: Callable[[Crops], str] = lock_pages,
    ) -> None:
        self._session, self._model, self._ladder = session, model, tuple(ladder)
        self._host = np.zeros((ladder[-1], model.height, model.width, 3), dtype=np.uint8)
        self._rungs: dict[int, Rung] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu")
        self._thread.submit(self._prepare, runtime, pin).result()

    def __call__(self, crops: Crops) -> npt.NDArray[np.float32]:
        """Map uint8 [B, H, W, 3] to float32 [B, D]."""
        return self._thread.submit(self._run, crops).result()

    def _prepare(self, runtime: Any, pin: Callable[[Crops], str]) -> None:
        """Bind and warm up every size, largest first: the smaller ones then find their memory in the runtime's arena."""
        if why := pin(self._host):
            log.warning("crops are copied once more on their way to the GPU: no pinned memory", extra={"fields": {"got": why}})
        for size in reversed(self._ladder):
            self._rungs[size] = self._bind(size, runtime)
            for _ in range(WARM_UP):
                self._run(self._host[:size])

    def _bind(self, size: int, runtime: Any) -> Rung:
        model, values = self._model, runtime.OrtValue
        source = values.ortvalue_from_shape_and_type((size, model.height, model.width, 3), np.uint8, "cuda")
        target = values.ortvalue_from_shape_and_type((size, model.dim), np.float32, "cuda")
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(model.input_name, source)
        binding.bind_ortvalue_output(model.output_name, target)
        options = runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))
        return Rung(source, target, binding, options)

    def _run(self, crops: Crops) -> npt.NDArray[np.float32]:
        start, parts = 0, []
        for rows, size in cut(len(crops), self._ladder, most_padding=MOST_PADDING):
            self._host[:rows] = crops[
                start : start + rows
            ]  # the rows after them are of an earlier batch, and nobody reads theirs
            parts.append(self._run_rung(self._rungs[size], size)[:rows])
            start += rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_rung(self, rung: Rung, size: int) -> npt.NDArray[np.float32]:
        rung.source.update_inplace(self._host[:size])
        self._session.run_with_iobinding(rung.binding, rung.options)
        rows: npt.NDArray[np.float32] = rung.target.numpy()
        return rows


def provider_options(choice: Choice, model: ModelInfo, ladder: Sequence[int]) -> list[tuple[str, dict[str, str]]]:
    """Give each execution provider of a choice its options."""
    shapes = {name: f"{model.input_name}:{size}x{model.height}x{model.width}x3" for name, size in rungs(ladder).items()}
    options = {
        "CUDAExecutionProvider": {
            "enable_cuda_graph": "1" if choice.is_graphed else "0",
            "use_tf32": "0",  # an fp32 artefact means fp32; who wants speed exports fp16
            "arena_extend_strategy": "kSameAsRequested",  # the ladder is all that will ever be asked for
        },
        "TensorrtExecutionProvider": {
            "trt_fp16_enable": "1" if model.manifest.get("precision") == "fp16" else "0",
            **shapes,
        },
    }
    return [(name, options.get(name, {})) for name in choice.providers]


def rungs(ladder: Sequence[int]) -> dict[str, int]:
    """Name the batch sizes that one TensorRT engine is built for: from the least to the largest, best at the largest."""
    return {
        "trt_profile_min_shapes": ladder[0],
        "trt_profile_opt_shapes": ladder[-1],
        "trt_profile_max_shapes": ladder[-1],
    }
