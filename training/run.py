"""Trains a BNNeck model and evaluates it: configuration, data, model, loop, evaluation, in reading order.

python -m training.run --data Market-1501 --out runs/market
python -m training.run --synthetic --epochs 3 --out runs/synthetic
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from training import checkpoint, config, dataset, evaluate, losses, sampler, synthetic, transforms
from training.checkpoint import Facts
from training.config import TrainConfig
from training.dataset import Sample
from training.model import BNNeck, freeze, load_backbone, set_training
from training.schedule import learning_rate

Loader = DataLoader[tuple[Tensor, Tensor]]


class TrainingCrops(TorchDataset[tuple[Tensor, Tensor]]):
    """Augmented training crops of one epoch in the order they are drawn: place -> uint8 [H, W, 3] and label int64 [].

    Each crop's randomness comes from (seed, epoch, place) alone, so worker processes and resumed runs draw the same, and a crop
    that a small identity gives twice is augmented twice.
    """

    def __init__(self, samples: Sequence[Sample], labels: Sequence[int], settings: TrainConfig, *, epoch: int) -> None:
        self.samples, self.labels, self.settings, self.epoch = samples, labels, settings, epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        settings = self.settings
        crop = transforms.load_crop(self.samples[place].path, height=settings.height, width=settings.width)
        rng = np.random.default_rng((settings.seed, self.epoch, 1 + place))  # a trailing 0 would repeat the sampler's stream
        augmented = transforms.augment(crop, flip_prob=settings.flip_prob, pad=settings.pad, rng=rng)
        return torch.from_numpy(augmented), torch.tensor(self.labels[place])


def epoch_loader(samples: Sequence[Sample], labels: np.ndarray, settings: TrainConfig, *, epoch: int) -> Loader:
    """Returns the P x K batches of one epoch: uint8 [B, H, W, 3] and labels int64 [B]."""
    rng = np.random.default_rng((settings.seed, epoch))
    drawn = sampler.epoch_batches(labels, ids_per_batch=settings.ids_per_batch, crops_per_id=settings.crops_per_id, rng=rng)
    order = [index for batch in drawn for index in batch]
    crops = TrainingCrops([samples[index] for index in order], [int(labels[index]) for index in order], settings, epoch=epoch)
    return DataLoader(crops, batch_size=settings.ids_per_batch * settings.crops_per_id, num_workers=settings.workers)


def train_epoch(
    model: BNNeck,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    settings: TrainConfig,
    *,
    title: str,
) -> dict[str, float]:
    """Runs one epoch; returns mean losses, training accuracy and crops per second.

    Raises ValueError on a loss that is not finite.
    """
    set_training(model, settings.frozen_stages)
    totals, num_crops, started = dict.fromkeys(("id_loss", "triplet_loss", "accuracy"), 0.0), 0, time.perf_counter()
    with tqdm(loader, desc=title, unit="batch", mininterval=0.1 if sys.stderr.isatty() else 30) as bar:
        for crops, labels in bar:
            step = train_step(model, crops, labels, optimizer, settings)
            num_crops += len(labels)
            totals = {name: total + step[name] * len(labels) for name, total in totals.items()}
            rate = num_crops / (time.perf_counter() - started)
            bar.set_postfix({name: f"{total / num_crops:.3f}" for name, total in totals.items()} | {"crops/s": f"{rate:.1f}"})
    return {name: total / num_crops for name, total in totals.items()} | {"crops_per_s": rate}


def train_step(
    model: BNNeck, crops: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, settings: TrainConfig
) -> dict[str, float]:
    """Forward, losses, backward, step on uint8 [B, H, W, 3] and labels int64 [B]; returns the step's scalars."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
        output = model(transforms.normalize(crops))
    f_t, logits = output.f_t_BC.float(), output.logits_BI.float()
    id_loss = losses.smoothed_cross_entropy(logits, labels, epsilon=settings.label_smoothing)
    triplet_loss = losses.batch_hard_triplet(f_t, labels, margin=settings.margin)
    loss = id_loss + triplet_loss
    if not torch.isfinite(loss):
        raise ValueError(f"loss: got {loss.item()} (id {id_loss.item()}, triplet {triplet_loss.item()}); lower --lr or use fp32")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return {"id_loss": id_loss.item(), "triplet_loss": triplet_loss.item(), "accuracy": accuracy.item()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; values that are not given stay None and leave the recipe's."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run",
        description="Train a BNNeck re-identification model and evaluate it.",
        epilog="Writes RUN/checkpoint.safetensors and RUN/checkpoint.json; then: python -m exporter.run RUN ARTEFACT",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="Market-1501-layout folder")
    source.add_argument("--synthetic", action="store_true", help="draw a small dataset of people into RUN/data")
    parser.add_argument("--out", type=Path, metavar="RUN", required=True, help="run folder: checkpoint, log, figures")
    parser.add_argument("--recipe", choices=config.RECIPES, help="strong_baseline, or synthetic with --synthetic, by default")
    parser.add_argument(
        "--backbone-weights",
        metavar="W",
        help="IMAGENET1K_V1 (default, downloaded), IMAGENET1K_V2, a .pth or .safetensors file, none (default with --synthetic)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last epoch saved in RUN")
    parser.add_argument("--no-evaluation", action="store_true", help="stop after the last epoch")
    config.add_flags(parser)
    args = parser.parse_args(argv)
    args.recipe = args.recipe or ("synthetic" if args.synthetic else "strong_baseline")
    args.backbone_weights = args.backbone_weights or ("none" if args.synthetic else "IMAGENET1K_V1")
    return args


