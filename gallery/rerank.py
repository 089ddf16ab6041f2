"""k-reciprocal re-ranking of a whole set: exact, sparse, in chunks.

Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, as the strong baseline of
Luo et al. (TMM 2020) runs it: k1 20, k2 6, lambda 0.3 on squared Euclidean distances of unit embeddings of query and gallery
together, each crop's distances divided by its largest; neighbour lists of k1 + 1 that begin with the crop itself; half lists of
round(k1 / 2) + 1, where a half rounds to the even number, as numpy's `around` does in that code.

How we differ from it: float32 throughout, where it keeps weights and Jaccard distances in float16; equally close crops come in
the order of their numbers, where its sort leaves them to chance (equally by the product's last bit, which for one crop given
twice may depend on where it stands); a crop is in its own list even when duplicates of it would fill the list; and nothing
N x N is ever held: memory is O(N k1) beside the embeddings and one block.

Legend: Q queries, G gallery crops, N = Q + G crops numbered query first, D dimensions, K = k1 + 1 neighbours, H half a list,
R rows of a chunk. A re-ranked distance (lower is closer) depends on the whole set: never compare it with a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gallery.neighbours import BLOCK_BYTES, Progress, find_neighbours, pair_cosines, sq_dist
from gallery.neighbours import Neighbours as Neighbours  # for those who bring a `find` of their own

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = tuple[Ints, NDArray[np.int32], Floats]  # lengths of a run of rows, their columns and weights
Part = TypeVar("Part")

KEPT_BYTES = 2**28  # of cosines of queries and gallery, which are then not computed twice; Market-1501's take 2.0e8
CHUNK_BYTES = 2**23  # of sets and weights worked on at a time, beside the product: what stays in cache takes half the time
ROWS = 32  # queries whose distances are blended at a time: of fewer the threads wait for each other's interpreter
LENGTH_TOLERANCE = 1e-3  # of an embedding's length, as on enrolment: half-precision rounding is below 3e-4


@dataclass(frozen=True, eq=False)
class Sparse:
    """The non-zero numbers of a matrix, row by row: those of row i are starts[i] .. starts[i+1]; columns rise in a row."""

    starts: Ints  # [rows + 1]
    columns: NDArray[np.int32]
    weights: Floats

    def take(self, rows: Ints | NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32], Floats]:
        """How many numbers each of these rows has, and all their columns and weights, one row after the other."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        places = np.repeat(self.starts[rows] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        return lengths, self.columns[places], self.weights[places]


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Everything re-ranked distances are made of, for one query set against one gallery."""

    query: Floats  # [Q, D]
    gallery: Floats  # [G, D]
    cosines: Floats | None  # [Q, G], where they take little
    farthest: Floats  # [Q]: largest sq_dist from each query to any crop, the maximum of its column
    weights: Sparse  # [Q, N]: how much each query belongs to the neighbourhood of each crop; a row sums to 1
    inverted: Sparse  # [N, G]: for each crop, which gallery crops belong to its neighbourhood, and how much
    blend: float


def prepare(
    query_QD: Floats,
    gallery_GD: Floats,
    *,
    k1: int = 20,
    k2: int = 6,
    blend: float = 0.3,
    block_bytes: int = BLOCK_BYTES,
    find: Callable[..., Neighbours] | None = None,
    progress: Progress | None = None,
) -> Neighbourhoods:
    """Finds the weighted k-reciprocal neighbourhoods of all crops.

    Args:
        query_QD, gallery_GD: unit embeddings, kept without a copy when they are contiguous float32.
        k1: neighbours in a crop's list beside itself; at most N - 1, so a tiny gallery needs a smaller one.
        k2: crops, itself among them, whose neighbourhoods are averaged into a crop's own; 1 averages nothing.
        blend: the paper's lambda, the share of the original distance: 0 is Jaccard alone, 1 the original order.
        block_bytes: of cosines worked on at a time; several of that size may be held at once. No result depends on it.
        find: finds the neighbours in place of find_neighbours, with the same keywords: on another device, for instance.
        progress: called with the number of crops whose neighbours were found since the last call; N in all. Nearly all of
            the time goes there.
    Raises: ValueError for what cannot be re-ranked.
    """
    query_QD, gallery_GD = (np.ascontiguousarray(embeddings, np.float32) for embeddings in (query_QD, gallery_GD))
    _check_embeddings(query_QD, gallery_GD)
    check_parameters(len(query_QD) + len(gallery_GD), k1, k2, blend)
    num_query, num_gallery = len(query_QD), len(gallery_GD)
    cosines_QG = np.empty((num_query, num_gallery), np.float32) if 4 * num_query * num_gallery <= KEPT_BYTES else None
    blocks: dict[str, Any] = {"block_bytes": block_bytes, "cross": cosines_QG, "progress": progress}
    neighbours = (find or find_neighbours)(query_QD, gallery_GD, k=k1 + 1, **blocks)
    chunk_bytes = min(block_bytes, CHUNK_BYTES)
    own = _weighted(query_QD, gallery_GD, neighbours, k1, chunk_bytes)
    weights = _expanded(neighbours.index[:, :k2], own, chunk_bytes)
    cut = int(weights.starts[num_query])
    return Neighbourhoods(
        query_QD,
        gallery_GD,
        cosines_QG,
        neighbours.farthest[:num_query],
        Sparse(weights.starts[: num_query + 1], weights.columns[:cut], weights.weights[:cut]),
        _inverted(weights, num_query),
        blend,
    )


def distances(prepared: Neighbourhoods, rows: slice) -> Floats:
    """Re-ranked distances of these queries to every gallery crop: float32 [R, G], lower is closer.

    blend * sq_dist / farthest + (1 - blend) * Jaccard, where Jaccard is 1 - overlap / (2 - overlap) because weights sum to 1.
    """
    start, stop, _ = rows.indices(len(prepared.query))
    cosines_QG = prepared.cosines
    blended_RG = prepared.query[rows] @ prepared.gallery.T if cosines_QG is None else np.empty_like(cosines_QG[rows])

    def blend(first: int) -> None:
        numbers = slice(first, min(first + ROWS, stop))
        blended = blended_RG[first - start : numbers.stop - start]
        _blend(prepared, numbers, blended if cosines_QG is None else cosines_QG[numbers], blended)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(blend, range(start, stop, ROWS)))  # raises what one of them raised
    return blended_RG


def _blend(prepared: Neighbourhoods, numbers: slice, cosines_RG: Floats, blended_RG: Floats) -> None:
    """Writes the re-ranked distances of a few queries; they may take the place of their cosines."""
    share = np.float32(1 - prepared.blend)
    scale_R1 = (np.float32(2 * prepared.blend) / _nonzero(prepared.farthest[numbers]))[:, np.newaxis]
    np.multiply(cosines_RG, -scale_R1, out=blended_RG)
    blended_RG += scale_R1 + share
    np.maximum(blended_RG, share, out=blended_RG)  # rounding makes no distance negative
    of_query, crops, weights = prepared.weights.take(np.arange(numbers.start, numbers.stop))
    lengths, columns, others = prepared.inverted.take(crops)
    shared = np.minimum(np.repeat(weights, lengths), others)
    row = np.repeat(np.repeat(np.arange(len(of_query)), of_query), lengths)
    place = row * blended_RG.shape[1] + columns  # of some several times: what is written there is always the same
    overlap = np.bincount(place, shared, minlength=blended_RG.size)[place]
    blended = blended_RG.reshape(-1)
    blended[place] = blended[place] - share * (overlap / (2 - overlap))


def half_length(k1: int) -> int:
    """How long the shorter lists are, the crop itself among them; a half rounds to the even number."""
    return int(np.around(k1 / 2)) + 1


def _weighted(query_QD: Floats, gallery_GD: Floats, neighbours: Neighbours, k1: int, chunk_bytes: int) -> Sparse:
    """The weights of every crop's expanded k-reciprocal neighbours, [N, N]: exp(-sq_dist / farthest), rows made to sum to 1."""
    half = half_length(k1)
    index_NK, index_NH = neighbours.index, neighbours.index[:, :half]
    is_mutual_NK, is_mutual_NH = _is_mutual(index_NK, chunk_bytes), _is_mutual(index_NH, chunk_bytes)

    def weighted(numbers: Ints) -> Rows:
        members_RN = _expansion(numbers, index_NK, is_mutual_NK, index_NH, is_mutual_NH)
        left, right = np.divmod(np.flatnonzero(members_RN), members_RN.shape[1])  # many times faster than nonzero
        cosines = pair_cosines(query_QD, gallery_GD, neighbours, numbers[left], right, block_bytes=chunk_bytes)
        weights = np.exp(-sq_dist(cosines) / _nonzero(neighbours.farthest[numbers])[left])
        weights /= np.bincount(left, weights)[left]
        return np.bincount(left), right.astype(np.int32), weights.astype(np.float32)

    row_bytes = max(len(index_NK), 16 * index_NK.shape[1] * half)  # a mask over all crops, or the halves of all neighbours
    return _stacked(_each(weighted, len(index_NK), row_bytes, chunk_bytes))


