"""The attributes of every entry in memory, as far as a filter can ask for them: one digest for each name and value.

Digests cost 24 bytes a pair, whatever the pair says and however many differ, and leave nothing readable behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from gallery.errors import InvalidRequest

Ids = NDArray[np.int64]

DIGEST = 16  # bytes: no two pairs share one, not even on purpose
MIN_CAPACITY = 1024  # pairs; doubled when full


class Attributes:
    """Pairs of a top-level name and a string, number or boolean, by rising entry_id; other values are in no filter."""

    def __init__(self) -> None:
        self._num = 0
        self._rows = np.zeros((3, MIN_CAPACITY), np.int64)  # both halves of the digest, and the entry_id

    def add(self, entry_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Appends the attributes, JSON objects, of entries whose ids are larger than any before."""
        made: dict[tuple[str, type, object], bytes] = {}
        pairs_of = {text: _digests(json.loads(text), made) for text in set(texts)}
        pairs = [pairs_of[text] for text in texts]
        added = np.frombuffer(b"".join(pairs), np.int64).reshape(-1, 2)
        num = self._num + len(added)
        while num > self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)], axis=1)
        self._rows[:2, self._num : num] = added.T
        self._rows[2, self._num : num] = np.repeat(np.array(entry_ids, np.int64), [len(one) // DIGEST for one in pairs])
        self._num = num

    def remove(self, entry_ids: Ids) -> None:
        """Takes these entries' attributes out."""
        rows = self._rows[:, : self._num]
        is_gone = np.zeros(self._num, np.bool_)
        for start, stop in np.searchsorted(rows[2], np.stack([entry_ids, entry_ids + 1], axis=1)):
            is_gone[start:stop] = True
        kept = rows[:, ~is_gone]
        self._num = kept.shape[1]
        rows[:, : self._num] = kept
        rows[:, self._num :] = 0  # nothing of an erased entry stays behind

    def bearing(self, wanted: Mapping[str, str | int | float | bool]) -> Ids:
        """The entry_ids, rising, whose attributes hold each of the one or more pairs; raises InvalidRequest."""
        rows = self._rows[:, : self._num]
        digests = [np.frombuffer(_digest(name, value), np.int64) for name, value in wanted.items()]
        bearers = [rows[2, (rows[0] == first) & (rows[1] == second)] for first, second in digests]
        found: Ids = bearers[0]
        for ids in bearers[1:]:
            found = np.intersect1d(found, ids, assume_unique=True)
        return found

    def equals(self, other: Attributes) -> bool:
        """Whether both hold the same pairs of the same entries, added in the same order."""
        return np.array_equal(self._rows[:, : self._num], other._rows[:, : other._num])


def _digests(attributes: Mapping[str, object], made: dict[tuple[str, type, object], bytes]) -> bytes:
    """The digests of all pairs that a filter can ask for, joined; those in `made` are not made again."""
    joined = []
    for name, value in attributes.items():
        if isinstance(value, str | int | float):
            key = (name, type(value), value)
            if key not in made:
                made[key] = _digest(name, value)
            joined.append(made[key])
    return b"".join(joined)


def _digest(name: str, value: object) -> bytes:
    """DIGEST bytes; equal for equal JSON values (1 is 1.0, True is not 1, "1" is neither)."""
    if not isinstance(value, str | int | float):
        raise InvalidRequest(f"got {value!r} for the attribute {name!r}, wanted a string, a number or a boolean")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return blake2b(repr((name, value)).encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
