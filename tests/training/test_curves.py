"""What the pictures draw, as numbers and words."""

import numpy as np
import pytest

from training.curves import (
    NUM_BARS,
    bars,
    by_epoch,
    close_groups,
    described,
    filled_span,
    has_center,
    headline,
    moving_mean,
    threshold_text,
)
from training.results import EvalResult


def test_bars_hold_every_pair_of_the_span():
    counts = np.random.default_rng(0).integers(0, 9, 1_000)
    heights, edges = bars(counts, np.linspace(-1, 1, 1_001), span=(0, 1_000))
    assert len(heights) <= NUM_BARS
    assert heights.sum() == pytest.approx(100)
    for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
        first, end = round((left + 1) * 500), round((right + 1) * 500)
        assert height == pytest.approx(100 * counts[first:end].sum() / counts.sum())


def test_bars_are_equally_wide_though_the_span_does_not_divide():
    heights, edges = bars(np.ones(250), np.linspace(0, 25, 251), span=(7, 250))
    assert np.diff(edges) == pytest.approx(np.full(len(heights), 0.3))
    assert edges[0] == pytest.approx(0.7)


def test_bars_are_percent_of_all_pairs_and_not_of_the_span():
    heights, _ = bars(np.array([30, 0, 10, 0, 60]), np.linspace(0, 5, 6), span=(2, 4))
    assert heights.tolist() == [10, 0]


def test_bars_of_no_pair_are_flat():
    heights, edges = bars(np.zeros(10, int), np.linspace(0, 1, 11), span=(0, 10))
    assert heights.tolist() == [0] * 10
    assert edges[-1] == pytest.approx(1)


def test_the_span_covers_both_histograms():
    assert filled_span(np.array([0, 0, 3, 0, 0]), np.array([0, 0, 0, 1, 0])) == (2, 4)
    assert filled_span(np.zeros(5, int), np.zeros(5, int)) == (0, 5)


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_a_moving_mean_is_the_mean_of_its_neighbours(width):
    values = np.random.default_rng(1).normal(size=23)
    slow = [values[max(0, place - (width - 1) // 2) : place + width // 2 + 1].mean() for place in range(23)]
    assert moving_mean(values, width=width) == pytest.approx(slow)


def test_the_last_line_of_an_epoch_counts_and_epochs_rise():
    lines = [{"epoch": 2, "id_loss": 9.0}, {"epoch": 1, "id_loss": 3.0}, {"epoch": 2, "id_loss": 2.0}]
    columns = by_epoch(lines)
    assert columns["epoch"].tolist() == [1, 2]
    assert columns["id_loss"].tolist() == [3, 2]


def test_a_value_that_a_line_lacks_is_nan():
    columns = by_epoch([{"epoch": 1}, {"epoch": 2, "center_loss": 5.0}])
    assert np.isnan(columns["center_loss"]).tolist() == [True, False]


def test_no_line_gives_no_epoch():
    assert [(name, len(column)) for name, column in by_epoch([]).items()] == [("epoch", 0)]


def test_lengths_are_described_by_sigma_over_mu():
    assert described(np.array([2.0, 4.0])) == "mean 3.00, deviation 1.00, C.V. 0.333"
    assert described(np.zeros(3)) == "mean 0.00, deviation 0.00, C.V. undefined"


def test_thresholds_closer_than_the_gap_share_a_group():
    assert close_groups({"a": 0.5, "b": 0.1, "c": 0.52, "d": 0.55, "e": 0.6}, gap=0.04) == [["b"], ["a", "c", "d"], ["e"]]
    assert close_groups({}, gap=1) == []


def test_close_thresholds_are_named_by_the_first_and_the_last():
    assert threshold_text({"0.01": 0.5}) == "FAR 1 %: 0.500"
    assert threshold_text({"0.01": 0.5, "0.001": 0.51, "0.0001": 0.52}) == "FAR 1 % to 0.01 %\n0.500 to 0.520"


@pytest.mark.parametrize(
    ("columns", "told"),
    [({}, False), ({"center_loss": np.zeros(3)}, False), ({"center_loss": np.array([np.nan, 4.0])}, True)],
)
def test_a_center_loss_is_there_when_one_is_above_zero(columns, told):
    assert has_center(columns) is told


def test_the_headline_gives_figures_counts_and_what_was_compared():
    result = EvalResult(
        "m", (0.945, 0.98), 0.859, 0.594, 3368, 3360, 15913, {}, 0.0, feature="f_t", metric="euclidean", flip=True
    )
    wanted = "rank-1 94.5 %, mAP 85.9 %, mINP 59.4 %; 3,360 queries, 15,913 gallery crops; f_t by euclidean, with mirrors"
    assert headline(result) == wanted
