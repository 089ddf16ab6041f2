"""Pictures of curves: CMC, ROC, score and norm histograms, learning rate and losses; nothing else imports matplotlib.

Every picture is a PNG written whole or not at all. What is drawn is computed by small functions that know no figure. Sheets of
crops (rank lists, erased crops) are training/sheets.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training import checkpoint, sheets, verification
from training.config import TrainConfig
from training.curves import (
    NUM_BARS,
    Line,
    bars,
    by_epoch,
    close_groups,
    described,
    filled_span,
    has_center,
    headline,
    moving_mean,
    tested,
    threshold_text,
)
from training.dataset import Dataset
from training.metrics import Evidence
from training.results import EvalResult
from training.schedule import learning_rate

DPI = 120
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA5C93", "#606066"  # Okabe and Ito: told apart by all
MARKED_RANKS = (1, 5, 10, 20)
RANK_TICKS = (1, 2, 5, 10, 20, 50)
MARKED_RATES = (1e-4, 1e-3, 1e-2)
LOWEST_RATE = 1e-5  # left end of the ROC
FEW_EPOCHS = 30  # so few are marked one by one


def evaluation_pictures(folder: Path, result: EvalResult, evidence: Evidence, data: Dataset) -> list[Path]:
    """Draws one evaluation into `folder`: cmc, scores, roc, norms (where known), rank_best, rank_worst, rank_random.

    Without a genuine or an impostor pair there is no roc. Raises ValueError without a valid query, or where a crop that a rank
    list shows cannot be read.
    """
    if not evidence.is_valid.any():
        raise ValueError(f"{result.data}: got no valid query among {len(evidence.is_valid)}, wanted at least one to draw")
    drawn = [save(folder / f"{name}.png", figure) for name, figure in evaluation_figures(result, evidence).items()]
    pids = np.array([sample.pid for sample in data.query])
    for choice, what in (("best", "queries of highest AP"), ("worst", "queries of lowest AP"), ("random", "queries at random")):
        queries = sheets.pick_queries(evidence, pids, choice)
        title = f"{result.data}: {what}{', lists before re-ranking' if result.rerank else ''}"
        path = folder / f"rank_{choice}.png"
        drawn.append(sheets.rank_list(path, evidence, data, queries, title=title, subtitle=headline(result)))
    return drawn


def evaluation_figures(result: EvalResult, evidence: Evidence) -> dict[str, Figure]:
    """Returns the figures of one evaluation by name, without those that the evidence has no numbers for."""
    figures = {"cmc": cmc_figure(result), "scores": score_figure(result, evidence)}
    if evidence.genuine_B.any() and evidence.impostor_B.any():
        figures["roc"] = roc_figure(result, evidence)
    if any(len(lengths) for lengths in evidence.norms.values()):
        figures["norms"] = norm_figure(result, evidence)
    return figures


def training_pictures(folder: Path, lines: Sequence[Line], config: TrainConfig) -> list[Path]:
    """Draws lr.png, and losses.png from a run's log lines (epoch, lr, id_loss, triplet_loss, accuracy, perhaps center_loss).

    Without a line there is no losses.png. Of several lines of one epoch the last counts.
    """
    columns = by_epoch(lines)
    drawn = [save(folder / "lr.png", rate_figure(columns, config))]
    return drawn + ([save(folder / "losses.png", loss_figure(columns))] if lines else [])


def loss_curves(path: Path, curves: Mapping[str, Sequence[Line]]) -> Path:
    """Draws id and triplet loss by iteration, one curve for each name; Fig. 8 of Luo et al. 2019.

    Theirs has a panel for each neck; ours one for each loss, so that the necks can be compared. Args: curves: by neck, one
    {"id_loss": ..., "triplet_loss": ...} for each iteration. Raises ValueError without an iteration.
    """
    if not any(len(steps) for steps in curves.values()):
        raise ValueError(f"loss curves: got {len(curves)} curves without an iteration, wanted at least one")
    figure, axes = blank("Losses by iteration", "faint: each batch; strong: moving mean", panels=2, size=(9.0, 4.4))
    for axis, key, label in zip(axes, ("id_loss", "triplet_loss"), ("ID loss", "triplet loss"), strict=True):
        for (name, steps), colour in zip(curves.items(), (ORANGE, GREEN, BLUE, PURPLE, GREY), strict=False):
            values = np.array([step[key] for step in steps], float)
            iterations = np.arange(1, len(values) + 1)
            axis.plot(iterations, values, color=colour, alpha=0.2, linewidth=0.8)
            axis.plot(iterations, moving_mean(values, width=max(1, len(values) // 25)), color=colour, linewidth=1.8, label=name)
        label_axes(axis, x="iteration", y=label)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(whole_numbers())
        axis.legend(frameon=False, fontsize=9)
    return save(path, figure)


def cmc_figure(result: EvalResult) -> Figure:
    """Draws Rank-k in percent against k, and the re-ranked lists' at the ranks where it is known."""
    figure, (axis,) = blank(f"{result.data}: CMC", headline(result))
    ranks, shares = np.arange(1, len(result.cmc) + 1), 100 * np.array(result.cmc)
    axis.plot(ranks, shares, color=BLUE, linewidth=2, label="CMC")
    marked = {rank: float(shares[rank - 1]) for rank in MARKED_RANKS if rank <= len(ranks)}
    rerank = result.rerank or {}
    again = {rank: 100 * rerank[f"rank{rank}"] for rank in marked if f"rank{rank}" in rerank}
    lowest = min([float(shares[0]), *again.values()])
    bottom = max(0.0, lowest - 0.35 * max(100 - lowest, 4.0))
    axis.plot(list(marked), list(marked.values()), "o", color=BLUE, markersize=6)
    if again:
        axis.plot(list(again), list(again.values()), "^", color=ORANGE, label=f"re-ranked: mAP {100 * rerank['mAP']:.1f} %")
        legend_above(figure, axis.get_legend_handles_labels()[0])
    for rank, share in marked.items():
        name_rank(axis, rank, share, again.get(rank), room=(bottom, 100))
    label_axes(axis, x="rank k", y="valid queries with a correct match within k (%)")
    axis.set(xscale="log", xlim=(0.93, 1.05 * len(ranks)), ylim=(bottom, 100 + 0.05 * (100 - bottom)))
    axis.set_xticks(RANK_TICKS, map(str, RANK_TICKS))
    axis.minorticks_off()
    return figure


