"""Every number a training depends on, in one frozen dataclass; the command line's flags are made from its fields.

Sources: "paper" is Luo et al. 2019, "code" the authors' released implementation where the paper is silent or differs, "ours"
the rest. Whole configurations by name stand in recipes.py.
"""

import argparse
import math
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
Precision = Literal["fp32", "bf16", "fp16"]
NeckName = Literal["neck1", "neck2", "neck3", "bnneck1", "bnneck2", "bnneck3", "bnneck"]
Feature = Literal["f_t", "f_i"]
Metric = Literal["cosine", "euclidean"]


class NeckParts(NamedTuple):
    """What a neck of the paper's Fig. 10 has: a batch norm, an ID loss (always on f_i), and the feature of its triplet loss."""

    has_bn: bool
    has_id_loss: bool
    triplet_feature: Feature | None


NECKS: dict[NeckName, NeckParts] = {
    "neck1": NeckParts(False, True, None),
    "neck2": NeckParts(False, False, "f_t"),
    "neck3": NeckParts(False, True, "f_t"),
    "bnneck1": NeckParts(True, True, None),
    "bnneck2": NeckParts(True, False, "f_i"),
    "bnneck3": NeckParts(True, True, "f_i"),
    "bnneck": NeckParts(True, True, "f_t"),
}


def option(default: Any, group: str, help_text: str, source: str) -> Any:
    """Declares a TrainConfig field with the group, the help and the source that its flag shows."""
    return field(default=default, metadata={"group": group, "help": help_text, "source": source})


@dataclass(frozen=True)
class TrainConfig:
    """One training, whole; the defaults are the strong baseline. Raises ValueError on any value that cannot train.

    Sizes are pixels, durations epochs; `decay_epochs` are the last epochs (1-based) at the higher rate.
    """

    backbone: Backbone = option("resnet50", "network", "torchvision network under the neck", "paper")
    last_stride: int = option(1, "network", "stride of the last stage; 1 doubles the feature map", "paper")
    neck: NeckName = option("bnneck", "network", "neck1 2 3, bnneck1 2 3 or bnneck of Fig. 10", "paper")
    frozen_stages: int = option(0, "network", "parts kept as loaded: 1 stem, 2 and layer1, ... 5 all", "ours")
    height: int = option(256, "crops", "input height in pixels", "paper")
    width: int = option(128, "crops", "input width in pixels", "paper")
    pad: int = option(10, "crops", "black border before the random crop, pixels", "paper")
    flip_prob: float = option(0.5, "crops", "probability of a horizontal flip", "paper")
    erasing_prob: float = option(0.5, "crops", "probability of random erasing; 0 is off", "paper")
    erasing_fill: Literal["code", "mean"] = option("code", "crops", "fill: the released constants, or the true mean", "code")
    ids_per_batch: int = option(16, "crops", "P of the P x K batch: identities", "paper")
    crops_per_id: int = option(4, "crops", "K of the P x K batch: crops of each identity", "paper")
    label_smoothing: float = option(0.1, "losses", "epsilon of the ID loss; 0 is off", "paper")
    margin: float = option(0.3, "losses", "margin of the batch-hard triplet loss", "paper")
    center_weight: float = option(0.0005, "losses", "weight of the center loss; 0 is off", "paper")
    center_lr: float = option(0.5, "losses", "SGD rate of the centers, whatever their weight", "code")
    epochs: int = option(120, "optimiser", "epochs in all", "paper")
    lr: float = option(3.5e-4, "optimiser", "Adam's learning rate after the warm-up", "paper")
    weight_decay: float = option(5e-4, "optimiser", "coupled L2 on all that trains, biases too", "code")
    warmup_epochs: int = option(10, "optimiser", "epochs of linear warm-up; 0 is off", "paper")
    warmup: Literal["code", "paper"] = option("code", "optimiser", "from factor 0.01 (code), or eq. 1 (paper)", "code")
    warmup_factor: float = option(0.01, "optimiser", "share of the rate where 'code' warm-up starts", "code")
    decay_epochs: tuple[int, ...] = option((40, 70), "optimiser", "last epochs before each decay", "paper")
    decay_factor: float = option(0.1, "optimiser", "factor of each decay", "paper")
    clip_norm: float = option(0.0, "optimiser", "largest norm of the whole gradient; 0 is off", "ours")
    ema_decay: float = option(0.0, "optimiser", "decay of averaged weights, kept instead; 0 is off", "ours")
    test_feature: Feature = option("f_i", "test", "feature that is tested", "paper")
    test_metric: Metric = option("cosine", "test", "how features are compared", "paper")
    flip_test: bool = option(False, "test", "average each crop with its mirror image", "ours")
    precision: Precision = option("fp32", "machine", "arithmetic of the network; losses stay fp32", "ours")
    compile: bool = option(False, "machine", "torch.compile the network", "ours")
    deterministic: bool = option(False, "machine", "only kernels that repeat themselves; slower", "ours")
    seed: int = option(0, "machine", "seed of weights, batches and augmentation", "ours")
    workers: int = option(1, "machine", "processes that decode where crops are not cached", "ours")

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            check_range(name, hint, getattr(self, name))
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
        self._check_shares()

    def _check_shares(self) -> None:
        for name in ("label_smoothing", "flip_prob", "erasing_prob", "warmup_factor", "decay_factor", "center_lr"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 0 to 1")
        if self.ema_decay >= 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}, wanted 0 (off) or a share below 1, such as 0.999")

    @property
    def parts(self) -> NeckParts:
        """Returns what this configuration's neck has."""
        return NECKS[self.neck]


