"""Which rows are closest to a query: exact inner products, with a first pass over one-bit codes where rows are many."""

from __future__ import annotations

from typing import Any, Literal

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

from gallery.quantised import FirstPass, reach

faiss: Any = faiss_module  # its type stubs describe the C++ signatures, not the Python ones
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
IndexChoice = Literal["auto", "exact", "quantised"]
Kind = Literal["exact", "quantised"]

AUTO_FROM = 20_000  # entries from which auto makes a first pass; below, an exact scan takes a few milliseconds
LEAST = 256  # rows that a search looks at in any case: as quick as ten, and often settles what ten would not
PER_RESULT = 4  # candidates of the first pass for every result wanted
GROWTH = 4  # candidates that prove nothing are asked for again, so many times as many
WORTH = 8  # a first pass is worth its time when it keeps at most this fraction of the rows


class Index:
    """Every row in float16, and from some size on its one-bit code; a position is a row's place in order of addition.

    Searches may run at once; a change needs the index for itself. It holds nothing that the store does not, and is
    rebuilt, never saved. A cosine is computed in float32 from the row that is held, whatever found the row.
    """

    def __init__(self, dim: int, choice: IndexChoice) -> None:
        self._dim = dim
        self._choice = choice
        self._rows = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._first_pass: FirstPass | None = None

    def __len__(self) -> int:
        return int(self._rows.ntotal)

    @property
    def kind(self) -> Kind:
        """How searches among many rows are answered."""
        return "quantised" if self._choice == "quantised" or self._first_pass is not None else "exact"

    def add(self, embeddings: Halves | Floats) -> None:
        """Appends embeddings [n, D], kept in half precision."""
        rows = np.ascontiguousarray(embeddings, np.float16)
        self._rows.add_sa_codes(rows.view(np.uint8))
        if self._first_pass is not None:
            self._first_pass.add(rows)
        elif self._choice != "exact" and len(self) >= (AUTO_FROM if self._choice == "auto" else LEAST * WORTH):
            self._first_pass = FirstPass(self.rows())

    def remove(self, positions: Ids) -> None:
        """Removes rows; the rest close up in order."""
        selector = _selector(positions, len(self))
        self._rows.remove_ids(selector)
        if self._first_pass is not None:
            self._first_pass.remove(selector)

    def rows(self) -> Halves:
        """All rows float16 [n, D] without a copy, bit for bit as added; not to be kept beyond the next change."""
        if not len(self):
            return np.empty((0, self._dim), np.float16)
        codes = faiss.rev_swig_ptr(self._rows.codes.data(), 2 * len(self) * self._dim)
        rows: Halves = codes.view(np.float16).reshape(-1, self._dim)
        return rows

    def search(self, query: Floats, size: int, *, only: Ids | None = None) -> tuple[Ids, Floats]:
        """Positions and cosines of the closest rows, falling, equal cosines by position.

        At least `size` of them where so many exist, and more where more were found on the way; no row that is left out
        has a cosine above the last one's. `only`, positions, is applied inside the scan. By the first pass this holds
        as far as its error is normally distributed (see quantised.reach); by the exact scan, always.
        """
        num = len(self) if only is None else len(only)
        selector = None if only is None else _selector(only, len(self))
        if self._first_pass is not None:
            count = max(LEAST, PER_RESULT * size)
            while WORTH * count <= num:
                positions, cosines = self._proven(self._first_pass, query, count, selector)
                if len(positions) >= size:
                    return positions, cosines
                count *= GROWTH
        return self._scanned(query, min(max(size, LEAST), num), selector)

    def differing(self, positions: Ids, embeddings: Halves) -> NDArray[np.bool_]:
        """Which rows or their codes are not those of embeddings [n, D], bit for bit; bool [n]."""
        different: NDArray[np.bool_] = (self.rows()[positions].view(np.uint16) != embeddings.view(np.uint16)).any(axis=1)
        return different if self._first_pass is None else different | self._first_pass.differing(positions, embeddings)

    def _proven(self, first_pass: FirstPass, query: Floats, count: int, selector: Any | None) -> tuple[Ids, Floats]:
        """Those of the first pass's candidates that nothing outside them can be expected to come before."""
        candidates, estimates = first_pass.candidates(query, count, selector)
        by_position = np.argsort(candidates)
        candidates, estimates = candidates[by_position], estimates[by_position]
        positions, cosines = self._scanned(query, count, _selector(candidates, len(self)))
        by_cosine = estimates[np.searchsorted(candidates, positions)]
        falling = np.argsort(-by_cosine)
        num_proven = np.count_nonzero(cosines > reach(by_cosine[falling], cosines[falling]))
        return positions[:num_proven], cosines[:num_proven]

    def _scanned(self, query: Floats, count: int, selector: Any | None) -> tuple[Ids, Floats]:
        """The `count` closest of the selected rows, which are at least so many, by an exact scan."""
        if not count:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        cosines, positions = self._rows.search(query[np.newaxis], count, params=parameters)
        order = np.lexsort((positions[0], -cosines[0]))
        return positions[0][order], cosines[0][order]


def _selector(positions: Ids, num: int) -> Any:
    """One bit a row: constant time per row, whatever the number of positions."""
    bits = np.zeros(num, np.bool_)
    bits[positions] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
