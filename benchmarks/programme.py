"""The GPU programme as data: every training once, the rows of the paper's tables it is tested as, and the command of each step.

Order: speed; the strong baseline from the self-supervised weights, one training a seed; the same from torchvision's; Tables I,
III, IV, V, X and XI. Rows that differ in the tested feature or metric alone share one training, that of the first of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from training import recipes
from training.config import Feature, Metric, Precision, TrainConfig

STRONG = "strong_baseline"
SAVE_EVERY = 20  # epochs; an epoch takes seconds on a GPU and a save about one; a call that ends saves anyway


@dataclass(frozen=True)
class Options:
    """What the whole programme is run with; `smoke` makes every training a tiny one, to rehearse on a CPU."""

    data: Path
    weights: Path
    v1_weights: Path | None
    work: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    precision: Precision = "bf16"
    compile: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class Evaluation:
    """How a training is tested, and the recipes whose published figures that answers."""

    feature: Feature
    metric: Metric
    recipes: tuple[str, ...]

    @property
    def is_reranked(self) -> bool:
        return STRONG in self.recipes


@dataclass(frozen=True)
class Training:
    """One training: its name, the recipe it is begun with, the configuration that makes, its initial weights, its evaluations."""

    name: str
    recipe: str
    config: TrainConfig
    weights: Path
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Step:
    """One command of the programme."""

    name: str
    kind: Literal["speed", "train", "test"]
    training: Training | None = None
    evaluation: Evaluation | None = None


def trainings(options: Options) -> list[Training]:
    """Returns every training in the order they are to be run."""
    known = recipes.by_name()
    tables = [name for name in known if name.startswith("table")]
    wanted = [(f"{STRONG}_seed{seed}", STRONG, options.weights, seed) for seed in options.seeds]
    if options.v1_weights:
        wanted += [(f"{STRONG}_v1_seed{seed}", STRONG, options.v1_weights, seed) for seed in options.seeds]
    wanted += [(f"{name}_seed{options.seeds[0]}", name, options.weights, options.seeds[0]) for name in tables]
    shared: dict[tuple[Path, TrainConfig], list[tuple[str, str, TrainConfig]]] = {}
    for name, recipe, weights, seed in wanted:
        config = adapted(known[recipe].make(), options, seed=seed)
        trained = replace(config, test_feature="f_i", test_metric="cosine")  # neither changes the training
        shared.setdefault((weights, trained), []).append((name, recipe, config))
    return [Training(*rows[0], weights, evaluations(rows)) for (weights, _), rows in shared.items()]


def evaluations(rows: Sequence[tuple[str, str, TrainConfig]]) -> tuple[Evaluation, ...]:
    """Returns the evaluations that a training's rows ask for, each once, the first row's own first."""
    asked: dict[tuple[Feature, Metric], list[str]] = {}
    for _, recipe, config in rows:
        asked.setdefault((config.test_feature, config.test_metric), []).append(recipe)
    return tuple(Evaluation(*tested, tuple(names)) for tested, names in asked.items())


def adapted(config: TrainConfig, options: Options, *, seed: int) -> TrainConfig:
    """Returns a recipe's configuration as it is trained here."""
    config = replace(config, precision=options.precision, compile=options.compile, seed=seed)
    if not options.smoke:
        return config
    return replace(
        config,
        backbone="resnet18",
        epochs=2,
        decay_epochs=(1,),
        height=config.height // 4,
        width=config.width // 4,
        pad=2,
        ids_per_batch=max(2, config.ids_per_batch // 8),
        crops_per_id=max(2, config.crops_per_id // 2),
    )


def steps(options: Options) -> list[Step]:
    """Returns the whole programme."""
    found = [Step("speed", "speed")]
    for training in trainings(options):
        found.append(Step(f"{training.name} train", "train", training))
        found += [Step(f"{training.name} {one.feature} {one.metric}", "test", training, one) for one in training.evaluations]
    return found


def chosen(plan: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Returns the steps whose own name, or one of whose recipes, begins with a given name; all of them when none is given.

    Raises ValueError for a name that chooses nothing.
    """

    def fits(step: Step, name: str) -> bool:
        asked = step.training.evaluations if step.training else ()
        told = step.evaluation.recipes if step.evaluation else [recipe for one in asked for recipe in one.recipes]
        return any(known.startswith(name) for known in (step.name, *told))

    strange = [name for name in names if not any(fits(step, name) for step in plan)]
    if strange:
        raise ValueError(
            f"--only: got {strange[0]!r}, wanted a step of --plan or a recipe's name or its beginning, such as table1"
        )
    return [step for step in plan if not names or any(fits(step, name) for name in names)]


def run_folder(options: Options, training: Training) -> Path:
    """Returns where a training leaves its checkpoint."""
    return options.work / "runs" / training.name


def figures_file(options: Options, step: Step) -> Path:
    """Returns where the command of an evaluation or of the speed figures writes them."""
    return options.work / "figures" / f"{step.name.replace(' ', '_')}.json"


def command(options: Options, step: Step) -> list[str]:
    """Returns the command line of a step, `python` standing for the interpreter."""
    if step.training is None:
        return speed_command(options, figures_file(options, step))
    out = run_folder(options, step.training)
    if step.evaluation is None:
        return train_command(options, step.training, out)
    tested = ["--feature", step.evaluation.feature, "--metric", step.evaluation.metric]
    again = ["--rerank"] if step.evaluation.is_reranked else []
    told = ["--json", str(figures_file(options, step))]
    return ["python", "-m", "training.evaluate", str(out), "--data", str(options.data), *tested, *again, *told]


def train_command(options: Options, training: Training, out: Path) -> list[str]:
    """Returns a training's command: a first call begins it and every later one goes on."""
    files = ["--data", str(options.data), "--out", str(out), "--backbone-weights", str(training.weights)]
    flags = changed_flags(recipes.by_name()[training.recipe].make(), training.config)
    quiet = ["--save-every", str(SAVE_EVERY), "--resume", "--no-evaluation", "--no-tensorboard", "--no-pictures"]
    return ["python", "-m", "training.run", *files, "--recipe", training.recipe, *flags, *quiet]


def speed_command(options: Options, out: Path) -> list[str]:
    """Returns the command of the speed figures: both precisions, with and without torch.compile."""
    sizes = "--backbone resnet50 --height 256 --width 128 --seconds 1 --compile"
    if options.smoke:
        sizes = "--backbone resnet18 --height 64 --width 32 --ids-per-batch 2 --crops-per-id 2 --seconds 0.1"
    told = ["--precision", "fp32", "bf16", "--json", str(out)]
    return ["python", "-m", "benchmarks.train_speed", "--data", str(options.data), *sizes.split(), *told]


def changed_flags(recipe: TrainConfig, config: TrainConfig) -> list[str]:
    """Returns the flags of training.run that turn a recipe's configuration into this one."""
    flags: list[str] = []
    for item in fields(TrainConfig):
        value: Any = getattr(config, item.name)
        if value == getattr(recipe, item.name):
            continue
        name = item.name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return flags
