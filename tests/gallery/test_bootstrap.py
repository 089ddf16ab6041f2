"""Intervals over identities: do they hold the truth, where intervals over pairs do not?"""

import math

import numpy as np
import pytest

from gallery.bootstrap import draw_weights, interval, shares_at, thresholds_at
from gallery.pairs import COARSE, people_of, tally

DIM, CROPS = 16, 4


def somebody(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of `num` people who look alike in three of sixteen directions."""
    centres = rng.normal(size=(num, DIM)) * np.where(np.arange(DIM) < 3, 1.5, 1.0)
    rows = np.repeat(centres, CROPS, axis=0) + 0.5 * rng.normal(size=(num * CROPS, DIM))
    return rows, np.repeat(np.arange(num), CROPS)


def impostor_histograms(rng: np.random.Generator, num: int, weights: np.ndarray) -> np.ndarray:
    rows, pids = somebody(rng, num)
    return tally(people_of(rows, pids, None), weights).impostor_of


def test_intervals_over_identities_hold_the_truth_and_intervals_over_pairs_do_not():
    rng = np.random.default_rng(0)
    everybody = sum(impostor_histograms(rng, 150, np.ones((1, 150))) for _ in range(6))
    threshold = float(thresholds_at(everybody, 0.01)[0])
    held = held_by_pairs = 0
    for seed in range(30):
        weights = np.vstack([np.ones(30), draw_weights(30, replicates=200, seed=seed)])
        shares = shares_at(impostor_histograms(rng, 30, weights), threshold)
        bounds = interval(shares[1:])
        assert bounds is not None
        held += bounds[0] <= 0.01 <= bounds[1]
        num_pairs = 30 * 29 // 2 * CROPS**2
        held_by_pairs += abs(shares[0] - 0.01) <= 1.96 * math.sqrt(shares[0] / num_pairs)
    assert held >= 28  # of 30, where 28.5 are promised
    assert held_by_pairs <= 20


def test_the_interval_of_a_threshold_is_that_of_its_rate_turned_over():
    rng = np.random.default_rng(1)
    counts = impostor_histograms(rng, 30, draw_weights(30, replicates=50, seed=0))
    for rate in (0.1, 0.01):
        np.testing.assert_allclose(shares_at(counts, thresholds_at(counts, rate)), rate, rtol=1e-9)


def test_thresholds_within_a_bin_are_linear():
    counts = np.zeros((2, COARSE))
    counts[:, 300] = 10  # cosine 0.500 to 0.505
    counts[1, 100] = 30
    assert thresholds_at(counts, 0.2) == pytest.approx([0.504, 0.501])
    assert shares_at(counts, 0.504) == pytest.approx([0.2, 0.05])
    assert shares_at(counts, np.array([0.5, -1.0])) == pytest.approx([1.0, 1.0])
    assert shares_at(counts, 1.0) == pytest.approx([0.0, 0.0])


def test_a_replicate_with_nothing_to_count_has_no_share_and_leaves_the_interval():
    counts = np.zeros((2, COARSE))
    counts[0, 200] = 1
    assert np.isnan(shares_at(counts, 0.0)).tolist() == [False, True]
    assert np.isnan(thresholds_at(counts, 0.5)).tolist() == [False, True]
    assert interval(shares_at(counts, 0.0)) == (1.0, 1.0)
    assert interval(np.array([np.nan])) is None


def test_every_replicate_has_as_many_identities_and_two_different_ones_at_least():
    weights = draw_weights(3, replicates=500, seed=0)
    assert (weights.sum(axis=1) == 3).all()
    assert weights.max() == 2
    assert np.array_equal(weights, draw_weights(3, replicates=500, seed=0))
