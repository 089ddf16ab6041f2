"""CMC, AP, mINP and thresholds: by hand, and against slow obvious counting."""

import doctest

import numpy as np
import pytest

from training import metrics
from training.metrics import NUM_BINS, Ids, accept_rate, cmc, pair_histogram, score_queries, threshold_at

# gallery: 0 junk for query 0 (same identity, same camera), 3 a distractor, 5 seen by the camera of query 2 only
GALLERY = Ids(np.array([1, 1, 2, 0, 1, 3]), np.array([1, 2, 2, 3, 3, 1]))
QUERIES = Ids(np.array([1, 2, 3]), np.array([1, 1, 1]))
COSINES = np.array(
    [
        [0.95, 0.80, 0.50, 0.90, 0.20, 0.30],  # without junk: wrong, right, wrong, wrong, right
        [0.40, 0.10, 0.90, 0.30, 0.20, 0.00],  # right first
        [0.10, 0.20, 0.30, 0.40, 0.50, 0.99],  # its only match is junk
    ]
)


def random_case(seed):
    rng = np.random.default_rng(seed)
    query = Ids(rng.integers(1, 6, 12), rng.integers(1, 4, 12))
    gallery = Ids(rng.integers(0, 6, 30), rng.integers(1, 4, 30))
    return np.round(rng.uniform(-1, 1, (12, 30)), 1), query, gallery  # rounded, so that ties abound


def slow_scores(cosines, query, gallery):
    """(is_valid, first_hit, AP, INP, gap) of each query, by walking down its ranking."""
    for row, (pid, camid) in enumerate(zip(query.pids, query.camids, strict=True)):
        ranking = sorted(range(len(gallery.pids)), key=lambda column: (-cosines[row, column], column))
        ranking = [column for column in ranking if gallery.pids[column] != pid or gallery.camids[column] != camid]
        hits, precisions, best = [], [], {True: None, False: None}
        for rank, column in enumerate(ranking, start=1):
            is_correct = bool(gallery.pids[column] == pid)
            best[is_correct] = cosines[row, column] if best[is_correct] is None else best[is_correct]
            if is_correct:
                hits.append(rank)
                precisions.append(len(hits) / rank)
        if not hits:
            yield (False, 0, 0.0, 0.0, -np.inf)
            continue
        gap = -np.inf if best[False] is None else best[False] - best[True]
        yield (True, hits[0], sum(precisions) / len(hits), len(hits) / hits[-1], gap)


def test_a_ranking_worked_by_hand():
    scores = score_queries(COSINES, QUERIES, GALLERY)
    assert scores.is_valid.tolist() == [True, True, False]
    assert scores.first_hit.tolist()[:2] == [2, 1]
    assert scores.ap[:2] == pytest.approx([(1 / 2 + 2 / 5) / 2, 1])
    assert scores.inp[:2] == pytest.approx([2 / 5, 1])
    assert scores.gap[:2] == pytest.approx([0.1, -0.5])


def test_a_query_without_a_match_leaves_the_curve():
    curve = cmc(score_queries(COSINES, QUERIES, GALLERY))
    assert curve.tolist() == [0.5] + [1.0] * 49


def test_ties_keep_the_order_of_the_gallery():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([2, 1, 2]), np.array([2, 2, 2]))
    assert score_queries(np.full((1, 3), 0.5), query, gallery).first_hit.tolist() == [2]


def test_other_identities_of_the_same_camera_count_as_wrong():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([2, 1]), np.array([1, 2]))
    assert score_queries(np.array([[0.9, 0.8]]), query, gallery).first_hit.tolist() == [2]


def test_a_gallery_of_nothing_but_matches_has_no_gap():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 1]), np.array([2, 3]))
    assert score_queries(np.array([[0.9, 0.8]]), query, gallery).gap.tolist() == [-np.inf]


@pytest.mark.parametrize("seed", range(25))
def test_scores_equal_a_walk_down_every_ranking(seed):
    cosines, query, gallery = random_case(seed)
    scores = score_queries(cosines, query, gallery)
    got = zip(scores.is_valid, scores.first_hit, scores.ap, scores.inp, scores.gap, strict=True)
    for mine, wanted in zip(got, slow_scores(cosines, query, gallery), strict=True):
        assert mine == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_share_of_first_hits_within_each_rank(seed):
    scores = score_queries(*random_case(seed))
    hits = [hit for hit, is_valid in zip(scores.first_hit, scores.is_valid, strict=True) if is_valid]
    assert cmc(scores).tolist() == pytest.approx([sum(hit <= k for hit in hits) / len(hits) for k in range(1, 51)])


def test_pairs_are_counted_without_junk_and_distractors_as_impostors():
    genuine, impostor = pair_histogram(COSINES, QUERIES, GALLERY)
    assert (genuine.sum(), impostor.sum()) == (3, 13)
    assert np.flatnonzero(genuine).tolist() == [12_000, 18_000, 19_000]  # 0.2, 0.8, 0.9


def test_histograms_of_chunks_add_up():
    cosines, query, gallery = random_case(0)
    whole = pair_histogram(cosines, query, gallery)
    parts = [
        pair_histogram(cosines[rows], Ids(query.pids[rows], query.camids[rows]), gallery) for rows in (slice(5), slice(5, 12))
    ]
    assert all(np.array_equal(whole[kind], parts[0][kind] + parts[1][kind]) for kind in (0, 1))


def test_cosines_a_rounding_beyond_one_are_counted_at_the_ends():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 2]), np.array([2, 2]))
    genuine, impostor = pair_histogram(np.array([[1.0000002, -1.0000002]], np.float32), query, gallery)
    assert (genuine[NUM_BINS - 1], impostor[0]) == (1, 1)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_is_the_lowest_that_keeps_the_rate(rate, seed):
    cosines = np.clip(np.random.default_rng(seed).normal(0.2, 0.2, 2000), -0.999, 0.999)
    histogram = pair_histogram(cosines[None], Ids(np.array([1]), np.array([1])), Ids(np.full(2000, 2), np.full(2000, 2)))[1]
    threshold = threshold_at(histogram, rate)
    assert (cosines >= threshold).sum() <= rate * 2000
    assert (cosines >= threshold - 1e-4).sum() > rate * 2000  # one bin lower lets too many through


def test_genuine_pairs_are_accepted_at_and_above_the_threshold():
    genuine = np.zeros(NUM_BINS, int)
    genuine[[9_999, 10_000, 15_000]] = 2, 3, 5  # just below 0, just above 0, 0.5
    assert [accept_rate(genuine, threshold) for threshold in (-1, 0.0, 0.0001, 0.5, 1.0)] == [1.0, 0.8, 0.5, 0.5, 0.0]


def test_without_genuine_pairs_none_is_accepted():
    assert accept_rate(np.zeros(NUM_BINS, int), 0.0) == 0.0


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(metrics)
    assert (results.failed, results.attempted > 0) == (0, True)
