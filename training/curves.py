"""What the pictures of training/plots.py draw, as numbers and words: no figure."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.results import EvalResult

NUM_BARS = 120

Line = Mapping[str, float]


def bars(counts: np.ndarray, edges: np.ndarray, *, span: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Joins bins `span` of a histogram into at most NUM_BARS: percent of all counts [N], edges [N + 1]; zero where all is zero.

    The last bar is as wide as the others, so that heights compare.
    """
    first, end = span
    width = -(-(end - first) // NUM_BARS)
    starts = np.arange(first, end, width)
    joined = np.add.reduceat(counts[first:end], starts - first)
    step = (edges[-1] - edges[0]) / (len(edges) - 1)
    return 100 * joined / max(counts.sum(), 1), edges[first] + step * width * np.arange(len(starts) + 1)


def filled_span(*histograms: np.ndarray) -> tuple[int, int]:
    """Returns the first bin and the bin after the last that any histogram fills; all bins where none does."""
    filled = np.flatnonzero(sum(histograms))
    return (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, len(histograms[0]))


def moving_mean(values: np.ndarray, *, width: int) -> np.ndarray:
    """Returns the mean of the `width` values around each (fewer at the ends): float [N]."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(places - (width - 1) // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    means: np.ndarray = (sums[end] - sums[first]) / (end - first)
    return means


def by_epoch(lines: Sequence[Line]) -> dict[str, np.ndarray]:
    """Returns the lines' columns by rising epoch, NaN where a line lacks one; of several lines of one epoch the last counts."""
    last = {line["epoch"]: line for line in lines}
    names = sorted({name for line in lines for name in line} | {"epoch"})
    return {name: np.array([last[epoch].get(name, np.nan) for epoch in sorted(last)], float) for name in names}


def described(lengths: np.ndarray) -> str:
    """Returns mean, deviation and coefficient of variation; the paper prints C.V. as mu / sigma and uses sigma / mu, as here."""
    mean, deviation = float(lengths.mean()), float(lengths.std())
    variation = f"{deviation / mean:.3f}" if mean > 0 else "undefined"
    return f"mean {mean:.2f}, deviation {deviation:.2f}, C.V. {variation}"


def close_groups(values: Mapping[str, float], *, gap: float) -> list[list[str]]:
    """Groups names by rising value: one that follows the group's last by less than `gap` joins it."""
    groups: list[list[str]] = []
    for name in sorted(values, key=lambda name: values[name]):
        if groups and values[name] - values[groups[-1][-1]] < gap:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def threshold_text(far: Mapping[str, float]) -> str:
    """Names thresholds that stand too close to be named one by one: the first and the last rate, and below their thresholds.

    Args: far: one or more thresholds by false-accept rate (text), rising.
    """
    rates = [f"{100 * float(name):g} %" for name in far]
    thresholds = [f"{threshold:.3f}" for threshold in far.values()]
    if len(far) == 1:
        return f"FAR {rates[0]}: {thresholds[0]}"
    return f"FAR {rates[0]} to {rates[-1]}\n{thresholds[0]} to {thresholds[-1]}"


def has_center(columns: Mapping[str, np.ndarray]) -> bool:
    """Tells whether a center loss was trained with: logged, and not zero throughout."""
    return bool(np.nan_to_num(columns.get("center_loss", np.zeros(1))).any())


def headline(result: EvalResult) -> str:
    """Returns the figures that stand under a picture's title."""
    figures = f"rank-1 {100 * result.rank1:.1f} %, mAP {100 * result.mAP:.1f} %, mINP {100 * result.mINP:.1f} %"
    return f"{figures}; {result.num_valid_queries:,} queries, {result.num_gallery:,} gallery crops; {tested(result)}"


def tested(result: EvalResult) -> str:
    """Returns what was compared and how."""
    return f"{result.feature} by {result.metric}{', with mirrors' if result.flip else ''}"
