"""Pairs: histograms, ROC, thresholds and the distance ratio, by hand and against slow obvious counting."""

import doctest

import numpy as np
import pytest

from training import verification
from training.metrics import Ids
from training.verification import (
    NUM_BINS,
    bin_edges,
    distance_sums,
    intra_inter,
    pair_histogram,
    roc_curve,
    threshold_at,
    true_accept_rate,
)

COSINE = bin_edges(-1, 1)
# gallery: 0 junk for query 0 (same identity, same camera), 3 a distractor, 5 seen by the camera of query 2 only
GALLERY = Ids(np.array([1, 1, 2, 0, 1, 3]), np.array([1, 2, 2, 3, 3, 1]))
QUERIES = Ids(np.array([1, 2, 3]), np.array([1, 1, 1]))
COSINES = np.array(
    [[0.95, 0.80, 0.50, 0.90, 0.20, 0.30], [0.40, 0.10, 0.90, 0.30, 0.20, 0.00], [0.10, 0.20, 0.30, 0.40, 0.50, 0.99]]
)


def random_case(seed):
    rng = np.random.default_rng(seed)
    query = Ids(rng.integers(1, 6, 12), rng.integers(1, 4, 12))
    gallery = Ids(rng.integers(0, 6, 30), rng.integers(1, 4, 30))
    return rng.uniform(-1, 1, (12, 30)), query, gallery


def slow_pairs(scores, query, gallery):
    """The scores of all genuine and of all impostor pairs."""
    genuine, impostor = [], []
    for row, (pid, camid) in enumerate(zip(query.pids, query.camids, strict=True)):
        for column, (other, other_camid) in enumerate(zip(gallery.pids, gallery.camids, strict=True)):
            if pid != other:
                impostor.append(scores[row, column])
            elif camid != other_camid:
                genuine.append(scores[row, column])
    return np.array(genuine), np.array(impostor)


def one_against(scores, *, pid=2):
    """A query of identity 1 and gallery crops of another (or the same) under another camera, with these scores."""
    scores = np.asarray(scores)[None]
    return scores, Ids(np.array([1]), np.array([1])), Ids(np.full(scores.size, pid), np.full(scores.size, 2))


def test_pairs_are_counted_without_junk_and_distractors_as_impostors():
    genuine, impostor = pair_histogram(COSINES, QUERIES, GALLERY, COSINE)
    assert (genuine.sum(), impostor.sum()) == (3, 13)
    assert np.flatnonzero(genuine).tolist() == [12_000, 18_000, 19_000]  # 0.2, 0.8, 0.9


@pytest.mark.parametrize("seed", range(5))
def test_histograms_equal_counting_pair_by_pair(seed):
    case = random_case(seed)
    for counts, pairs in zip(pair_histogram(*case, COSINE), slow_pairs(*case), strict=True):
        assert np.array_equal(counts, np.histogram(pairs, COSINE)[0])


def test_histograms_of_chunks_add_up():
    cosines, query, gallery = random_case(0)
    whole = pair_histogram(cosines, query, gallery, COSINE)
    parts = [pair_histogram(cosines[rows], query.at(rows), gallery, COSINE) for rows in (slice(0, 5), slice(5, 12))]
    assert all(np.array_equal(whole[kind], parts[0][kind] + parts[1][kind]) for kind in (0, 1))


def test_counting_leaves_the_scores_as_they_are():
    cosines, query, gallery = random_case(0)
    before = cosines.copy()
    pair_histogram(cosines, query, gallery, COSINE)
    assert np.array_equal(cosines, before)


def test_cosines_a_rounding_beyond_one_are_counted_at_the_ends():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 2]), np.array([2, 2]))
    genuine, impostor = pair_histogram(np.array([[1.0000002, -1.0000002]], np.float32), query, gallery, COSINE)
    assert (genuine[NUM_BINS - 1], impostor[0]) == (1, 1)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize(("lowest", "highest"), [(-1, 1), (-80, 0)])
def test_a_threshold_is_the_lowest_that_keeps_the_rate(rate, lowest, highest):
    width, edges = highest - lowest, bin_edges(lowest, highest)
    scores = lowest + width * np.clip(np.random.default_rng(0).normal(0.6, 0.1, 2000), 0.001, 0.999)
    threshold = threshold_at(pair_histogram(*one_against(scores), edges)[1], rate, edges)
    assert (scores >= threshold).sum() <= rate * 2000
    assert (scores >= threshold - width / NUM_BINS).sum() > rate * 2000  # one bin lower lets too many through


def test_when_every_impostor_is_in_the_highest_bin_the_threshold_is_its_upper_edge():
    impostor = pair_histogram(*one_against([1.0, 1.0]), COSINE)[1]
    assert threshold_at(impostor, 0.1, COSINE) == 1.0


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.02])
def test_the_true_accept_rate_is_the_share_of_genuine_pairs_at_or_above_the_threshold(rate):
    case = random_case(1)
    counts, (genuine, _) = pair_histogram(*case, COSINE), slow_pairs(*case)
    share = (genuine >= threshold_at(counts[1], rate, COSINE)).mean()
    assert true_accept_rate(*counts, rate) == pytest.approx(share)


def test_without_genuine_pairs_none_is_accepted():
    assert true_accept_rate(np.zeros(NUM_BINS, int), np.ones(NUM_BINS, int), 0.1) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_passes_through_every_threshold(seed):
    case = random_case(seed)
    false_rates, true_rates = roc_curve(*pair_histogram(*case, COSINE))
    genuine, impostor = slow_pairs(*case)
    assert (false_rates[0], true_rates[0], false_rates[-1], true_rates[-1]) == (0, 0, 1, 1)
    for place in (1, 3_000, 9_000, 10_000, 15_000, 20_000):
        threshold = COSINE[NUM_BINS - place]
        assert (false_rates[place], true_rates[place]) == pytest.approx(
            ((impostor >= threshold).mean(), (genuine >= threshold).mean())
        )


def test_the_distance_ratio_by_hand():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 1, 2, 0]), np.array([1, 2, 1, 2]))
    sums = distance_sums(np.array([[9.0, 1.0, 2.0, 6.0]]), query, gallery)  # junk, genuine, another, a distractor
    assert sums.tolist() == [1, 1, 8, 2]
    assert intra_inter(sums) == 0.25


def test_distance_sums_of_chunks_add_up():
    distances, query, gallery = random_case(2)
    parts = [distance_sums(distances[rows], query.at(rows), gallery) for rows in (slice(0, 5), slice(5, 12))]
    genuine, impostor = slow_pairs(distances, query, gallery)
    assert sum(parts) == pytest.approx([genuine.sum(), len(genuine), impostor.sum(), len(impostor)])


@pytest.mark.parametrize("sums", [(0, 0, 5, 2), (5, 2, 0, 0), (0, 3, 0, 3)])
def test_without_pairs_or_distances_there_is_no_ratio(sums):
    assert intra_inter(np.array(sums, float)) is None


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(verification)
    assert (results.failed, results.attempted > 0) == (0, True)


@pytest.mark.parametrize(("rate", "num_pairs", "told"), [(0.001, 1_000, True), (0.001, 999, False), (0.1, 0, False)])
def test_a_rate_is_measured_from_one_pair_on(rate, num_pairs, told):
    assert verification.is_measured(rate, num_pairs) is told
