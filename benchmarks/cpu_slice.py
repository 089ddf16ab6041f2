"""Does every trick's machinery work, and do the losses of Fig. 8 have their shapes? The training on a slice, on one CPU core.

    OMP_NUM_THREADS=1 python -m benchmarks.cpu_slice --data Market-1501 --work runs/slice --json runs/slice/report.json

Trains a ResNet-18 from scratch, or with --backbone-weights a ResNet-50 from those, at 64 x 32 on a few crops of each of the 64
training identities with the most, each case with `training.run` in a process of its own, and tests on 64 test identities with
distractors and junk. Interrupted, the same command goes on. Figures of a slice rank nothing: they say that a trick trains, and
what its losses do.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import run, runlog
from training.curves import moving_mean
from training.dataset import class_labels, read_dataset
from training.layouts import GALLERY, QUERY, TRAIN, images
from training.sampler import epoch_batches

NUM_IDS = 64  # to train on, and as many to test with
TRAINED, ASKED, SEARCHED = 16, 2, 6  # crops at most of each identity: to train on, as query, in the gallery
NUM_DISTRACTORS, NUM_JUNK = 200, 100
SMOOTHED = 20  # iterations of the moving mean that peaks are read from
IDS_PER_BATCH = 8
SEED = 0
FLAGS = (
    *("--height", "64", "--width", "32", "--pad", "3"),
    *("--ids-per-batch", str(IDS_PER_BATCH), "--precision", "bf16", "--device", "cpu", "--seed", str(SEED), "--resume"),
    *("--no-tensorboard", "--no-pictures", "--save-every", "4"),
)


@dataclass(frozen=True)
class Case:
    """One training: the part it belongs to, a recipe, and the flags that differ."""

    part: str
    name: str
    recipe: str
    flags: tuple[str, ...]


def cases(fig8_epochs: int) -> list[Case]:
    """Returns every case in the order they run."""
    necks = {"neck3": "table3_neck3", "bnneck3": "table3_bnneck3", "bnneck": "table3_bnneck_fi"}
    shapes = ("--epochs", str(fig8_epochs), "--warmup-epochs", "2")
    fig8 = [Case("fig8", f"fig8_{neck}", recipe, shapes) for neck, recipe in necks.items()]
    rows = ("baseline", "warmup", "rea", "ls", "stride", "bnneck", "center")
    warm = {row: () if row == "baseline" else ("--warmup-epochs", "1") for row in rows}
    table1 = [Case("table1", f"table1_{row}", f"table1_{row}", ("--epochs", "3", *warm[row])) for row in rows]
    recipes = ("table3_neck1", "table3_neck2", "table3_bnneck1", "table3_bnneck2", "table5_fi_beta_0_5", "table10_p8_k6")
    options = {
        "ema": ("--ema-decay", "0.99"),
        "clip": ("--clip-norm", "1"),
        "warmup_paper": ("--warmup", "paper", "--warmup-epochs", "2"),
        "erasing_mean": ("--erasing-fill", "mean"),
        "flip_test": ("--flip-test",),
    }
    short = ("--epochs", "1", "--warmup-epochs")
    once = [Case("once", recipe, recipe, (*short, "0")) for recipe in recipes]
    once += [Case("once", name, "strong_baseline", (*short, "0", *more)) for name, more in options.items()]
    return fig8 + table1 + once


def by_pid(folder: Path, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Returns a folder's images by the pid in their names, each identity's in an order that `rng` draws."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in images(folder):
        found[path.name.split("_")[0]].append(path)
    return {pid: [paths[place] for place in rng.permutation(len(paths))] for pid, paths in found.items()}


def make_slice(data: Path, folder: Path) -> None:
    """Links a slice of a Market-1501 folder into `folder`, always the same one."""
    rng = np.random.default_rng(SEED)
    train, query, gallery = (by_pid(data / name, rng) for name in (TRAIN, QUERY, GALLERY))
    largest = Counter({pid: len(paths) for pid, paths in train.items()}).most_common(NUM_IDS)
    tested = rng.choice(sorted(query), NUM_IDS, replace=False).tolist()
    lists = {
        TRAIN: [path for pid, _ in largest for path in train[pid][:TRAINED]],
        QUERY: [path for pid in tested for path in query[pid][:ASKED]],
        GALLERY: [path for pid in tested for path in gallery[pid][:SEARCHED]],
    }
    lists[GALLERY] += gallery["0000"][:NUM_DISTRACTORS] + gallery["-1"][:NUM_JUNK]
    for name, paths in lists.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in paths:
            link = folder / name / path.name
            if not link.is_symlink():
                link.symlink_to(path.resolve())


def epochs_of(iterations: int, labels: np.ndarray) -> int:
    """Returns how many epochs of the training's own batches make that many iterations."""
    done = epoch = 0
    while done < iterations:
        epoch += 1
        rng = np.random.default_rng((SEED, epoch))
        done += len(epoch_batches(labels, ids_per_batch=IDS_PER_BATCH, crops_per_id=4, rng=rng))
    return epoch


