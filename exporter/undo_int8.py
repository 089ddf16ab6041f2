"""Makes an artefact for GPUs of an int8 one whose checkpoint is not at hand, such as the bundled model.

python -m exporter.undo_int8 service/model artefact-fp16
python -m exporter.undo_int8 service/model artefact-fp16 --data Market-1501

The weights stay what int8 rounded them to, written in half precision; activations are rounded to 8 bits no more. It is of the
int8 file's embedding space and is held beside that file; what either loses to the checkpoint only the checkpoint could tell.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from exporter import calibrate, cost, half, manifest, parity, quantize
from exporter.cost import Cost
from exporter.export import MODEL, REFERENCE, make_folder, save
from exporter.half import Room
from exporter.manifest import Findings, Manifest
from exporter.sensitivity import LEAST_MEAN, LEAST_WORST, Agreement, agreement
from training import dataset, evaluate
from training.dataset import Dataset
from training.evaluate import Embed, EvalResult

BESIDE = "beside the int8 file it was made from"
FLOATS = "the int8 file with its rounding undone, in fp32"  # what half precision is held beside
LOST = "weights stay rounded to int8 and biases corrected for it; activations are not rounded to 8 bits any more"
NOT_MEASURED = ("agreement with the checkpoint, which was not at hand", "anything on a GPU")
NO_ACCURACY = "accuracy: no --data was given; metrics and cost are null, the thresholds are those of the int8 file"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exporter.undo_int8",
        description="Make an fp16 artefact, for GPUs, of an int8 one whose checkpoint is not at hand. Galleries serve both.",
    )
    parser.add_argument("artefact", type=Path, metavar="INT8", help="artefact folder that exporter.run wrote in int8")
    parser.add_argument("out", type=Path, metavar="OUT", help="artefact folder to make: model.onnx and manifest.json")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="dataset: look at its training crops instead of drawn people, and measure both files on its test, alone and mixed",
    )
    parser.add_argument(
        "--max-map-drop",
        type=float,
        metavar="X",
        help=f"refuse more points of mAP lost to the int8 file, also mixed ({cost.MAX_MAP_DROP})",
    )
    parser.add_argument(
        "--cost-identities",
        type=int,
        metavar="N",
        help="measure both files on N drawn identities of the test only (default all; it is slow)",
    )
    args = parser.parse_args(argv)
    if args.data is None and (args.max_map_drop, args.cost_identities) != (None, None):
        parser.error("--max-map-drop and --cost-identities want --data DIR: without it no accuracy is measured")
    if args.max_map_drop is not None and not args.max_map_drop >= 0:
        parser.error(f"--max-map-drop: got {args.max_map_drop:g}, wanted points of mAP, 0 or more")
    return args


@dataclass(frozen=True)
class Source:
    """An int8 artefact: what it gives, what its manifest says, and the size of its crops."""

    embed: Embed
    manifest: Manifest
    size: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """Crops uint8 [N, H, W, 3] to hold the files beside each other, what they are, and the dataset to measure on, if any."""

    crops: np.ndarray
    name: str
    data: Dataset | None


def read(folder: Path) -> Source:
    """Reads an int8 artefact; raises ValueError for a folder that holds none, or one in another precision."""
    embed, described = evaluate.artefact_embedder(folder)
    if described.get("precision") != "int8":
        got = f"an artefact in {described.get('precision')}"
        raise ValueError(f"{folder}: got {got}, wanted int8; of a checkpoint use exporter.run --precision fp16")
    try:
        source = Manifest(**described)
    except TypeError as error:
        raise ValueError(f"{folder}: got a manifest of another version ({error}), wanted one that exporter.run wrote") from error
    return Source(embed, source, {side: source.input[side] for side in ("height", "width")})


def look(folder: Path | None, size: dict[str, Any], num_identities: int | None) -> Seen:
    """Returns what --data holds, or drawn people; raises ValueError for a dataset that cannot calibrate or be tested on."""
    if folder is None:
        return Seen(parity.drawn_crops(sum(parity.BATCH_SIZES), **size), "drawn people", None)
    data = dataset.read_dataset(folder)
    dataset.check_test(data)
    if num_identities is not None:
        in_query, in_gallery = cost.sample(data, num_identities)
        data = replace(
            data,
            query=tuple(compress(data.query, in_query)),
            gallery=tuple(compress(data.gallery, in_gallery)),
            name=f"{data.name}, {num_identities} identities drawn with seed {cost.SEED}",
        )
    chosen = calibrate.draw(folder, **size)
    return Seen(chosen.all(), f"training crops of {chosen.name}", data)


def check_near(found: Agreement) -> None:
    """Raises ValueError when a file is farther from the int8 one than int8 itself may be from fp32."""
    if found.mean < LEAST_MEAN or found.worst < LEAST_WORST:
        raise ValueError(
            f"got a cosine to the int8 file of {found.mean} in the mean, {found.worst} at worst over {found.num_crops} crops, "
            f"wanted {LEAST_MEAN} and {LEAST_WORST}: they would not share a gallery; export the checkpoint in fp16 instead"
        )


def build(args: argparse.Namespace, folder: Path) -> None:
    """Fills `folder` with a checked fp16 artefact; raises ValueError when it does not hold beside the int8 file."""
    source = read(args.artefact)
    seen = look(args.data, source.size, args.cost_identities)
    save(quantize.dequantized(onnx.load(str(args.artefact / MODEL))), folder / REFERENCE)
    room = half.write_fp16(folder / REFERENCE, folder / MODEL, seen.crops)
    floats, own = (parity.runtime_embedder(folder / name) for name in (REFERENCE, MODEL))
    agreed = parity.check(floats, own, seen.crops, precision="fp16", name=FLOATS)
    (folder / REFERENCE).unlink()
    near = agreement(own(seen.crops), source.embed(seen.crops))
    print(f"cosine to the int8 file: mean {near.mean}, worst {near.worst} over {near.num_crops} {seen.name}", flush=True)
    check_near(near)
    if seen.data:
        found = cost.measure(own, source.embed, seen.data, num_identities=None, reference_precision="int8", **source.size)
        findings = measured(*found, described_from(source.manifest, room, NOT_MEASURED), args.max_map_drop)
    else:
        findings = inherited(source.manifest, room, {"measured_on": f"{seen.name}, {BESIDE}", **asdict(near)})
        print("what it costs in accuracy was not measured: give --data DIR, a dataset with training crops, query and gallery")
    described = replace(
        source.manifest,
        model_id=manifest.sha256_of(folder / MODEL),
        precision="fp16",
        model_bytes=(folder / MODEL).stat().st_size,
        parity=asdict(agreed),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **vars(findings),
    )
    manifest.write(folder, described)
    print(f"{args.out}: {described.model_bytes / 1e6:.1f} MB, model {described.model_id[:12]}, space {described.space_id[:12]}")


def inherited(source: Manifest, room: Room, cosine: dict[str, Any]) -> Findings:
    """Returns what the int8 manifest lets one say of a file that was not measured: its thresholds, and whose they are."""
    thresholds = source.thresholds and dict(source.thresholds)
    if thresholds:
        thresholds["source"] = thresholds["source"].replace("this exported file", "the int8 file this one was made from")
    quantization = described_from(source, room, (*NOT_MEASURED, NO_ACCURACY))
    return Findings(thresholds=thresholds, quantization=quantization, cosine=cosine)


def measured(result: EvalResult, found: Cost, quantization: dict[str, Any], max_map_drop: float | None) -> Findings:
    """Prints and returns the new file's own figures and its cost beside the int8 one; raises ValueError when it is too much."""
    print(evaluate.table(result))
    print(cost.table(found))
    cost.check(found, max_map_drop=cost.MAX_MAP_DROP if max_map_drop is None else max_map_drop)
    metrics: dict[str, Any] = {"measured_on": "this exported file", **asdict(result)}
    described = asdict(found)
    return Findings(
        metrics=metrics,
        thresholds=manifest.thresholds_of(metrics, f"impostor pairs of {result.data}, this exported file"),
        quantization=quantization,
        cosine={"measured_on": f"{found.measured_on}, {BESIDE}", **described.pop("cosine")},
        cost=described,
    )


def described_from(source: Manifest, room: Room, not_measured: Sequence[str]) -> dict[str, Any]:
    """Returns what the manifest says of the arithmetic, of the file it was made from, and of what nobody has measured."""
    made_from = {name: getattr(source, name) for name in ("model_id", "precision", "calibration")}
    scheme = source.quantization and source.quantization["scheme"]
    return {**room.description(), "made_from": {**made_from, "scheme": scheme, "lost": LOST}, "not_measured": not_measured}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        make_folder(args.out, partial(build, args))
    except (ValueError, OSError) as error:
        sys.exit(f"exporter.undo_int8: {error}")


if __name__ == "__main__":
    main()
