"""Which rows are closest to a query: exact inner products, with a first pass over one-bit codes where rows are many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

from gallery.gpu import MOST, TOLERANCE, GpuPass
from gallery.quantised import FirstPass, reach

faiss: Any = faiss_module  # its type stubs describe the C++ signatures, not the Python ones
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
IndexChoice = Literal["auto", "exact", "quantised", "gpu"]
Kind = Literal["exact", "quantised", "gpu"]

AUTO_FROM = 20_000  # entries from which auto makes a first pass; below, an exact scan takes a few milliseconds
LEAST = 256  # rows that a search looks at in any case: as quick as ten, and often settles what ten would not
GROWTH = 4  # where an exact scan's list settles nothing, the next one is so many times as long
CANDIDATES = (1024, 4096)  # of a first pass, and of a second one; beyond that, an exact scan is as quick
WORTH = 8  # a first pass is worth its time while it keeps at most this fraction of the rows
FEW = 1024  # rows that are quicker to copy than to find among all
LOWEST = -2.0  # every cosine is above it


class Index:
    """Every row in float16, and from some size on its one-bit code; a position is a row's place in order of addition.

    Searches may run at once; a change needs the index for itself. It holds nothing that the store does not, and is
    rebuilt, never saved. A cosine is computed in float32 from the row that is held, whatever found the row.
    """

    def __init__(self, dim: int, choice: IndexChoice) -> None:
        self._dim = dim
        self._choice = choice
        self._rows = _half_precision(dim)
        self._first_pass = FirstPass(dim) if choice == "quantised" else None
        self._gpu = GpuPass(dim) if choice == "gpu" else None

    def __len__(self) -> int:
        return int(self._rows.ntotal)

    @property
    def kind(self) -> Kind:
        """How searches among many rows are answered."""
        if self._gpu is not None:
            return "gpu"
        return "exact" if self._first_pass is None else "quantised"

    def add(self, embeddings: Halves | Floats) -> None:
        """Appends embeddings [n, D], kept in half precision."""
        rows = np.ascontiguousarray(embeddings, np.float16)
        self._rows.add_sa_codes(rows.view(np.uint8))
        if self._gpu is not None:
            self._gpu.add(rows)
        elif self._first_pass is not None:
            self._first_pass.add(rows)
        elif self._choice == "auto" and len(self) >= AUTO_FROM:
            self._first_pass = FirstPass(self._dim)
            self._first_pass.add(self.rows())

    def reserve(self, num: int) -> None:
        """Takes memory for `num` rows at once; growing step by step copies every row again, and holds more meanwhile."""
        size = len(self) * 2 * self._dim
        self._rows.codes.resize(max(size, num * 2 * self._dim))
        self._rows.codes.resize(size)

    def remove(self, positions: Ids) -> None:
        """Removes rows; the rest close up in order."""
        selector = _selector(positions, len(self))
        self._rows.remove_ids(selector)
        if self._first_pass is not None:
            self._first_pass.remove(selector)
        if self._gpu is not None:
            self._gpu.replace(self.rows())

    def rows(self) -> Halves:
        """All rows float16 [n, D] without a copy, bit for bit as added; not to be kept beyond the next change."""
        if not len(self):
            return np.empty((0, self._dim), np.float16)
        codes = faiss.rev_swig_ptr(self._rows.codes.data(), 2 * len(self) * self._dim)
        rows: Halves = codes.view(np.float16).reshape(-1, self._dim)
        return rows

    def closest(self, query: Floats, least: int, *, only: Ids | None = None) -> Iterator[tuple[Ids, Floats]]:
        """Ever longer lists of the closest rows, positions and cosines, falling, equal cosines by position.

        No row that a list leaves out has a cosine above the list's last one; the last list holds every row. `least` is
        how many are wanted, as far as one can say: the first list may hold fewer, or more. `only`, positions, is applied
        inside the scan. While a first pass serves, all this holds as far as quantised.reach does; by the exact scan it
        always holds.
        """
        for positions, cosines, num_proven in self.lists(query, least, only=only):
            yield positions[:num_proven], cosines[:num_proven]

    def lists(self, query: Floats, least: int, *, only: Ids | None = None) -> Iterator[tuple[Ids, Floats, int]]:
        """The lists of `closest`, their lengths, and behind them what else was looked at: there a pass may miss some."""
        num = len(self) if only is None else len(only)
        selector = None if only is None else _selector(only, len(self))
        if self._first_pass is not None:
            yield from self._estimated(self._first_pass, query, least, selector, num // WORTH)
        if self._gpu is not None and only is None:
            yield from self._proposed(self._gpu, query, max(LEAST, least))
        size = max(LEAST, least)
        while size < num:
            yield *self._scanned(query, size, selector), size
            size *= GROWTH
        everything = np.arange(num) if only is None else only
        yield *_sorted(everything, self._cosines(query, everything)), num

    def differing(self, positions: Ids, embeddings: Halves) -> NDArray[np.bool_]:
        """Which rows or their codes are not those of embeddings [n, D], bit for bit; bool [n]."""
        different: NDArray[np.bool_] = (self.rows()[positions].view(np.uint16) != embeddings.view(np.uint16)).any(axis=1)
        for held in (self._first_pass, self._gpu):
            if held is not None:
                different |= held.differing(positions, embeddings)
        return different

    def _estimated(
        self, first_pass: FirstPass, query: Floats, least: int, selector: Any | None, most: int
    ) -> Iterator[tuple[Ids, Floats, int]]:
        """Ever more candidates, up to `most`, and how many there are before which nothing else can be expected to come."""
        num_seen = max(LEAST, 2 * least)
        for count in (min(count, most) for count in CANDIDATES):
            if num_seen > count:
                continue
            candidates, differences = first_pass.candidates(query, count, selector)
            cosines = np.empty(0, np.float32)
            while len(cosines) < count:
                cosines = np.concatenate([cosines, self._cosines(query, candidates[len(cosines) : num_seen])])
                num_proven = np.count_nonzero(cosines > reach(differences[: len(cosines)], cosines, self._dim))
                yield *_sorted(candidates[: len(cosines)], cosines), int(num_proven)
                num_seen *= 2

    def _proposed(self, gpu: GpuPass, query: Floats, size: int) -> Iterator[tuple[Ids, Floats, int]]:
        """Ever more of a device's proposals, and how many there are before which nothing else can come."""
        while size < len(self) and size <= MOST:
            candidates, proposed = gpu.candidates(query, size)
            cosines = self._cosines(query, candidates)
            yield *_sorted(candidates, cosines), int(np.count_nonzero(cosines > proposed[-1] + TOLERANCE))
            size *= GROWTH

    def _scanned(self, query: Floats, size: int, selector: Any | None) -> tuple[Ids, Floats]:
        """The `size` closest of the selected rows, which are more than that."""
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        cosines, positions = self._rows.search(query[np.newaxis], size, params=parameters)
        return _sorted(positions[0], cosines[0])

    def _cosines(self, query: Floats, positions: Ids) -> Floats:
        """The cosines of these rows, float32 [n], in their order; of all rows, several times a scan for the closest."""
        if len(positions) <= FEW:
            few = _half_precision(self._dim)
            few.add_sa_codes(self.rows()[positions].view(np.uint8))
            return _in_order(few.search(query[np.newaxis], max(1, len(positions))), np.arange(len(positions)))
        parameters = faiss.SearchParameters(sel=_selector(positions, len(self)))
        _, cosines, found = self._rows.range_search(query[np.newaxis], LOWEST, params=parameters)
        return _in_order((cosines[np.newaxis], found[np.newaxis]), positions)


def _half_precision(dim: int) -> Any:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _in_order(found: tuple[Floats, Ids], positions: Ids) -> Floats:
    """The cosines of a search for these positions alone, float32 [n], in their order."""
    cosines = np.empty(len(positions), np.float32)
    rising = np.argsort(positions)
    cosines[rising[np.searchsorted(positions[rising], found[1][0, : len(positions)])]] = found[0][0, : len(positions)]
    return cosines


def _sorted(positions: Ids, cosines: Floats) -> tuple[Ids, Floats]:
    order = np.lexsort((positions, -cosines))
    return positions[order], cosines[order]


def _selector(positions: Ids, num: int) -> Any:
    """One bit a row: constant time per row, whatever the number of positions."""
    bits = np.zeros(num, np.bool_)
    bits[positions] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
