"""One pass over the queries, in chunks: everything that is measured on feature rows, with the Q x G scores never held whole.

Shapes: Q queries, G gallery crops, D feature width, B histogram bins. Scores are higher-is-closer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gallery import rerank
from training import metrics, openset, verification
from training.config import Metric
from training.metrics import Ids, QueryScores
from training.progress import progress
from training.rerank_gpu import Find

CHUNK_CELLS = 4_000_000  # scores held at a time: 16 MB as float32, and a few arrays of that size beside them


@dataclass(frozen=True)
class Scored:
    """What the pass over all queries found: per-query scores, pair histograms int64 [B] with their edges [B + 1], the distance
    ratio R, and open-set DIR by false-alarm rate."""

    queries: QueryScores
    genuine_B: np.ndarray
    impostor_B: np.ndarray
    edges: np.ndarray
    intra_inter: float | None
    dir: dict[str, float]


def chunks(num_queries: int, num_gallery: int, *, cells: int = CHUNK_CELLS) -> Iterator[slice]:
    """Yields the rows of the queries to score together, with progress."""
    size = max(1, cells // num_gallery)
    with progress(num_queries, name="rank", unit="query") as bar:
        for start in range(0, num_queries, size):
            rows = slice(start, min(start + size, num_queries))
            yield rows
            bar.update(rows.stop - rows.start)


def check_rows(query_QD: np.ndarray, gallery_GD: np.ndarray, query: Ids, gallery: Ids, metric: Metric) -> None:
    """Raises ValueError on rows that do not fit the lists or each other, are not finite, or (cosine) not of unit length."""
    shapes, wanted = (query_QD.shape, gallery_GD.shape), (len(query.pids), len(gallery.pids))
    if (shapes[0][0], shapes[1][0]) != wanted or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"features: got query {shapes[0]} and gallery {shapes[1]}, wanted {wanted} rows of one width")
    for name, rows in (("query", query_QD), ("gallery", gallery_GD)):
        sq_norms = np.einsum("nd,nd->n", rows, rows)
        if not np.isfinite(sq_norms).all():
            raise ValueError(f"features: got a {name} row that is not finite at {int(np.argmin(np.isfinite(sq_norms)))}")
        worst = int(np.abs(sq_norms - 1).argmax())
        if metric == "cosine" and abs(sq_norms[worst] - 1) > 2e-3:
            got = f"{name} row {worst} of length {np.sqrt(sq_norms[worst]):.4f}"
            raise ValueError(f"features: got {got}, wanted unit rows for the cosine: normalise them, or use the euclidean metric")


def distance_bound(query_QD: np.ndarray, gallery_GD: np.ndarray) -> float:
    """Returns a Euclidean distance that no pair exceeds: the farthest query and gallery rows from the gallery's mean, added.

    Around the mean, because features behind a ReLU lie far from zero and close together.
    """
    mean_D = gallery_GD.mean(axis=0)
    sq_mean = float(mean_D @ mean_D)
    radii = (np.einsum("nd,nd->n", rows, rows) - 2 * (rows @ mean_D) + sq_mean for rows in (query_QD, gallery_GD))
    return max(1e-6, 1.001 * sum(float(np.sqrt(max(sq_radius_N.max(), 0))) for sq_radius_N in radii))  # 1.001: float32


def score_chunk(query_QD: np.ndarray, gallery_GD: np.ndarray, sq_norm_G: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns float32 [Q, G]: inner products, or minus the Euclidean distances."""
    score_QG: np.ndarray = query_QD @ gallery_GD.T
    if metric == "cosine":
        return score_QG
    score_QG *= -2
    score_QG += np.einsum("qd,qd->q", query_QD, query_QD)[:, None]
    score_QG += sq_norm_G
    np.sqrt(np.maximum(score_QG, 0, out=score_QG), out=score_QG)
    score_QG *= -1
    return score_QG


def distances_of(score_QG: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns the Euclidean distances that the scores stand for; of unit rows where the score is the cosine."""
    if metric == "euclidean":
        return -score_QG
    sq_dist_QG = 2 - 2 * score_QG
    root_QG: np.ndarray = np.sqrt(np.maximum(sq_dist_QG, 0, out=sq_dist_QG), out=sq_dist_QG)
    return root_QG


def rank(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    query: Ids,
    gallery: Ids,
    *,
    metric: Metric,
    seed: int,
    cells: int = CHUNK_CELLS,
) -> Scored:
    """Scores float32 rows [Q, D] and [G, D], `cells` pairs at a time; raises ValueError as `check_rows` does."""
    check_rows(query_QD, gallery_GD, query, gallery, metric)
    is_cosine = metric == "cosine"
    edges = verification.bin_edges(-1, 1) if is_cosine else verification.bin_edges(-distance_bound(query_QD, gallery_GD), 0)
    sq_norm_G = np.einsum("gd,gd->g", gallery_GD, gallery_GD)
    draws = openset.draw(query, gallery, seed=seed)
    genuine_B, impostor_B = np.zeros((2, verification.NUM_BINS), np.int64)
    sums, parts, wrong = np.zeros(4), [], []
    for rows in chunks(len(query.pids), len(gallery.pids), cells=cells):
        here = query.at(rows)
        score_QG = score_chunk(query_QD[rows], gallery_GD, sq_norm_G, metric)
        parts.append(metrics.score_queries(score_QG, here, gallery))
        wrong.append(openset.best_wrong(score_QG, here, draws))
        genuine, impostor = verification.pair_histogram(score_QG, here, gallery, edges)
        genuine_B += genuine
        impostor_B += impostor
        sums += verification.distance_sums(distances_of(score_QG, metric), here, gallery)
    scores = metrics.join(parts)
    rates = openset.detection_rates(scores, np.concatenate(wrong), query, draws)
    return Scored(scores, genuine_B, impostor_B, edges, verification.intra_inter(sums), rates)


def rank_again(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    query: Ids,
    gallery: Ids,
    *,
    metric: Metric,
    k1: int,
    k2: int,
    blend: float,
    find: Find | None = None,
) -> QueryScores:
    """Scores the k-reciprocal re-ranking (Zhong et al. 2017) of the same rows, chunk by chunk.

    Rows of the Euclidean metric are scaled to unit length first: the released code re-ranks nothing else. `find` is that of
    `rerank.prepare`. Raises ValueError for settings that do not fit.
    """
    if metric == "euclidean":
        query_QD, gallery_GD = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query_QD, gallery_GD))
    with progress(len(query_QD) + len(gallery_GD), name="find neighbours", unit="crop") as bar:
        prepared = rerank.prepare(query_QD, gallery_GD, k1=k1, k2=k2, blend=blend, find=find, progress=bar.update)
    parts = []
    for rows in chunks(len(query.pids), len(gallery.pids)):
        parts.append(metrics.score_queries(-rerank.distances(prepared, rows), query.at(rows), gallery))
    return metrics.join(parts)
