"""Open-set identification: how often is an enrolled person found and believed, when strangers are rarely believed?

Shapes: Q queries, G gallery crops, P identities of the gallery, D draws. `score_QG` is higher-is-closer.

Phillips, Grother, Micheals, "Evaluation Methods in Face Recognition" (Handbook of Face Recognition, 2011): at a threshold, the
detection and identification rate (DIR) at rank 1 is the share of mated queries whose best match is right and reaches it; the
false-alarm rate the share of non-mated queries whose best match reaches it. (Grother and Ngan, NIST IR 8009, report 1 - DIR as
FNIR and the other as FPIR.) How we differ: re-identification sets have no strangers, so half of the identities, drawn by seed,
lose all their gallery crops and their queries become the strangers; the rate is the mean over several draws. An identity has as
many gallery crops as it has and is as close as its best one; junk is left out and distractors stay enrolled.
"""

from dataclasses import dataclass

import numpy as np

from training.metrics import Ids, QueryScores

FALSE_ALARM_RATES = (1e-1, 1e-2, 1e-3)
NUM_DRAWS = 10


@dataclass(frozen=True)
class Draws:
    """Who is enrolled in which draw: pids_P rising, order_G the gallery's places by pid, starts_P where each pid begins in them,
    is_removed_DP the identities without gallery crops."""

    pids_P: np.ndarray
    order_G: np.ndarray
    starts_P: np.ndarray
    is_removed_DP: np.ndarray


def draw(query: Ids, gallery: Ids, *, seed: int = 0, num_draws: int = NUM_DRAWS) -> Draws:
    """Removes half (rounded down) of the identities that have a query and a gallery crop, anew in each draw."""
    order_G = np.argsort(gallery.pids, kind="stable")
    pids_P, starts_P = np.unique(gallery.pids[order_G], return_index=True)
    searched = np.flatnonzero(np.isin(pids_P, query.pids))
    is_removed_DP = np.zeros((num_draws, len(pids_P)), bool)
    rng = np.random.default_rng(seed)
    for is_removed_P in is_removed_DP:
        is_removed_P[rng.choice(searched, len(searched) // 2, replace=False)] = True
    return Draws(pids_P, order_G, starts_P, is_removed_DP)


def best_wrong(score_QG: np.ndarray, query: Ids, draws: Draws) -> np.ndarray:
    """Returns float [Q, D]: each query's best score among the crops of other enrolled identities, -inf where there are none."""
    best_QP = np.maximum.reduceat(score_QG[:, draws.order_G], draws.starts_P, axis=1)
    best_QP[query.pids[:, None] == draws.pids_P] = -np.inf
    columns = [best_QP[:, ~is_removed_P].max(axis=1, initial=-np.inf) for is_removed_P in draws.is_removed_DP]
    return np.stack(columns, axis=1)


def detection_rates(scores: QueryScores, wrong_QD: np.ndarray, query: Ids, draws: Draws) -> dict[str, float]:
    """Returns DIR at rank 1 by false-alarm rate (text), mean over the draws.

    A rate is left out where a draw has too few non-mated queries for a single false alarm, or no mated one.
    """
    is_own_QP = query.pids[:, None] == draws.pids_P
    stranger_QD = is_own_QP @ draws.is_removed_DP.T | ~is_own_QP.any(axis=1)[:, None]
    mated_QD = scores.is_valid[:, None] & ~stranger_QD
    least = stranger_QD.sum(axis=0).min()
    rates = [rate for rate in FALSE_ALARM_RATES if rate * least >= 1 and mated_QD.any(axis=0).all()]
    found: dict[str, list[float]] = {f"{rate:g}": [] for rate in rates}
    for mated_Q, stranger_Q, wrong_Q in zip(mated_QD.T, stranger_QD.T, wrong_QD.T, strict=True):
        alarms = np.sort(wrong_Q[stranger_Q])[::-1]
        right, wrong = scores.right[mated_Q], wrong_Q[mated_Q]
        for rate in rates:
            loudest = alarms[int(rate * len(alarms) + 1e-9)]  # the first that must stay silent: a match is believed above it
            found[f"{rate:g}"].append(float(np.mean((right > wrong) & (right > loudest))))
    return {rate: round(float(np.mean(shares)), 6) for rate, shares in found.items()}
