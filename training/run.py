"""Trains a BNNeck model and evaluates it: configuration, data, model, loop, evaluation, in reading order."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training import checkpoint, config, dataset, distributed, evaluate, loop, recipes, runlog, start
from training.checkpoint import Facts
from training.config import TrainConfig
from training.crops import Store, check_readable, open_store
from training.dataset import Dataset
from training.embedders import torch_embedder
from training.loop import SCALARS, EpochRows, Learner
from training.schedule import learning_rate, remarks

DESCRIPTION = """Train a BNNeck re-identification model and evaluate it.

python -m training.run --data Market-1501 --out runs/market
python -m training.run --data Market-1501 --recipe table3_neck2 --out runs/neck2
python -m training.run --synthetic --epochs 3 --out runs/synthetic
torchrun --nproc-per-node 2 -m training.run --data Market-1501 --out runs/market
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; recipe values that are not given stay None and leave the recipe's."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run",
        usage="%(prog)s (--data DIR ... | --synthetic) --out RUN [options]",
        description=DESCRIPTION,
        epilog="In brackets: the strong baseline's value and where it comes from. Next: python -m exporter.run RUN ARTEFACT",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=38, width=120),
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="dataset folders or CSV files; several are joined")
    source.add_argument("--synthetic", action="store_true", help="draw a small dataset of people into RUN/data")
    source.add_argument("--list-recipes", action="store_true", help="print every recipe and its published figures")
    parser.add_argument("--test", type=Path, metavar="DIR", help="dataset to test on (the first of --data)")
    parser.add_argument("--no-cameras", action="store_true", help="ignore cameras: any other crop of a person is a match")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder: checkpoint, log, figures, pictures")
    parser.add_argument("--recipe", metavar="NAME", help="strong_baseline; synthetic with --synthetic")
    parser.add_argument("--backbone-weights", metavar="W", help="IMAGENET1K_V1 (default), IMAGENET1K_V2, a file, none")
    parser.add_argument("--resume", action="store_true", help="go on from where RUN was saved")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (auto)")
    parser.add_argument("--cache", choices=("auto", "device", "host", "files"), default="auto", help="decoded crops (auto)")
    parser.add_argument("--save-every", type=int, default=1, metavar="N", help="epochs between checkpoints (1)")
    parser.add_argument("--eval-every", type=int, default=0, metavar="N", help="epochs between evaluations (0: at the end)")
    parser.add_argument("--no-evaluation", action="store_true", help="stop after the last epoch")
    parser.add_argument("--rerank", action="store_true", help="evaluate re-ranked too")
    parser.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True, help="write event files (on)")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="draw RUN/pictures (on)")
    config.add_flags(parser)
    args = parser.parse_args(argv)
    if args.out is None and not args.list_recipes:
        parser.error("--out RUN is missing: the folder for checkpoint, log and figures")
    if args.no_evaluation and args.eval_every:
        parser.error("--no-evaluation and --eval-every contradict each other: give one of them")
    if min(args.save_every, args.eval_every + 1) < 1:
        parser.error(f"--save-every and --eval-every: got {args.save_every} and {args.eval_every}, wanted 1 or more, 0 or more")
    args.recipe = args.recipe or ("synthetic" if args.synthetic else "strong_baseline")
    args.backbone_weights = args.backbone_weights or ("none" if args.synthetic else "IMAGENET1K_V1")
    return args


AGAIN_S = 2.0  # seconds after which another Ctrl-C means it


class Stop:
    """Whether the run was asked to end: in an epoch it saves first; while it `is_saved`, or at a second Ctrl-C, it ends at once.

    One stop may arrive as several signals, so a second SIGTERM, or a Ctrl-C within seconds of the first, changes nothing.

    Not a threading.Event, whose lock must not be taken in a signal handler.
    """

    def __init__(self) -> None:
        self.is_asked, self.is_saved = False, True  # before its first batch a run has nothing to save
        self.number = int(signal.SIGTERM)  # of the signal that asked; another process may have got it
        self.asked_at = 0.0

    def ask(self, number: int, *_: object) -> None:
        is_again = self.is_asked and number == signal.SIGINT and time.monotonic() - self.asked_at > AGAIN_S
        if self.is_saved or is_again:
            raise SystemExit(128 + number)
        if not self.is_asked:
            os.write(2, b"\nstopping after this batch and saving; Ctrl-C again ends without\n")
            self.is_asked, self.number, self.asked_at = True, number, time.monotonic()


@dataclass(frozen=True)
class Work:
    """What one run works with: its flags, what learns, its crops and labels int64 [N], its data, and whether it must end."""

    args: argparse.Namespace
    learner: Learner
    store: Store
    labels: np.ndarray
    data: Dataset
    stop: Stop


