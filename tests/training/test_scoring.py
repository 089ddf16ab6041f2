"""The pass over the queries: chunks, both metrics, the bounds of its histograms, and what it refuses."""

from functools import partial

import numpy as np
import pytest

from gallery import rerank
from training import metrics, scoring, verification
from training.metrics import Ids
from training.rerank_gpu import find_neighbours
from training.scoring import check_rows, chunks, distance_bound, distances_of, rank, rank_again, score_chunk

on_cpu = partial(find_neighbours, device="cpu")


def random_ids(count, seed, *, lowest_pid=1):
    rng = np.random.default_rng(seed)
    return Ids(rng.integers(lowest_pid, 40, count), rng.integers(1, 4, count))


def raw_rows(ids, seed, *, width=16):
    """Features as they leave a network with ReLU: far from zero, of different lengths, close within an identity."""
    people = np.random.default_rng(0).normal(size=(50, width))[ids.pids]
    noise = np.random.default_rng(seed).normal(size=people.shape)
    return np.maximum(5 + people + 0.7 * noise, 0).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_distances(query, gallery):
    return np.linalg.norm(query[:, None].astype(np.float64) - gallery[None], axis=2)


@pytest.fixture(name="case")
def case_fixture():
    query, gallery = random_ids(70, 1), random_ids(300, 2, lowest_pid=0)
    return raw_rows(query, 3), raw_rows(gallery, 4), query, gallery


def test_chunks_hold_every_query_once_and_no_more_scores_than_allowed():
    rows = list(chunks(1_000, 50, cells=15_049))
    assert [place for one in rows for place in range(one.start, one.stop)] == list(range(1_000))
    assert [one.stop - one.start for one in rows] == [300, 300, 300, 100]


def test_a_gallery_beyond_the_limit_is_searched_query_by_query():
    assert list(chunks(2, 101, cells=100)) == [slice(0, 1), slice(1, 2)]


def test_the_euclidean_score_is_minus_the_distance(case):
    query, gallery, *_ = case
    scores = score_chunk(query, gallery, (gallery**2).sum(axis=1), "euclidean")
    assert scores == pytest.approx(-slow_distances(query, gallery), abs=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scores_give_back_the_euclidean_distances(case, metric):
    query, gallery = (unit(rows) if metric == "cosine" else rows for rows in case[:2])
    scores = score_chunk(query, gallery, (gallery**2).sum(axis=1), metric)
    before = scores.copy()
    assert distances_of(scores, metric) == pytest.approx(slow_distances(query, gallery), abs=1e-3)
    assert np.array_equal(scores, before)


def test_no_distance_passes_the_bound_and_the_bound_is_close(case):
    query, gallery, *_ = case
    farthest = slow_distances(query, gallery).max()
    assert farthest <= distance_bound(query, gallery) <= 2 * farthest


def test_equal_features_still_have_a_range():
    assert distance_bound(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)) > 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_figures_equal_those_of_the_whole_matrix(case, metric):
    *rows, query, gallery = case
    rows = [unit(each) for each in rows] if metric == "cosine" else rows
    scored = rank(*rows, query, gallery, metric=metric, seed=0)
    distances = slow_distances(*rows)
    whole = metrics.score_queries(-distances, query, gallery)
    assert np.array_equal(scored.queries.first_hit, whole.first_hit)
    assert scored.queries.ap == pytest.approx(whole.ap)
    assert np.array_equal(scored.queries.top_QK, whole.top_QK)
    same = query.pids[:, None] == gallery.pids
    is_genuine = same & (query.camids[:, None] != gallery.camids)
    assert scored.intra_inter == pytest.approx(distances[is_genuine].mean() / distances[~same].mean(), rel=1e-4)
    assert (scored.genuine_B.sum(), scored.impostor_B.sum()) == (is_genuine.sum(), (~same).sum())
    assert scored.dir.keys() == {"0.1"}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_chunks_do_not_change_the_figures(case, metric):
    *rows, query, gallery = case
    rows = [unit(each) for each in rows] if metric == "cosine" else rows
    small, whole = (rank(*rows, query, gallery, metric=metric, seed=0, cells=cells) for cells in (2_100, 10**6))
    assert np.array_equal(small.queries.first_hit, whole.queries.first_hit)
    assert small.queries.ap == pytest.approx(whole.queries.ap)
    assert small.queries.gap == pytest.approx(whole.queries.gap, abs=1e-4)  # rounding of products
    assert (small.dir, small.intra_inter) == (whole.dir, pytest.approx(whole.intra_inter))
    assert np.abs(np.cumsum(small.impostor_B - whole.impostor_B)).max() <= 20  # a rounding moves a pair to the next bin


