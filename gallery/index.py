"""A thin FAISS wrapper: exact inner products over vectors named by entry id; in memory only."""

from __future__ import annotations

from typing import Any, Literal

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

faiss: Any = faiss_module  # its type stubs describe the C++ signatures, not the Python ones
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
IndexChoice = Literal["auto", "exact", "quantised"]


class FlatIndex:
    """Every vector in float32, scanned whole; vectors keep the order in which they were added.

    Not thread-safe, and holds nothing that the store does not: it is rebuilt, never saved.
    """

    kind = "flat"

    def __init__(self, dim: int) -> None:
        self._flat = faiss.IndexFlatIP(dim)
        self._index = faiss.IndexIDMap2(self._flat)
        self._dim = dim

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, entry_ids: Ids, embeddings: NDArray[np.float16] | Floats) -> None:
        """Adds embeddings [n, D] under entry_ids int64 [n]."""
        self._index.add_with_ids(np.ascontiguousarray(embeddings, np.float32), entry_ids)

    def remove(self, entry_ids: Ids) -> int:
        """Removes these ids, returns how many were there; the rest close up in order."""
        return int(self._index.remove_ids(entry_ids))

    def search(self, query: Floats, k: int, *, only: Ids | None = None) -> tuple[Ids, Floats]:
        """The k closest ids and their cosines, falling; fewer only when fewer exist.

        `only` is applied inside the scan. The order of equal cosines is FAISS's own.
        """
        parameters = None if only is None else faiss.SearchParameters(sel=_selector(only))
        cosines, ids = self._index.search(query[np.newaxis], k, params=parameters)
        found = ids[0] >= 0
        return ids[0][found], cosines[0][found]

    def cosines(self, query: Floats) -> Floats:
        """The cosine of every vector, float32 [n], in the order of ids()."""
        product: Floats = self._matrix() @ query
        return product

    def ids(self) -> Ids:
        """Every id, int64 [n], in the order of addition."""
        ids: Ids = faiss.vector_to_array(self._index.id_map)
        return ids

    def vectors(self, entry_ids: Ids) -> Floats:
        """A copy of the vectors of these ids, float32 [n, D]; each must be there."""
        vectors: Floats = self._index.reconstruct_batch(entry_ids)
        return vectors

    def _matrix(self) -> Floats:
        """All vectors without a copy, float32 [n, D]; stale after the next add or remove."""
        if not len(self):
            return np.empty((0, self._dim), np.float32)
        matrix: Floats = faiss.rev_swig_ptr(self._flat.get_xb(), len(self) * self._dim).reshape(-1, self._dim)
        return matrix


def _selector(entry_ids: Ids) -> Any:
    """One bit per id up to the largest: constant time per vector, whatever the number of ids."""
    bits = np.zeros(int(entry_ids.max(initial=0)) + 1, np.bool_)
    bits[entry_ids] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
