"""Whole configurations by name: the two baselines, every row of the paper's Tables I, III, IV, V, X and XI, and a small one.

A recipe is a function that returns a whole TrainConfig; a variant calls another and replaces fields. Published figures are
rank-1 / mAP in percent on Market-1501 and DukeMTMC-reID, Luo et al. 2019.

Which metric a row was tested with is not always printed; it follows from rows that repeat digit for digit across tables: Table I
before its BNNeck, Table III's necks without BN, and Table V's f_t rows are Euclidean; Tables X and XI are f_i with Euclidean.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from training.config import Feature, Metric, NeckName, TrainConfig

Score = tuple[float, float]  # rank-1, mAP, percent


@dataclass(frozen=True)
class Recipe:
    """A named configuration and what the paper reports for it, where it does; `ratio` is Table V's R on Market and on Duke."""

    make: Callable[[], TrainConfig]
    market: Score | None = None
    duke: Score | None = None
    ratio: Score | None = None


def strong_baseline() -> TrainConfig:
    """All six tricks, tested with f_i and cosine: 94.5 / 85.9 on Market-1501."""
    return TrainConfig()


def standard_baseline() -> TrainConfig:
    """No trick: one feature for both losses, last stride 2, no warm-up; Euclidean, as Table IV shows Table I was tested."""
    return replace(
        strong_baseline(),
        warmup_epochs=0,
        erasing_prob=0.0,
        label_smoothing=0.0,
        last_stride=2,
        neck="neck3",
        center_weight=0.0,
        test_feature="f_t",
        test_metric="euclidean",
    )


def synthetic() -> TrainConfig:
    """A ResNet-18 on the small drawn dataset: minutes on two CPU cores, to try the whole path."""
    return replace(
        strong_baseline(),
        backbone="resnet18",
        height=128,
        width=64,
        pad=5,
        erasing_prob=0.0,
        center_weight=0.0,
        ids_per_batch=8,
        epochs=3,
        warmup_epochs=1,
        decay_epochs=(2,),
        precision="bf16",
    )


def cumulative(step: int) -> TrainConfig:
    """Table I: the standard baseline with its first `step` tricks, in the paper's order."""
    strong = strong_baseline()
    tricks: list[dict[str, Any]] = [
        {"warmup_epochs": strong.warmup_epochs},
        {"erasing_prob": strong.erasing_prob},
        {"label_smoothing": strong.label_smoothing},
        {"last_stride": 1},
        {"neck": "bnneck", "test_feature": "f_i", "test_metric": "cosine"},
        {"center_weight": strong.center_weight},
    ]
    given = {name: value for trick in tricks[:step] for name, value in trick.items()}
    return replace(standard_baseline(), **given)


def tested(neck: NeckName, feature: Feature, metric: Metric, *, center_weight: float = 0.0) -> TrainConfig:
    """Tables III, IV and V: a neck, its weight of the center loss, and what is tested; the other tricks are on."""
    return replace(strong_baseline(), neck=neck, center_weight=center_weight, test_feature=feature, test_metric=metric)


def batch(ids: int, crops: int) -> TrainConfig:
    """Table X: a batch of `ids` x `crops`."""
    return replace(tested("bnneck", "f_i", "euclidean"), ids_per_batch=ids, crops_per_id=crops)


def size(height: int, width: int) -> TrainConfig:
    """Table XI: an input of `height` x `width` pixels."""
    return replace(tested("bnneck", "f_i", "euclidean"), height=height, width=width)


def table1() -> dict[str, Recipe]:
    names = ("baseline", "warmup", "rea", "ls", "stride", "bnneck", "center")
    market = ((87.7, 74.0), (88.7, 75.2), (91.3, 79.3), (91.4, 80.3), (92.0, 81.7), (94.1, 85.7), (94.5, 85.9))
    duke = ((79.7, 63.7), (80.6, 65.1), (81.5, 68.3), (82.4, 69.3), (82.6, 70.6), (86.2, 75.9), (86.4, 76.4))
    rows = enumerate(zip(names, market, duke, strict=True))
    return {f"table1_{name}": Recipe(partial(cumulative, step), on_m, on_d) for step, (name, on_m, on_d) in rows}


def table3() -> dict[str, Recipe]:
    return {
        "table3_neck1": Recipe(partial(tested, "neck1", "f_t", "euclidean"), (89.4, 77.5), (78.9, 65.3)),
        "table3_neck2": Recipe(partial(tested, "neck2", "f_t", "euclidean"), (91.0, 80.9), (82.5, 69.4)),
        "table3_neck3": Recipe(partial(tested, "neck3", "f_t", "euclidean"), (92.0, 81.7), (82.6, 70.6)),
        "table3_bnneck1": Recipe(partial(tested, "bnneck1", "f_i", "cosine"), (93.1, 83.9), (85.2, 74.0)),
        "table3_bnneck2": Recipe(partial(tested, "bnneck2", "f_i", "cosine"), (90.3, 79.1), (82.5, 67.9)),
        "table3_bnneck3": Recipe(partial(tested, "bnneck3", "f_i", "cosine"), (92.5, 81.8), (83.3, 71.9)),
        "table3_bnneck_ft": Recipe(partial(tested, "bnneck", "f_t", "euclidean"), (94.2, 85.5), (85.7, 74.4)),
        "table3_bnneck_fi": Recipe(partial(tested, "bnneck", "f_i", "cosine"), (94.1, 85.7), (86.2, 75.9)),
    }


