"""Which cosine means "the same person"? Thresholds at false-accept rates, what they cost, and how sure one may be of them.

Two rates, never to be confused. The false-accept rate (FAR) is of comparisons: the share of pairs of crops of two people that
reach a threshold. A search compares one crop with everybody enrolled, so a stranger is accepted more often: `strangers` is the
share of searches by people who are not enrolled that find somebody, by the number of identities enrolled (NIST's FPIR). It
averages over every gallery of that many of the other identities, exactly: where c of P-1 others reach the threshold, a gallery
of G of them is silent with the chance C(P-1-c, G) / C(P-1, G). `dir` is the detection and identification rate at rank 1
(Phillips, Grother, Micheals 2011): the share of searches by enrolled people whose closest crop under another camera is theirs
and reaches the threshold, with everybody enrolled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.bootstrap import LEVEL, interval, shares_at, thresholds_at
from gallery.pairs import COARSE, FINE, MAX_CAMERAS, Doubles, Floats, People, Tally, from_above

SCHEMA_VERSION = 1
FILE_NAME = "calibration.json"
RATES = (1e-1, 1e-2, 1e-3, 1e-4)
DEFAULT_RATE = 1e-3
SIZES = (10, 100, 1_000, 10_000)  # identities enrolled, as far as there are so many
FEWEST = 5  # identities, and of them two with a genuine pair: below, there is nothing to resample
FEW = 30  # pairs of identities behind a rate: the rule of 30 errors (Doddington et al. 2000), of those that are not one another's
BARS = 100  # of the histogram that is written down
METHOD = (
    f"thresholds from every pair of crops; {LEVEL:.0%} intervals by a bootstrap over identities, a pair weighted by the product "
    "of both (gallery/bootstrap.py); strangers: exact mean over galleries of that many of the other identities"
)
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Rate:
    """One false-accept rate: its threshold, and what happens there; shares are 0..1, intervals of LEVEL."""

    far: float
    threshold: float
    threshold_interval: Interval
    far_interval: Interval  # of the rate at this very threshold
    tar: float  # share of genuine pairs accepted
    tar_interval: Interval
    dir: float
    strangers: dict[str, float]  # by identities enrolled
    identity_pairs: int  # pairs of people of whom some crops reach it


@dataclass(frozen=True)
class CameraPair:
    """What two cameras, or twice one, show at the default threshold; None where there is no pair."""

    cameras: tuple[str, str]
    genuine_pairs: int
    impostor_pairs: int
    far: float | None
    tar: float | None


@dataclass(frozen=True)
class Figures:
    """A calibration's numbers, as they are written down; see `measure`."""

    default_far: float | None  # None: the threshold is the cosine that no impostor pair reached
    threshold: float
    margin: float  # median lead in cosine that wrong first matches had over the right identity; 0 when there was none
    rates: tuple[Rate, ...]
    open_set: dict[str, dict[str, float]]  # with everybody enrolled: threshold and dir by share of strangers accepted
    roc: dict[str, list[float]]  # far, tar, tar_low, tar_high
    histogram: dict[str, Any]  # pairs by cosine: from, step, genuine, impostor
    cameras: tuple[CameraPair, ...]
    warnings: tuple[str, ...]
    identities: int
    crops: int
    genuine_pairs: int
    impostor_pairs: int


def check(people: People) -> None:
    """Raises ValueError for fewer than FEWEST identities, or fewer than two with a genuine pair; says what to do."""
    kind = "that two cameras saw" if people.cameras is not None else "with two crops"
    if len(people) < FEWEST or num_paired(people) < 2:
        raise ValueError(
            f"got {len(people)} identities, {num_paired(people)} of them {kind}, wanted at least {FEWEST} and 2; give more people"
            + (", or leave cameras out" if people.cameras is not None else "")
        )


def num_paired(people: People) -> int:
    """How many identities have a genuine pair."""
    if people.cameras is None:
        return int(np.count_nonzero(np.diff(people.starts) > 1))
    first, last = (by.reduceat(people.cameras, people.starts[:-1]) for by in (np.minimum, np.maximum))
    return int(np.count_nonzero(first != last))