def _expansion(
    numbers: Ints, index_NK: NDArray[np.int32], is_mutual_NK: Mask, index_NH: NDArray[np.int32], is_mutual_NH: Mask
) -> Mask:
    """Which crops are in the k-reciprocal sets of these crops, expanded: bool [R, N].

    A neighbour's half-size set joins when more than two thirds of it is in the set as it was before any joined.
    """
    index_RK, is_mutual_RK = index_NK[numbers], is_mutual_NK[numbers]
    members_RN = np.zeros((len(numbers), len(index_NK)), np.bool_)
    row_RK = np.broadcast_to(np.arange(len(numbers))[:, np.newaxis], index_RK.shape)
    members_RN[row_RK[is_mutual_RK], index_RK[is_mutual_RK]] = True
    halves_RKH, is_mutual_RKH = index_NH[index_RK], is_mutual_NH[index_RK]
    row_RKH = np.broadcast_to(row_RK[:, :, np.newaxis], halves_RKH.shape)
    overlap_RK = (members_RN[row_RKH, halves_RKH] & is_mutual_RKH).sum(axis=2)
    joins_RK = is_mutual_RK & (3 * overlap_RK > 2 * is_mutual_RKH.sum(axis=2))  # in whole numbers: 2/3 has no exact float
    joins_RKH = is_mutual_RKH & joins_RK[:, :, np.newaxis]
    members_RN[row_RKH[joins_RKH], halves_RKH[joins_RKH]] = True
    return members_RN


