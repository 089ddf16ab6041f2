"""Who comes first: the k closest entries, or the k closest identities, among the admitted positions.

A position is an entry's place in Columns and in the index; positions rise with entry_id.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gallery.columns import Columns
from gallery.index import FlatIndex

Ids = NDArray[np.int64]
Cosines = NDArray[np.float32] | NDArray[np.float64]

GROWTH = 4  # a shortlist that proved too short is searched again, this many times longer
PER_IDENTITY = 4  # entries of one identity expected ahead of the next one: the first shortlist's length per match


def closest_entries(
    index: FlatIndex, columns: Columns, query: NDArray[np.float32], *, k: int, admitted: Ids
) -> tuple[Ids, Cosines]:
    """Positions and cosines of the k closest admitted entries; equal cosines by entry_id."""

    def is_settled(positions: Ids, cosines: Cosines) -> bool:
        # The last one is strictly farther than the k-th, so no entry left outside can tie with the k-th.
        return bool(cosines[-1] < cosines[k - 1])

    positions, cosines = _shortlist(index, columns, query, admitted, k + 1, is_settled)
    return positions[:k], cosines[:k]


def closest_identities(
    index: FlatIndex, columns: Columns, query: NDArray[np.float32], *, k: int, admitted: Ids
) -> tuple[Ids, Cosines]:
    """Positions and cosines of the closest admitted entry of each of the k closest identities; equal cosines by pid."""

    def is_settled(positions: Ids, cosines: Cosines) -> bool:
        firsts = _firsts(columns.pid_codes[positions])
        return len(firsts) >= k and bool(cosines[-1] < cosines[firsts[k - 1]])

    positions, cosines = _shortlist(index, columns, query, admitted, PER_IDENTITY * k + 1, is_settled)
    firsts = _firsts(columns.pid_codes[positions])
    return _first_k_by_pid(columns, positions[firsts], cosines[firsts], k)


def closest_identities_by_mean(
    index: FlatIndex, columns: Columns, query: NDArray[np.float32], *, k: int, admitted: Ids
) -> tuple[Ids, Cosines]:
    """Position of the closest admitted entry and mean cosine over all admitted ones, for the k highest means."""
    cosines = index.cosines(query)[admitted]
    order = np.lexsort((admitted, -cosines))
    codes = columns.pid_codes[admitted]
    firsts = order[_firsts(codes[order])]
    sums = np.bincount(codes, weights=cosines)
    means = sums[codes[firsts]] / np.bincount(codes)[codes[firsts]]
    return _first_k_by_pid(columns, admitted[firsts], means, k)


def _shortlist(
    index: FlatIndex,
    columns: Columns,
    query: NDArray[np.float32],
    admitted: Ids,
    size: int,
    is_settled: Callable[[Ids, Cosines], bool],
) -> tuple[Ids, Cosines]:
    """Searches ever longer shortlists until one settles the answer or holds every admitted entry."""
    only = None if len(admitted) == len(columns) else columns.entry_ids[admitted]
    while True:
        size = min(size, len(admitted))
        ids, cosines = index.search(query, size, only=only) if size else (np.empty(0, np.int64), np.empty(0, np.float32))
        positions = columns.positions(ids)
        order = np.lexsort((positions, -cosines))
        positions, cosines = positions[order], cosines[order]
        if size == len(admitted) or is_settled(positions, cosines):
            return positions, cosines
        size *= GROWTH


def _firsts(codes: Ids) -> Ids:
    """Where each code is first seen, rising."""
    return np.sort(np.unique(codes, return_index=True)[1])


def _first_k_by_pid(columns: Columns, positions: Ids, cosines: Cosines, k: int) -> tuple[Ids, Cosines]:
    """The k highest cosines, equal ones by pid; only what reaches the k-th cosine is sorted by name."""
    if len(cosines) > k:
        reaching = cosines >= np.partition(cosines, -k)[-k]
        positions, cosines = positions[reaching], cosines[reaching]
    names = [columns.pids.name(int(code)) for code in columns.pid_codes[positions]]
    order = sorted(range(len(names)), key=lambda place: (-cosines[place], names[place]))[:k]
    return positions[order], cosines[order]
