"""Every pair of a labelled set of embeddings, counted by score and by whose pair it is: what a calibration is computed from.

A pair is genuine when both crops show one identity - two cameras of it, where there are cameras - and impostor when they show
two. Nothing of size pairs is kept, and nothing is sorted: pairs of one identity with another become a histogram, and that is
added, times the product of both identities' weights, to one histogram for each of many weightings of the identities. So a
bootstrap over identities, or a test on half of them, costs one matrix product and not another look at the pairs.

Legend: N crops sorted by identity, D dimensions, P identities, C cameras, R weightings, F fine bins, B coarse bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

FINE = 20_000  # bins of cosine -1..1: thresholds are exact to 1e-4
COARSE = 400  # bins that are kept for each weighting: 0.005 wide, a tenth of a usual interval's width
WIDTH = FINE // COARSE
BLOCK_BYTES = 2**25  # of cosines at a time
MAX_CAMERAS = 40  # beyond it no figures of pairs of cameras: there would be a table of hundreds of lines to read


@dataclass(frozen=True, eq=False)
class People:
    """Labelled crops, sorted by identity; make one with `people_of`."""

    embeddings: Floats  # [N, D], unit length
    identities: Ints  # [N]: 0 .. P-1, rising
    cameras: Ints | None  # [N]: 0 .. C-1; None where nobody knows, and every pair of one identity is genuine
    starts: Ints  # [P + 1]: where each identity begins, and N

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def num_cameras(self) -> int:
        """C; 0 without cameras."""
        return 0 if self.cameras is None else int(self.cameras.max()) + 1


@dataclass(frozen=True, eq=False)
class Tally:
    """What was counted, a pair in the bin of its cosine. A crop searches others' crops, and its own under other cameras."""

    genuine: Ints  # [F]
    impostor: Ints  # [F]
    genuine_of: Doubles  # [R, B]: a pair counts as often as its identity
    impostor_of: Doubles  # [R, B]: a pair counts as often as the product of its identities' weights
    closest_of_two: Ints  # [B]: pairs of identities by the highest cosine of their crops
    right: Floats  # [N]: the closest crop of the same identity under another camera; -inf where there is none
    wrong: Floats  # [N]: the closest crop of any other identity
    others: NDArray[np.int32]  # [N, B]: other identities, by the highest cosine of their crops with this one
    genuine_by_camera: Ints  # [C, C, B], the lower camera first; 0 cameras without cameras or with too many
    impostor_by_camera: Ints  # [C, C, B]


