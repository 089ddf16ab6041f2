"""What the store holds, in memory and searchable: the index and the columns, always in step with each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gallery.columns import NO_CAMID, NO_TIME, Columns
from gallery.entry import Filter, Match, SearchResult
from gallery.errors import no_entry
from gallery.index import FlatIndex, IndexChoice
from gallery.ranking import closest_entries, closest_identities, closest_identities_by_mean
from gallery.store import Rows
from gallery.times import from_microseconds

GroupBy = Literal["identity", "entry"]
Pool = Literal["max", "mean", "best"]


class Memory:
    """Not thread-safe; derived from the store alone, so it can be thrown away and built again at any time."""

    def __init__(self, dim: int, index: IndexChoice) -> None:
        self.index = FlatIndex(dim)
        self.columns = Columns()

    def __len__(self) -> int:
        return len(self.columns)

    def add(self, rows: Rows) -> None:
        """Adds entries whose ids are larger than any before; embeddings [n, D]."""
        if rows.entry_ids:
            self.index.add(np.array(rows.entry_ids, np.int64), rows.embeddings)
            self.columns.add(rows.entry_ids, rows.pids, rows.camids, rows.captured_us)

    def remove(self, entry_ids: list[int]) -> None:
        """Removes entries that are there."""
        gone = np.array(entry_ids, np.int64)
        self.index.remove(gone)
        self.columns.remove(gone)

    def embedding(self, entry_id: int) -> NDArray[np.float32]:
        """The entry's embedding, float32 [D]; raises EntryNotFound."""
        if entry_id not in self.columns:
            raise no_entry(entry_id)
        embedding: NDArray[np.float32] = self.index.vectors(np.array([entry_id], np.int64))[0]
        return embedding

    def search(
        self, query: NDArray[np.float32], *, k: int, where: Filter, group_by: GroupBy, pool: Pool, best_of: int
    ) -> SearchResult:
        """See LocalGallery.search; the arguments are valid."""
        admitted = self.columns.admitted(where)
        by_identity = closest_identities if pool == "max" else closest_identities_by_mean
        closest = closest_entries if group_by == "entry" else by_identity
        positions, cosines = closest(self.index, self.columns, query, k=k, admitted=admitted)
        counts = np.bincount(self.columns.pid_codes[admitted])
        matches = [
            self._match(int(position), float(cosine), None if group_by == "entry" else counts)
            for position, cosine in zip(positions, cosines, strict=True)
        ]
        return SearchResult(tuple(matches), len(admitted), int(np.count_nonzero(counts)))

    def faults(self, stored: Iterable[Rows]) -> list[str]:
        """Where index, columns and the store's rows differ; empty when they agree bit for bit."""
        found: list[str] = []
        entry_ids: list[int] = []
        for rows in stored:
            entry_ids += rows.entry_ids
            for entry_id, embedding in zip(rows.entry_ids, rows.embeddings, strict=True):
                if entry_id not in self.columns or not np.array_equal(self.embedding(entry_id), embedding):
                    found.append(f"entry {entry_id} differs between the index and the store")
        if not np.array_equal(self.index.ids(), entry_ids) or not np.array_equal(self.columns.entry_ids, entry_ids):
            found.append(f"the index holds {len(self.index)} entries, the store {len(entry_ids)}")
        return found

    def _match(self, position: int, cosine: float, counts: NDArray[np.int64] | None) -> Match:
        columns = self.columns
        pid_code, camid_code = int(columns.pid_codes[position]), int(columns.camid_codes[position])
        captured_us = int(columns.captured_us[position])
        return Match(
            entry_id=int(columns.entry_ids[position]),
            pid=columns.pids.name(pid_code),
            camid=None if camid_code == NO_CAMID else columns.camids.name(camid_code),
            captured_at=None if captured_us == NO_TIME else from_microseconds(captured_us),
            cosine=min(1.0, max(-1.0, cosine)),  # lengths are 1 only to a tolerance
            rerank_distance=None,
            entries=1 if counts is None else int(counts[pid_code]),
        )
