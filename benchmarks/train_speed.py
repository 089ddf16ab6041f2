"""Where does a training step's time go? Crops per second by stage, beside what one would write with torchvision instead.

    python -m benchmarks.train_speed --data Market-1501 --compile                        # a GPU: resnet50, 256 x 128
    python -m benchmarks.train_speed --backbone resnet18 --height 128 --width 64         # two CPU cores, drawn people

Stages: data (store -> augmented batch on the device), network (forward, losses, backward, update on one fixed batch), whole
(both). The other form reads the same P x K batches with PIL in a DataLoader's worker processes, augments every crop with
torchvision's transforms, and feeds the same network; its RandomErasing draws the aspect log-uniformly, which costs the same.
Medians over rounds, slowest and fastest beside them; the first batches, which start workers and choose kernels, do not count.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as tv

from benchmarks.ledger import machine
from training import checkpoint, dataset, loop, sampler, start, synthetic, transforms
from training.config import Backbone, Precision, TrainConfig, to_json
from training.crops import Decoded, Files, Store, open_store
from training.dataset import Sample
from training.model import set_training
from training.recipes import strong_baseline

WARM_UP = 2  # batches
PER_EPOCH = 190  # batches between which workers are started anew, as in Market-1501's epochs
OURS, OTHER = "ours", "torchvision + DataLoader"

Batches = Generator[int, None, None]  # works on a batch and yields how many crops it held
Feed = Callable[["Bench", Store | None], Iterator[tuple[Tensor, Tensor]]]  # images and labels of batch after batch, for ever


@dataclass(frozen=True)
class Case:
    """One line of the table: what was timed, and crops per second; `error` instead where it could not run."""

    name: str
    stage: str
    form: str
    precision: str
    cache: str
    compile: bool
    crops_per_s: float
    slowest: float
    fastest: float
    batches: int
    error: str | None = None


@dataclass(frozen=True)
class Bench:
    """What every case works with: configuration, device, samples, their labels int64 [N], seconds of a case."""

    config: TrainConfig
    device: torch.device
    samples: tuple[Sample, ...]
    labels: np.ndarray
    seconds: float

    def order(self, epoch: int) -> list[list[int]]:
        """Returns the batches of an epoch as long as Market-1501's, whatever the dataset's size."""
        rng = np.random.default_rng((self.config.seed, epoch))
        found: list[list[int]] = []
        while len(found) < PER_EPOCH:
            found += sampler.epoch_batches(
                self.labels, ids_per_batch=self.config.ids_per_batch, crops_per_id=self.config.crops_per_id, rng=rng
            )
        return found[:PER_EPOCH]

    def labels_of(self, batch: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.labels[batch]).to(self.device)


def learner_of(bench: Bench, config: TrainConfig) -> loop.Learner:
    """Returns a fresh learner: its speed does not depend on its weights."""
    model = checkpoint.build(config, int(bench.labels.max()) + 1)
    learner = loop.make_learner(model, config, bench.device)
    set_training(learner.model, config.frozen_stages)
    return learner


def our_batches(bench: Bench, store: Store | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images and labels as the training loop makes them, for ever."""
    assert store is not None
    for epoch in count(1):
        order = bench.order(epoch)
        for place, crops in enumerate(store.batches(order)):
            images = loop.augmented(crops, bench.config, epoch=epoch, place=place, own=slice(0, len(crops)))
            yield images, bench.labels_of(order[place])


def data_only(feed: Feed, bench: Bench, store: Store | None) -> Batches:
    """Yields after every batch that is ready on the device."""
    for images, _ in feed(bench, store):
        yield len(images)


def network_only(bench: Bench, config: TrainConfig) -> Batches:
    """Yields after every step on one fixed batch of noise."""
    learner, batch = learner_of(bench, config), bench.order(1)[0]
    crops = torch.randint(0, 256, (len(batch), config.height, config.width, 3), dtype=torch.uint8, device=bench.device)
    images = transforms.normalize(crops)  # channels last in memory, as augmented crops are
    labels = bench.labels_of(batch)
    while True:
        loop.step(learner, images, labels, config)
        yield len(batch)


def whole(feed: Feed, bench: Bench, store: Store | None, config: TrainConfig) -> Batches:
    """Yields after every step on the batches that come."""
    learner = learner_of(bench, config)
    for images, labels in feed(bench, store):
        loop.step(learner, images, labels, config)
        yield len(images)


