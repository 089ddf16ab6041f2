"""What a precision costs: its figures beside another's on the same crops, and queries of one in a gallery of the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from exporter.sensitivity import Agreement, agreement
from training import dataset, evaluate
from training.dataset import DISTRACTOR_PID, Dataset, Sample
from training.evaluate import Embed, EvalResult

MAX_MAP_DROP = 0.3  # points of mAP in percent, the bar this project has set itself
SEED = 0
REMEDIES = {  # by what the file is measured beside
    "fp32": "calibrate on crops like those served, leave more layers of int8 in fp32 (--keep-fp32), export fp32 or fp16, or "
    "allow more (--max-map-drop)",
    "int8": "export its checkpoint in fp16 instead",
}


@dataclass(frozen=True)
class Figures:
    """Shares 0..1 of one evaluation."""

    rank1: float
    mAP: float  # noqa: N815 - as everywhere else
    mINP: float  # noqa: N815


@dataclass(frozen=True)
class Cost:
    """An artefact beside fp32 (or `reference_precision`) on the same crops; drops are in points, 100 times the shares.

    A gallery outlives the artefact that filled it, so both mixtures are measured: this file's queries against a gallery of
    fp32, and fp32's queries against a gallery of this file.
    """

    measured_on: str
    own: Figures
    reference: Figures
    mixed: dict[str, Figures]
    map_drop: float
    rank1_drop: float
    cosine: Agreement
    reference_precision: str = "fp32"


@dataclass(frozen=True)
class Rows:
    """Embeddings of the test lists, float32 [Q, D] and [G, D]."""

    query: np.ndarray
    gallery: np.ndarray


def sample(data: Dataset, num_identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which query and which gallery crops are of a drawn sample: bool [Q], [G].

    The crops of `num_identities` identities that a query can be right about, and the same share of the distractors. Raises
    ValueError for more than there are.
    """
    known = np.array(sorted(findable(data)))
    if not 1 <= num_identities <= len(known):
        raise ValueError(
            f"--cost-identities: got {num_identities}, wanted 1 to {len(known)}, the identities of {data.name}'s test that "
            "one camera asks for and another has"
        )
    rng = np.random.default_rng(SEED)
    drawn = rng.choice(known, num_identities, replace=False)
    query, gallery = (np.array([one.pid for one in samples]) for samples in (data.query, data.gallery))
    distractors = rng.permutation(np.flatnonzero(gallery == DISTRACTOR_PID))
    is_gallery = np.isin(gallery, drawn)
    is_gallery[distractors[: round(len(distractors) * num_identities / len(known))]] = True
    return np.isin(query, drawn), is_gallery


def findable(data: Dataset) -> set[int]:
    """Returns the identities with a valid query: one that has a correct gallery crop under another camera."""
    seen: dict[int, set[int]] = {}
    for crop in data.gallery:
        seen.setdefault(crop.pid, set()).add(crop.camid)
    return {query.pid for query in data.query if seen.get(query.pid, set()) - {query.camid}} - {DISTRACTOR_PID}


def measure(
    own: Embed,
    reference: Embed,
    data: Dataset,
    *,
    height: int,
    width: int,
    num_identities: int | None,
    reference_precision: str = "fp32",
) -> tuple[EvalResult, Cost]:
    """Returns this file's figures on the whole test, and its cost beside the reference on all of it or on a sample of identities.

    Each crop is decoded once and embedded once by either. Raises ValueError when the lists cannot be scored.
    """
    dataset.check_test(data)
    if num_identities is None:
        in_query, in_gallery = np.ones(len(data.query), bool), np.ones(len(data.gallery), bool)
    else:
        in_query, in_gallery = sample(data, num_identities)
    size = {"height": height, "width": width}
    own_query, other_query = embed_both(own, reference, data.query, in_query, name="query", **size)
    own_gallery, other_gallery = embed_both(own, reference, data.gallery, in_gallery, name="gallery", **size)
    part = replace(data, query=tuple(compress(data.query, in_query)), gallery=tuple(compress(data.gallery, in_gallery)))
    ours, theirs = Rows(own_query[in_query], own_gallery[in_gallery]), Rows(other_query, other_gallery)
    found = compare(ours, theirs, part, num_identities=num_identities, reference_precision=reference_precision)
    return evaluate.score(own_query, own_gallery, data), found


