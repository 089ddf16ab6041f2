"""Lists of the k closest crops, filled from blocks of a symmetric matrix in which every number is met once.

Blocks come in rising order, so of two equally close crops the one that comes first is already listed, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Candidates = tuple[NDArray[np.int32], NDArray[np.int32], Floats]  # whose list, who, how close

TILE_BYTES = 2**20  # looked through at a time by a thread: stays in its cache
GROUP = 64  # numbers of which only the largest is looked at first: selecting among maxima is cheap, among all it is not


class Lists:
    """The k closest crops so far of every crop, its lowest cosine so far, and candidates that wait to be sorted in."""

    def __init__(self, num: int, k: int) -> None:
        self.index = np.full((num, k), -1, np.int32)
        self.cosine = np.full((num, k), -np.inf, np.float32)
        self.lowest = np.full(num, np.inf, np.float32)
        self._waiting: list[Candidates] = []

    def offer(self, cosines: Floats, start: int, first: int, pool: ThreadPoolExecutor) -> None:
        """Takes in, of crops start .. start+R-1 and those from `first` on, [R, n], whoever may still be listed, and the lowest.

        A row serves the list of its own crop, a column that of its, unless it is one of the R. Tiles of rows that stay in cache
        are looked through two at a time.
        """
        num, k = len(cosines), self.index.shape[1]
        bars = self.cosine[:, -1].copy()  # one after the other in memory: comparing takes half the time
        later = max(first, start + num)
        beyond, beyond_bars = cosines[:, later - first :], bars[later : first + cosines.shape[1]]
        if num >= k and (beyond_bars == -np.inf).any():  # at first, when the lists say nothing
            beyond_bars = np.maximum(beyond_bars, np.nextafter(_kth_at_least(beyond.T, k), np.float32(-np.inf)))

        def look(half: slice) -> tuple[list[Candidates], Floats]:
            found, lows = [], np.full(cosines.shape[1], np.inf, np.float32)
            for rows in tiles(half, 4 * cosines.shape[1]):
                tile, target = cosines[rows], start + rows.start
                own = _reaching_rows(tile, bars[target : start + rows.stop], k, target, first)
                found.append(_joined(own, _reaching_columns(beyond[rows], beyond_bars, later, target)))
                np.minimum(of_rows[rows], tile.min(axis=1), out=of_rows[rows])
                np.minimum(lows, tile.min(axis=0), out=lows)
            return found, lows

        of_rows, of_columns = self.lowest[start : start + num], self.lowest[first : first + cosines.shape[1]]
        # Both at once; what columns get is the same memory that rows may get, and comes after.
        for found, lows in list(pool.map(look, (slice(0, num // 2), slice(num // 2, num)))):
            self._waiting.extend(found)
            np.minimum(of_columns, lows, out=of_columns)
        # Merged when as many wait as there are places: memory is bounded and sorting is rare.
        if sum(len(targets) for targets, _, _ in self._waiting) >= self.index.size:
            self.merge(pool)

    def merge(self, pool: ThreadPoolExecutor) -> None:
        """Sorts the candidates into the lists, those of the lower and of the higher numbers at the same time."""
        if not self._waiting:
            return
        targets, sources, cosines = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        middle = len(self.index) // 2

        def sort_in(is_own: NDArray[np.bool_]) -> None:
            self._sort_in(targets[is_own], sources[is_own], cosines[is_own])

        list(pool.map(sort_in, (targets < middle, targets >= middle)))  # raises what one of them raised

    def _sort_in(self, targets: NDArray[np.int32], sources: NDArray[np.int32], cosines: Floats) -> None:
        """Sorts candidates into the lists of their targets."""
        num, k = self.index.shape
        counts = np.bincount(targets, minlength=num)
        touched = np.flatnonzero(counts)
        place = np.cumsum(counts > 0) - 1
        target = np.concatenate([np.repeat(np.arange(len(touched)), k), place[targets]])
        source = np.concatenate([self.index[touched].ravel(), sources])
        cosines = np.concatenate([self.cosine[touched].ravel(), cosines])
        order = _stable_order(_falling(target, cosines))  # equally close ones stay in the order of their numbers
        lengths = counts[touched] + k
        best = order[(np.cumsum(lengths) - lengths)[:, np.newaxis] + np.arange(k)]
        self.index[touched] = source[best]
        self.cosine[touched] = cosines[best]


def _reaching_rows(tile: Floats, bars: Floats, k: int, target: int, source: int) -> Candidates:
    """Of crops target .. target+r-1 to crops from source on, [r, n]: who is above the bar [r] of the row, and may be of its k."""
    reaching = tile > bars[:, np.newaxis]  # strictly: a crop offered later loses a tie
    if np.count_nonzero(reaching) > 2 * k * len(tile):  # the bars are low yet
        reaching &= tile >= _kth_at_least(tile, k)[:, np.newaxis]
    row, column = np.divmod(np.flatnonzero(reaching), tile.shape[1])
    return (row + target).astype(np.int32), (column + source).astype(np.int32), tile[row, column]


def _reaching_columns(tile: Floats, bars: Floats, target: int, source: int) -> Candidates:
    """Of crops source .. source+r-1 to crops from target on, [r, n]: who is above the bar [n] of the column; sources rise."""
    row, column = np.divmod(np.flatnonzero(tile > bars), max(1, tile.shape[1]))
    return (column + target).astype(np.int32), (row + source).astype(np.int32), tile[row, column]


def _joined(*parts: Candidates) -> Candidates:
    targets, sources, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return targets, sources, cosines


def _falling(target: Ints, cosine: Floats) -> Ints:
    """Numbers that rise with the target and, within one, as the cosine falls: sorting one is thrice as fast as lexsort on two."""
    bits = (cosine + np.float32(0)).view(np.int32)  # + 0: there is a negative zero
    rising = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # the bits of negative floats fall as the floats rise
    keys: Ints = (target << 32) - rising
    return keys


def _stable_order(keys: Ints) -> Ints:
    """np.argsort(keys, kind="stable") in half the time, where few keys are equal: sorts in any order, then mends those."""
    order: Ints = np.argsort(keys)
    rising = keys[order]
    is_equal = np.zeros(len(keys) + 1, np.bool_)
    np.equal(rising[1:], rising[:-1], out=is_equal[1:-1])
    equal = np.flatnonzero(is_equal[1:] | is_equal[:-1])
    order[equal] = order[equal][np.lexsort((order[equal], rising[equal]))]
    return order


def _kth_at_least(cosines: Floats, k: int) -> Floats:
    """A lower bound of each row's k-th largest number: the k-th largest among the maxima of groups; rows have k or more."""
    num, width = cosines.shape
    size = max(1, min(GROUP, width // (4 * k)))  # 4k groups or more, so that few of the k largest share one
    groups = width // size
    maxima = cosines[:, : groups * size].reshape(num, size, groups).max(axis=1)
    bound: Floats = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return bound


def tiles(rows: slice, row_bytes: int) -> Iterator[slice]:
    """Runs of rows that stay in cache."""
    size = max(1, TILE_BYTES // row_bytes)
    for first in range(rows.start, rows.stop, size):
        yield slice(first, min(first + size, rows.stop))
