"""What the store holds, in memory and searchable: the index and the columns, always in step with each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gallery.columns import NO_CAMID, Columns
from gallery.entry import Filter, SearchResult
from gallery.errors import no_entry
from gallery.found import Found
from gallery.index import Index, IndexChoice
from gallery.online import Shortlist, identities_beside, identities_of, list_closest
from gallery.ranking import Cosines, closest_entries, closest_identities
from gallery.store import Rows

GroupBy = Literal["identity", "entry"]
Pool = Literal["max", "mean", "best"]


class Memory:
    """Searches may run at once; a change needs it for itself. Derived from the store alone, so it can be built again."""

    def __init__(self, dim: int, index: IndexChoice) -> None:
        self.index = Index(dim, index)
        self.columns = Columns()

    def __len__(self) -> int:
        return len(self.columns)

    def add(self, rows: Rows) -> None:
        """Adds entries whose ids are larger than any before; embeddings [n, D]."""
        if rows.entry_ids:
            self.index.add(rows.embeddings)
            self.columns.add(rows)

    def remove(self, entry_ids: list[int]) -> None:
        """Removes entries that are there; raises KeyError, changing nothing, when one is not."""
        gone = np.array(entry_ids, np.int64)
        self.index.remove(self.columns.positions(gone))
        self.columns.remove(gone)

    def rename(self, entry_ids: list[int], pid: str) -> None:
        """Gives entries that are there another pid; raises KeyError, changing nothing, when one is not."""
        self.columns.rename(np.array(entry_ids, np.int64), pid)

    def embedding(self, entry_id: int) -> NDArray[np.float32]:
        """The entry's embedding as stored, in half precision, float32 [D]; raises EntryNotFound."""
        if entry_id not in self.columns:
            raise no_entry(entry_id)
        position = int(self.columns.positions(np.array([entry_id], np.int64))[0])
        embedding: NDArray[np.float32] = self.index.rows()[position].astype(np.float32)
        return embedding

    def search(
        self, query: NDArray[np.float32], *, k: int, where: Filter, group_by: GroupBy, pool: Pool, best_of: int
    ) -> SearchResult:
        """See LocalGallery.search; the arguments are valid."""
        index, columns = self.index, self.columns
        admitted = columns.admitted(where)
        counts = columns.counts(admitted)
        if group_by == "entry":
            positions, cosines = closest_entries(index, query, k=k, admitted=admitted)
        else:
            num_best = _num_best(pool, best_of)
            positions, cosines = closest_identities(index, columns, query, k=k, best_of=num_best, admitted=admitted)
        found = self._found(positions, cosines, counts, group_by)
        return SearchResult(tuple(map(found.match, range(len(found)))), found.entries, found.identities)

    def shortlist(
        self, query: NDArray[np.float32], *, k: int, where: Filter, group_by: GroupBy, pool: Pool, best_of: int, size: int
    ) -> Shortlist:
        """What re-ranking `size` entries needs, copied: see online.reranked; the arguments are valid."""
        index, columns = self.index, self.columns
        admitted = columns.admitted(where)
        counts = columns.counts(admitted)
        pid_codes = columns.pid_codes if group_by == "identity" else None
        num_best = _num_best(pool, best_of)
        sure = k if pid_codes is None or num_best == 1 else 0  # for means, everything is looked at anyway
        listed, listed_cosines, num_proven = list_closest(index, query, size=size, k=sure, admitted=admitted, pid_codes=pid_codes)
        if pid_codes is None:
            positions, cosines = listed, listed_cosines
            if num_proven <= k:
                positions, cosines = closest_entries(index, query, k=max(size, k), admitted=admitted)
                listed, listed_cosines = positions[:size], cosines[:size]
            owners, num_pooled = np.arange(len(listed)), np.ones_like(positions)
        else:
            if num_best == 1 and len(np.unique(pid_codes[listed[:num_proven]])) > k:
                positions, cosines = identities_of(columns, listed, listed_cosines)
            else:
                positions, cosines = identities_beside(index, columns, query, listed, k=k, best_of=num_best, admitted=admitted)
            codes = columns.pid_codes[positions]
            place = np.empty(len(counts), np.int64)
            place[codes] = np.arange(len(codes))
            owners = place[columns.pid_codes[listed]]
            num_pooled = counts[codes] if num_best is None else np.minimum(counts[codes], num_best)
        found = self._found(positions, cosines, counts, group_by)
        return Shortlist(index.rows()[listed], listed_cosines, owners, num_pooled, found)

    def faults(self, stored: Iterable[Rows]) -> list[str]:
        """Where index, columns, attributes and the store's rows differ; empty when they agree bit for bit."""
        found: list[str] = []
        expected = Columns()
        for rows in stored:
            expected.add(rows)
            entry_ids = np.array(rows.entry_ids, np.int64)
            found += [
                f"entry {entry_id} differs between the index and the store" for entry_id in self._differing(rows, entry_ids)
            ]
        if len(self.index) != len(expected) or not np.array_equal(self.columns.entry_ids, expected.entry_ids):
            found.append(f"the index holds {len(self.index)} entries, the store {len(expected)}")
        elif not self.columns.equals(expected):
            found.append("the pids, camids, times or attributes in memory differ from the store's")
        return found

    def _differing(self, rows: Rows, entry_ids: NDArray[np.int64]) -> list[int]:
        """The ids of rows that are not held as stored."""
        positions = np.searchsorted(self.columns.entry_ids, entry_ids)
        is_held = positions < min(len(self.index), len(self))
        is_held[is_held] = self.columns.entry_ids[positions[is_held]] == entry_ids[is_held]
        differs = ~is_held
        differs[is_held] = self.index.differing(positions[is_held], rows.embeddings[is_held])
        different: list[int] = entry_ids[differs].tolist()
        return different

    def _found(self, positions: NDArray[np.int64], cosines: Cosines, counts: NDArray[np.int64], group_by: GroupBy) -> Found:
        """Copies what these positions are; counts: admitted entries of each pid code."""
        columns = self.columns
        codes, camid_codes = columns.pid_codes[positions], columns.camid_codes[positions].tolist()
        return Found(
            entry_ids=columns.entry_ids[positions].tolist(),
            pids=[columns.pids.name(code) for code in codes.tolist()],
            camids=[None if code == NO_CAMID else columns.camids.name(code) for code in camid_codes],
            captured_us=columns.captured_us[positions].tolist(),
            cosines=cosines.tolist(),
            counts=[1] * len(positions) if group_by == "entry" else counts[codes].tolist(),
            entries=int(counts.sum()),
            identities=int(np.count_nonzero(counts)),
        )


def _num_best(pool: Pool, best_of: int) -> int | None:
    """How many of an identity's highest cosines are averaged; None for all of them."""
    return {"max": 1, "best": best_of, "mean": None}[pool]
