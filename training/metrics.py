"""Ranking metrics in pure numpy: CMC, mAP by both rules, mINP.

Shapes: Q queries, G gallery crops, K best matches. `score_QG` is higher-is-closer: the cosine, or minus a distance.

Junk and distractors: a gallery crop with the query's pid and the query's camid is junk and is left out of its ranking; every
other crop counts, so distractors (pid 0) stay and are always wrong. A query without any correct crop left is not valid and
leaves every mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from training.samples import DISTRACTOR_PID

MAX_RANK = 50  # length of the CMC curve, as in the literature
NUM_TOP = 10  # best matches kept for the pictures


@dataclass(frozen=True)
class Ids:
    """Who and where, for a list of crops: pids int [N], camids int [N]."""

    pids: np.ndarray
    camids: np.ndarray

    def at(self, rows: slice) -> "Ids":
        return Ids(self.pids[rows], self.camids[rows])


@dataclass(frozen=True)
class QueryScores:
    """One row per query: is_valid bool [Q], first_hit int [Q] (rank of the first correct crop, from 1), AP (mean of precisions),
    trapezoid AP and INP float [Q], right float [Q] (score of the best correct crop), gap float [Q] (best wrong score minus
    that: positive where the first match is wrong), top_QK int [Q, NUM_TOP] (gallery indices of the best matches without junk,
    -1 where there are fewer)."""

    is_valid: np.ndarray
    first_hit: np.ndarray
    ap: np.ndarray
    trapezoid_ap: np.ndarray
    inp: np.ndarray
    right: np.ndarray
    gap: np.ndarray
    top_QK: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What one evaluation saw, for its pictures; scores rise with closeness: the cosine, or minus the distance.

    genuine_B, impostor_B: int64 [B], pairs by score, junk left out; edges: float64 [B + 1], the scores between bins.
    is_valid bool [Q], ap float64 [Q], first_hit int64 [Q] as in QueryScores. top_QK: int64 [Q, 10], gallery indices of each
    query's best matches without junk, -1 where there are fewer. norms: float32 [G] lengths of the gallery's features by name
    ("f_t", "f_i"), empty where only unit embeddings are known.
    """

    genuine_B: np.ndarray
    impostor_B: np.ndarray
    edges: np.ndarray
    is_valid: np.ndarray
    ap: np.ndarray
    first_hit: np.ndarray
    top_QK: np.ndarray
    norms: dict[str, np.ndarray]


def same_pid(query: Ids, gallery: Ids) -> np.ndarray:
    """Returns bool [Q, G]: same identity, junk included; a distractor is nobody, not even another distractor."""
    same_pid_QG: np.ndarray = (query.pids[:, None] == gallery.pids[None, :]) & (query.pids[:, None] != DISTRACTOR_PID)
    return same_pid_QG


def junk_mask(query: Ids, gallery: Ids) -> np.ndarray:
    """Returns bool [Q, G]: same identity seen by the same camera."""
    junk_QG: np.ndarray = same_pid(query, gallery) & (query.camids[:, None] == gallery.camids[None, :])
    return junk_QG


