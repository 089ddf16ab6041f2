"""The picture of a calibration: how pairs score with the thresholds among them, and the ROC with its band."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from gallery.bootstrap import LEVEL
from gallery.calibration import Figures
from training import plots


def picture(path: Path, figures: Figures, *, title: str) -> Path:
    """Draws a calibration as PNG, whole or not at all."""
    pairs = f"{figures.genuine_pairs:,} genuine pairs and {figures.impostor_pairs:,} of two people; {figures.identities:,} people"
    subtitle = f"{pairs}; shaded: {100 * LEVEL:.0f} % intervals over identities"
    figure, (scores, roc) = plots.blank(title, subtitle, panels=2, rows=2, size=(7.6, 8.2))
    _draw_scores(scores, figures)
    _draw_roc(roc, figures)
    return plots.save(path, figure)


def _draw_scores(axis: Axes, figures: Figures) -> None:
    kinds = (("impostor", plots.ORANGE), ("genuine", plots.BLUE))
    counts = {kind: np.array(figures.histogram[kind], float) for kind, _ in kinds}
    edges = figures.histogram["from"] + figures.histogram["step"] * np.arange(len(counts["genuine"]) + 1)
    filled = np.flatnonzero(counts["genuine"] + counts["impostor"])
    tallest = 0.0
    for kind, colour in kinds:
        heights = 100 * counts[kind] / max(1.0, float(counts[kind].sum()))
        plots.draw_bars(axis, heights, edges, colour=colour, label=kind)
        tallest = max(tallest, float(heights.max()))
    for rate in figures.rates:
        if rate.threshold_interval:
            axis.axvspan(*rate.threshold_interval, color=plots.GREY, alpha=0.18, linewidth=0)
        axis.axvline(rate.threshold, ymax=0.98, color=plots.GREY, linewidth=1, linestyle=(0, (4, 3)))
        text = f"FAR {100 * rate.far:g} %: {rate.threshold:.3f}"
        axis.annotate(
            text, (rate.threshold, 0.97), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90,
            va="top", fontsize=8, color="#333338",
        )  # fmt: skip
    axis.legend(frameon=False, loc="upper left", fontsize=9)
    axis.set(xlim=(edges[filled[0]], edges[filled[-1] + 1]), ylim=(0, 1.5 * tallest))
    plots.label_axes(axis, x="cosine of the pair", y="pairs of the kind (% per bar)")


def _draw_roc(axis: Axes, figures: Figures) -> None:
    far, tar, low, high = (np.array(figures.roc[name]) for name in ("far", "tar", "tar_low", "tar_high"))
    axis.fill_between(far, 100 * low, 100 * high, color=plots.BLUE, alpha=0.2, linewidth=0)
    axis.plot(far, 100 * tar, color=plots.BLUE, linewidth=2)
    for rate in figures.rates:
        axis.plot(rate.far, 100 * rate.tar, "o", color=plots.BLUE, markersize=6)
        axis.annotate(f"{100 * rate.tar:.1f} %", (rate.far, 100 * rate.tar), (7, -12), textcoords="offset points", fontsize=8.5)
    axis.set(xscale="log", xlim=(far[0], 1), ylim=(0, 102))
    plots.label_axes(axis, x="pairs of two people accepted (false-accept rate)", y="genuine pairs accepted (%)")