def measure(found: Tally, people: People, *, camera_names: Sequence[str] = ()) -> Figures:
    """Turns counted pairs, each row of the weightings a replicate, into figures; names of cameras in the order of their codes.

    Thresholds are exact to 1e-4. `check` says what the people must be like.
    """
    num_impostors, num_genuine = int(found.impostor.sum()), int(found.genuine.sum())
    measured = [rate for rate in RATES if rate * num_impostors >= 1 - 1e-9]
    thresholds = {rate: threshold_at(found.impostor, rate) for rate in measured}
    default_far = DEFAULT_RATE if DEFAULT_RATE in thresholds else None
    threshold = thresholds[DEFAULT_RATE] if default_far else threshold_at(found.impostor, 0)
    curves = stranger_curves(found, len(people))
    rates = tuple(_rate(found, rate, at, curves) for rate, at in thresholds.items())
    gap = (found.wrong - found.right)[np.isfinite(found.right)]
    return Figures(
        default_far=default_far,
        threshold=threshold,
        margin=round(float(np.median(gap[gap > 0])), 4) if (gap > 0).any() else 0.0,
        rates=rates,
        open_set=open_set(found),
        roc=roc(found),
        histogram=histogram(found),
        cameras=tuple(camera_pairs(found, camera_names, threshold)),
        warnings=tuple(_warnings(rates, people, num_impostors)),
        identities=len(people),
        crops=len(people.embeddings),
        genuine_pairs=num_genuine,
        impostor_pairs=num_impostors,
    )


def document(figures: Figures, *, model_id: str, source: str, created_at: str) -> dict[str, Any]:
    """The figures as calibration.json holds them, tied to a model; source: what the people are, in words."""
    head = {"schema_version": SCHEMA_VERSION, "model_id": model_id, "source": source, "created_at": created_at, "method": METHOD}
    return {**head, **asdict(figures)}


def threshold_at(impostor: NDArray[np.int64], rate: float) -> float:
    """The lowest threshold, to a bin, that at most `rate` of the impostor pairs reach; counts [F]."""
    above = from_above(impostor)
    return round(-1 + 2 * int(np.argmax(above <= rate * above[0])) / len(impostor), 4)


def stranger_curves(found: Tally, num_identities: int) -> dict[str, Doubles]:
    """The share of crops whose search finds somebody else among G enrolled, at the lower edge of each bin [B + 1], by G."""
    others = num_identities - 1
    sizes = [size for size in SIZES if size < others] + [others]
    factorial = np.array([math.lgamma(number + 1) for number in range(others + 1)])
    curves: dict[str, Doubles] = {}
    for size in sizes:
        silent = np.zeros(others + 1)  # by how many of the others would be accepted
        few = np.arange(others - size + 1)
        silent[few] = np.exp(
            factorial[others - few] - factorial[others - few - size] - factorial[others] + factorial[others - size]
        )
        curves[str(size)] = np.zeros(COARSE + 1)
        reaching = np.zeros(len(found.others), np.int32)
        for place in range(COARSE - 1, -1, -1):
            reaching += found.others[:, place]
            curves[str(size)][place] = float(np.mean(1 - silent[reaching]))
    return curves


def open_set(found: Tally) -> dict[str, dict[str, float]]:
    """Threshold and DIR by the share of strangers accepted, everybody enrolled; rates below one crop are left out."""
    loudest_first = np.sort(found.wrong)[::-1]
    rates = [rate for rate in RATES if rate * len(loudest_first) >= 1]
    silent = {rate: float(loudest_first[int(rate * len(loudest_first) + 1e-9)]) for rate in rates}  # the first to stay so
    above = {rate: (math.floor(at * 1e4) + 1) / 1e4 for rate, at in silent.items()}  # what reaches a threshold is accepted
    return {f"{rate:g}": {"threshold": at, "dir": round(_dir(found, at), 6)} for rate, at in above.items()}


