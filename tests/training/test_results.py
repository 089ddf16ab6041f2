"""The figures and the table, from scores worked by hand."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from training import metrics, verification
from training.evaluate import score
from training.results import EvalResult, reranked, table


def one_hot(samples, *, num_ids=50):
    return np.eye(num_ids, dtype=np.float32)[[sample.pid for sample in samples]]


def two_of_three(people, **options):
    """Query 0 finds its match third, behind a distractor; query 1 finds it first; query 2 (pid 3) has only junk."""
    data = people(query=[(1, 1), (2, 1), (3, 1)], gallery=[(1, 2), (2, 2), (0, 3), (3, 1)])
    query = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    gallery = np.array([[0.6, 0.8], [0, 1], [1, 0], [1, 0]], np.float32)  # query 0 ranks gallery 2, 3, 0, 1
    return score(query, gallery, data, **options)


def test_perfect_embeddings_give_perfect_figures(people):
    data = people(query=[(1, 1), (2, 1)], gallery=[(1, 1), (1, 2), (2, 2), (0, 3), (2, 3), (0, 4), (0, 5)])
    result = score(one_hot(data.query), one_hot(data.gallery), data)
    assert (result.mAP, result.mINP, result.rank1, result.cmc) == (1, 1, 1, (1.0,) * 50)
    assert (result.trapezoid_mAP, result.intra_inter, result.margin) == (1, 0, 0)
    assert set(result.roc.values()) == {1.0}


def test_the_figures_are_means_over_valid_queries(people):
    result = two_of_three(people)
    assert (result.num_queries, result.num_valid_queries, result.num_gallery) == (3, 2, 4)
    assert result.mAP == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert result.trapezoid_mAP == pytest.approx((1 / 6 + 1) / 2, abs=1e-6)
    assert result.mINP == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert result.cmc[:3] == (0.5, 0.5, 1.0)
    assert result.margin == pytest.approx(0.4)
    assert (result.data, result.feature, result.metric, result.flip) == ("people", "f_i", "cosine", False)


def test_thresholds_are_cosines_and_their_rates_stand_in_the_roc(people):
    data = people(query=[(1, 1), (2, 1), (3, 1)], gallery=[(1, 2), (2, 2), (0, 3), (3, 1), (0, 4)])
    rows = np.array([[1, 0], [0, 1], [1, 0]], np.float32), np.array([[0.6, 0.8], [0, 1], [1, 0], [1, 0], [0, -1]], np.float32)
    result = score(*rows, data)
    query, gallery = (
        metrics.Ids(np.array([1, 2, 3]), np.ones(3)),
        metrics.Ids(np.array([1, 2, 0, 3, 0]), np.array([2, 2, 3, 1, 4])),
    )
    cosines = rows[0] @ rows[1].T
    counts = verification.pair_histogram(cosines, query, gallery, verification.bin_edges(-1, 1))
    edges = verification.bin_edges(-1, 1)
    assert result.far == pytest.approx({"0.1": verification.threshold_at(counts[1], 0.1, edges)})
    assert result.roc == {"0.1": verification.true_accept_rate(*counts, 0.1)}


def test_a_rate_below_one_pair_of_those_there_are_is_not_told_as_measured(people):
    result = two_of_three(people)
    assert (result.num_impostor_pairs, result.far) == (9, {})
    assert "false-accept rates 0.1, 0.01, 0.001, 0.0001: not measurable with 9 impostor pairs" in table(result)


def test_the_euclidean_metric_has_a_roc_but_no_thresholds(people):
    euclidean, cosine = two_of_three(people, metric="euclidean"), two_of_three(people)
    assert (euclidean.metric, euclidean.far, euclidean.margin) == ("euclidean", {}, 0)
    assert euclidean.roc == cosine.roc  # of unit rows both metrics rank alike
    assert (euclidean.mAP, euclidean.intra_inter) == (cosine.mAP, pytest.approx(cosine.intra_inter, abs=1e-4))


def test_a_list_without_a_valid_query_is_refused(people):
    data = people(query=[(1, 1), (2, 1)], gallery=[(1, 1), (3, 2)])
    with pytest.raises(ValueError, match="people: none of 2 queries has its identity in the gallery under another camera"):
        score(one_hot(data.query), one_hot(data.gallery), data)


def test_reranked_figures_stand_beside_their_settings(people):
    result = two_of_three(people, rerank=True, k1=3, k2=2, blend=1.0)  # a blend of 1 is the original distance
    assert result.rerank == {"rank1": 0.5, "rank5": 1, "rank10": 1, "mAP": result.mAP, "mINP": result.mINP} | {
        "k1": 3,
        "k2": 2,
        "blend": 1.0,
    }
    assert two_of_three(people).rerank is None


def test_reranked_figures_are_means_over_valid_queries():
    query, gallery = metrics.Ids(np.array([1, 9]), np.ones(2)), metrics.Ids(np.array([2, 1]), np.array([2, 2]))
    scores = metrics.score_queries(np.array([[0.9, 0.8], [0.9, 0.8]]), query, gallery)
    found = reranked(scores, k1=5, k2=2, blend=0.3)
    assert found == {"rank1": 0, "rank5": 1, "rank10": 1, "mAP": 0.5, "mINP": 0.5, "k1": 5, "k2": 2, "blend": 0.3}


def test_a_result_goes_through_json_unharmed(people):
    result = two_of_three(people, rerank=True, k1=3, k2=2)
    values = json.loads(json.dumps(asdict(result)))
    assert EvalResult(**values | {"cmc": tuple(values["cmc"])}) == result


def test_the_table_is_in_percent(people):
    text = table(two_of_three(people, rerank=True, k1=3, k2=2, blend=1.0))
    assert "people: rank-1 50.0  rank-5 100.0  rank-10 100.0  mAP 66.7  mINP 66.7" in text
    assert "2 valid of 3 queries against 4 gallery crops, f_i by cosine; mAP by the trapezoid rule 58.3" in text
    assert "re-ranked (k1 3, k2 2, blend 1): rank-1 50.0  rank-5 100.0  rank-10 100.0  mAP 66.7  mINP 66.7" in text


def test_the_table_gives_the_threshold_of_every_measured_rate(people):
    result = replace(two_of_three(people), far={"0.1": 0.5}, roc={"0.1": 0.923})
    assert "false-accept rate    0.1: cosine >= 0.5000 accepts 92.3 % of genuine pairs" in table(result)


def test_the_table_names_flips_features_and_open_set_rates(people):
    result = replace(two_of_three(people, metric="euclidean"), flip=True, feature="f_t", dir={"0.01": 0.612}, intra_inter=0.5904)
    text = table(result)
    assert "f_t by euclidean, crops and their mirrors;" in text
    assert "open set, false-alarm rate   0.01: 61.2 % of enrolled people found and believed" in text
    assert "mean distance of genuine pairs / of impostor pairs: 0.590" in text
    assert ">=" not in text
