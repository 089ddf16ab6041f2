"""The parts of every entry that filters and grouping need, as numpy columns in memory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from gallery.attributes import Attributes
from gallery.entry import Filter
from gallery.store import Rows
from gallery.times import to_microseconds

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

NO_CAMID = -1
NO_TIME = np.iinfo(np.int64).min
NO_ID = 2**63  # no entry_id reaches it
MIN_CAPACITY = 1024  # rows; doubled when full
EVERYTHING = Filter()


class Codes:
    """Small integers for strings, both ways, and how often each is in use; one out of use is forgotten and given again."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}
        self._name_of: list[str] = []
        self._free: list[int] = []
        self._counts = np.zeros(MIN_CAPACITY, np.int64)

    def __len__(self) -> int:
        return len(self._code_of)

    @property
    def counts(self) -> Ids:
        """How often each code is in use, int64 [codes]."""
        return self._counts[: len(self._name_of)]

    def take(self, names: Iterable[str]) -> Ids:
        """One use more of each name's code, new when the name is; int64 [n]."""
        codes = np.array([self._code(name) for name in names], np.int64)
        while len(self._name_of) > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        np.add.at(self._counts, codes, 1)
        return codes

    def release(self, codes: Ids) -> None:
        """One use less of each; names out of use are dropped."""
        np.subtract.at(self._counts, codes, 1)
        for code in np.unique(codes[self._counts[codes] == 0]):
            del self._code_of[self._name_of[code]]
            self._name_of[code] = ""
            self._free.append(int(code))

    def known(self, names: Iterable[str]) -> list[int]:
        """The codes of those names that have one."""
        return [self._code_of[name] for name in names if name in self._code_of]

    def name(self, code: int) -> str:
        """The name behind a code that is in use."""
        return self._name_of[code]

    def _code(self, name: str) -> int:
        if name not in self._code_of:
            if self._free:
                self._code_of[name] = self._free.pop()
                self._name_of[self._code_of[name]] = name
            else:
                self._code_of[name] = len(self._name_of)
                self._name_of.append(name)
        return self._code_of[name]


class Columns:
    """entry_id, pid code, camid code and captured_at of every entry, by rising entry_id, and all attributes.

    A position is an entry's place in these columns, and in an index to which entries were added in the same order.
    """

    def __init__(self) -> None:
        self.pids = Codes()
        self.camids = Codes()
        self._attributes = Attributes()
        self._num = 0
        self._rows = np.empty((4, MIN_CAPACITY), np.int64)

    def __len__(self) -> int:
        return self._num

    def __contains__(self, entry_id: int) -> bool:
        place = int(np.searchsorted(self.entry_ids, entry_id)) if 0 <= entry_id < NO_ID else self._num
        return place < self._num and bool(self.entry_ids[place] == entry_id)

    @property
    def entry_ids(self) -> Ids:
        """int64 [n], rising."""
        return self._rows[0, : self._num]

    @property
    def pid_codes(self) -> Ids:
        """int64 [n]."""
        return self._rows[1, : self._num]

    @property
    def camid_codes(self) -> Ids:
        """int64 [n], NO_CAMID where there is none."""
        return self._rows[2, : self._num]

    @property
    def captured_us(self) -> Ids:
        """int64 [n], microseconds since 1970 in UTC, NO_TIME where unknown."""
        return self._rows[3, : self._num]

    def add(self, rows: Rows) -> None:
        """Appends entries whose ids are larger than any before."""
        num = self._num + len(rows.entry_ids)
        while num > self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)], axis=1)
        added = self._rows[:, self._num : num]
        added[0] = rows.entry_ids
        added[1] = self.pids.take(rows.pids)
        added[2] = NO_CAMID
        added[2, [camid is not None for camid in rows.camids]] = self.camids.take(c for c in rows.camids if c is not None)
        added[3] = [NO_TIME if time is None else time for time in rows.captured_us]
        self._attributes.add(rows.entry_ids, rows.attributes)
        self._num = num

    def remove(self, entry_ids: Ids) -> None:
        """Takes these entries out; names that no other entry bears are forgotten."""
        gone = np.isin(self.entry_ids, entry_ids)
        removed = self._rows[:, : self._num][:, gone]
        kept = self._rows[:, : self._num][:, ~gone]
        self._num = kept.shape[1]
        self._rows[:, : self._num] = kept
        self.pids.release(removed[1])
        self.camids.release(removed[2][removed[2] != NO_CAMID])
        self._attributes.remove(entry_ids)

    def rename(self, entry_ids: Ids, pid: str) -> None:
        """Gives these entries, which are there, another pid."""
        positions = self.positions(entry_ids)
        old = self.pid_codes[positions]
        self.pid_codes[positions] = self.pids.take([pid] * len(positions))
        self.pids.release(old)

    def positions(self, entry_ids: Ids) -> Ids:
        """The positions of these ids; raises KeyError when one is not there."""
        positions = np.searchsorted(self.entry_ids, entry_ids)
        if (positions == self._num).any() or not np.array_equal(self.entry_ids[positions], entry_ids):
            raise KeyError("got an entry_id that memory does not hold")
        return positions

    def admitted(self, where: Filter) -> Ids | None:
        """The positions that the filter admits, rising; None for all of them. Raises InvalidRequest."""
        if where == EVERYTHING:
            return None
        mask = np.ones(self._num, np.bool_)
        if where.pids:
            mask &= np.isin(self.pid_codes, self.pids.known(where.pids))
        if where.camids:
            mask &= np.isin(self.camid_codes, self.camids.known(where.camids))
        if where.exclude_camids:
            mask &= ~np.isin(self.camid_codes, self.camids.known(where.exclude_camids))
        if where.exclude_entry_ids:
            excluded = [entry_id for entry_id in where.exclude_entry_ids if entry_id in self]
            mask[self.positions(np.array(excluded, np.int64))] = False
        if where.attributes:
            bearing = np.zeros(self._num, np.bool_)
            bearing[self.positions(self._attributes.bearing(where.attributes))] = True
            mask &= bearing
        mask &= _in_range(self.captured_us, where.since, where.until)
        return np.flatnonzero(mask)

    def counts(self, admitted: Ids | None) -> Ids:
        """How many admitted entries each pid code has, int64 [codes]."""
        return self.pids.counts if admitted is None else np.bincount(self.pid_codes[admitted], minlength=len(self.pids.counts))

    def equals(self, other: Columns) -> bool:
        """Whether both hold the same entries."""
        return (
            np.array_equal(self._rows[[0, 3], : self._num], other._rows[[0, 3], : other._num])
            and self._names() == other._names()
            and self._attributes.equals(other._attributes)
        )

    def _names(self) -> list[tuple[str, str | None]]:
        pids, camids = self.pids.name, self.camids.name
        codes = zip(self.pid_codes.tolist(), self.camid_codes.tolist(), strict=True)
        return [(pids(pid), None if camid == NO_CAMID else camids(camid)) for pid, camid in codes]


def _in_range(captured_us: Ids, since: datetime | None, until: datetime | None) -> Mask | np.bool_:
    if since is None and until is None:
        return np.True_
    mask: Mask = captured_us != NO_TIME
    if since is not None:
        mask &= captured_us >= to_microseconds(since)
    if until is not None:
        mask &= captured_us < to_microseconds(until)
    return mask