def roc(found: Tally) -> dict[str, list[float]]:
    """The share of genuine pairs accepted by false-accept rate, eight rates a decade, with the band of LEVEL."""
    lowest = max(1e-5, 1 / max(1, int(found.impostor.sum())))
    curve: dict[str, list[float]] = {"far": [], "tar": [], "tar_low": [], "tar_high": []}
    for far in np.geomspace(lowest, 1, max(2, math.ceil(-8 * math.log10(lowest))), endpoint=False).tolist():
        band = interval(shares_at(found.genuine_of, thresholds_at(found.impostor_of, far)))
        share = _share(found.genuine, threshold_at(found.impostor, far))
        low, high = (share, share) if band is None else band
        for name, value in zip(curve, (far, share, low, high), strict=True):
            curve[name].append(float(f"{value:.4g}"))
    return curve


def histogram(found: Tally) -> dict[str, Any]:
    """Pairs by cosine in BARS bars from -1 to 1."""
    counted = {"genuine": found.genuine, "impostor": found.impostor}
    bars = {name: counts.reshape(BARS, -1).sum(axis=1).tolist() for name, counts in counted.items()}
    return {"from": -1.0, "step": 2 / BARS, **bars}


def camera_pairs(found: Tally, names: Sequence[str], threshold: float) -> list[CameraPair]:
    """FAR and TAR of every two cameras at a threshold, the most false accepts first."""
    pairs = []
    for one in range(len(found.genuine_by_camera)):
        for other in range(one, len(names)):
            counts = np.stack([found.genuine_by_camera[one, other], found.impostor_by_camera[one, other]])
            tar, far = (None if math.isnan(share) else float(f"{share:.4g}") for share in shares_at(counts, threshold))
            genuine, impostor = counts.sum(axis=1).tolist()
            pairs.append(CameraPair((names[one], names[other]), genuine, impostor, far, tar))
    return sorted(pairs, key=lambda pair: -1 if pair.far is None else -pair.far)


def _rate(found: Tally, rate: float, threshold: float, curves: dict[str, Doubles]) -> Rate:
    place = (threshold + 1) * COARSE / 2
    accepted = {size: float(np.interp(place, np.arange(COARSE + 1), curve)) for size, curve in curves.items()}
    return Rate(
        far=rate,
        threshold=threshold,
        threshold_interval=_rounded(interval(thresholds_at(found.impostor_of, rate))),
        far_interval=_rounded(interval(shares_at(found.impostor_of, threshold)), digits=8),
        tar=round(_share(found.genuine, threshold), 6),
        tar_interval=_rounded(interval(shares_at(found.genuine_of, thresholds_at(found.impostor_of, rate))), digits=6),
        dir=round(_dir(found, threshold), 6),
        strangers={size: float(f"{share:.4g}") for size, share in accepted.items()},
        identity_pairs=round(float(np.interp(place, np.arange(COARSE + 1), from_above(found.closest_of_two)))),
    )


def _share(counts: NDArray[np.int64], threshold: float) -> float:
    """The share of counts [F] at or above a threshold that stands between two bins."""
    return float(counts[round((threshold + 1) * FINE / 2) :].sum() / max(1, counts.sum()))


def _dir(found: Tally, threshold: float) -> float:
    right: Floats = found.right[np.isfinite(found.right)]
    wrong = found.wrong[np.isfinite(found.right)]
    return float(np.mean((right > wrong) & (right >= threshold))) if len(right) else 0.0


def _rounded(bounds: Interval, digits: int = 4) -> Interval:
    return None if bounds is None else (round(bounds[0], digits), round(bounds[1], digits))


def _warnings(rates: Sequence[Rate], people: People, num_impostors: int) -> list[str]:
    known = {rate.far for rate in rates}
    missing = [f"{rate:g}" for rate in RATES if rate not in known]
    few = [f"{rate.far:g} ({rate.identity_pairs} pairs of people)" for rate in rates if rate.identity_pairs < FEW]
    found = []
    if missing:
        found.append(f"false-accept rates {', '.join(missing)}: not measurable with {num_impostors:,} pairs of two people")
    if few:
        found.append(
            f"false-accept rates {', '.join(few)}: fewer than {FEW} stand behind the threshold; believe its interval alone"
        )
    if people.cameras is None:
        found.append("without cameras: pairs of one camera count as genuine, which is easier than finding people again elsewhere")
    if people.num_cameras > MAX_CAMERAS:
        found.append(f"{people.num_cameras} cameras: no figures of pairs of cameras, which are given for up to {MAX_CAMERAS}")
    return found