def score_queries(score_QG: np.ndarray, query: Ids, gallery: Ids) -> QueryScores:
    """Ranks the gallery for each query and scores the ranking; ties keep the gallery's order. Scores must be finite.

    INP is (number of correct crops) / (rank of the last one), Ye et al. 2021; both rules of AP are told at their functions.

    >>> query, gallery = Ids(np.array([1]), np.array([1])), Ids(np.array([1, 2, 1, 1]), np.array([1, 2, 2, 3]))
    >>> scores = score_queries(np.array([[0.9, 0.8, 0.7, 0.1]]), query, gallery)  # junk, wrong, right, right
    >>> int(scores.first_hit[0]), round(float(scores.ap[0]), 4), round(float(scores.inp[0]), 4)
    (2, 0.5833, 0.6667)
    """
    num_queries = len(query.pids)
    scores = QueryScores(
        is_valid=np.zeros(num_queries, bool),
        first_hit=np.zeros(num_queries, np.int64),
        ap=np.zeros(num_queries),
        trapezoid_ap=np.zeros(num_queries),
        inp=np.zeros(num_queries),
        right=np.full(num_queries, -np.inf),
        gap=np.full(num_queries, -np.inf),
        top_QK=np.full((num_queries, NUM_TOP), -1, np.int64),
    )
    same_pid_QG, is_junk_QG = same_pid(query, gallery), junk_mask(query, gallery)
    for row in range(num_queries):
        score_G = np.where(is_junk_QG[row], -np.inf, score_QG[row])  # below every other crop
        ladder_G = np.sort(score_G)  # a plain sort is several times faster than a stable argsort, and enough
        best = best_matches(score_G, ladder_G, int(np.count_nonzero(~is_junk_QG[row])))
        scores.top_QK[row, : len(best)] = best
        correct = np.flatnonzero(same_pid_QG[row] & ~is_junk_QG[row])
        if len(correct) == 0:
            continue
        ranks = ranks_of(correct, score_G, ladder_G)
        scores.is_valid[row] = True
        scores.first_hit[row] = ranks[0]
        scores.ap[row] = mean_precision(ranks)
        scores.trapezoid_ap[row] = trapezoid_precision(ranks)
        scores.inp[row] = len(ranks) / ranks[-1]
        scores.right[row] = score_G[correct].max()
        scores.gap[row] = score_G.max(where=~same_pid_QG[row], initial=-np.inf) - scores.right[row]
    return scores


def best_matches(score_G: np.ndarray, ladder_G: np.ndarray, num_kept: int) -> np.ndarray:
    """Returns the places of the NUM_TOP highest scores (of `num_kept` that are no junk) by falling score, ties by place."""
    count = min(NUM_TOP, num_kept)
    if count == 0:
        return np.zeros(0, np.int64)
    places = np.flatnonzero(score_G >= ladder_G[-count])
    return places[np.argsort(-score_G[places], kind="stable")[:count]]


def ranks_of(places: np.ndarray, score_G: np.ndarray, ladder_G: np.ndarray) -> np.ndarray:
    """Returns the ranks (from 1, rising) that `places` have by falling score; ladder_G is score_G sorted to rise."""
    end = np.searchsorted(ladder_G, score_G[places], side="right")
    ranks: np.ndarray = len(ladder_G) - end + 1
    is_tied = end - np.searchsorted(ladder_G, score_G[places], side="left") > 1
    for index in np.flatnonzero(is_tied):
        ranks[index] += np.count_nonzero(score_G[: places[index]] == score_G[places[index]])
    ranks.sort()
    return ranks


def mean_precision(ranks: np.ndarray) -> float:
    """Returns AP as the mean of the precision at each correct crop, given their ranks: the released code's rule, and ours.

    >>> mean_precision(np.array([1, 4]))  # (1/1 + 2/4) / 2
    0.75
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def trapezoid_precision(ranks: np.ndarray) -> float:
    """Returns AP by the trapezoid rule of the Market-1501 kit (Zheng et al. 2015): each correct crop counts with the mean of the
    precisions at its rank and at the rank before, which is 1 before the first rank.

    >>> trapezoid_precision(np.array([1, 4]))  # ((1 + 1/1) / 2 + (1/3 + 2/4) / 2) / 2
    0.7083333333333333
    """
    found = np.arange(1, len(ranks) + 1)
    before = np.where(ranks == 1, 1.0, (found - 1) / np.maximum(ranks - 1, 1))
    return float(np.mean((before + found / ranks) / 2))


def join(parts: Sequence[QueryScores]) -> QueryScores:
    """Returns the scores of consecutive chunks of queries as one."""
    return QueryScores(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(QueryScores)))


def cmc(scores: QueryScores) -> np.ndarray:
    """Returns float [MAX_RANK]: share of valid queries whose first correct crop stands at rank k or better, k = 1 .. MAX_RANK."""
    first_hit = scores.first_hit[scores.is_valid]
    return np.array([(first_hit <= rank).mean() for rank in range(1, MAX_RANK + 1)])