def run_apart(command: list[str], log: Path) -> None:
    """Runs a training in this process, a fork whose output goes into `log`."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["training.run", *command]
    run.main(command)


def backbone_flags(weights: Path | None) -> tuple[str, ...]:
    """Returns the flags of a ResNet-18 from scratch, or of a ResNet-50 from a file of weights."""
    if weights is None:
        return ("--backbone", "resnet18", "--backbone-weights", "none")
    return ("--backbone", "resnet50", "--backbone-weights", str(weights.resolve()))


def train(case: Case, data: Path, work: Path, backbone: Sequence[str]) -> dict[str, Any]:
    """Runs one case unless it is done; returns its figures, or what went wrong."""
    out, log = work / case.name, work / f"{case.name}.log"
    done = out / "done.json"  # the flags it was done with: other flags are another case, or more epochs of this one
    flags = [*backbone, *case.flags]
    if not done.exists() or json.loads(done.read_text()) != flags:
        command = ["--data", str(data), "--out", str(out), "--recipe", case.recipe, *backbone, *FLAGS, *case.flags]
        child = multiprocessing.get_context("fork").Process(target=run_apart, args=(command, log))  # torch is imported once
        child.start()
        child.join()
        if child.exitcode:
            return {"part": case.part, "name": case.name, "failed": f"exit status {child.exitcode}, see {log.name}"}
        done.write_text(json.dumps(flags))
    lines, metrics = runlog.lines(out), json.loads((out / "metrics.json").read_text())
    figures: dict[str, Any] = {"part": case.part, "name": case.name, "recipe": case.recipe, "flags": case.flags}
    figures |= {key: lines[-1].get(key) for key in ("epoch", "id_loss", "triplet_loss", "center_loss", "accuracy")}
    figures |= {key: metrics[key] for key in ("mAP", "feature", "metric", "num_valid_queries", "num_gallery")}
    figures["rank1"] = metrics["cmc"][0]
    figures["crops_per_s"] = round(float(np.median([line["crops_per_s"] for line in lines])), 1)
    return figures


def steps_of(folder: Path, iterations: int) -> list[dict[str, float]]:
    """Returns the losses of a run's first iterations."""
    return [{key: float(value) for key, value in row.items()} for row in runlog.read_steps(folder)[:iterations]]


def shape(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns where the losses begin, where the smoothed triplet loss is highest and lowest, and where they end."""
    identity, triplet = (np.array([step[key] for step in steps]) for key in ("id_loss", "triplet_loss"))
    smooth = moving_mean(triplet, width=SMOOTHED)
    return {
        "iterations": len(steps),
        "id_begin": float(identity[:SMOOTHED].mean()),
        "id_end": float(identity[-SMOOTHED:].mean()),
        "triplet_begin": float(triplet[:SMOOTHED].mean()),
        "triplet_max": float(smooth.max()),
        "max_at": int(smooth.argmax()) + 1,
        "triplet_end": float(triplet[-SMOOTHED:].mean()),
        "roughness": float(np.abs(triplet - smooth).mean() / triplet.mean()),  # mean distance to the moving mean, relative
    }


HEAD = "case                   epochs     id  triplet   center    acc  rank-1    mAP  crops/s"


def line(figures: Mapping[str, Any]) -> str:
    """One line of the table."""
    if "failed" in figures:
        return f"{figures['name']:<22}  failed: {figures['failed']}"
    return (
        f"{figures['name']:<22}{figures['epoch']:>7}{figures['id_loss']:>7.3f}{figures['triplet_loss']:>9.3f}"
        f"{figures['center_loss']:>9.1f}{figures['accuracy']:>7.3f}{100 * figures['rank1']:>8.1f}{100 * figures['mAP']:>7.1f}"
        f"{figures['crops_per_s']:>9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Market-1501 folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for the slice, the runs and their logs")
    parser.add_argument("--parts", nargs="+", choices=("fig8", "table1", "once"), default=("fig8", "table1", "once"))
    parser.add_argument("--iterations", type=int, default=500, help="of Fig. 8 (500, paper); more of them go on from fewer")
    parser.add_argument("--backbone-weights", type=Path, help="of a ResNet-50 to begin from (default: a ResNet-18 from scratch)")
    parser.add_argument("--json", type=Path, help="write the figures here too, after every case")
    args = parser.parse_args()
    make_slice(args.data, args.work / "slice")
    data = read_dataset(args.work / "slice")
    print(data.summary(), flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = platform.processor() or platform.machine()
    backbone = backbone_flags(args.backbone_weights)
    report: dict[str, Any] = {"machine": machine, "commit": commit, "flags": [*backbone, *FLAGS], "cases": []}
    print(HEAD, flush=True)
    for case in cases(epochs_of(args.iterations, class_labels(data.train))):
        if case.part not in args.parts:
            continue
        figures = train(case, args.work / "slice", args.work, backbone)
        if case.part == "fig8" and "failed" not in figures:
            figures["fig8"] = shape(steps_of(args.work / case.name, args.iterations))
        report["cases"].append(figures)
        print(line(figures), flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    curves = {case["name"]: steps_of(args.work / case["name"], args.iterations) for case in report["cases"] if "fig8" in case}
    if curves:
        from training.plots import loss_curves  # matplotlib takes a second to load

        print(loss_curves(args.work / "fig8.png", curves))
        print(json.dumps({case["name"]: case["fig8"] for case in report["cases"] if "fig8" in case}, indent=2))


if __name__ == "__main__":
    main()
