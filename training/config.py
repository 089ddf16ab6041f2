"""Every number a training depends on, in one frozen dataclass; the command line's flags are made from its fields.

A recipe is a function that returns a whole TrainConfig; a variant calls another recipe and replaces fields.
Sources: "paper" is Luo et al. 2019, "code" the authors' released implementation where the paper is silent, "ours" the rest.
"""

import argparse
import math
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

Backbone = Literal["resnet18", "resnet50"]
Precision = Literal["fp32", "bf16"]


def option(default: Any, help_text: str, source: str) -> Any:
    """Declares a TrainConfig field with the help and the source that its flag shows."""
    return field(default=default, metadata={"help": help_text, "source": source})


@dataclass(frozen=True)
class TrainConfig:
    """One training, whole. Raises ValueError on any value that cannot train.

    Sizes are pixels, durations epochs; `decay_epochs` are the last epochs (1-based) at the higher rate.
    """

    backbone: Backbone = option("resnet50", "torchvision network under the neck", "paper")
    last_stride: int = option(1, "stride of the last stage: 1 doubles the feature map", "paper")
    frozen_stages: int = option(0, "first parts kept as loaded: 1 is the stem, 2 adds layer1, ... 5 is everything", "ours")
    height: int = option(256, "input height in pixels", "paper")
    width: int = option(128, "input width in pixels", "paper")
    pad: int = option(10, "black border in pixels before the random crop", "paper")
    flip_prob: float = option(0.5, "probability of a horizontal flip", "paper")
    ids_per_batch: int = option(16, "P of the P x K batch: identities", "paper")
    crops_per_id: int = option(4, "K of the P x K batch: crops of each identity", "paper")
    label_smoothing: float = option(0.1, "epsilon of the smoothed cross-entropy; 0 turns it off", "paper")
    margin: float = option(0.3, "margin of the batch-hard triplet loss, Euclidean on f_t", "paper")
    epochs: int = option(120, "epochs in all", "paper")
    lr: float = option(3.5e-4, "Adam's learning rate after the warm-up", "paper")
    weight_decay: float = option(5e-4, "coupled L2 on everything that trains, biases included", "code")
    warmup_epochs: int = option(10, "epochs of linear warm-up; 0 turns it off", "paper")
    warmup_factor: float = option(0.01, "share of the learning rate at which the warm-up starts", "code")
    decay_epochs: tuple[int, ...] = option((40, 70), "last epochs before each decay of the learning rate", "paper")
    decay_factor: float = option(0.1, "factor of each decay", "paper")
    precision: Precision = option("fp32", "arithmetic of forward and backward; losses stay fp32", "ours")
    seed: int = option(0, "seed of initial weights, batches and augmentation", "ours")
    workers: int = option(1, "processes that decode and augment; 0 does it in the loop", "ours")

    def __post_init__(self) -> None:
        for item in fields(self):
            check_range(item, getattr(self, item.name))
        if 0 in (self.epochs, self.lr):
            raise ValueError(f"epochs and lr: got {self.epochs} and {self.lr:g}, wanted both above zero")
        if self.last_stride not in (1, 2):
            raise ValueError(f"last_stride: got {self.last_stride}, wanted 1 or 2")
        if self.frozen_stages > 5:
            raise ValueError(f"frozen_stages: got {self.frozen_stages}, wanted 0 (nothing) to 5 (the whole backbone)")
        if self.ids_per_batch < 2 or self.crops_per_id < 2:
            got = f"{self.ids_per_batch} x {self.crops_per_id}"
            raise ValueError(f"P x K batch: got {got}, wanted at least 2 x 2: the triplet loss needs a positive and a negative")
        if min(self.height, self.width) < 32:
            raise ValueError(f"input size: got {self.height} x {self.width}, wanted at least 32 x 32 (five halvings)")
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError(f"decay_epochs: got {self.decay_epochs}, wanted rising epochs")
        for name, limit in (("label_smoothing", 1.0), ("flip_prob", 1.0), ("warmup_factor", 1.0), ("decay_factor", 1.0)):
            if getattr(self, name) > limit:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 0 to {limit:g}")


def check_range(item: "Field[Any]", value: Any) -> None:
    """Raises ValueError for a value outside its Literal's choices, of another type, negative or not finite."""
    hint = get_type_hints(TrainConfig)[item.name]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{item.name}: got {value!r}, wanted one of {', '.join(get_args(hint))}")
        return
    kinds, wanted = ((int, float), "a finite number") if hint is float else ((int,), "whole numbers")
    numbers = value if get_origin(hint) is tuple else (value,)
    if not isinstance(numbers, tuple) or not all(isinstance(one, kinds) and 0 <= one < math.inf for one in numbers):
        raise ValueError(f"{item.name}: got {value!r}, wanted {wanted} not below zero")


def strong_baseline() -> TrainConfig:
    """The paper's strong baseline, as far as it is built: its random erasing and center loss are not here yet."""
    return TrainConfig()


def synthetic() -> TrainConfig:
    """A ResNet-18 on the small drawn dataset: minutes on two CPU cores, to try the whole path."""
    return replace(
        strong_baseline(),
        backbone="resnet18",
        height=128,
        width=64,
        pad=5,
        ids_per_batch=8,
        epochs=3,
        warmup_epochs=1,
        decay_epochs=(2,),
        precision="bf16",
    )


RECIPES = {"strong_baseline": strong_baseline, "synthetic": synthetic}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per TrainConfig field; a flag that is not given leaves the recipe's value."""
    group = parser.add_argument_group("recipe values (default of the strong baseline, and where it comes from)")
    for item in fields(TrainConfig):
        hint = get_type_hints(TrainConfig)[item.name]
        choices = get_args(hint) if get_origin(hint) is Literal else None
        is_tuple = get_origin(hint) is tuple
        assert item.default is not MISSING
        shown = " ".join(map(str, item.default)) if is_tuple else item.default
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=int if is_tuple else type(item.default),
            nargs="*" if is_tuple else None,
            choices=choices,
            metavar=None if choices else "N",
            help=f"{item.metadata['help']} ({shown}, {item.metadata['source']})",
        )


def from_flags(args: argparse.Namespace) -> TrainConfig:
    """Returns the recipe that `args.recipe` names with every given flag in place; raises ValueError on a bad value."""
    given = {item.name: getattr(args, item.name) for item in fields(TrainConfig)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    return replace(RECIPES[args.recipe](), **given)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON-ready values."""
    return asdict(config)


def from_json(values: dict[str, Any]) -> TrainConfig:
    """Rebuilds a configuration that `to_json` wrote; raises ValueError naming fields this version does not know."""
    known = {item.name for item in fields(TrainConfig)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"training configuration has unknown fields {unknown}: it was written by another version")
    parsed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return TrainConfig(**parsed)
