"""From a command line to what trains: configuration, data, device, learner, fresh or resumed."""

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training import checkpoint, config, dataset, distributed, evaluate, loop, recipes, runlog, synthetic
from training.checkpoint import Facts
from training.config import TrainConfig
from training.dataset import Dataset, Sample
from training.loop import SCALARS, Learner
from training.model import load_backbone


@dataclass(frozen=True)
class Begun:
    """A learner, what its checkpoint would say now, and the rows [b, 4] of the batches already done of the next epoch."""

    learner: Learner
    facts: Facts
    rows: np.ndarray


def settings_of(args: argparse.Namespace) -> TrainConfig:
    """Returns the recipe with every given flag in place; raises ValueError on an unknown recipe or a bad value."""
    known = recipes.by_name()
    if args.recipe not in known:
        raise ValueError(f"--recipe: got {args.recipe!r}, wanted one of --list-recipes, such as strong_baseline")
    return config.override(known[args.recipe].make(), args)


def read_data(args: argparse.Namespace, settings: TrainConfig) -> Dataset:
    """Reads, joins and checks the datasets of the command line; draws one for --synthetic.

    Splits that a reader draws do not follow --seed: evaluation and export must find the same people in the test lists.
    """
    if args.synthetic:
        if distributed.rank() == 0:
            synthetic.write_dataset(args.out / "data", seed=settings.seed)
        distributed.wait()  # for the files
        args.data = [args.out / "data"]
    parts = [dataset.read_dataset(folder, cameras=not args.no_cameras) for folder in args.data]
    test = dataset.read_dataset(args.test, cameras=not args.no_cameras) if args.test else parts[0]
    data = dataset.join(parts, test=test) if len(parts) > 1 or args.test else parts[0]
    if args.no_evaluation:
        return data
    dataset.check_test(data)
    num_tested = len(data.query) + len(data.gallery)
    if args.rerank and num_tested <= evaluate.K1:  # said before the training, not after
        raise ValueError(f"--rerank: got {num_tested} test crops, wanted more than {evaluate.K1}, the length of a neighbour list")
    return data


def pick_device(name: str) -> torch.device:
    """Returns the device to train on; raises ValueError when a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: got no GPU that torch can use, wanted one; leave --device out to train on the CPU")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return distributed.local_device(torch.device("cuda"))


def prepare(args: argparse.Namespace, settings: TrainConfig, data: Dataset, device: torch.device) -> Begun:
    """Builds what learns, fresh or as RUN left it. Raises ValueError when RUN was begun otherwise than the flags say."""
    num_ids = int(dataset.class_labels(data.train).max()) + 1
    model = checkpoint.build(settings, num_ids)
    if args.resume and distributed.rank() == 0:
        checkpoint.finish_save(args.out)
    distributed.wait()
    if not (args.resume and (args.out / checkpoint.FACTS).is_file()):
        if (args.out / checkpoint.FACTS).exists() or checkpoint.ready(args.out / checkpoint.FACTS).exists():
            raise ValueError(f"--out: {args.out} already holds a checkpoint; add --resume to go on, or name another folder")
        if (args.out / checkpoint.RESUME).exists():
            raise ValueError(
                f"--out: {args.out} holds {checkpoint.RESUME} without {checkpoint.FACTS}; copy it again, or name another folder"
            )
        load_backbone(model, args.backbone_weights, backbone=settings.backbone)
        facts = Facts(settings, num_ids, 0, data.train_name, Path(args.backbone_weights).name, None, has_cameras=data.has_cameras)
        if distributed.rank() == 0:
            runlog.rewind(args.out, 0)  # of a run that ended before its first checkpoint
        return Begun(loop.make_learner(model, settings, device), facts, np.zeros((0, len(SCALARS)), np.float32))
    before = checkpoint.load_facts(args.out)
    saved = checkpoint.load_resume(args.out, before)
    check_same(args, settings, before, is_same_data=saved["samples"] == digest(data.train))
    learner = loop.make_learner(model, settings, device)
    loop.load_state(learner, saved)
    if distributed.rank() == 0:
        runlog.rewind(args.out, before.epoch)
    return Begun(learner, replace(before, config=settings), saved["rows"].numpy())


def check_same(args: argparse.Namespace, settings: TrainConfig, before: Facts, *, is_same_data: bool) -> None:
    """Raises ValueError when what trains differs from what the run was begun with; what only tests may differ."""
    free = {"epochs", "workers", "test_feature", "test_metric", "flip_test"}
    began, now = config.to_json(before.config), config.to_json(settings)
    changed = [f"{name} was {began[name]} and is {now[name]}" for name in now if name not in free and began[name] != now[name]]
    if not is_same_data:
        changed.append("the training list is another")
    if changed:
        raise ValueError(f"--resume: {args.out} was begun otherwise: {'; '.join(changed)}; use the same flags and dataset")
    if before.epoch > settings.epochs:
        raise ValueError(
            f"--resume: {args.out} has {before.epoch} epochs, more than the {settings.epochs} wanted: raise --epochs"
        )


def digest(samples: Sequence[Sample]) -> str:
    """Returns a hash of a training list: names, identities, order."""
    return hashlib.sha256("\n".join(f"{one.path.name} {one.pid}" for one in samples).encode()).hexdigest()


def set_kernels(settings: TrainConfig) -> None:
    """Chooses between the fastest kernels and those that repeat themselves bit for bit."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
    torch.backends.cudnn.allow_tf32 = settings.precision != "fp32"  # fp32 means it
