"""Re-identification metrics in pure numpy: CMC, mAP, mINP, and the verification figures that thresholds are made from.

Shapes: Q queries, G gallery crops, B histogram bins. `cosine_QG` is higher-is-closer.

Junk and distractors: a gallery crop with the query's pid and the query's camid is junk and is left out of its ranking; every
other crop counts, so distractors (pid 0) stay and are always wrong. A query without any correct crop left is not valid and
leaves every mean.
"""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 20_000  # of cosine -1..1: thresholds are exact to 1e-4
MAX_RANK = 50  # length of the CMC curve, as in the literature
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Ids:
    """Who and where, for a list of crops: pids int [N], camids int [N]."""

    pids: np.ndarray
    camids: np.ndarray


@dataclass(frozen=True)
class QueryScores:
    """One row per query: is_valid bool [Q], first_hit int [Q] (rank of the first correct crop, from 1), AP and INP float [Q],
    gap float [Q] (best wrong cosine minus best correct one: positive where the first match is wrong)."""

    is_valid: np.ndarray
    first_hit: np.ndarray
    ap: np.ndarray
    inp: np.ndarray
    gap: np.ndarray


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


def junk_mask(query: Ids, gallery: Ids) -> np.ndarray:
    """Returns bool [Q, G]: same identity seen by the same camera."""
    same_pid_QG = query.pids[:, None] == gallery.pids[None, :]
    same_camid_QG = query.camids[:, None] == gallery.camids[None, :]
    junk_QG: np.ndarray = same_pid_QG & same_camid_QG
    return junk_QG


def score_queries(cosine_QG: np.ndarray, query: Ids, gallery: Ids) -> QueryScores:
    """Ranks the gallery for each query and scores the ranking; ties keep the gallery's order.

    AP is the mean of the precision at each correct crop (as the released code and most papers since 2018; the original
    Market-1501 kit uses the trapezoid rule and comes out a little different). INP is (number of correct crops) / (rank of the
    last one), Ye et al. 2021.

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
        inp=np.zeros(num_queries),
        gap=np.full(num_queries, -np.inf),
    )
    is_junk_QG = junk_mask(query, gallery)
    for row in range(num_queries):
        order = np.argsort(-cosine_QG[row], kind="stable")
        order = order[~is_junk_QG[row, order]]
        is_correct = gallery.pids[order] == query.pids[row]
        ranks = np.flatnonzero(is_correct) + 1
        if len(ranks) == 0:
            continue
        scores.is_valid[row] = True
        scores.first_hit[row] = ranks[0]
        scores.ap[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
        scores.inp[row] = len(ranks) / ranks[-1]
        if not is_correct.all():
            best_wrong = order[np.argmin(is_correct)]
            scores.gap[row] = cosine_QG[row, best_wrong] - cosine_QG[row, order[ranks[0] - 1]]
    return scores


def cmc(scores: QueryScores) -> np.ndarray:
    """Returns float [MAX_RANK]: share of valid queries whose first correct crop stands at rank k or better, k = 1 .. MAX_RANK."""
    first_hit = scores.first_hit[scores.is_valid]
    return np.array([(first_hit <= rank).mean() for rank in range(1, MAX_RANK + 1)])


def pair_histogram(cosine_QG: np.ndarray, query: Ids, gallery: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Counts pairs by cosine: genuine int [B] and impostor int [B], junk left out. Histograms of chunks of queries add up."""
    bins_QG = np.clip(((cosine_QG + 1) * (NUM_BINS / 2)).astype(np.int32), 0, NUM_BINS - 1)
    is_junk_QG = junk_mask(query, gallery)
    is_genuine_QG = query.pids[:, None] == gallery.pids[None, :]
    genuine_B = np.bincount(bins_QG[is_genuine_QG & ~is_junk_QG], minlength=NUM_BINS)
    impostor_B = np.bincount(bins_QG[~is_genuine_QG], minlength=NUM_BINS)
    return genuine_B, impostor_B


def threshold_at(impostor_B: np.ndarray, rate: float) -> float:
    """Returns the lowest cosine threshold that at most `rate` of the impostor pairs reach.

    >>> histogram = np.zeros(NUM_BINS, int); histogram[[5_000, 15_000]] = 99, 1  # 99 impostors at -0.5, one at 0.5
    >>> threshold_at(histogram, 0.01), threshold_at(histogram, 0.001)
    (-0.4999, 0.5001)
    """
    reaching_B = np.append(np.cumsum(impostor_B[::-1])[::-1], 0)  # impostors at or above each bin's lower edge
    first = int(np.argmax(reaching_B <= rate * impostor_B.sum()))
    return round(first * 2 / NUM_BINS - 1, 4)


def accept_rate(genuine_B: np.ndarray, threshold: float) -> float:
    """Returns the share of genuine pairs at or above `threshold`."""
    first = round((threshold + 1) * NUM_BINS / 2)
    return float(genuine_B[first:].sum() / max(genuine_B.sum(), 1))