def _is_mutual(index_NK: NDArray[np.int32], chunk_bytes: int) -> Mask:
    """Whether a crop is in the list of each of its neighbours: bool, shaped as the lists."""
    num, length = index_NK.shape

    def is_mutual(numbers: Ints) -> Mask:
        mutual: Mask = (index_NK[index_NK[numbers]] == numbers[:, np.newaxis, np.newaxis]).any(axis=2)
        return mutual

    return np.concatenate(_each(is_mutual, num, 4 * length**2, chunk_bytes))


def _expanded(closest: NDArray[np.int32], weights: Sparse, chunk_bytes: int) -> Sparse:
    """Local query expansion: each row becomes the mean of the rows of its crop's closest, [N, k2]."""
    num, k2 = closest.shape

    def expanded(numbers: Ints) -> Rows:
        lengths, columns, values = weights.take(closest[numbers].ravel())
        row = np.repeat(np.repeat(np.arange(len(numbers)), k2), lengths)
        order = _in_order(row * num + columns)
        row, columns, values = row[order], columns[order], values[order]
        first = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(columns, prepend=-1) != 0))
        means = np.add.reduceat(values / np.float32(k2), first, dtype=np.float32)
        return np.bincount(row[first]), columns[first], means

    row_bytes = 32 * k2 * int(np.diff(weights.starts).max())
    return _stacked(_each(expanded, num, row_bytes, chunk_bytes))


