"""Exact nearest neighbours of every crop among all crops of two sets, without an N x N matrix.

A crop's number is its place in query and gallery, one after the other: 0 .. N-1, N = Q + G. Shapes are given as [N, k].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Progress = Callable[[int], object]

BLOCK_BYTES = 2**26  # worked on at a time: a product of 870 x 19,281 crops
GROUP = 64  # cosines of which only the largest is looked at first: selecting among maxima is cheap, among all it is not


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who is closest to whom.

    index: int32 [N, k], numbers of the k closest crops, closest first, equal ones by rising number; every crop is the
    first of its own list, whatever rounding or duplicates say. cosine: float32 [N, k], infinite for the crop itself.
    farthest: float32 [N], the largest sq_dist from each crop to any other.
    """

    index: NDArray[np.int32]
    cosine: Floats
    farthest: Floats


def sq_dist(cosine: Floats) -> Floats:
    """Squared Euclidean distance of unit embeddings with that cosine; rounding never makes it negative."""
    distance: Floats = np.maximum(2 - 2 * cosine, 0)
    return distance


def find_neighbours(
    query: Floats,
    gallery: Floats,
    *,
    k: int,
    block_bytes: int = BLOCK_BYTES,
    cross: Floats | None = None,
    progress: Progress | None = None,
) -> Neighbours:
    """Finds the k closest crops (itself among them) of every crop of both sets; k is at most N.

    Every cosine is computed once and serves both of its crops: half of the product's arithmetic. Blocks come in rising
    order, so of two equally close crops the one that comes first is already listed, and stays.

    Args:
        query: float32 [Q, D], unit rows. gallery: float32 [G, D], unit rows.
        block_bytes: memory for one block of cosines; what is chosen in it takes about as much again.
        cross: float32 [Q, G], filled with the cosines of every query and gallery crop, which come by anyway.
        progress: called with the number of crops done since it was last called; N in all.
    """
    num = len(query) + len(gallery)
    lists = _Lists(num, k)
    block = max(num, block_bytes // 4)  # cosines
    buffer = np.empty(min(block, num * num), np.float32)
    with ThreadPoolExecutor(2) as pool:
        for start, stop in _blocks(len(query), num, block):
            cosines = _cosines(query, gallery, start, stop, buffer)
            if cross is not None and start < len(query):
                cross[start:stop] = cosines[:, len(query) - start :]
            np.fill_diagonal(cosines, np.inf)  # the crop itself: always first
            offered = pool.map(lists.offer, (cosines, cosines[:, stop - start :].T), (start, stop), (start, start))
            list(offered)  # raises what one of them raised
            lists.merge_when_long()
            if progress is not None:
                progress(stop - start)
    lists.merge()
    return Neighbours(lists.index, lists.cosine, sq_dist(lists.lowest))


def pair_cosines(
    query: Floats, gallery: Floats, neighbours: Neighbours, left: Ints, right: Ints, *, block_bytes: int = BLOCK_BYTES
) -> Floats:
    """The cosine of each pair of crops left[i], right[i]: float32 [n]; from the list of the left one where it is there."""
    is_right = neighbours.index[left] == right[:, np.newaxis]
    cosines: Floats = neighbours.cosine[left, is_right.argmax(axis=1)]
    unlisted = np.flatnonzero(~is_right.any(axis=1))
    slab = max(1, block_bytes // (16 * query.shape[1]))
    for start in range(0, len(unlisted), slab):
        pairs = unlisted[start : start + slab]
        cosines[pairs] = np.einsum("nd,nd->n", _take(query, gallery, left[pairs]), _take(query, gallery, right[pairs]))
    return cosines


class _Lists:
    """The k closest crops so far of every crop, and candidates that wait to be sorted in."""

    def __init__(self, num: int, k: int) -> None:
        self.index = np.full((num, k), -1, np.int32)
        self.cosine = np.full((num, k), -np.inf, np.float32)
        self.lowest = np.full(num, np.inf, np.float32)  # of all cosines offered
        self._waiting: list[tuple[NDArray[np.int32], NDArray[np.int32], Floats]] = []

    def offer(self, cosines: Floats, target: int, source: int) -> None:
        """Takes in cosines [m, n] between crops target .. target+m-1 and source .. source+n-1 what may still be listed.

        Two threads may offer at once, to different targets.
        """
        num, width = cosines.shape
        if not num:
            return
        k = self.cosine.shape[1]
        self.lowest[target : target + num] = np.minimum(self.lowest[target : target + num], cosines.min(axis=1))
        # Strictly above the last one listed: a crop offered later loses a tie.
        bar = np.nextafter(self.cosine[target : target + num, -1], np.float32(np.inf))
        reaching = cosines >= bar[:, np.newaxis]
        if np.count_nonzero(reaching) > k * num:  # at first, when the lists say little
            reaching &= cosines >= _kth_at_least(cosines, k)[:, np.newaxis]
        if reaching.flags.c_contiguous:
            row, column = np.divmod(np.flatnonzero(reaching), width)
        else:  # a transposed block: read as it lies; its sources rise all the same
            column, row = np.divmod(np.flatnonzero(reaching.T), num)
        self._waiting.append(((row + target).astype(np.int32), (column + source).astype(np.int32), cosines[row, column]))

    def merge_when_long(self) -> None:
        """Merges when as many candidates wait as there are places; so memory is bounded and sorting is rare."""
        if sum(len(targets) for targets, _, _ in self._waiting) >= self.index.size:
            self.merge()

    def merge(self) -> None:
        """Sorts the candidates into the lists."""
        if not self._waiting:
            return
        num, k = self.index.shape
        targets, sources, cosines = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        counts = np.bincount(targets, minlength=num)
        touched = np.flatnonzero(counts)
        place = np.cumsum(counts > 0) - 1
        target = np.concatenate([np.repeat(np.arange(len(touched)), k), place[targets]])
        source = np.concatenate([self.index[touched].ravel(), sources])
        cosine = np.concatenate([self.cosine[touched].ravel(), cosines])
        order = np.argsort(_falling(target, cosine), kind="stable")  # equal cosines stay in the order of their numbers
        lengths = counts[touched] + k
        best = order[(np.cumsum(lengths) - lengths)[:, np.newaxis] + np.arange(k)]
        self.index[touched] = source[best]
        self.cosine[touched] = cosine[best]


def _falling(target: Ints, cosine: Floats) -> Ints:
    """Numbers that rise with the target and, within one, as the cosine falls: sorting one is thrice as fast as lexsort on two."""
    bits = (cosine + np.float32(0)).view(np.int32)  # + 0: there is a negative zero
    rising = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # the bits of negative floats fall as the floats rise
    keys: Ints = (target << 32) - rising
    return keys


def _kth_at_least(cosines: Floats, k: int) -> Floats:
    """A lower bound of each row's k-th largest number: the k-th largest among the maxima of groups; -inf for short rows."""
    num, width = cosines.shape
    if width < k:
        return np.full(num, -np.inf, np.float32)
    size = max(1, min(GROUP, width // (4 * k)))  # 4k groups or more, so that few of the k largest share one
    groups = width // size
    maxima = cosines[:, : groups * size].reshape(num, size, groups).max(axis=1)
    bound: Floats = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return bound


def _blocks(num_query: int, num: int, block: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of crops whose cosines fit a block; none crosses from the query to the gallery."""
    for first, last in ((0, num_query), (num_query, num)):
        start = first
        while start < last:
            stop = min(last, start + block // (num - start))
            yield start, stop
            start = stop


def _cosines(query: Floats, gallery: Floats, start: int, stop: int, buffer: Floats) -> Floats:
    """Cosines [stop - start, N - start] of crops start .. stop-1 to each other and to all later ones, in the buffer."""
    num_query = len(query)
    width = num_query + len(gallery) - start
    cosines = buffer[: (stop - start) * width].reshape(stop - start, width)
    rows = query[start:stop] if start < num_query else gallery[start - num_query : stop - num_query]
    in_query = max(0, num_query - start)
    if in_query:
        np.matmul(rows, query[start:].T, out=cosines[:, :in_query])
    np.matmul(rows, gallery[max(0, start - num_query) :].T, out=cosines[:, in_query:])
    return cosines


def _take(query: Floats, gallery: Floats, numbers: Ints) -> Floats:
    """The embeddings of these crops: float32 [n, D]."""
    taken = np.empty((len(numbers), query.shape[1]), np.float32)
    in_query = numbers < len(query)
    taken[in_query] = query[numbers[in_query]]
    taken[~in_query] = gallery[numbers[~in_query] - len(query)]
    return taken
