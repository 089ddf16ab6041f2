"""Who comes first: the k closest entries, or the k closest identities, among the admitted positions.

A position is an entry's place in Columns and in the index; positions rise with entry_id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gallery.columns import Columns
from gallery.index import Index

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Cosines = NDArray[np.float32] | NDArray[np.float64]


class Seen(NamedTuple):
    """The identities of a list of entries: n of each."""

    positions: Ids  # of the closest entry
    scores: NDArray[np.float64]  # pooled, as high as they may be where the list does not hold all that counts
    is_whole: NDArray[np.bool_]  # where it does


def closest_entries(index: Index, query: Floats, *, k: int, admitted: Ids | None) -> tuple[Ids, Cosines]:
    """Positions and cosines of the k closest admitted entries; equal cosines by entry_id."""
    for found in index.closest(query, k + 1, only=admitted):
        cosines = found[1]
        # When the last one is strictly farther than the k-th, no entry left outside can tie with the k-th.
        if len(cosines) > k and cosines[-1] < cosines[k - 1]:
            break
    return found[0][:k], found[1][:k]


def closest_identities(
    index: Index, columns: Columns, query: Floats, *, k: int, best_of: int | None, admitted: Ids | None
) -> tuple[Ids, Cosines]:
    """Position of the closest admitted entry and pooled cosine of the k closest identities; equal ones by pid.

    An identity's pooled cosine is the mean of its `best_of` highest (1: the highest), of all when it has fewer or
    best_of is None. A list of the closest entries settles it as soon as no identity can still come in from behind: what
    the list does not show of an identity is not above its last cosine. None needs every cosine, several scans' time.
    """
    counts = columns.counts(admitted)
    wanted = counts if best_of is None else np.minimum(counts, best_of)
    least = k + 1 if best_of is not None else len(index) if admitted is None else len(admitted)
    for positions, cosines in index.closest(query, least, only=admitted):
        seen = _seen(columns, positions, cosines, wanted)
        if _is_settled(seen, k, cosines):
            break
    return _first_k_by_pid(columns, seen.positions, seen.scores, k)


def _seen(columns: Columns, positions: Ids, cosines: Floats, wanted: Ids) -> Seen:
    """Pools a list, cosines falling, by identity; wanted: how many cosines of each pid code count."""
    by_identity = np.argsort(columns.pid_codes[positions], kind="stable")
    codes = columns.pid_codes[positions[by_identity]]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    nums = np.diff(starts, append=len(codes))
    counted = np.where(np.arange(len(codes)) - np.repeat(starts, nums) < wanted[codes], cosines[by_identity].astype(float), 0.0)
    sums = np.add.reduceat(counted, starts) if len(starts) else np.empty(0)
    num_wanted = wanted[codes[starts]]
    missing = np.maximum(0, num_wanted - nums)
    lowest = float(cosines[-1]) if len(cosines) else 0.0
    return Seen(positions[by_identity[starts]], (sums + missing * lowest) / num_wanted, missing == 0)


def _is_settled(seen: Seen, k: int, cosines: Floats) -> bool:
    """Whether the k highest are known: whole, above all unseen ones and above every one that is not whole."""
    if len(seen.scores) < k:
        return False
    kth = np.partition(seen.scores, -k)[-k]
    return bool(kth > cosines[-1]) and bool(seen.is_whole[seen.scores >= kth].all())


def _first_k_by_pid(columns: Columns, positions: Ids, cosines: Cosines, k: int) -> tuple[Ids, Cosines]:
    """The k highest cosines, equal ones by pid; only what reaches the k-th cosine is sorted by name."""
    if len(cosines) > k:
        reaching = cosines >= np.partition(cosines, -k)[-k]
        positions, cosines = positions[reaching], cosines[reaching]
    names = [columns.pids.name(int(code)) for code in columns.pid_codes[positions]]
    order = sorted(range(len(names)), key=lambda place: (-cosines[place], names[place]))[:k]
    return positions[order], cosines[order]
