"""Exports a checkpoint for the service: export, check, measure, write, in that order.

python -m exporter.run runs/market artefact
python -m exporter.run runs/market artefact-fp16 --precision fp16 --data Market-1501
python -m exporter.run runs/market artefact-int8 --precision int8 --calibrate Market-1501 --data Market-1501
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exporter import calibrate, cost, export, half, manifest, parity, sensitivity
from exporter.export import MODEL, REFERENCE
from exporter.graph import EmbeddingGraph
from exporter.manifest import Findings
from training import checkpoint, dataset, evaluate
from training.checkpoint import Facts
from training.dataset import Dataset
from training.model import BNNeck

TESTED_AS = {"feature": "f_i", "metric": "cosine", "flip": False}  # what an artefact gives, and how the service compares it
LICENCE_NOTE = "The weights inherit the terms of the data and of the initial weights they were trained from."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exporter.run", description="Export a checkpoint to ONNX, checked against torch."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="run folder that training.run wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="artefact folder to make: model.onnx and manifest.json")
    parser.add_argument("--licence-note", default=LICENCE_NOTE, metavar="TEXT", help="terms of use, kept in the manifest")
    network = parser.add_argument_group("arithmetic of the network")
    network.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp32 (default); fp16, for GPUs; int8, for CPUs. No bf16: ONNX Runtime has no such convolution on a CPU",
    )
    network.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="dataset whose training crops int8 is calibrated on, or fp16 checked with",
    )
    network.add_argument(
        "--keep-fp32", type=int, default=0, metavar="N", help="leave the N groups of layers that int8 harms most in fp32 (0)"
    )
    measured = parser.add_argument_group("what it costs")
    measured.add_argument(
        "--data", type=Path, metavar="DIR", help="dataset: measure this very file, and fp32 beside it, on its test"
    )
    measured.add_argument(
        "--max-map-drop", type=float, metavar="X", help=f"refuse more points of mAP lost, also mixed ({cost.MAX_MAP_DROP})"
    )
    measured.add_argument(
        "--cost-identities",
        type=int,
        metavar="N",
        help="run fp32 on N drawn identities of the test only (default all; it is slow)",
    )
    args = parser.parse_args(argv)
    if args.precision == "int8" and not args.calibrate or args.precision == "fp32" and args.calibrate:
        parser.error("--precision int8 wants --calibrate DIR, as it needs real crops to find its ranges; fp32 looks at none")
    if args.keep_fp32 < 0 or args.keep_fp32 and args.precision != "int8":
        parser.error(f"--keep-fp32: got {args.keep_fp32}, wanted a number of groups, with --precision int8")
    if (args.data is None or args.precision == "fp32") and (args.max_map_drop, args.cost_identities) != (None, None):
        parser.error(
            "--max-map-drop and --cost-identities want --data DIR and fp16 or int8: fp32 is what the cost is measured from"
        )
    if args.max_map_drop is not None and not args.max_map_drop >= 0:
        parser.error(f"--max-map-drop: got {args.max_map_drop:g}, wanted points of mAP, 0 or more")
    return args


def checkpoint_findings(facts: Facts, *, precision: str) -> Findings:
    """Returns what the checkpoint's own evaluation says of an artefact that was not measured: metrics of fp32, thresholds of all.

    The precisions of a checkpoint share galleries, so they share its thresholds until one has its own; int8 moved them by 0.001
    on Market-1501. A checkpoint that was tested otherwise than the service compares (f_i, cosine, no mirror) has none to give.
    """
    tested = facts.metrics or {}
    is_own = [tested.get(name, own) for name, own in TESTED_AS.items()] == list(TESTED_AS.values())
    if not tested or not is_own:
        return Findings()
    measured_on = "the checkpoint in fp32"
    thresholds = manifest.thresholds_of(tested, f"impostor pairs of {tested['data']}, {measured_on}")
    return Findings(metrics={"measured_on": measured_on, **tested} if precision == "fp32" else None, thresholds=thresholds)


def read_test(args: argparse.Namespace, facts: Facts) -> Dataset | None:
    """Returns the dataset of --data; raises ValueError when its test cannot be run, before anything took long."""
    if args.data is None:
        return None
    data = dataset.read_dataset(args.data, cameras=facts.has_cameras)
    dataset.check_test(data)
    if args.cost_identities is not None:
        cost.sample(data, args.cost_identities)
    return data


def measure(args: argparse.Namespace, facts: Facts, data: Dataset, folder: Path) -> Findings:
    """Measures the file in `folder` on the test lists of a dataset, and what it costs beside the fp32 file in `folder`.

    Raises ValueError when it costs too much.
    """
    size: dict[str, Any] = {"height": facts.config.height, "width": facts.config.width}
    own, found = parity.runtime_embedder(folder / MODEL), None
    if args.precision == "fp32":
        result = evaluate.evaluate(own, data, **size)
    else:
        reference = parity.runtime_embedder(folder / REFERENCE)
        result, found = cost.measure(own, reference, data, num_identities=args.cost_identities, **size)
    print(evaluate.table(result))
    if found:
        print(cost.table(found))
        cost.check(found, max_map_drop=cost.MAX_MAP_DROP if args.max_map_drop is None else args.max_map_drop)
    metrics: dict[str, Any] = {"measured_on": "this exported file", **asdict(result)}
    source = f"impostor pairs of {result.data}, this exported file"
    findings = Findings(metrics=metrics, thresholds=manifest.thresholds_of(metrics, source))
    if not found:
        return findings
    described = asdict(found)
    return replace(findings, cosine={"measured_on": found.measured_on, **described.pop("cosine")}, cost=described)


def convert(args: argparse.Namespace, facts: Facts, folder: Path) -> tuple[Findings, np.ndarray]:
    """Makes the model of the wanted precision from the fp32 file in `folder`; returns what was found, and crops for the gate."""
    size = {"height": facts.config.height, "width": facts.config.width}
    crops = parity.drawn_crops(sum(parity.BATCH_SIZES), **size)
    if args.precision == "fp32":
        (folder / REFERENCE).rename(folder / MODEL)
        return Findings(), crops
    chosen = calibrate.draw(args.calibrate, cameras=facts.has_cameras, **size) if args.calibrate else None
    if args.precision == "fp16":
        print("fp16 is for GPUs: a CPU runs it no faster than fp32", flush=True)
        room = half.write_fp16(folder / REFERENCE, folder / MODEL, crops if chosen is None else chosen.all())
        seen = "drawn people; --calibrate DIR looks at real crops" if chosen is None else chosen.name
        print(f"fp16: activations reach {room.largest:g} of {half.LARGEST:g} on {room.num_crops} crops, {seen}", flush=True)
        return Findings(quantization=room.description()), crops
    assert chosen is not None, "parse asks for --calibrate"
    choice = sensitivity.write_int8(folder / REFERENCE, folder / MODEL, chosen, keep=args.keep_fp32)
    print(choice.table(), flush=True)
    cosine = {"measured_on": "training crops held apart from the calibration", **asdict(choice.held)}
    found = Findings(calibration=chosen.description(), quantization=choice.description(), cosine=cosine)
    return found, chosen.all()


def build(args: argparse.Namespace, folder: Path) -> None:
    """Fills `folder` with a checked artefact; raises ValueError when the export does not hold against torch or costs too much."""
    model, facts = checkpoint.load(args.checkpoint)
    data = read_test(args, facts)
    print(f"export {facts.config.backbone} of epoch {facts.epoch} in {args.precision}", flush=True)
    size = {"height": facts.config.height, "width": facts.config.width}
    export.write_onnx(EmbeddingGraph(model), folder / REFERENCE, **size)
    finish(args, model, facts, data, folder)


def finish(args: argparse.Namespace, model: BNNeck, facts: Facts, data: Dataset | None, folder: Path) -> None:
    """Makes an artefact of the fp32 file in `folder`: the wanted precision, checked, measured and described."""
    findings, crops = convert(args, facts, folder)
    exported = parity.runtime_embedder(folder / MODEL)
    agreement = parity.check(evaluate.torch_embedder(model), exported, crops, precision=args.precision)
    print(f"parity: worst cosine {agreement.worst_cosine}, mean {agreement.mean_cosine} at batches of {agreement.batch_sizes}")
    measured = measure(args, facts, data, folder) if data else checkpoint_findings(facts, precision=args.precision)
    if not data and args.precision != "fp32":
        print(f"what {args.precision} costs in accuracy was not measured: give --data DIR, a dataset with query and gallery")
    (folder / REFERENCE).unlink(missing_ok=True)
    described = manifest.describe(
        folder / MODEL,
        checkpoint.folder_of(args.checkpoint) / checkpoint.WEIGHTS,
        facts,
        precision=args.precision,
        embedding_dim=model.embedding_dim,
        parity=agreement,
        findings=replace(findings, **{name: value for name, value in vars(measured).items() if value is not None}),
        licence_note=args.licence_note,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    manifest.write(folder, described)
    print(f"{args.out}: {described.model_bytes / 1e6:.1f} MB, model {described.model_id[:12]}, space {described.space_id[:12]}")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        export.make_folder(args.out, partial(build, args))
    except (ValueError, OSError) as error:
        sys.exit(f"exporter.run: {error}")


if __name__ == "__main__":
    main()
