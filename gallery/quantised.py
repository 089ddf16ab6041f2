"""The first pass over many rows: one bit a dimension, and what it must show before it is believed.

RaBitQ (Gao and Long, SIGMOD 2024) as FAISS scans it: the signs of a row about a centre, and two factors that turn
agreement of signs into an estimate of the cosine. Two differences: rows are turned by a Kronecker product of two small
rotations, 40 times cheaper than a full one; and the error of every search is measured on its own candidates, not bounded
beforehand. We make the codes ourselves, byte for byte as FAISS would (a test compares them), because its own coding
would take most of the time of opening a gallery.
"""

from __future__ import annotations

import math
from typing import Any

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

faiss: Any = faiss_module  # its type stubs describe the C++ signatures, not the Python ones
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Bytes = NDArray[np.uint8]

SAMPLE = 4096  # rows that the centre is the mean of
BLOCK = 256  # rows coded at a time: 2 MB in float32 at D = 2048, which stays in cache
FACTORS = 8  # bytes after the signs of a code: two float32
QUERY_BITS = 2  # of each dimension of a query; 4 estimate better and take half as long again, for the same results
SIGMAS = 4.0  # of the estimates' error: how far beyond the last candidate's estimate an unseen row may still lie


class FirstPass:
    """The codes of all rows, in their order; estimates only, so whoever searches looks at the rows themselves again."""

    def __init__(self, rows: Halves) -> None:
        """Codes rows float16 [n, D], n >= 1, about the mean of an even sample of them; later rows keep that centre."""
        dim = rows.shape[1]
        few = next(size for size in range(math.isqrt(dim), 0, -1) if dim % size == 0)
        self._rotations = _rotation(few), _rotation(dim // few)
        self._index = faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT)
        self._index.train(self._rotated(rows[:: math.ceil(len(rows) / SAMPLE)]))
        self._centre: Floats = faiss.vector_to_array(self._index.center)
        self.add(rows)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: Halves) -> None:
        """Appends rows float16 [n, D]."""
        for start in range(0, len(rows), BLOCK):
            self._index.add_sa_codes(self._coded(rows[start : start + BLOCK]))

    def remove(self, selector: Any) -> None:
        """Takes out the selected positions; the rest close up in order."""
        self._index.remove_ids(selector)

    def candidates(self, query: Floats, count: int, selector: Any | None) -> tuple[Ids, Floats]:
        """Positions and estimates of the `count` selected rows that look closest, by falling estimate."""
        parameters = faiss.RaBitQSearchParameters(qb=QUERY_BITS, sel=selector)
        estimates, positions = self._index.search(self._rotated(query[np.newaxis]), count, params=parameters)
        return positions[0], estimates[0]

    def differing(self, positions: Ids, rows: Halves) -> NDArray[np.bool_]:
        """Which codes are not those of rows float16 [n, D]; bool [n]."""
        held = faiss.rev_swig_ptr(self._index.codes.data(), len(self) * self._index.code_size).reshape(len(self), -1)
        different: NDArray[np.bool_] = (held[positions] != self._coded(rows)).any(axis=1)
        return different

    def _rotated(self, rows: Halves | Floats) -> Floats:
        """Rows [n, D] turned, float32 [n, D]: every dimension becomes a mixture of all, so that signs err like noise."""
        left, right = self._rotations
        mixed = left @ rows.astype(np.float32).reshape(-1, len(left), len(right)) @ right
        rotated: Floats = np.asarray(mixed, np.float32).reshape(rows.shape)
        return rotated

    def _coded(self, rows: Halves) -> Bytes:
        """Codes uint8 [n, ceil(D / 8) + 8] of rows float16 [n, D]."""
        wide = self._rotated(rows)
        lengths = np.einsum("nd,nd->n", wide, wide)
        wide -= self._centre
        signs = np.packbits(wide > 0, axis=1, bitorder="little")
        residues = np.einsum("nd,nd->n", wide, wide)
        sums = np.abs(wide, out=wide).sum(axis=1)
        scales = np.divide(residues, sums, out=np.zeros_like(sums), where=sums > 0) * np.float32(math.sqrt(rows.shape[1]))
        factors = np.stack([residues - lengths, scales], axis=1)
        return np.concatenate([signs, factors.view(np.uint8)], axis=1)


def reach(estimates: Floats, cosines: Floats) -> float:
    """The cosine that no row outside the candidates may be expected to exceed.

    Fits a line from estimates to cosines over the candidates, float32 [count] each, estimates falling. A row outside
    has at most the last estimate; the line there, and SIGMAS standard deviations of what the line leaves over, is how
    far it may reach. Candidates are selected by their estimates alone, so the fit is not biased by the selection.
    """
    x, y = estimates.astype(np.float64), cosines.astype(np.float64)
    x -= x.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread if spread > 0 else 0.0
    left_over = y - y.mean() - slope * x
    return float(y.mean() + max(0.0, slope) * x[-1] + SIGMAS * left_over.std())


def _rotation(size: int) -> Floats:
    """A random orthogonal matrix, float32 [size, size], the same one every time."""
    rotation: Floats = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0].astype(np.float32)
    return rotation
