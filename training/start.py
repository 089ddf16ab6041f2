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
    """Reads, joins and checks the datasets of the command line; draws one for --synthetic."""
    if args.synthetic:
        if distributed.rank() == 0:
            synthetic.write_dataset(args.out / "data", seed=settings.seed)
        distributed.any_rank(False, torch.device("cpu"))  # the others wait for the files
        args.data = [args.out / "data"]
    parts = [dataset.read_dataset(folder, cameras=not args.no_cameras, seed=settings.seed) for folder in args.data]
    test = dataset.read_dataset(args.test, cameras=not args.no_cameras, seed=settings.seed) if args.test else parts[0]
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
    if not (args.resume and (args.out / checkpoint.FACTS).is_file()):
        if (args.out / checkpoint.FACTS).exists():
            raise ValueError(f"--out: {args.out} already holds a checkpoint; add --resume to go on, or name another folder")
        load_backbone(model, args.backbone_weights, backbone=settings.backbone)
        facts = Facts(settings, num_ids, 0, data.name, Path(args.backbone_weights).name, None)
        return Begun(loop.make_learner(model, settings, device), facts, np.zeros((0, len(SCALARS)), np.float32))
    before = checkpoint.load_facts(args.out)
    saved = checkpoint.load_resume(args.out, before)
    expected = replace(settings, epochs=before.config.epochs, workers=before.config.workers)
    if (before.config, saved["samples"]) != (expected, digest(data.train)):
        raise ValueError(f"--resume: {args.out} was begun with another configuration or dataset; use the same flags")
    learner = loop.make_learner(model, settings, device)
    loop.load_state(learner, saved)
    if distributed.rank() == 0:
        runlog.rewind(args.out, before.epoch)
    return Begun(learner, replace(before, config=settings), saved["rows"].numpy())


def digest(samples: Sequence[Sample]) -> str:
    """Returns a hash of a training list: names, identities, order."""
    return hashlib.sha256("\n".join(f"{one.path.name} {one.pid}" for one in samples).encode()).hexdigest()


def set_kernels(settings: TrainConfig) -> None:
    """Chooses between the fastest kernels and those that repeat themselves bit for bit."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