def table4() -> dict[str, Recipe]:
    return {
        "table4_f_euclidean": Recipe(partial(tested, "neck3", "f_t", "euclidean"), (92.0, 81.7), (82.6, 70.6)),
        "table4_ft_euclidean": Recipe(partial(tested, "bnneck", "f_t", "euclidean"), (94.2, 85.5), (85.7, 74.4)),
        "table4_ft_cosine": Recipe(partial(tested, "bnneck", "f_t", "cosine"), (94.2, 85.7), (85.5, 74.6)),
        "table4_fi_euclidean": Recipe(partial(tested, "bnneck", "f_i", "euclidean"), (93.8, 83.7), (86.6, 73.0)),
        "table4_fi_cosine": Recipe(partial(tested, "bnneck", "f_i", "cosine"), (94.1, 85.7), (86.2, 75.9)),
    }


def table5() -> dict[str, Recipe]:
    weights = (0.0, 0.0005, 0.005, 0.05, 0.5)
    rows: list[tuple[Feature, Metric, tuple[tuple[Score, Score, Score], ...]]] = [
        (
            "f_t",
            "euclidean",
            (
                ((94.2, 85.5), (85.7, 74.4), (0.407, 0.424)),
                ((93.9, 85.7), (86.5, 75.1), (0.405, 0.420)),
                ((94.2, 85.7), (86.2, 75.4), (0.394, 0.417)),
                ((94.4, 85.4), (86.4, 74.9), (0.365, 0.403)),
                ((92.6, 81.1), (85.5, 72.2), (0.311, 0.363)),
            ),
        ),
        (
            "f_i",
            "cosine",
            (
                ((94.1, 85.7), (86.2, 75.9), (0.590, 0.568)),
                ((94.5, 85.9), (86.4, 76.4), (0.589, 0.564)),
                ((94.3, 85.9), (86.8, 76.4), (0.595, 0.566)),
                ((94.3, 85.7), (86.7, 76.5), (0.592, 0.560)),
                ((94.1, 84.7), (87.4, 76.9), (0.593, 0.554)),
            ),
        ),
    ]
    return {
        f"table5_{feature.replace('_', '')}_beta_{weight:g}".replace(".", "_"): Recipe(
            partial(tested, "bnneck", feature, metric, center_weight=weight), *published
        )
        for feature, metric, scores in rows
        for weight, published in zip(weights, scores, strict=True)
    }


def table10() -> dict[str, Recipe]:
    published = {
        (8, 3): ((92.6, 79.2), (84.4, 68.1)),
        (8, 4): ((92.9, 80.0), (84.7, 69.4)),
        (8, 6): ((93.5, 81.6), (85.1, 70.7)),
        (8, 8): ((93.9, 82.0), (85.8, 71.5)),
        (16, 3): ((93.8, 83.1), (86.8, 72.1)),
        (16, 4): ((93.8, 83.7), (86.6, 73.0)),
        (16, 6): ((94.0, 82.8), (85.1, 69.9)),
        (16, 8): ((93.1, 81.6), (86.7, 72.1)),
        (32, 3): ((94.5, 84.1), (86.0, 71.4)),
        (32, 4): ((93.2, 82.8), (86.5, 73.1)),
    }
    return {f"table10_p{ids}_k{crops}": Recipe(partial(batch, ids, crops), *scores) for (ids, crops), scores in published.items()}


def table11() -> dict[str, Recipe]:
    published = {
        (256, 128): ((93.8, 83.7), (86.6, 73.0)),
        (224, 224): ((94.2, 83.3), (86.1, 72.2)),
        (384, 128): ((94.0, 82.7), (86.4, 73.2)),
        (384, 192): ((93.8, 83.1), (87.1, 72.9)),
    }
    return {f"table11_{h}x{w}": Recipe(partial(size, h, w), *scores) for (h, w), scores in published.items()}


def by_name() -> dict[str, Recipe]:
    """Returns every recipe, the baselines first and the tables in the paper's order."""
    baselines = {
        "strong_baseline": Recipe(strong_baseline, (94.5, 85.9), (86.4, 76.4)),
        "standard_baseline": Recipe(standard_baseline, (87.7, 74.0), (79.7, 63.7)),
        "synthetic": Recipe(synthetic),
    }
    return baselines | table1() | table3() | table4() | table5() | table10() | table11()


def listing() -> str:
    """Returns the recipes as people read them: name, what is tested, published rank-1 / mAP."""
    lines = [f"{'recipe':<24}{'tested with':<16}{'Market-1501':>13}{'DukeMTMC':>13}{'R (M, D)':>16}   rank-1 / mAP as published"]
    for name, recipe in by_name().items():
        config = recipe.make()
        scores = ["-" if score is None else f"{score[0]:.1f} / {score[1]:.1f}" for score in (recipe.market, recipe.duke)]
        ratio = "" if recipe.ratio is None else f"{recipe.ratio[0]:.3f}, {recipe.ratio[1]:.3f}"
        tests = f"{config.test_feature} {config.test_metric}"
        lines.append(f"{name:<24}{tests:<16}{scores[0]:>13}{scores[1]:>13}{ratio:>16}".rstrip())
    return "\n".join(lines)
