"""Exports a checkpoint for the service: export, check, write, in that order.

python -m exporter.run runs/market artefact
python -m exporter.run runs/market artefact-int8 --precision int8 --calibrate Market-1501 --data Market-1501
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from exporter import export, manifest, parity, quantize
from exporter.graph import EmbeddingGraph
from training import checkpoint, dataset, evaluate, transforms
from training.checkpoint import Facts
from training.evaluate import Embed

MODEL = "model.onnx"
TESTED_AS = {"feature": "f_i", "metric": "cosine", "flip": False}  # what an artefact gives, and how the service compares it
LICENCE_NOTE = "The weights inherit the terms of the data and of the initial weights they were trained from."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exporter.run", description="Export a checkpoint to ONNX, checked against torch."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="run folder that training.run wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="artefact folder to make: model.onnx and manifest.json")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="arithmetic of the network (default fp32)")
    parser.add_argument("--calibrate", type=Path, metavar="DIR", help="dataset folder whose training crops int8 is calibrated on")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="dataset folder: measure the exported file itself on its test lists"
    )
    parser.add_argument("--licence-note", default=LICENCE_NOTE, metavar="TEXT", help="terms of use, kept in the manifest")
    args = parser.parse_args(argv)
    if (args.precision == "int8") != (args.calibrate is not None):
        parser.error("--precision int8 and --calibrate DIR go together: int8 needs real crops to find its ranges")
    return args


def calibration_crops(folder: Path, facts: Facts) -> np.ndarray:
    """Returns uint8 [N, H, W, 3]: crops drawn evenly from a dataset's training list."""
    samples = dataset.read_dataset(folder, cameras=facts.has_cameras).train
    chosen = np.random.default_rng(0).permutation(len(samples))[: quantize.NUM_CALIBRATION_CROPS]
    size = {"height": facts.config.height, "width": facts.config.width}
    return np.stack([transforms.load_crop(samples[index].path, **size) for index in chosen])


def measure(args: argparse.Namespace, facts: Facts, exported: Embed) -> tuple[dict[str, Any] | None, str]:
    """Returns the figures for the manifest and what they were measured on: this very file with --data, else the checkpoint.

    An int8 file that was not measured has no figures, nor has the file of a checkpoint that was tested otherwise than the
    service compares (f_i, cosine, no mirror): such thresholds are not its own.
    """
    if args.data is None:
        tested = facts.metrics or {}
        is_own = [tested.get(name, own) for name, own in TESTED_AS.items()] == list(TESTED_AS.values())
        return (facts.metrics if args.precision == "fp32" and is_own else None), "the checkpoint in fp32"
    data = dataset.read_dataset(args.data, cameras=facts.has_cameras)
    result = evaluate.evaluate(exported, data, height=facts.config.height, width=facts.config.width)
    print(evaluate.table(result))
    return asdict(result), "this exported file"


def build(args: argparse.Namespace, folder: Path) -> None:
    """Fills `folder` with a checked artefact; raises ValueError when the export does not hold against torch."""
    model, facts = checkpoint.load(args.checkpoint)
    size = {"height": facts.config.height, "width": facts.config.width}
    path = folder / MODEL
    print(f"export {facts.config.backbone} of epoch {facts.epoch} in {args.precision}", flush=True)
    export.write_onnx(EmbeddingGraph(model), path, **size)
    crops = parity.drawn_crops(sum(parity.BATCH_SIZES), **size)
    if args.precision == "int8":
        crops = calibration_crops(args.calibrate, facts)
        fp32 = path.rename(folder / "fp32.onnx")
        quantize.write_int8(fp32, path, crops)
        fp32.unlink()
    exported = parity.runtime_embedder(path)
    agreement = parity.check(evaluate.torch_embedder(model), exported, crops, precision=args.precision)
    print(f"parity: worst cosine {agreement.worst_cosine}, mean {agreement.mean_cosine} at batches of {agreement.batch_sizes}")
    metrics, measured_on = measure(args, facts, exported)
    weights = checkpoint.folder_of(args.checkpoint) / checkpoint.WEIGHTS
    described = manifest.describe(
        path,
        weights,
        facts,
        precision=args.precision,
        embedding_dim=model.embedding_dim,
        parity=agreement,
        metrics=metrics,
        measured_on=measured_on,
        licence_note=args.licence_note,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    manifest.write(folder, described)
    print(f"{args.out}: {described.model_bytes / 1e6:.1f} MB, model {described.model_id[:12]}, space {described.space_id[:12]}")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        if args.out.exists():
            raise ValueError(f"{args.out} exists already; name a new folder or remove it first")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".export-") as folder:
            (Path(folder) / "artefact").mkdir()
            build(args, Path(folder) / "artefact")
            (Path(folder) / "artefact").rename(args.out)
    except (ValueError, OSError) as error:
        sys.exit(f"exporter.run: {error}")


if __name__ == "__main__":
    main()
