"""CMC, AP by both rules and mINP: by hand, against slow obvious counting, and against another library."""

import doctest
import json
import subprocess
import sys

import numpy as np
import pytest

from training import metrics
from training.metrics import MAX_RANK, NUM_TOP, Ids, cmc, join, junk_mask, score_queries, trapezoid_precision

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


def slow_ranking(cosines, query, gallery, row):
    """The gallery's places for one query, best first, without junk."""
    ranking = sorted(range(len(gallery.pids)), key=lambda column: (-cosines[row, column], column))
    pid, camid = query.pids[row], query.camids[row]
    return [column for column in ranking if gallery.pids[column] != pid or gallery.camids[column] != camid]


def slow_scores(cosines, query, gallery):
    """(is_valid, first_hit, AP, INP, best correct score, gap) of each query, by walking down its ranking."""
    for row, pid in enumerate(query.pids):
        hits, precisions, best = [], [], {True: None, False: None}
        for rank, column in enumerate(slow_ranking(cosines, query, gallery, row), start=1):
            is_correct = bool(gallery.pids[column] == pid)
            best[is_correct] = cosines[row, column] if best[is_correct] is None else best[is_correct]
            if is_correct:
                hits.append(rank)
                precisions.append(len(hits) / rank)
        if not hits:
            yield (False, 0, 0.0, 0.0, -np.inf, -np.inf)
            continue
        gap = -np.inf if best[False] is None else best[False] - best[True]
        yield (True, hits[0], sum(precisions) / len(hits), len(hits) / hits[-1], best[True], gap)


def kit_ap(is_correct):
    """AP of the Market-1501 kit: the area under precision over recall, one trapezoid per place of the ranking."""
    area, before, found = 0.0, (0.0, 1.0), 0
    for rank, is_hit in enumerate(is_correct, start=1):
        found += is_hit
        recall, precision = found / sum(is_correct), found / rank
        area += (recall - before[0]) * (before[1] + precision) / 2
        before = (recall, precision)
    return area


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
    got = zip(scores.is_valid, scores.first_hit, scores.ap, scores.inp, scores.right, scores.gap, strict=True)
    for mine, wanted in zip(got, slow_scores(cosines, query, gallery), strict=True):
        assert mine == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_share_of_first_hits_within_each_rank(seed):
    scores = score_queries(*random_case(seed))
    hits = [hit for hit, is_valid in zip(scores.first_hit, scores.is_valid, strict=True) if is_valid]
    assert cmc(scores).tolist() == pytest.approx([sum(hit <= k for hit in hits) / len(hits) for k in range(1, 51)])


@pytest.mark.parametrize("seed", range(10))
def test_the_best_matches_are_the_top_of_the_ranking(seed):
    cosines, query, gallery = random_case(seed)
    top = score_queries(cosines, query, gallery).top_QK
    assert [row.tolist() for row in top] == [slow_ranking(cosines, query, gallery, row)[:NUM_TOP] for row in range(12)]


def test_a_short_ranking_is_filled_up_with_minus_one():
    top = score_queries(COSINES, QUERIES, GALLERY).top_QK
    assert top[0].tolist() == [3, 1, 2, 5, 4, -1, -1, -1, -1, -1]
    assert top[2].tolist() == [4, 3, 2, 1, 0, -1, -1, -1, -1, -1]


def test_nothing_but_junk_leaves_no_match():
    one = Ids(np.array([1]), np.array([1]))
    scores = score_queries(np.array([[0.9]]), one, one)
    assert (scores.is_valid.tolist(), scores.top_QK.tolist()) == ([False], [[-1] * NUM_TOP])


def test_distractors_stay_in_the_gallery():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([0, 0, 1]), np.array([1, 2, 2]))
    scores = score_queries(np.array([[0.9, 0.8, 0.7]]), query, gallery)
    assert (scores.first_hit[0], scores.ap[0], scores.inp[0]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_junk_is_the_same_identity_under_the_same_camera_alone():
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 1, 2, 0]), np.array([1, 2, 1, 1]))
    assert junk_mask(query, gallery).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("ranks", "mean", "kit"),
    [([1], 1, 1), ([2], 1 / 2, 1 / 4), ([1, 2, 3], 1, 1), ([1, 4], 3 / 4, 17 / 24), ([2, 5], 9 / 20, 23 / 80)],
)
def test_both_rules_of_average_precision_by_hand(ranks, mean, kit):
    is_correct = np.isin(np.arange(1, 7), ranks)
    query, gallery = Ids(np.array([1]), np.array([1])), Ids(is_correct.astype(int), np.full(6, 2))
    scores = score_queries(np.linspace(1, 0, 6)[None], query, gallery)
    assert (scores.ap[0], scores.trapezoid_ap[0]) == (pytest.approx(mean), pytest.approx(kit))


@pytest.mark.parametrize("seed", range(10))
def test_the_trapezoid_rule_equals_the_kits_walk(seed):
    is_correct = np.random.default_rng(seed).random(40) < 0.2
    is_correct[seed] = True
    assert trapezoid_precision(np.flatnonzero(is_correct) + 1) == pytest.approx(kit_ap(is_correct.tolist()))


def test_scores_of_chunks_join_to_those_of_all():
    cosines, query, gallery = random_case(3)
    parts = [score_queries(cosines[rows], query.at(rows), gallery) for rows in (slice(0, 5), slice(5, 12))]
    for mine, whole in zip(vars(join(parts)).values(), vars(score_queries(cosines, query, gallery)).values(), strict=True):
        assert np.array_equal(mine, whole)


# In a process of its own: the library's import replaces faiss's search for the whole process.
THEIRS = """
import json, sys, numpy as np, torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
with np.load(sys.argv[1]) as given:
    calculator = AccuracyCalculator(include=("mean_average_precision", "precision_at_1"), k=None, device=torch.device("cpu"))
    rows = [torch.from_numpy(given[name]) for name in ("query", "pids", "gallery", "others")]
    print(json.dumps(calculator.get_accuracy(*rows)))
"""


@pytest.mark.slow
def test_figures_without_junk_agree_with_pytorch_metric_learning(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 8)).astype(np.float32) + 2 * rng.normal(size=(9, 8)).astype(np.float32).repeat(10, axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pids, is_query = np.repeat(np.arange(1, 10), 10), np.arange(90) % 5 == 0
    query, gallery = Ids(pids[is_query], np.zeros(18)), Ids(pids[~is_query], np.ones(72))
    scores = score_queries(rows[is_query] @ rows[~is_query].T, query, gallery)
    given = {"query": rows[is_query], "pids": query.pids, "gallery": rows[~is_query], "others": gallery.pids}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", THEIRS, str(tmp_path / "given.npz")]
    wanted = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout)
    assert 0.3 < wanted["mean_average_precision"] < 0.95
    assert (scores.ap.mean(), cmc(scores)[0]) == pytest.approx((wanted["mean_average_precision"], wanted["precision_at_1"]))
    assert len(cmc(scores)) == MAX_RANK


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(metrics)
    assert (results.failed, results.attempted > 0) == (0, True)