def test_the_euclidean_roc_is_exact_to_a_bin(case):
    *rows, query, gallery = case
    scored = rank(*rows, query, gallery, metric="euclidean", seed=0)
    distances = slow_distances(*rows)
    same = query.pids[:, None] == gallery.pids
    genuine, impostor = distances[same & (query.camids[:, None] != gallery.camids)], distances[~same]
    threshold = -verification.threshold_at(scored.impostor_B, 0.01, scored.edges)
    assert (scored.edges[0] < -distances.max(), scored.edges[-1]) == (True, 0)
    assert threshold == pytest.approx(np.quantile(impostor, 0.01), abs=0.01)
    exact = (genuine <= threshold).mean()
    assert verification.true_accept_rate(scored.genuine_B, scored.impostor_B, 0.01) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_reranked_lists_are_those_of_the_gallerys_reranking_on_unit_rows(case, metric):
    *rows, query, gallery = case
    units = [unit(each) for each in rows]
    again = rank_again(*(units if metric == "cosine" else rows), query, gallery, metric=metric, k1=8, k2=3, blend=0.3)
    distances = rerank.distances(rerank.prepare(*units, k1=8, k2=3, blend=0.3), slice(0, len(query.pids)))
    whole = metrics.score_queries(-distances, query, gallery)
    assert again.ap == pytest.approx(whole.ap)
    assert again.ap.mean() != pytest.approx(scoring.rank(*units, query, gallery, metric="cosine", seed=0).queries.ap.mean())


def test_neighbours_found_by_torch_give_the_same_lists(case):
    *rows, query, gallery = case
    settings = {"metric": "euclidean", "k1": 8, "k2": 3, "blend": 0.3}
    own, torchs = (rank_again(*rows, query, gallery, **settings, find=find) for find in (None, on_cpu))
    assert torchs.ap == pytest.approx(own.ap)
    assert np.array_equal(torchs.first_hit, own.first_hit)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (5, 4)), r"got query \(3, 4\) and gallery \(5, 4\), wanted \(2, 5\) rows of one width"),
        (((2, 4), (6, 4)), "wanted .* rows of one width"),
        (((2, 4), (5, 3)), "wanted .* rows of one width"),
    ],
)
def test_rows_that_do_not_fit_the_lists_are_refused(shapes, message):
    query, gallery = random_ids(2, 0), random_ids(5, 0)
    with pytest.raises(ValueError, match=message):
        check_rows(*(np.ones(shape, np.float32) for shape in shapes), query, gallery, "euclidean")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_row_that_is_not_finite_is_refused_by_its_number(bad, metric):
    query, gallery = random_ids(2, 0), random_ids(5, 0)
    rows = np.eye(5, 4, dtype=np.float32) + np.eye(5, 4, -4, dtype=np.float32)
    rows[3, 1] = bad
    with pytest.raises(ValueError, match="got a gallery row that is not finite at 3"):
        check_rows(rows[:2], rows, query, gallery, metric)


def test_raw_features_are_refused_for_the_cosine_alone(case):
    check_rows(*case, "euclidean")
    with pytest.raises(ValueError, match=r"got query row \d+ of length \d+\.\d+, wanted unit rows for the cosine"):
        check_rows(*case, "cosine")