def _inverted(weights: Sparse, num_query: int) -> Sparse:
    """The gallery's rows of [N, N] weights, transposed: [N, G]."""
    cut = int(weights.starts[num_query])
    columns = weights.columns[cut:]
    row = np.repeat(np.arange(len(weights.starts) - 1 - num_query, dtype=np.int32), np.diff(weights.starts[num_query:]))
    order = _in_order(columns)
    lengths = np.bincount(columns, minlength=len(weights.starts) - 1)
    return Sparse(_starts(lengths), row[order], weights.weights[cut:][order])


def _in_order(numbers: Ints | NDArray[np.int32]) -> Ints:
    """np.argsort(numbers, kind="stable") of small whole numbers, in a third of the time: number and place are sorted as one."""
    bits = len(numbers).bit_length()
    both = numbers.astype(np.int64) << bits
    assert not len(numbers) or int(numbers.max()) >> (63 - bits) == 0, "This is a bug: numbers too large to be sorted so."
    both |= np.arange(len(numbers))
    both.sort()
    both &= (1 << bits) - 1
    return both


def _stacked(chunks: list[Rows]) -> Sparse:
    """One matrix of runs of rows."""
    lengths, columns, weights = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return Sparse(_starts(lengths), columns, weights)


def _starts(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)])


def _each(work: Callable[[Ints], Part], num: int, row_bytes: int, chunk_bytes: int) -> list[Part]:
    """The work done on the numbers 0 .. num-1, in runs that fill a chunk when each takes so many bytes; two at a time."""
    size = max(1, chunk_bytes // row_bytes)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, (np.arange(start, min(start + size, num)) for start in range(0, num, size))))


def _nonzero(farthest: Floats) -> Floats:
    """The same with 1 for 0: a crop to which all are equal has nothing to scale."""
    return np.where(farthest > 0, farthest, np.float32(1))


def _check_embeddings(query_QD: Floats, gallery_GD: Floats) -> None:
    shapes = f"got query {list(query_QD.shape)} and gallery {list(gallery_GD.shape)}"
    if query_QD.ndim != 2 or gallery_GD.ndim != 2 or query_QD.shape[1] != gallery_GD.shape[1]:
        raise ValueError(f"{shapes}, wanted [Q, D] and [G, D]; embed both with one model")
    if not query_QD.size or not gallery_GD.size:
        raise ValueError(f"{shapes}, wanted one crop or more in each; nothing can be ranked without")
    for name, embeddings in (("query", query_QD), ("gallery", gallery_GD)):
        lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))  # ~(... <=): catches NaN too
        if len(wrong):
            raise ValueError(
                f"got {name} embedding {wrong[0]} of length {lengths[wrong[0]]:.6g}, wanted 1; "
                "divide each embedding by its length, which must be finite"
            )


def check_parameters(num: int, k1: int, k2: int, blend: float) -> None:
    """Raises ValueError unless these parameters of prepare make sense together for so many crops, query and gallery."""
    if not 1 <= k1 < num:
        raise ValueError(f"got k1 {k1} for {num} crops in all, wanted 1 to {num - 1}; choose a smaller k1 or a larger gallery")
    if not 1 <= k2 <= k1:
        raise ValueError(f"got k2 {k2} with k1 {k1}, wanted 1 to {k1}; choose a smaller k2")
    if not 0 <= blend <= 1:
        raise ValueError(f"got blend {blend}, wanted 0 (Jaccard alone) to 1 (the original order)")