def name_rank(axis: Axes, rank: int, share: float, again: float | None, *, room: tuple[float, float]) -> None:
    """Names a mark of the CMC and, below, the re-ranked one in its colour: under both marks, or above near the axis."""
    texts = [(f"rank-{rank} {share:.1f} %", "#222226"), *([] if again is None else [(f"re-ranked {again:.1f} %", ORANGE)])]
    marks = [share] if again is None else [share, again]
    low, high = min(marks), max(marks)
    bottom, top = room
    is_low = low - bottom < 0.08 * (len(texts) + 0.3) * (top - bottom)  # no room between the marks and the axis: above them
    for line, (text, colour) in enumerate(texts):
        down = 9 + 12 * (len(texts) - 1 - line) if is_low else -14 - 12 * line
        offset, side = ((0 if is_low else 7, down), "right" if is_low and rank > 1 else "left")
        place = (rank, high if is_low else low)
        axis.annotate(text, place, offset, textcoords="offset points", fontsize=8.5, ha=side, color=colour)


def roc_figure(result: EvalResult, evidence: Evidence) -> Figure:
    """Draws the share of genuine pairs accepted against that of impostor pairs, from the first impostor pair on."""
    num_impostors = int(evidence.impostor_B.sum())
    pairs = f"{evidence.genuine_B.sum():,} genuine pairs, {num_impostors:,} impostor pairs"
    figure, (axis,) = blank(f"{result.data}: verification ROC", f"{pairs}; {tested(result)}")
    false_rates, true_rates = verification.roc_curve(evidence.genuine_B, evidence.impostor_B)
    axis.plot(np.maximum(false_rates, max(LOWEST_RATE, 1 / max(num_impostors, 1))), 100 * true_rates, color=BLUE, linewidth=2)
    for rate in (rate for rate in MARKED_RATES if verification.is_measured(rate, num_impostors)):
        share = 100 * verification.true_accept_rate(evidence.genuine_B, evidence.impostor_B, rate)
        axis.plot([rate, rate, LOWEST_RATE], [0, share, share], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.plot(rate, share, "o", color=BLUE, markersize=6, clip_on=False)
        offset, side = ((-7, 6), "right") if share < 10 else ((8, -14), "left")  # near the axis: above the curve
        axis.annotate(
            f"{share:.1f} %", (rate, share), offset, textcoords="offset points", fontsize=9, ha=side,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    label_axes(axis, x="impostor pairs accepted (false positive rate)", y="genuine pairs accepted (%)")
    axis.set(xscale="log", xlim=(LOWEST_RATE, 1), ylim=(0, 102))
    return figure


def score_figure(result: EvalResult, evidence: Evidence) -> Figure:
    """Draws how genuine and impostor pairs score, in percent of each kind, with the thresholds of `result.far`."""
    figure, (axis,) = blank(f"{result.data}: scores of pairs", headline(result))
    span = filled_span(evidence.genuine_B, evidence.impostor_B)
    tallest = 0.0
    for name, counts, colour in (("impostor", evidence.impostor_B, ORANGE), ("genuine", evidence.genuine_B, BLUE)):
        heights, edges = bars(counts, evidence.edges, span=span)
        draw_bars(axis, heights, edges, colour=colour, label=f"{name} pairs ({counts.sum():,})")
        tallest = max(tallest, float(heights.max()))
    far = result.far
    left, right = min([edges[0], *far.values()]), max([edges[-1], *far.values()])
    right = max([right + 0.02 * (right - left), *(threshold + 0.06 * (right - left) for threshold in far.values())])
    axis.set(xlim=(left, right), ylim=(0, 1.5 * tallest or 1))  # room for the thresholds' names
    for names in close_groups(far, gap=0.045 * (right - left)):  # two lines of text are narrower
        for name in names:
            axis.axvline(far[name], ymax=0.98, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(
            threshold_text({name: far[name] for name in names}), (far[names[-1]], 0.97), (3, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90, va="top", fontsize=8, color="#333338",
        )  # fmt: skip
    score = "cosine" if result.metric == "cosine" else "minus the Euclidean distance"
    label_axes(axis, x=f"{score} of the pair", y="pairs of the kind (% per bar)")
    legend_above(figure, axis.get_legend_handles_labels()[0])
    return figure


def draw_bars(axis: Axes, heights: np.ndarray, edges: np.ndarray, *, colour: str, label: str) -> None:
    """Draws a histogram as an outline over a tint, so that two show through each other."""
    axis.stairs(heights, edges, fill=True, color=colour, alpha=0.35)
    axis.stairs(heights, edges, color=colour, linewidth=1.4, label=label)


def norm_figure(result: EvalResult, evidence: Evidence) -> Figure:
    """Draws the lengths of the gallery's features, one panel each on one scale; Fig. 11 of Luo et al. 2019."""
    norms = {name: lengths for name, lengths in evidence.norms.items() if len(lengths)}
    subtitle = f"L2 norms over {result.num_gallery:,} gallery crops"
    figure, axes = blank(f"{result.data}: lengths of features", subtitle, panels=len(norms), rows=len(norms), size=(7.6, 5.4))
    highest = 1.05 * max(float(lengths.max()) for lengths in norms.values()) or 1.0
    for axis, (name, lengths), colour in zip(axes, norms.items(), (BLUE, ORANGE), strict=False):
        counts, edges = np.histogram(lengths, bins=NUM_BARS, range=(0, highest))
        draw_bars(axis, counts, edges, colour=colour, label=f"${name}$: {described(lengths)}")
        axis.set(xlim=(0, highest), ylim=(0, 1.3 * counts.max()))
        axis.legend(frameon=False, loc="upper right", fontsize=9)
        label_axes(axis, x="L2 norm" if axis is axes[-1] else "", y="gallery crops")
        axis.yaxis.set_major_locator(whole_numbers())
    figure.align_ylabels(axes)
    return figure


def rate_figure(columns: Mapping[str, np.ndarray], config: TrainConfig) -> Figure:
    """Draws the schedule's learning rate by epoch, without warm-up beside it, and what the run logged; Fig. 3."""
    decays = f"x {config.decay_factor:g} after epochs: {', '.join(map(str, config.decay_epochs)) or 'none'}"
    figure, (axis,) = blank("Learning rate", f"{config.lr:g}; warm-up epochs: {config.warmup_epochs}; {decays}")
    epochs = range(1, config.epochs + 1)
    schedules = [(config, BLUE, "-", "as configured")]
    if config.warmup_epochs:
        schedules.insert(0, (replace(config, warmup_epochs=0), ORANGE, "--", "without warm-up"))
    marker = "o" if config.epochs < FEW_EPOCHS else None
    for schedule, colour, linestyle, label in schedules:
        rates = [learning_rate(schedule, epoch) for epoch in epochs]
        axis.plot(epochs, rates, linestyle, color=colour, label=label, drawstyle="steps-mid", marker=marker, markersize=4)
    if "lr" in columns:
        few: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 9, "fillstyle": "none"}
        style = few if len(columns["epoch"]) < FEW_EPOCHS else {"linewidth": 7, "alpha": 0.25, "solid_capstyle": "butt"}
        axis.plot(columns["epoch"], columns["lr"], color=GREY, label="logged", drawstyle="steps-mid", **style)
    label_axes(axis, x="epoch", y="learning rate")
    axis.set(yscale="log", xlim=(0.5, config.epochs + 0.5))
    axis.xaxis.set_major_locator(whole_numbers())
    legend_above(figure, axis.get_legend_handles_labels()[0])
    return figure


def loss_figure(columns: Mapping[str, np.ndarray]) -> Figure:
    """Draws mean losses and training accuracy by epoch; the center loss, on another scale, in a panel of its own."""
    epochs, last = columns["epoch"], columns["accuracy"][-1]
    with_center = has_center(columns)
    subtitle = f"means over each epoch; training accuracy {100 * last:.1f} % in epoch {int(epochs[-1])}"
    panels = 2 if with_center else 1
    figure, axes = blank("Training losses", subtitle, panels=panels, rows=panels, size=(7.6, 6.4 if with_center else 4.6))
    style: dict[str, Any] = {"linewidth": 1.8, "marker": "o" if len(epochs) < FEW_EPOCHS else None, "markersize": 4}
    right = axes[0].twinx()
    lines = axes[0].plot(epochs, columns["id_loss"], color=BLUE, label="ID loss", **style)
    lines += axes[0].plot(epochs, columns["triplet_loss"], color=ORANGE, label="triplet loss", **style)
    lines += right.plot(epochs, 100 * columns["accuracy"], "--", color=GREY, label="accuracy (right)", **style)
    right.set_ylim(0, 102)
    right.set_ylabel("training accuracy (%)", fontsize=9.5, color=GREY)
    right.tick_params(labelsize=9, colors=GREY)
    right.spines[:].set_visible(False)
    legend_above(figure, lines)
    if with_center:
        axes[1].plot(epochs, columns["center_loss"], color=PURPLE, **style)
        label_axes(axes[1], x="epoch", y="center loss (unweighted)")
    label_axes(axes[0], x="" if with_center else "epoch", y="loss")
    figure.align_ylabels(axes)
    for axis in axes:
        axis.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(whole_numbers())
    return figure


def blank(
    title: str, subtitle: str, *, panels: int = 1, rows: int = 1, size: tuple[float, float] = (7.6, 4.6)
) -> tuple[Figure, list[Axes]]:
    """Returns a titled figure of `size` inches and its axes: `panels` in `rows`."""
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.5 / size[1]), h_pad=0.06, w_pad=0.08)
    figure.text(0.012, 1 - 0.10 / size[1], title, fontsize=12.5, va="top", color="#222226")
    figure.text(0.012, 1 - 0.34 / size[1], subtitle, fontsize=8.5, va="top", color=GREY)
    return figure, [figure.add_subplot(rows, panels // rows, number) for number in range(1, panels + 1)]


def whole_numbers() -> MaxNLocator:
    """Returns what puts ticks at whole numbers, and at one alone where the axis holds no more."""
    return MaxNLocator(integer=True, min_n_ticks=1)


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """Names the curves to the right of the title, where they hide nothing."""
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.995, 1.0), ncols=3, frameon=False, fontsize=9)


def label_axes(axis: Axes, *, x: str, y: str) -> None:
    """Names both axes and gives the panel its light grid."""
    axis.set_xlabel(x, fontsize=9.5)
    axis.set_ylabel(y, fontsize=9.5)
    axis.tick_params(labelsize=9, color="#B0B0B5")
    axis.grid(visible=True, color="#E4E4E8", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#B0B0B5")


def save(path: Path, figure: Figure) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole({path: lambda temporary: figure.savefig(temporary, format="png")})
    return path
