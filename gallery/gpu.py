"""The first pass on a GPU: all rows in half precision in the device's memory, scanned whole by FAISS.

Asked for with REID_INDEX=gpu; needs a FAISS built for GPUs. The device only proposes: every cosine that is answered is computed
on the CPU from the row held there, so an answer does not depend on the device. FAISS's GPU index takes neither a filter nor a
removal: filtered searches are scanned on the CPU, and a removal copies the rows that stay to the device again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

from gallery.errors import GpuFailed

faiss: Any = faiss_module  # its type stubs describe the C++ signatures, not the Python ones
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

MOST = 2048  # rows that FAISS's GPU index returns for a query
BLOCK = 4096  # rows sent to the device at a time: 32 MB in float32 at D = 2048
TOLERANCE = 1e-3  # of a proposed cosine: the device halves the query too, which moves a cosine by at most 2**-11


class GpuPass:
    """All rows on a device, in their order; calls take turns, because FAISS's device memory is one caller's at a time."""

    def __init__(self, dim: int) -> None:
        """Takes the first device; raises GpuFailed."""
        self._index = device_index(dim)
        self._turn = threading.Lock()

    def add(self, rows: Halves) -> None:
        """Appends rows float16 [n, D]; raises GpuFailed, as every method may."""
        with self._using():
            for start in range(0, len(rows), BLOCK):
                self._index.add(rows[start : start + BLOCK].astype(np.float32))

    def replace(self, rows: Halves) -> None:
        """Holds these rows, float16 [n, D], instead."""
        with self._using():
            self._index.reset()
        self.add(rows)

    def candidates(self, query: Floats, count: int) -> tuple[Ids, Floats]:
        """Positions of the `count` closest rows and their proposed cosines, falling; count is at most MOST and the rows."""
        with self._using():
            cosines, positions = self._index.search(query[np.newaxis], count)
        return positions[0], cosines[0]

    def differing(self, positions: Ids, rows: Halves) -> NDArray[np.bool_]:
        """Which rows on the device are not rows float16 [n, D]; bool [n]."""
        with self._using():
            held = self._index.reconstruct_batch(positions)
        different: NDArray[np.bool_] = (held != rows.astype(np.float32)).any(axis=1)
        return different

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except RuntimeError as error:  # what FAISS makes of everything that a device or its driver reports
            raise GpuFailed(f"the GPU failed ({' '.join(str(error).split()):.300}); restart, or choose index auto") from error


def device_index(dim: int) -> Any:
    """An empty inner-product index in half precision on the first GPU; raises GpuFailed when there is none."""
    built_for_gpus = hasattr(faiss, "GpuIndexFlatIP")
    if not built_for_gpus or faiss.get_num_gpus() == 0:
        got = "no GPU" if built_for_gpus else "a FAISS built for CPUs alone"
        raise GpuFailed(f"got index gpu and {got}; install the extra [gpu] on a machine with one, or choose index auto")
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    return faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), dim, config)