def train(args: argparse.Namespace, settings: TrainConfig, stop: Stop) -> None:
    """Reads the data, trains every epoch that is left, saves, and evaluates the last."""
    device = start.pick_device(args.device)
    distributed.start(device)
    start.set_kernels(settings)
    data = start.read_data(args, settings)
    dataset.class_labels(data.train)  # one identity or none: said before anything is decoded
    if distributed.rank() == 0:
        print(data.summary(), flush=True)
        print("".join(f"warning: {remark}\n" for remark in remarks(settings)), end="", flush=True)
    distributed.own_part(settings.ids_per_batch * settings.crops_per_id)  # a batch that cannot be cut, likewise
    size = {"height": settings.height, "width": settings.width}
    if not args.no_evaluation and distributed.rank() == 0:
        check_readable((*data.query, *data.gallery), **size)  # one bad file would end the run after its last epoch
    store, readable = open_store(data.train, **size, where=args.cache, workers=settings.workers, device=device)
    data = replace(data, train=readable)
    begun = start.prepare(args, settings, data, device)
    stop.is_saved = False
    if distributed.rank() == 0:
        print(store.told(), flush=True)
        if args.resume and begun.facts.epoch + begun.facts.num_batches == 0:
            print(f"--resume: nothing is saved in {args.out} yet; training from the start", flush=True)
        runlog.write_start(args.out, settings, device=device, data=data.summary(), crops=store.told())
    work = Work(args, begun.learner, store, dataset.class_labels(readable), data, stop)
    facts, rows = begun.facts, begun.rows
    for epoch in range(facts.epoch + 1, settings.epochs + 1):
        facts = run_epoch(work, facts, epoch, rows)
        rows = rows[:0]
        if epoch < settings.epochs and is_tested_after(args, epoch):
            test(work, facts)
    if not args.no_evaluation:
        test(work, facts)


def is_tested_after(args: argparse.Namespace, epoch: int) -> bool:
    return bool(args.eval_every) and epoch % args.eval_every == 0


def run_epoch(work: Work, facts: Facts, epoch: int, rows: np.ndarray) -> Facts:
    """Trains an epoch of which `rows` are done, and saves and logs it; asked to stop, saves in mid-epoch and leaves."""
    settings, args = facts.config, work.args
    rate = learning_rate(settings, epoch)
    for group in work.learner.optimizer.param_groups:
        group["lr"] = rate
    done = loop.train_epoch(
        work.learner, work.store, work.labels, settings, epoch=epoch, before=rows, must_stop=lambda: work.stop.is_asked
    )
    place = (epoch, 0) if done.is_whole else (epoch - 1, len(done.rows))
    facts = replace(facts, epoch=place[0], num_batches=place[1], metrics=None)  # earlier figures must not pass for these weights'
    is_due = epoch % args.save_every == 0 or epoch == settings.epochs or is_tested_after(args, epoch)
    if distributed.rank() == 0 and (is_due or done.is_stopped):
        resume = loop.state(work.learner) | {"rows": torch.from_numpy(done.rows[: place[1]])}
        checkpoint.save(args.out, work.learner.kept_model(), facts, resume | {"samples": start.digest(work.data.train)})
    if distributed.rank() == 0 and done.is_whole:
        log_epoch(work, epoch, rate, done)
    if done.is_stopped:
        if distributed.rank() == 0:
            where = f"after epoch {epoch}" if done.is_whole else f"in epoch {epoch} after {place[1]} batches"
            print(f"stopped {where}; saved in {args.out}: go on with --resume", flush=True)
        distributed.wait()  # a process that leaves early has the others stopped while they save
        raise SystemExit(128 + work.stop.number)
    return facts


def log_epoch(work: Work, epoch: int, rate: float, done: EpochRows) -> None:
    """Prints the epoch's line and leaves it, with its batches, in the run folder."""
    means = zip(SCALARS, done.rows.mean(axis=0).tolist(), strict=True)
    line = {"epoch": epoch, "lr": rate} | {name: round(value, 5) for name, value in means}
    line["crops_per_s"] = round(done.crops_per_s * distributed.world_size(), 1)
    print(json.dumps(line), flush=True)
    runlog.add_line(work.args.out, line)
    first_step = runlog.add_steps(work.args.out, epoch=epoch, rows=done.rows)
    if work.args.tensorboard:
        runlog.add_events(work.args.out, first_step=first_step, rows=done.rows, line=line)


def test(work: Work, facts: Facts) -> None:
    """Evaluates the kept weights; after the last epoch the figures go into the checkpoint, with pictures beside it."""
    if distributed.rank() > 0:
        return
    work.stop.is_saved = True
    if work.stop.is_asked:  # since the last batch
        raise SystemExit(128 + work.stop.number)
    settings, args, device = facts.config, work.args, work.learner.device
    embed = torch_embedder(
        work.learner.kept_model().eval(),
        device=device,
        feature=settings.test_feature,
        flip=settings.flip_test,
        normalize=settings.test_metric == "cosine",
    )
    size = {"height": settings.height, "width": settings.width, "batch_size": 256 if device.type == "cuda" else 32}
    result, evidence = evaluate.measure(embed, work.data, **size, metric=settings.test_metric, rerank=args.rerank)
    print(evaluate.table(result), flush=True)
    runlog.add_line(args.out, {"epoch": facts.epoch, "rank1": result.rank1, "mAP": result.mAP, "mINP": result.mINP})
    if facts.epoch < settings.epochs:
        work.stop.is_saved = False
        return
    figures = asdict(result)
    checkpoint.save_facts(args.out, replace(facts, metrics=figures))
    runlog.write_metrics(args.out, figures)
    if args.pictures:
        from training import plots  # matplotlib takes a second to load

        plots.training_pictures(args.out / "pictures", runlog.lines(args.out), settings)
        plots.evaluation_pictures(args.out / "pictures", result, evidence, work.data)
    pictures = ", pictures/" if args.pictures else ""
    print(f"{args.out}: checkpoint, log, metrics.json{pictures}; next: python -m exporter.run {args.out} ARTEFACT", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.list_recipes:
        print(recipes.listing())
        return
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        settings = start.settings_of(args)
        torch.manual_seed(settings.seed)
        train(args, settings, stop)
    except torch.OutOfMemoryError as error:
        sys.exit(f"training.run: the GPU's memory is full; try --cache host or a smaller batch ({str(error)[:120]})")
    except (ValueError, OSError) as error:
        sys.exit(f"training.run: {error}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        distributed.stop()


if __name__ == "__main__":
    main()