def embed_both(
    own: Embed, reference: Embed, samples: Sequence[Sample], mask: np.ndarray, *, name: str, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [N, D] of this file, and [M, D] of the reference for the M samples in `mask`."""

    def both(crops: np.ndarray) -> np.ndarray:
        return np.concatenate([own(crops), reference(crops)], axis=1)

    size = {"height": height, "width": width, "batch_size": 32}
    inside, outside = list(compress(samples, mask)), list(compress(samples, ~mask))
    ours, theirs = np.split(evaluate.embed_samples(both, inside, name=f"embed {name} twice", **size), 2, axis=1)
    rows = np.empty((len(samples), ours.shape[1]), np.float32)
    rows[mask] = ours
    if outside:
        rows[~mask] = evaluate.embed_samples(own, outside, name=f"embed the other {name}", **size)
    return rows, np.ascontiguousarray(theirs)


def compare(ours: Rows, theirs: Rows, data: Dataset, *, num_identities: int | None, reference_precision: str) -> Cost:
    """Scores both precisions and both mixtures of them."""
    own, reference = figures(ours.query, ours.gallery, data), figures(theirs.query, theirs.gallery, data)
    sampled = f"{num_identities} identities drawn with seed {SEED}: " if num_identities else ""
    cosine = agreement(np.concatenate([ours.query, ours.gallery]), np.concatenate([theirs.query, theirs.gallery]))
    return Cost(
        measured_on=f"{data.name}, {sampled}{len(data.query):,} queries, {len(data.gallery):,} gallery crops",
        own=own,
        reference=reference,
        mixed={
            f"queries_in_{reference_precision}_gallery": figures(ours.query, theirs.gallery, data),
            f"{reference_precision}_queries_in_gallery": figures(theirs.query, ours.gallery, data),
        },
        map_drop=points(reference.mAP - own.mAP),
        rank1_drop=points(reference.rank1 - own.rank1),
        cosine=cosine,
        reference_precision=reference_precision,
    )


def figures(query_rows: np.ndarray, gallery_rows: np.ndarray, data: Dataset) -> Figures:
    """Returns the figures of rows of a dataset's test lists."""
    result = evaluate.score(query_rows, gallery_rows, data)
    return Figures(result.rank1, result.mAP, result.mINP)


def points(share: float) -> float:
    """Returns a share in percent, to a thousandth."""
    return round(100 * share, 3)


def table(cost: Cost) -> str:
    """Returns the cost as people read it."""
    mixed = {name.replace("_", " "): one for name, one in cost.mixed.items()}
    rows = {"this file": cost.own, cost.reference_precision: cost.reference} | mixed
    lines = [
        f"  {name:26}rank-1 {100 * one.rank1:6.2f}  mAP {100 * one.mAP:6.2f}  mINP {100 * one.mINP:6.2f}"
        for name, one in rows.items()
    ]
    near = f"  cosine to {cost.reference_precision}: mean {cost.cosine.mean:.5f}, worst {cost.cosine.worst:.5f}"
    return "\n".join([f"cost, on {cost.measured_on}:", *lines, near])


def check(cost: Cost, *, max_map_drop: float) -> None:
    """Raises ValueError when this file's mAP, alone or mixed, is more than `max_map_drop` points under the reference's."""
    found = {"this file": cost.own, **cost.mixed}
    drops = {name: points(cost.reference.mAP - one.mAP) for name, one in found.items()}
    worst = max(drops, key=lambda name: drops[name])
    if drops[worst] > max_map_drop:
        beside = f"{cost.reference_precision} has {100 * cost.reference.mAP:.2f}"
        raise ValueError(
            f"mAP: got {100 * found[worst].mAP:.2f} ({worst.replace('_', ' ')}) where {beside}, {drops[worst]:.2f} points less, "
            f"wanted at most {max_map_drop:g}; {REMEDIES[cost.reference_precision]}"
        )