class Augmented(TorchDataset[tuple[Tensor, int]]):
    """What one would write: a file opened, augmented and turned into a tensor, one by one."""

    def __init__(self, bench: Bench) -> None:
        config = bench.config
        self.samples, self.labels = bench.samples, bench.labels
        self.transform = tv.Compose(
            [
                tv.Resize((config.height, config.width)),
                tv.RandomHorizontalFlip(config.flip_prob),
                tv.Pad(config.pad),
                tv.RandomCrop((config.height, config.width)),
                tv.ToTensor(),
                tv.Normalize(transforms.MEAN, transforms.STD),
                tv.RandomErasing(config.erasing_prob, transforms.ERASED_AREA, transforms.ERASED_ASPECT, list(transforms.MEAN)),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.samples[index].path) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def other_batches(bench: Bench, _: Store | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images and labels from a DataLoader, for ever."""
    is_cuda = bench.device.type == "cuda"
    for epoch in count(1):
        loader = DataLoader(
            Augmented(bench), batch_sampler=bench.order(epoch), num_workers=bench.config.workers, pin_memory=is_cuda
        )
        for images, labels in loader:
            images = images.to(bench.device, non_blocking=True, memory_format=torch.channels_last)
            yield images, labels.to(bench.device, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Waits until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(batches: Batches, *, seconds: float, rounds: int, device: torch.device) -> tuple[list[float], int]:
    """Returns crops per second of each of `rounds` rounds, `seconds` in all, and the batches timed, after a warm-up."""
    for _ in range(WARM_UP):
        next(batches)
    found, num_batches = [], 0
    for _ in range(rounds):
        wait_for(device)
        begun, crops = time.perf_counter(), 0
        while crops == 0 or time.perf_counter() - begun < seconds / rounds:
            crops += next(batches)
            num_batches += 1
        wait_for(device)  # what was asked for must be done before the clock is read
        found.append(crops / (time.perf_counter() - begun))
    return found, num_batches


@dataclass(frozen=True)
class Work:
    """A case before it is timed; `make` begins it."""

    stage: str
    form: str
    config: TrainConfig
    cache: str
    make: Callable[[], Batches]

    @property
    def name(self) -> str:
        arithmetic = [] if self.stage == "data" else [self.config.precision]
        place = [] if self.stage == "network" else [self.cache]
        return ", ".join([self.stage, self.form, *arithmetic, *place, *(["compiled"] if self.config.compile else [])])


def measure(work: Work, *, seconds: float, rounds: int, device: torch.device) -> Case:
    """Times one case; too little memory or a compiler that fails becomes its error."""
    kind = (work.name, work.stage, work.form, work.config.precision, work.cache, work.config.compile)
    try:
        batches = work.make()
        found, num_batches = rates(batches, seconds=seconds, rounds=rounds, device=device)
        batches.close()  # ends the worker processes
    except RuntimeError as error:
        return Case(*kind, crops_per_s=0.0, slowest=0.0, fastest=0.0, batches=0, error=str(error).strip()[:200])
    middle, low, high = (round(one, 1) for one in (median(found), min(found), max(found)))
    return Case(*kind, crops_per_s=middle, slowest=low, fastest=high, batches=num_batches)


def open_stores(bench: Bench) -> tuple[Bench, dict[str, Store]]:
    """Decodes the crops once and returns every store of them, fastest first, and the bench without unreadable samples."""
    config, device = bench.config, bench.device
    size = {"height": config.height, "width": config.width}
    host, samples = open_store(bench.samples, **size, where="host", workers=config.workers, device=device)
    assert isinstance(host, Decoded)
    stores: dict[str, Store] = {"device": Decoded(host.crops.to(device), device)}
    if device.type == "cuda":
        stores["host"] = host  # on a CPU the device's memory is the host's
    stores["files"] = Files(samples, **size, workers=config.workers, device=device)
    return replace(bench, samples=samples, labels=dataset.class_labels(samples)), stores


def cases(bench: Bench, precisions: Sequence[Precision], *, with_compile: bool) -> list[Work]:
    """Returns every case: data by cache, the network by precision (compiled too), whole steps by both, and the other form."""
    bench, stores = open_stores(bench)
    config, first = bench.config, next(iter(stores))
    forms = [replace(config, precision=one, compile=c) for one in precisions for c in (False, True)[: 1 + with_compile]]
    plain = [one for one in forms if not one.compile]
    found = [Work("data", OURS, config, cache, partial(data_only, our_batches, bench, store)) for cache, store in stores.items()]
    found.append(Work("data", OTHER, config, "files", partial(data_only, other_batches, bench, None)))
    found += [Work("network", OURS, one, "-", partial(network_only, bench, one)) for one in forms]
    pairs = [(one, first) for one in plain] + [(plain[-1], cache) for cache in stores if cache != first]
    found += [Work("whole", OURS, one, cache, partial(whole, our_batches, bench, stores[cache], one)) for one, cache in pairs]
    return found + [Work("whole", OTHER, one, "files", partial(whole, other_batches, bench, None, one)) for one in plain]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset with a training list (drawn people)")
    parser.add_argument("--backbone", choices=get_args(Backbone), default="resnet50", help="network (resnet50)")
    parser.add_argument("--height", type=int, default=256, metavar="N", help="input height in pixels (256)")
    parser.add_argument("--width", type=int, default=128, metavar="N", help="input width in pixels (128)")
    parser.add_argument("--ids-per-batch", type=int, default=16, metavar="N", help="P of the batch (16)")
    parser.add_argument("--crops-per-id", type=int, default=4, metavar="N", help="K of the batch (4)")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), help="fp32 bf16, and fp16 on a GPU")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too: up to a minute before each case")
    parser.add_argument("--workers", type=int, metavar="N", help="decoding processes (one a core, at most 8)")
    parser.add_argument("--seconds", type=float, default=5, metavar="X", help="of each case, without its warm-up (5)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of a case, of which the median is told (5)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.seconds < 0 or (args.workers or 0) < 0:
        parser.error(
            f"got {args.rounds} rounds, {args.seconds:g} seconds, {args.workers} workers, wanted 1 or more, 0 or more both"
        )
    return args


def bench_of(args: argparse.Namespace, folder: Path) -> Bench:
    """Returns what the command line asks to be timed; raises ValueError for data or a configuration that cannot train."""
    device = start.pick_device(args.device)
    config = replace(
        strong_baseline(),
        backbone=args.backbone,
        height=args.height,
        width=args.width,
        ids_per_batch=args.ids_per_batch,
        crops_per_id=args.crops_per_id,
        workers=min(8, os.cpu_count() or 1) if args.workers is None else args.workers,
    )
    if args.data is None:
        synthetic.write_dataset(folder, seed=0)
    samples = dataset.read_dataset(args.data or folder).train
    return Bench(config, device, samples, dataset.class_labels(samples), args.seconds)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        with tempfile.TemporaryDirectory() as drawn:
            time_all(args, bench_of(args, Path(drawn)))
    except (ValueError, OSError) as error:
        sys.exit(f"train_speed: {error}")


def time_all(args: argparse.Namespace, bench: Bench) -> None:
    """Times every case, prints its line, and writes what is known so far: a run that is cut short keeps its figures."""
    start.set_kernels(bench.config)
    precisions = args.precision or ["fp32", "bf16", *(["fp16"] if bench.device.type == "cuda" else [])]
    where, config = machine(), bench.config
    print(f"{where['device']}, {where['cpus']} CPUs, {torch.get_num_threads()} threads, torch {where['torch']}")
    shape = f"{config.height} x {config.width}, {config.ids_per_batch} x {config.crops_per_id}"
    print(f"{config.backbone}, {shape} crops a batch, {config.workers} workers, {len(bench.samples):,} crops")
    print(f"{'':<58}crops/s   slowest   fastest  batches")
    settings = to_json(config) | {"threads": torch.get_num_threads(), "seconds": args.seconds, "rounds": args.rounds}
    report: dict[str, Any] = {"machine": where, "settings": settings, "num_crops": len(bench.samples), "cases": []}
    for work in cases(bench, precisions, with_compile=args.compile):
        case = measure(work, seconds=args.seconds, rounds=args.rounds, device=bench.device)
        print(line(case), flush=True)
        report["cases"].append(asdict(case))
        if args.json:
            checkpoint.write_whole({args.json: lambda path: path.write_text(json.dumps(report, indent=2) + "\n")})


def line(case: Case) -> str:
    """Returns a case as the table shows it."""
    if case.error:
        return f"{case.name}: {case.error}"
    return f"{case.name:<55}{case.crops_per_s:>10.1f}{case.slowest:>10.1f}{case.fastest:>10.1f}{case.batches:>9}"


if __name__ == "__main__":
    main()
