"""Pairs instead of rankings: are these two crops the same person? Histograms of scores, ROC, thresholds, distance ratio.

Shapes: Q queries, G gallery crops, B histogram bins. `score_QG` is higher-is-closer. A pair is a query with a gallery crop:
genuine when the pids are equal, impostor when not (distractors included); junk (same pid, same camid) is neither.
"""

import numpy as np

from training.metrics import Ids, junk_mask, same_pid

NUM_BINS = 20_000  # of cosine -1..1: thresholds are exact to 1e-4
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)


def bin_edges(lowest: float, highest: float) -> np.ndarray:
    """Returns float64 [NUM_BINS + 1]: the scores between bins."""
    return np.linspace(lowest, highest, NUM_BINS + 1)


def pair_histogram(score_QG: np.ndarray, query: Ids, gallery: Ids, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts pairs by score: genuine int [B] and impostor int [B]; histograms of chunks of queries add up.

    A score outside the edges (a rounding beyond 1) counts in the bin at that end.
    """
    num_bins = len(edges) - 1
    bins_QG = score_QG - score_QG.dtype.type(edges[0])
    bins_QG *= num_bins / (edges[-1] - edges[0])
    np.clip(bins_QG, 0, num_bins - 1, out=bins_QG)
    same_pid_QG = same_pid(query, gallery)
    bins_QG = bins_QG.astype(np.int32)
    same_B = np.bincount(bins_QG[same_pid_QG], minlength=num_bins)
    genuine_B = np.bincount(bins_QG[same_pid_QG & ~junk_mask(query, gallery)], minlength=num_bins)
    return genuine_B, np.bincount(bins_QG.ravel(), minlength=num_bins) - same_B


def first_bin_within(impostor_B: np.ndarray, rate: float) -> int:
    """Returns the lowest bin that at most `rate` of the impostor pairs reach; B when even the highest bin holds more."""
    reaching_B = np.append(np.cumsum(impostor_B[::-1])[::-1], 0)  # impostors at or above each bin's lower edge
    return int(np.argmax(reaching_B <= rate * impostor_B.sum()))


def is_measured(rate: float, num_pairs: int) -> bool:
    """Tells whether a rate is at least one pair of so many: a smaller one says no more than none."""
    return rate * num_pairs >= 1 - 1e-9


def threshold_at(impostor_B: np.ndarray, rate: float, edges: np.ndarray) -> float:
    """Returns the lowest threshold, to a bin, that at most `rate` of the impostor pairs reach.

    >>> histogram = np.zeros(NUM_BINS, int); histogram[[5_000, 15_000]] = 99, 1  # 99 impostors at -0.5, one at 0.5
    >>> [round(threshold_at(histogram, rate, bin_edges(-1, 1)), 4) for rate in (0.01, 0.001)]
    [-0.4999, 0.5001]
    """
    return float(edges[first_bin_within(impostor_B, rate)])


def true_accept_rate(genuine_B: np.ndarray, impostor_B: np.ndarray, rate: float) -> float:
    """Returns the ROC's height at a false-accept rate: the share of genuine pairs that reach its threshold."""
    first = first_bin_within(impostor_B, rate)
    return float(genuine_B[first:].sum() / max(genuine_B.sum(), 1))


def roc_curve(genuine_B: np.ndarray, impostor_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC as float64 [B + 1] false-accept rates, rising from 0 to 1, and float64 [B + 1] true-accept rates."""
    accepted = (np.append(0, np.cumsum(counts_B[::-1])) for counts_B in (impostor_B, genuine_B))
    false_rates, true_rates = (counts / max(counts[-1], 1) for counts in accepted)
    return false_rates, true_rates


def distance_sums(distance_QG: np.ndarray, query: Ids, gallery: Ids) -> np.ndarray:
    """Returns float64 [4]: sum and number of the genuine pairs' distances, then of the impostor pairs'; chunks add up."""
    same_pid_QG = same_pid(query, gallery)
    same = distance_QG[same_pid_QG]
    genuine = distance_QG[same_pid_QG & ~junk_mask(query, gallery)]
    impostor_sum = distance_QG.sum(dtype=np.float64) - same.sum(dtype=np.float64)
    return np.array([genuine.sum(dtype=np.float64), genuine.size, impostor_sum, distance_QG.size - same.size])


def intra_inter(sums: np.ndarray) -> float | None:
    """Returns R of Luo et al. 2019, Table V: mean intra-class distance / mean inter-class distance; None without such pairs.

    The paper names neither its pairs nor its normalisation. Ours are all query x gallery pairs of the test set, junk left out,
    distractors counted as other identities; Euclidean distance of the feature as it is tested (unit length for the cosine).
    """
    genuine_sum, num_genuine, impostor_sum, num_impostor = sums.tolist()
    if num_genuine == 0 or num_impostor == 0 or impostor_sum <= 0:
        return None
    return float((genuine_sum / num_genuine) / (impostor_sum / num_impostor))
