"""k-reciprocal re-ranking of one query against a live gallery: its shortlist, and nothing that is kept between searches.

The definition is that of gallery.rerank (Zhong et al., CVPR 2017), over the query and its shortlist alone: the entries with
the highest cosines that the filter admits. How we differ from the whole-set protocol: no other query has a vote; neighbours
are looked for in the shortlist, so entries at its edge lack some of theirs; k1 and k2 shrink to what there is; and an entry's
farthest crop, which scales its distances, is the farthest of the shortlist.

Where a first pass serves the search, the shortlist's first entries are proven to be the closest, and its last ones are the
closest of some hundreds that the pass proposed (list_closest): of Market-1501's 200 closest among 15,913 99.5 % are there at the
mean of 100 queries, 95 % at the least, and no query lost one of its first 80. The share falls with the gallery's size, and where
rows are spread evenly: of random clusters in 512 dimensions 68 % among 20,000, 57 % among 100,000. An entry that is missed is not
re-ranked, and an identity may be shown by another of its entries than its closest.

What that costs, mAP / rank-1 on Market-1501 with the bundled model: cosine 36.3 / 59.8, the whole set 52.8 / 67.6, shortlists
of 100 46.8 / 65.5, 200 49.6 / 67.6, 500 51.7 / 69.4. With exact neighbour lists over the whole gallery the same ones would give
49.1 / 67.3, 51.1 / 67.6 and 52.3 / 67.6: lists that each take a search to make, and change with every entry that comes or goes,
for less than a longer shortlist gives (benchmarks.rerank_online).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gallery.columns import Columns
from gallery.entry import SearchResult
from gallery.errors import InvalidRequest
from gallery.found import Found
from gallery.index import Index
from gallery.neighbours import sq_dist
from gallery.ranking import closest_identities
from gallery.rerank import half_length

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Words = NDArray[np.uint64]
Cosines = NDArray[np.float32] | NDArray[np.float64]

TINY = 1e-12  # in place of no distance at all: a query to which all are equal has nothing to scale
MAX_SHORTLIST = 1000  # the work grows with its square: 200 entries take milliseconds, 1,000 tenths of a second
MAX_K1 = 100  # and with the square of the lists: a thousand times a thousand would take seconds and hundreds of megabytes


@dataclass(frozen=True)
class Rerank:
    """How a search is re-ranked.

    Args:
        k1: neighbours in a list beside the crop itself; of a gallery that admits fewer, all there are.
        k2: crops, itself among them, whose neighbourhoods are averaged into a crop's own; 1 averages nothing.
        blend: the paper's lambda, the share of the original distance: 0 is Jaccard alone, 1 the original order.
        shortlist: how many entries are re-ranked, those of the highest cosines; the rest follows in its order.
    """

    k1: int = 20
    k2: int = 6
    blend: float = 0.3
    shortlist: int = 200


@dataclass(frozen=True, eq=False)
class Shortlist:
    """What re-ranking takes out of memory: S entries by falling cosine, and M that may be shown: entries or identities."""

    rows: Halves  # [S, D], a copy
    cosines: Cosines  # [S], to the query
    owners: Ids  # [S]: the place in found of what an entry belongs to
    num_pooled: Ids  # [M]: how many cosines of each are averaged
    found: Found  # by falling cosine: all that the shortlist belongs to, and the k first


def check_rerank(rerank: Rerank) -> None:
    """Raises InvalidRequest unless these parameters make sense together, whatever the gallery holds."""
    k1, k2, blend, shortlist = rerank.k1, rerank.k2, rerank.blend, rerank.shortlist
    if not 1 <= shortlist <= MAX_SHORTLIST:
        raise InvalidRequest(f"got shortlist {shortlist}, wanted 1 to {MAX_SHORTLIST}")
    if not 1 <= k1 <= min(shortlist, MAX_K1):
        most = min(shortlist, MAX_K1)
        raise InvalidRequest(f"got k1 {k1} with shortlist {shortlist}, wanted 1 to {most}; choose a smaller k1")
    if not 1 <= k2 <= k1:
        raise InvalidRequest(f"got k2 {k2} with k1 {k1}, wanted 1 to {k1}; choose a smaller k2")
    if not 0 <= blend <= 1:
        raise InvalidRequest(f"got lambda {blend}, wanted 0 (Jaccard alone) to 1 (the original order)")


def list_closest(
    index: Index, query: Floats, *, size: int, k: int, admitted: Ids | None, pid_codes: Ids | None
) -> tuple[Ids, Cosines, int]:
    """Positions and cosines of `size` closest admitted entries, falling, and how many of them are proven to be the first.

    With the proven ones come more than k, identities where pid_codes are given, whenever all that are listed do. Behind them
    a first pass may have missed a closer one: a scan of all entries, many times the work, would change only who stands far
    down in the shortlist.
    """
    num = len(index) if admitted is None else len(admitted)
    for positions, cosines, num_proven in index.lists(query, size + 1, only=admitted):
        if num_proven < num:  # what is left out may equal the last one
            num_proven = int(np.count_nonzero(cosines > cosines[num_proven - 1])) if num_proven else 0
        owners = positions[:size] if pid_codes is None else pid_codes[positions[:size]]
        if len(owners) == size and (len(np.unique(owners[:num_proven])) > k or len(np.unique(owners)) <= k):
            break
    return positions[:size], cosines[:size], min(size, num_proven)


def identities_beside(
    index: Index, columns: Columns, query: Floats, listed: Ids, *, k: int, best_of: int | None, admitted: Ids | None
) -> tuple[Ids, Cosines]:
    """What closest_identities gives, of all identities with a listed position and of the k closest; at least k, if there are."""
    closest, _ = closest_identities(index, columns, query, k=k, best_of=best_of, admitted=admitted)
    seen = np.union1d(listed, closest)
    if best_of != 1:
        is_seen = np.zeros(len(columns.pids.counts), np.bool_)
        is_seen[columns.pid_codes[seen]] = True
        everything = np.arange(len(columns)) if admitted is None else admitted
        seen = everything[is_seen[columns.pid_codes[everything]]]
    return closest_identities(index, columns, query, k=max(1, len(seen)), best_of=best_of, admitted=seen)


def identities_of(columns: Columns, listed: Ids, cosines: Cosines) -> tuple[Ids, Cosines]:
    """The closest entry of each identity that is listed, by falling cosine: positions and cosines, equal ones by pid."""
    codes, first = np.unique(columns.pid_codes[listed], return_index=True)
    order = sorted(range(len(codes)), key=lambda place: (-cosines[first[place]], columns.pids.name(int(codes[place]))))
    first = first[order]
    return listed[first], cosines[first]


def reranked(query: Floats, shortlist: Shortlist, rerank: Rerank, *, k: int) -> SearchResult:
    """The k first matches by rising re-ranked distance, equal ones as they were.

    An entry's distance is blend * sq_dist / farthest + (1 - blend) * Jaccard, where farthest is the last of the shortlist.
    Behind that nothing is known of neighbourhoods, and Jaccard is 1: those entries keep their order, after the shortlist.
    An identity's distance is made of its entries' as its cosine is of theirs: the lowest, or the mean of that many lowest.
    """
    found = shortlist.found
    if not len(found):
        return SearchResult((), found.entries, found.identities)
    rows = np.empty((1 + len(shortlist.rows), len(query)), np.float32)
    rows[0] = query
    widen(shortlist.rows, rows[1:])
    jaccard = 1 - overlaps(rows, k1=rerank.k1, k2=rerank.k2).astype(np.float64)
    distances = _pooled(shortlist, jaccard, rerank.blend)
    order = np.argsort(distances, kind="stable")[:k].tolist()
    matches = tuple(found.match(place, rerank_distance=float(distances[place])) for place in order)
    by_cosine = tuple(map(found.match, range(min(k, len(found)))))
    return SearchResult(matches, found.entries, found.identities, by_cosine)


def overlaps(rows: Floats, *, k1: int, k2: int) -> Floats:
    """How much of its weighted neighbourhood the first of rows [1 + S, D] shares with each other one: float32 [S], 1 - Jaccard.

    What gallery.rerank computes for one query and a gallery of S, equally close rows by their place too, but in matrices
    [S, S], which at this size take a tenth of the time; k1 and k2 shrink to what rows there are.
    """
    num = len(rows)
    k1 = min(k1, num - 1)
    distances = sq_dist(rows @ rows.T)
    np.fill_diagonal(distances, 0)
    farthest = distances.max(axis=1, keepdims=True)
    weights = np.exp(-distances / np.where(farthest > 0, farthest, 1))
    closest = _closest(distances, k1 + 1)
    weights *= _members(closest, half_length(k1))
    weights /= weights.sum(axis=1, keepdims=True)
    num_averaged = min(k2, k1)
    weights = sum(weights.take(beside, axis=0) for beside in closest[:, :num_averaged].T) / np.float32(num_averaged)
    shared: Floats = np.minimum(weights[0], weights[1:]).sum(axis=1)
    return shared / (2 - shared)


def _closest(distances: Floats, length: int) -> Ids:
    """The places of each row's closest, itself first, equal ones by place; int64 [n, length]."""
    keys = distances.view(np.int32).astype(np.int64) << 32  # the bits of floats that are not negative rise as they do
    keys |= np.arange(len(keys))
    np.fill_diagonal(keys, -1)
    closest = np.sort(keys, axis=1)[:, :length] & 0xFFFFFFFF  # many times faster than a stable argsort
    closest[:, 0] = np.arange(len(keys))
    return closest