def people_of(embeddings: NDArray[np.floating], pids: NDArray[np.generic], cameras: NDArray[np.generic] | None) -> People:
    """Sorts labelled crops by identity and scales them to unit length; pids [N] and cameras [N] are of any type that sorts."""
    _, codes = np.unique(pids, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    rows = embeddings[order].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    places = None if cameras is None else np.unique(cameras, return_inverse=True)[1][order].astype(np.int64)
    counts = np.bincount(codes)
    return People(rows, codes[order].astype(np.int64), places, np.concatenate([[0], np.cumsum(counts)]))


def tally(people: People, weights: NDArray[np.floating], *, progress: Callable[[int], object] = lambda done: None) -> Tally:
    """Counts all pairs of crops once for every weighting float [R, P] of the identities; calls `progress` with pairs done.

    Time grows with N x N x D and with R x P x P x (bins in use); memory with R x B and N x B.
    """
    found, scale = _empty(people, len(weights)), weights.astype(np.float32)
    genuine = np.zeros((len(people), COARSE), np.int64)
    starts, num = people.starts, people.starts[-1]
    first = 0
    while first < len(people):
        wanted = starts[first] + max(1, BLOCK_BYTES // 4 // int(num - starts[first]))
        end = max(first + 1, int(np.searchsorted(starts, wanted, side="right")) - 1)
        block = people.embeddings[starts[first] : starts[end]] @ people.embeddings[starts[first] :].T
        for one in range(first, end):
            place, size = starts[one] - starts[first], starts[one + 1] - starts[one]
            cosines = block[place : place + size, place:]
            genuine[one] = _count_genuine(found, people, one, cosines[:, :size])
            if one + 1 < len(people):
                _count_impostors(found, people, one, cosines[:, size:], scale)
            progress(cosines.size - size * (size + 1) // 2)
        first = end
    found.genuine_of[:] = weights @ genuine
    return found


def from_above(counts: NDArray[np.generic]) -> Doubles:
    """How many counts are in each bin or above it, and 0 at the end: float64 [..., bins + 1]."""
    sums = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    sums[..., :-1] = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return sums


def _empty(people: People, num_weightings: int) -> Tally:
    num, cameras = len(people.embeddings), people.num_cameras if people.num_cameras <= MAX_CAMERAS else 0
    return Tally(
        genuine=np.zeros(FINE, np.int64),
        impostor=np.zeros(FINE, np.int64),
        genuine_of=np.zeros((num_weightings, COARSE)),
        impostor_of=np.zeros((num_weightings, COARSE)),
        closest_of_two=np.zeros(COARSE, np.int64),
        right=np.full(num, -np.inf, np.float32),
        wrong=np.full(num, -np.inf, np.float32),
        others=np.zeros((num, COARSE), np.int32),
        genuine_by_camera=np.zeros((cameras, cameras, COARSE), np.int64),
        impostor_by_camera=np.zeros((cameras, cameras, COARSE), np.int64),
    )


def _bins(cosines: Floats) -> NDArray[np.int32]:
    """The fine bin of each cosine; a rounding beyond -1..1 counts in the bin at that end."""
    scaled = (cosines + np.float32(1)) * np.float32(FINE / 2)
    return np.clip(scaled, 0, FINE - 1, out=scaled).astype(np.int32)


def _count_genuine(found: Tally, people: People, one: int, cosines: Floats) -> Ints:
    """Counts the pairs within one identity, cosines [n, n]; returns their coarse histogram [B]."""
    rows = slice(people.starts[one], people.starts[one + 1])
    is_pair = ~np.eye(len(cosines), dtype=np.bool_)
    if people.cameras is not None:
        cameras = people.cameras[rows]
        is_pair &= cameras[:, None] != cameras
    found.right[rows] = np.where(is_pair, cosines, -np.inf).max(axis=1)
    first, second = np.nonzero(np.triu(is_pair))
    bins = _bins(cosines[first, second])
    found.genuine[:] += np.bincount(bins, minlength=FINE)
    if people.cameras is not None and len(found.genuine_by_camera):
        np.add.at(found.genuine_by_camera, (*np.sort([cameras[first], cameras[second]], axis=0), bins // WIDTH), 1)
    return np.bincount(bins // WIDTH, minlength=COARSE)


def _count_impostors(found: Tally, people: People, one: int, cosines: Floats, weights: Floats) -> None:
    """Counts the pairs of one identity with every later one, cosines [n, M]."""
    start, end = people.starts[one], people.starts[one + 1]
    bins = _bins(cosines)
    found.impostor[:] += np.bincount(bins.ravel(), minlength=FINE)
    bins //= WIDTH
    later = (people.identities[end:] - one - 1).astype(np.int32)
    num_later = len(people) - one - 1
    pairs = np.bincount((later * COARSE + bins).ravel(), minlength=num_later * COARSE).reshape(-1, COARSE)
    used = slice(int(bins.min()), int(bins.max()) + 1)
    sums = weights[:, one + 1 :] @ pairs[:, used].astype(np.float32)
    found.impostor_of[:, used] += weights[:, one, None] * sums

    best = np.maximum.reduceat(cosines, people.starts[one + 1 : -1] - end, axis=1)  # of each crop with each later identity
    found.wrong[start:end] = np.maximum(found.wrong[start:end], best.max(axis=1))
    places = _bins(best) // WIDTH
    np.add.at(found.closest_of_two, places.max(axis=0), 1)
    rows = np.arange(len(best), dtype=np.int32)[:, None] * COARSE
    found.others[start:end] += np.bincount((rows + places).ravel(), minlength=len(best) * COARSE).reshape(-1, COARSE)
    best_of_later = cosines.max(axis=0)  # of each later crop with this identity
    np.maximum(found.wrong[end:], best_of_later, out=found.wrong[end:])
    found.others[np.arange(end, len(found.others)), _bins(best_of_later) // WIDTH] += 1
    if people.cameras is not None and len(found.impostor_by_camera):
        _count_cameras(found.impostor_by_camera, people.cameras[start:end], people.cameras[end:], bins)


def _count_cameras(counts: Ints, first: Ints, second: Ints, bins: NDArray[np.int32]) -> None:
    """Adds pairs of crops of these cameras, coarse bins [n, M], to counts [C, C, B]."""
    num = len(counts)
    low, high = np.minimum(first[:, None], second), np.maximum(first[:, None], second)
    keys = ((low * num + high) * COARSE).astype(np.int32) + bins
    counts += np.bincount(keys.ravel(), minlength=counts.size).reshape(counts.shape)
