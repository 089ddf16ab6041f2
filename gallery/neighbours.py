"""Exact nearest neighbours of every crop among all crops of two sets, without an N x N matrix.

A crop's number is its place in query and gallery, one after the other: 0 .. N-1, N = Q + G. Shapes are given as [N, k].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gallery.lists import Lists

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Progress = Callable[[int], object]

BLOCK_BYTES = 2**27  # worked on at a time: a product of 353 x 95,000 crops; with fewer rows BLAS spends more on packing
ROWS = 1024  # of a block at most: beyond it BLAS gains nothing, and memory that was never touched costs time
STRIP = 512  # of a block's rows, in whose product with itself everything is computed twice


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

    But for strips a cosine is computed once and serves both of its crops: half of the product's arithmetic. Blocks come in rising
    order, so of two equally close crops the one that comes first is already listed, and stays.

    Args:
        query: float32 [Q, D], unit rows. gallery: float32 [G, D], unit rows.
        block_bytes: memory for one block of cosines; what is chosen in it takes about as much again.
        cross: float32 [Q, G], filled with the cosines of every query and gallery crop, which come by anyway.
        progress: called with the number of crops done since it was last called; N in all.
    """
    num = len(query) + len(gallery)
    lists = Lists(num, k)
    block = max(num, min(block_bytes // 4, ROWS * num))  # cosines
    buffer = np.empty(min(block, num * num), np.float32)
    with ThreadPoolExecutor(2) as pool:
        for start, stop in _runs(len(query), num, block):
            for row, column, cosines in _products(query, gallery, start, stop, buffer, cross):
                lists.offer(cosines, row, column, pool)
            if progress is not None:
                progress(stop - start)
        lists.merge(pool)
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
        cosines[pairs] = np.vecdot(take(query, gallery, left[pairs]), take(query, gallery, right[pairs]))
    return cosines


def _runs(num_query: int, num: int, block: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of crops whose cosines fit a block; none crosses from the query to the gallery."""
    for first, last in ((0, num_query), (num_query, num)):
        start = first
        while start < last:
            stop = min(last, start + min(ROWS, block // (num - start)))
            yield start, stop
            start = stop


def _products(
    query: Floats, gallery: Floats, start: int, stop: int, buffer: Floats, cross: Floats | None
) -> Iterator[tuple[int, int, Floats]]:
    """Cosines of crops start .. stop-1 to each other and all later ones: of their own set, then of queries to the gallery.

    Each with the numbers of its first row and column; in the buffer, and those of queries and gallery in cross, if there is one.
    Of their cosines to each other a strip of rows at a time has those to itself and to the later ones: half is computed.
    """
    num_query, num = len(query), stop - start
    own, before = (query, 0) if start < num_query else (gallery, num_query)
    rows, later = own[start - before : stop - before], own[stop - before :]
    cosines = buffer[: num * (num + len(later))].reshape(num, -1)
    np.matmul(rows, later.T, out=cosines[:, num:])
    for first in range(0, num, STRIP):
        strip = cosines[first : first + STRIP, first:]
        np.matmul(rows[first : first + STRIP], rows[first:].T, out=strip[:, : num - first])
        np.fill_diagonal(strip, np.inf)  # the crop itself: always first
        yield start + first, start + first, strip
    if start < num_query:
        across = buffer[: num * len(gallery)].reshape(num, -1) if cross is None else cross[start:stop]
        yield start, num_query, np.matmul(rows, gallery.T, out=across)


def take(query: Floats, gallery: Floats, numbers: Ints | NDArray[np.int32]) -> Floats:
    """The embeddings of these crops: float32 [n, D]."""
    taken = gallery.take(numbers - len(query), axis=0, mode="clip")
    in_query = np.flatnonzero(numbers < len(query))
    taken[in_query] = query[numbers[in_query]]
    return taken