def _members(closest: Ids, half: int) -> NDArray[np.bool_]:
    """Who is in the expanded k-reciprocal set of each row: bool [n, n].

    Sets are columns of bits, W words of 64, and every operation runs along all rows: rows are many, all else is few.
    """
    num = len(closest)
    is_core, cores = _mutual(closest)
    _, halves = _mutual(closest[:, :half])
    others = closest.T.copy()  # [length, n]
    joining = halves.take(others, axis=1)  # [W, length, n]
    overlap = np.bitwise_count(joining & cores[:, np.newaxis]).sum(axis=0, dtype=np.int16)
    size = np.bitwise_count(halves).sum(axis=0, dtype=np.int16)[others]
    is_core_too = is_core[np.arange(num), others]
    joining[:, ~(is_core_too & (3 * overlap > 2 * size))] = 0  # in whole numbers: 2/3 has no exact float
    members = cores | np.bitwise_or.reduce(joining, axis=1)
    bits = np.unpackbits(members.T.copy().view(np.uint8), axis=1, count=num, bitorder="little")
    return bits.view(np.bool_)


def _mutual(closest: Ids) -> tuple[NDArray[np.bool_], Words]:
    """Which rows are in the lists of each other: bool [n, n], and as columns of bits, uint64 [W, n]."""
    num = len(closest)
    listed = np.zeros((num, 64 * -(-num // 64)), np.bool_)
    np.put_along_axis(listed, closest, True, axis=1)
    listed[:, :num] &= listed[:, :num].T.copy()
    return listed[:, :num], np.packbits(listed, axis=1, bitorder="little").view(np.uint64).T.copy()


def widen(halves: Halves, out: Floats) -> None:
    """Writes the same finite numbers in float32: their bits, moved, and the exponent set right; a fifth of astype's time.

    Nothing as large is allocated on the way: touching fresh memory may take ten times as long as the arithmetic.
    """
    bits = np.left_shift(halves.view(np.int16), 13, out=out.view(np.int32), dtype=np.int32)  # the sign too, into bits 28 to 31
    bits &= ~0x70000000
    out *= np.float32(2.0**112)  # float32 counts exponents from 127, float16 from 15


def _pooled(shortlist: Shortlist, jaccard: NDArray[np.float64], blend: float) -> NDArray[np.float64]:
    """The re-ranked distance of each match, float64 [M], from the Jaccard distance [S] of each entry of the shortlist."""
    cosines, owners, num_pooled = shortlist.cosines.astype(np.float64), shortlist.owners, shortlist.num_pooled
    scale = blend / max(1 - cosines[-1], TINY)  # sq_dist is 2 - 2 * cosine, above and below
    order = np.lexsort((scale * (1 - cosines) + (1 - blend) * jaccard, owners))
    place = np.arange(len(order)) - np.searchsorted(owners[order], owners[order])
    pooled = order[place < num_pooled[owners[order]]]

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.bincount(owners[pooled], values[pooled], minlength=len(num_pooled)) / num_pooled
        return total

    is_here = mean(np.ones(len(cosines)))  # the share of a match's pooled entries that the shortlist holds
    of_all = np.array(shortlist.found.cosines)
    cosine = np.where(is_here < 1, of_all, mean(cosines))
    distances: NDArray[np.float64] = scale * np.maximum(1 - cosine, 0) + (1 - blend) * (mean(jaccard) + 1 - is_here)
    return distances
