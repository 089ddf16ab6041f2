"""Open-set figures: by hand, and against a gallery that really loses its identities."""

import numpy as np
import pytest

from training.metrics import Ids, score_queries
from training.openset import FALSE_ALARM_RATES, Draws, best_wrong, detection_rates, draw


def random_case(seed, *, num_queries=60, num_gallery=150, num_ids=20):
    rng = np.random.default_rng(seed)
    query = Ids(rng.integers(1, num_ids + 3, num_queries), rng.integers(1, 4, num_queries))  # the last are in no gallery
    gallery = Ids(rng.integers(0, num_ids, num_gallery), rng.integers(1, 4, num_gallery))
    scores = rng.uniform(-1, 1, (num_queries, num_gallery)) + 0.8 * (query.pids[:, None] == gallery.pids)
    return np.round(scores, 2), query, gallery


def rates_of(scores, query, gallery, draws):
    return detection_rates(score_queries(scores, query, gallery), best_wrong(scores, query, draws), query, draws)


def slow_rates(scores, query, gallery, draws):
    """DIR at rank 1 by false-alarm rate: each draw deletes its identities from the gallery and looks at what is left."""
    shares = {rate: [] for rate in FALSE_ALARM_RATES}
    for is_removed in draws.is_removed_DP:
        removed = set(draws.pids_P[is_removed].tolist())
        kept = [column for column, pid in enumerate(gallery.pids) if pid not in removed]
        alarms, found, num_mated = [], [], 0
        for row, (pid, camid) in enumerate(zip(query.pids, query.camids, strict=True)):
            others = [
                (scores[row, c], gallery.pids[c] == pid) for c in kept if gallery.pids[c] != pid or gallery.camids[c] != camid
            ]
            if pid in removed or pid not in gallery.pids:
                alarms.append(max(score for score, _ in others))
            elif any(is_right for _, is_right in others):
                num_mated += 1
                best, is_wrong = max((score, not is_right) for score, is_right in others)  # a tie goes to the wrong one
                found += [] if is_wrong else [best]
        for rate in FALSE_ALARM_RATES:
            thresholds = sorted({*alarms, *found, np.inf})
            within = [t for t in thresholds if sum(alarm >= t for alarm in alarms) <= rate * len(alarms) + 1e-9]
            shares[rate].append(sum(score >= min(within) for score in found) / num_mated)
            if rate * len(alarms) < 1:
                shares[rate] = [np.nan] * len(shares[rate])
    return {f"{rate:g}": round(float(np.mean(each)), 6) for rate, each in shares.items() if not np.isnan(each).any()}


@pytest.mark.parametrize("seed", range(8))
def test_rates_equal_those_of_a_gallery_without_the_removed_identities(seed):
    scores, query, gallery = random_case(seed)
    draws = draw(query, gallery, seed=seed, num_draws=4)
    wanted = slow_rates(scores, query, gallery, draws)
    assert "0.1" in wanted
    assert rates_of(scores, query, gallery, draws) == pytest.approx(wanted)


def test_a_case_by_hand():
    """Identity 2 has left the gallery; of its ten queries one reaches 0.6, so at one alarm in ten 0.5 must be exceeded."""
    query = Ids(np.array([1, 1, 1, 1] + [2] * 10), np.full(14, 1))
    gallery = Ids(np.array([1, 2, 3]), np.full(3, 2))
    mated = [[0.9, 0.0, 0.1], [0.55, 0.0, 0.1], [0.5, 0.0, 0.1], [0.7, 0.0, 0.8]]  # believed, believed, too low, wrong
    strangers = [[0.6, 0.99, 0.0], [0.5, 0.99, 0.0]] + [[0.1, 0.99, 0.2]] * 8
    draws = Draws(np.array([1, 2, 3]), np.arange(3), np.arange(3), np.array([[False, True, False]]))
    assert rates_of(np.array(mated + strangers), query, gallery, draws) == {"0.1": 0.5}


def test_half_of_the_searched_identities_leave_in_every_draw_and_others_stay():
    query, gallery = Ids(np.array([4, 7, 7, 9, 5, 8]), np.ones(6)), Ids(np.array([9, 0, 4, 5, 7, 3, 7]), np.full(7, 2))
    draws = draw(query, gallery, seed=0, num_draws=50)
    assert draws.pids_P.tolist() == [0, 3, 4, 5, 7, 9]
    assert set(draws.is_removed_DP.sum(axis=1)) == {2}  # of 4, 5, 7, 9; the distractor and 3 are searched by nobody
    assert draws.is_removed_DP.any(axis=0).tolist() == [False, False, True, True, True, True]


def test_the_seed_draws_the_identities():
    _, query, gallery = random_case(0)
    first, again, other = (draw(query, gallery, seed=seed).is_removed_DP for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_best_wrong_scores_leave_out_the_own_identity_and_the_removed():
    query = Ids(np.array([1]), np.array([1]))  # the gallery's pids are 2, 1, 0, 2, 3
    draws = Draws(np.arange(4), np.array([2, 1, 0, 3, 4]), np.array([0, 1, 2, 4]), np.eye(4, dtype=bool)[[2, 3]])
    assert best_wrong(np.array([[0.7, 0.9, 0.1, 0.8, 0.3]]), query, draws).tolist() == [[0.3, 0.8]]


def test_rates_without_enough_strangers_are_left_out():
    scores, query, gallery = random_case(0)
    assert rates_of(scores, query, gallery, draw(query, gallery)).keys() == {"0.1"}
    few = (scores[:8], query.at(slice(0, 8)), gallery)
    assert rates_of(*few, draw(few[1], gallery)) == {}


def test_one_identity_alone_has_no_open_set():
    query, gallery = Ids(np.full(30, 1), np.full(30, 1)), Ids(np.array([1]), np.array([2]))
    assert rates_of(np.full((30, 1), 0.5), query, gallery, draw(query, gallery)) == {}
