"""The figures of one evaluation: what its JSON holds and what its table prints."""

from dataclasses import dataclass, field

import numpy as np

from training import metrics, verification
from training.config import Feature, Metric
from training.dataset import Dataset
from training.metrics import QueryScores
from training.scoring import Scored

RERANKED = {"rank-1": "rank1", "rank-5": "rank5", "rank-10": "rank10", "mAP": "mAP", "mINP": "mINP"}  # printed: in the JSON


@dataclass(frozen=True)
class EvalResult:
    """The figures of one evaluation; shares are 0..1.

    `far` maps a false-accept rate (text) to the cosine threshold measured for it, for the rates that `num_impostor_pairs` can
    measure (at least one pair of that many), `unreached` is the lowest cosine that no impostor pair reached (None without such
    pairs), `margin` is the median gap in cosine by which a wrong first match led the right identity (0 when there was none):
    under the Euclidean metric `far` is empty and `margin` 0.
    `roc` maps the same rates to the share of genuine pairs accepted there, whatever the metric. `trapezoid_mAP` is the mAP of
    the Market-1501 kit's rule, `mAP` everyone else's. `intra_inter` is R of Table V, `dir` the open-set detection and
    identification rate at rank 1 by false-alarm rate, `rerank` the figures and settings of the re-ranked lists.
    """

    data: str
    cmc: tuple[float, ...]
    mAP: float
    mINP: float
    num_queries: int
    num_valid_queries: int
    num_gallery: int
    far: dict[str, float]
    margin: float
    feature: Feature = "f_i"
    metric: Metric = "cosine"
    flip: bool = False
    trapezoid_mAP: float = 0.0
    roc: dict[str, float] = field(default_factory=dict)
    intra_inter: float | None = None
    dir: dict[str, float] = field(default_factory=dict)
    rerank: dict[str, float] | None = None
    num_impostor_pairs: int = 0
    unreached: float | None = None

    @property
    def rank1(self) -> float:
        return self.cmc[0]


def summarize(scored: Scored, data: Dataset, *, metric: Metric) -> EvalResult:
    """Turns per-query scores and pair histograms into figures; raises ValueError without a valid query."""
    scores = scored.queries
    valid = scores.is_valid
    if not valid.any():
        raise ValueError(f"{data.folder}: none of {len(valid)} queries has its identity in the gallery under another camera")
    wrong = scores.gap[valid & (scores.gap > 0)]
    is_cosine, num_impostors = metric == "cosine", int(scored.impostor_B.sum())
    rates = [rate for rate in verification.FALSE_ACCEPT_RATES if verification.is_measured(rate, num_impostors)]
    thresholds = {f"{rate:g}": verification.threshold_at(scored.impostor_B, rate, scored.edges) for rate in rates}
    accepted = {f"{rate:g}": verification.true_accept_rate(scored.genuine_B, scored.impostor_B, rate) for rate in rates}
    return EvalResult(
        data=data.name,
        cmc=tuple(round(float(share), 6) for share in metrics.cmc(scores)),
        mAP=mean_of(scores.ap, valid),
        mINP=mean_of(scores.inp, valid),
        num_queries=len(valid),
        num_valid_queries=int(valid.sum()),
        num_gallery=len(data.gallery),
        far={rate: round(threshold, 4) for rate, threshold in thresholds.items()} if is_cosine else {},
        margin=round(float(np.median(wrong)), 4) if len(wrong) and is_cosine else 0.0,
        metric=metric,
        trapezoid_mAP=mean_of(scores.trapezoid_ap, valid),
        roc={rate: round(share, 6) for rate, share in accepted.items()},
        intra_inter=None if scored.intra_inter is None else round(scored.intra_inter, 6),
        dir=scored.dir,
        num_impostor_pairs=num_impostors,
        unreached=round(verification.threshold_at(scored.impostor_B, 0, scored.edges), 4)
        if is_cosine and num_impostors
        else None,
    )


def mean_of(values: np.ndarray, valid: np.ndarray) -> float:
    """Returns the mean over valid queries, to six digits."""
    return round(float(values[valid].mean()), 6)


def reranked(scores: QueryScores, *, k1: int, k2: int, blend: float) -> dict[str, float]:
    """Returns the figures of re-ranked lists beside the settings that made them."""
    curve = metrics.cmc(scores)
    figures = {f"rank{k}": round(float(curve[k - 1]), 6) for k in (1, 5, 10)}
    figures |= {"mAP": mean_of(scores.ap, scores.is_valid), "mINP": mean_of(scores.inp, scores.is_valid)}
    return figures | {"k1": k1, "k2": k2, "blend": blend}


def table(result: EvalResult) -> str:
    """Returns the figures as people read them, in percent."""
    ranks = "  ".join(f"rank-{k} {100 * result.cmc[k - 1]:.1f}" for k in (1, 5, 10))
    lines = [
        f"{result.data}: {ranks}  mAP {100 * result.mAP:.1f}  mINP {100 * result.mINP:.1f}",
        f"  {result.num_valid_queries:,} valid of {result.num_queries:,} queries against {result.num_gallery:,} gallery crops, "
        f"{result.feature} by {result.metric}{', crops and their mirrors' if result.flip else ''}; "
        f"mAP by the trapezoid rule {100 * result.trapezoid_mAP:.1f}",
    ]
    if result.rerank:
        again = result.rerank
        figures = "  ".join(f"{name} {100 * again[key]:.1f}" for name, key in RERANKED.items())
        lines.append(f"  re-ranked (k1 {again['k1']}, k2 {again['k2']}, blend {again['blend']:g}): {figures}")
    for rate, share in result.roc.items():
        threshold = f"cosine >= {result.far[rate]:.4f}" if rate in result.far else "its threshold"
        lines.append(f"  false-accept rate {rate:>6}: {threshold} accepts {100 * share:.1f} % of genuine pairs")
    if missing := [f"{rate:g}" for rate in verification.FALSE_ACCEPT_RATES if f"{rate:g}" not in result.roc]:
        lines.append(
            f"  false-accept rates {', '.join(missing)}: not measurable with {result.num_impostor_pairs:,} impostor pairs"
        )
    for rate, share in result.dir.items():
        lines.append(f"  open set, false-alarm rate {rate:>6}: {100 * share:.1f} % of enrolled people found and believed")
    if result.intra_inter is not None:
        lines.append(f"  R, mean distance of genuine pairs / of impostor pairs: {result.intra_inter:.3f}")
    return "\n".join(lines)
