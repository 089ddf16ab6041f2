"""The first pass over many rows: one bit a dimension, and what it must show before it is believed.

Two rows whose signs differ in a share p of the dimensions, after a random rotation, lie at an angle of about pi * p
(Goemans and Williamson 1995, Charikar 2002). Two differences: the rotation is a Kronecker product of two small ones,
dozens of times cheaper than a full one; and the angle is not taken from the signs alone: the error of every search is
measured on its own candidates too. RaBitQ adds two factors and a finer query to the signs; its scan took twice the time
and found no more (docs/DECISIONS.md).
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

BLOCK = 256  # rows coded at a time: 2 MB in float32 at D = 2048, which stays in cache
SIGMAS = 4.0  # how far beyond the line's end an unseen row may lie; at 3, a search among random rows lost 3 % of the ten
SIGMAS_EACH = 3.0  # how far one row's differing signs may stray from its angle, and all rows like it with it


class FirstPass:
    """The signs of all rows, in their order; they estimate only, so whoever searches looks at the rows themselves again."""

    def __init__(self, dim: int) -> None:
        left = next(size for size in range(math.isqrt(dim), 0, -1) if dim % size == 0)
        self._rotations = _rotation(left), _rotation(dim // left)
        self._index = faiss.IndexBinaryFlat(8 * math.ceil(dim / 8))
        self._index.use_heap = False  # sorts by counting: quicker for many candidates, and takes 8 D bytes for each

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: Halves) -> None:
        """Appends rows float16 [n, D]."""
        for start in range(0, len(rows), BLOCK):
            self._index.add(self._coded(rows[start : start + BLOCK]))

    def remove(self, selector: Any) -> None:
        """Takes out the selected positions; the rest close up in order."""
        self._index.remove_ids(selector)

    def candidates(self, query: Floats, count: int, selector: Any | None) -> tuple[Ids, Ids]:
        """Positions of the `count` selected rows that differ from query in the fewest signs, and in how many, rising."""
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        differences, positions = self._index.search(self._coded(query[np.newaxis]), count, params=parameters)
        return positions[0], differences[0]

    def differing(self, positions: Ids, rows: Halves) -> NDArray[np.bool_]:
        """Which codes are not those of rows float16 [n, D]; bool [n]."""
        held = faiss.rev_swig_ptr(self._index.xb.data(), len(self) * self._index.code_size).reshape(len(self), -1)
        different: NDArray[np.bool_] = (held[positions] != self._coded(rows)).any(axis=1)
        return different

    def _rotated(self, rows: Halves | Floats) -> Floats:
        """Rows [n, D] turned, float32 [n, D]: every dimension becomes a mixture of all, so that signs err like noise."""
        left, right = self._rotations
        mixed = rows.astype(np.float32).reshape(-1, len(right)) @ right  # one large product first, then many small ones
        rotated: Floats = (left @ mixed.reshape(-1, len(left), len(right))).reshape(rows.shape)
        return rotated

    def _coded(self, rows: Halves | Floats) -> Bytes:
        """Codes uint8 [n, ceil(D / 8)] of rows [n, D]."""
        return np.packbits(self._rotated(rows) > 0, axis=1)


def reach(differences: Ids, cosines: Floats, dim: int) -> float:
    """The cosine that no row outside the candidates may be expected to exceed.

    A row outside differs in at least as many signs as the last candidate. Two readings of that, and the higher one counts.
    Over all rotations, the share of signs that differ is binomial about the angle's: SIGMAS_EACH deviations of that. Over
    the candidates, a line from differences to cosines leaves something over: SIGMAS deviations of that beyond the line's
    end. The second sees what rows of few dimensions do to the rotation's mixing, the first that near-equal rows, a person
    who stood still, err alike and would otherwise vouch for each other. Candidates are selected by their differences
    alone, so the line is not biased by the selection.

    Args: differences: int [n], rising, of candidates; cosines: float32 [n], theirs.
    """
    share = float(differences[-1]) / dim
    nearest = max(0.0, share - SIGMAS_EACH * math.sqrt(share * (1 - share) / dim))
    x, y = -differences.astype(np.float64), cosines.astype(np.float64)
    x -= x.mean()
    spread = float(x @ x)
    slope = max(0.0, float(x @ y) / spread) if spread > 0 else 0.0
    left_over = y - y.mean() - slope * x
    return max(math.cos(math.pi * nearest), float(y.mean() + slope * x[-1] + SIGMAS * left_over.std()))


def _rotation(size: int) -> Floats:
    """A random orthogonal matrix, float32 [size, size], the same one every time."""
    rotation: Floats = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0].astype(np.float32)
    return rotation