def check_range(name: str, hint: Any, value: Any) -> None:
    """Raises ValueError for a value outside its Literal's choices, of another type, negative or not finite."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name}: got {value!r}, wanted one of {', '.join(get_args(hint))}")
        return
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name}: got {value!r}, wanted true or false")
        return
    kinds, wanted = ((int, float), "a finite number") if hint is float else ((int,), "whole numbers")
    numbers = value if get_origin(hint) is tuple else (value,)
    is_number = isinstance(numbers, tuple) and all(isinstance(one, kinds) and not isinstance(one, bool) for one in numbers)
    if not is_number or not all(0 <= one < math.inf for one in numbers):
        raise ValueError(f"{name}: got {value!r}, wanted {wanted} not below zero")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per TrainConfig field, in groups; a flag that is not given leaves the recipe's value."""
    groups: dict[str, Any] = {}
    for item in fields(TrainConfig):
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        groups[name].add_argument(f"--{item.name.replace('_', '-')}", **flag_options(item))


def flag_options(item: "Field[Any]") -> dict[str, Any]:
    """Returns the argparse options of one field: its type, its choices, and a help that ends with default and source."""
    hint = get_type_hints(TrainConfig)[item.name]
    default: Any = item.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else "off" if default is False else default
    help_text = f"{item.metadata['help']} ({shown}, {item.metadata['source']})"
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None, "help": help_text}
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return {"choices": choices, "metavar": item.name.upper() if len(choices) > 4 else None, "help": help_text}
    if get_origin(hint) is tuple:
        return {"type": int, "nargs": "*", "metavar": "N", "help": help_text}
    return {"type": hint, "metavar": "N" if hint is int else "X", "help": help_text}


def override(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """Returns `config` with every given flag in place; raises ValueError on a bad value."""
    given = {item.name: getattr(args, item.name) for item in fields(TrainConfig)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    return replace(config, **given)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON-ready values."""
    return asdict(config)


def from_json(values: dict[str, Any]) -> TrainConfig:
    """Rebuilds a configuration that `to_json` wrote; raises ValueError naming fields that are missing or not known."""
    known = {item.name for item in fields(TrainConfig)}
    if wrong := sorted(set(values) ^ known):
        raise ValueError(f"training configuration: fields {wrong} are missing or unknown: it was written by another version")
    parsed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return TrainConfig(**parsed)