def prepare(
    args: argparse.Namespace, settings: TrainConfig, num_ids: int, data_name: str
) -> tuple[BNNeck, torch.optim.Optimizer, Facts]:
    """Builds the model and its optimiser, fresh or from the run folder's last epoch."""
    model = BNNeck(backbone=settings.backbone, num_ids=num_ids, last_stride=settings.last_stride)
    facts = Facts(settings, num_ids, 0, data_name, Path(args.backbone_weights).name, None)
    resumed = args.resume and (args.out / checkpoint.FACTS).is_file()
    if resumed:
        model, before = checkpoint.load(args.out)
        if (before.config, before.num_ids) != (replace(settings, epochs=before.config.epochs), num_ids):
            raise ValueError(f"--resume: {args.out} was begun with another configuration or dataset; use the same flags")
        facts = replace(before, config=settings)
    elif (args.out / checkpoint.FACTS).exists():
        raise ValueError(f"--out: {args.out} already holds a checkpoint; add --resume to go on, or name another folder")
    else:
        load_backbone(model, args.backbone_weights, backbone=settings.backbone)
    freeze(model, settings.frozen_stages)
    model.to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    if resumed:
        checkpoint.load_optimizer(args.out, optimizer, epoch=facts.epoch)
    return model, optimizer, facts


def train(args: argparse.Namespace, settings: TrainConfig) -> None:
    """Reads the data, trains every epoch that is left, saves after each, and evaluates the last."""
    if args.synthetic:
        synthetic.write_dataset(args.out / "data", seed=settings.seed)
    data = dataset.read_dataset(args.data or args.out / "data")
    print(data.summary())
    labels = dataset.class_labels(data.train)
    model, optimizer, facts = prepare(args, settings, int(labels.max()) + 1, data.folder.name)
    for epoch in range(facts.epoch + 1, settings.epochs + 1):
        rate = optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch)
        loader = epoch_loader(data.train, labels, settings, epoch=epoch)
        scalars = train_epoch(model, loader, optimizer, settings, title=f"epoch {epoch}/{settings.epochs}")
        facts = replace(facts, epoch=epoch, metrics=None)  # figures of an earlier epoch must not pass for this one's
        checkpoint.save(args.out, model, facts, optimizer)
        line = {"epoch": epoch, "lr": rate} | {name: round(value, 5) for name, value in scalars.items()}
        print(json.dumps(line), flush=True)
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    if not args.no_evaluation:
        embed = evaluate.torch_embedder(model.eval())
        result = evaluate.evaluate(embed, data, height=settings.height, width=settings.width)
        checkpoint.save_facts(args.out, replace(facts, metrics=asdict(result)))
        print(evaluate.table(result))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        settings = config.from_flags(args)
        torch.manual_seed(settings.seed)
        train(args, settings)
    except (ValueError, OSError) as error:
        sys.exit(f"training.run: {error}")


if __name__ == "__main__":
    main()
