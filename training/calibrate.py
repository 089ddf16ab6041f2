"""Which cosine means "the same person"? A calibration of an exported model on labelled crops, written beside its manifest.

    python -m training.calibrate ARTEFACT --data DIR        # or crops.csv, with the columns path, pid and perhaps camid

Writes calibration.json, which the service then uses, and calibration.png. How it is computed: gallery/calibration.py; its
intervals: gallery/bootstrap.py. Whom the model was trained on says nothing of strangers: of data with a split the query and
gallery lists are used, and of data without one everybody, unless the model was trained on it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gallery import bootstrap, calibration, pairs
from gallery.calibration import Figures, Rate
from training import checkpoint, dataset, evaluate
from training.dataset import DISTRACTOR_PID, Dataset, Sample
from training.embedders import embed_samples
from training.progress import progress

NO_SPLIT = "no split given"  # how the note of own_data.hold_out begins
BATCH = 32
SHOWN_CAMERAS = 3  # pairs of cameras in the table; the file has all


@dataclass(frozen=True)
class Chosen:
    """Labelled crops to calibrate on, and in words which they are."""

    samples: tuple[Sample, ...]
    has_cameras: bool
    uses_all: bool
    source: str


def choose(data: Dataset, *, trained_on: str) -> Chosen:
    """Returns the crops of people whom the model does not know, each file once; distractors, who are nobody, are left out."""
    has_split = not any(note.startswith(NO_SPLIT) for note in data.warnings)
    uses_all = not has_split and data.name not in trained_on.split("+")
    lists = (*(data.train if uses_all else ()), *data.query, *data.gallery)
    named = {sample.path: sample for sample in lists if sample.pid != DISTRACTOR_PID}
    which = "all of it" if uses_all else "query and gallery lists"
    left_out = sum(sample.pid == DISTRACTOR_PID for sample in lists)
    note = f", {left_out:,} distractors left out" if left_out else ""
    return Chosen(tuple(named.values()), data.has_cameras, uses_all, f"{data.name} ({which}{note})")


def measure(embeddings: np.ndarray, pids: np.ndarray, camids: np.ndarray | None, *, seed: int = 0) -> Figures:
    """Calibrates on embeddings [N, D] of identities pids [N], seen by cameras camids [N] (None: nobody knows).

    Raises ValueError for a row that is not finite, and as calibration.check does.
    """
    finite = np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1)
    if not finite.all():
        raise ValueError(f"got an embedding that is zero or not finite, of crop {int(np.argmin(finite))}, wanted numbers")
    people = pairs.people_of(embeddings, pids, camids)
    calibration.check(people)
    num = len(people.embeddings)
    with progress(num * (num - 1) // 2, name="count pairs", unit="pair") as bar:
        found = pairs.tally(people, bootstrap.draw_weights(len(people), seed=seed), progress=bar.update)
    names = [] if camids is None else [str(camid) for camid in np.unique(camids)]
    return calibration.measure(found, people, camera_names=names)


def write(out: Path, figures: Figures, *, model_id: str, source: str) -> list[Path]:
    """Writes the calibration and its picture, each whole or not at all; returns their paths.

    The file is put in place last: where it stands, so does its picture.
    """
    from training import calibration_plots  # matplotlib is for pictures only

    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = calibration.document(figures, model_id=model_id, source=source, created_at=now)
    drawn = calibration_plots.picture(out.with_suffix(".png"), figures, title=f"Calibration on {source}")
    checkpoint.write_whole({out: lambda path: path.write_text(json.dumps(content, allow_nan=False) + "\n")})
    return [out, drawn]


def table(figures: Figures, *, source: str) -> str:
    """Returns the figures as people read them."""
    lines = [
        f"{source}: {figures.crops:,} crops of {figures.identities:,} identities; {figures.genuine_pairs:,} genuine pairs, "
        f"{figures.impostor_pairs:,} of two people",
        f"  {'FAR':>6}  {'threshold':19}  {'FAR there':19}  {'genuine accepted':21}  strangers accepted, by identities enrolled",
        *(_row(rate) for rate in figures.rates),
    ]
    for accepted, held in figures.open_set.items():
        lines.append(
            f"  {figures.identities:,} enrolled, {100 * float(accepted):g} % of strangers accepted: "
            f"cosine >= {held['threshold']:.4f}, {100 * held['dir']:.1f} % of the enrolled found and believed"
        )
    for pair in figures.cameras[:SHOWN_CAMERAS]:
        accepted = "none" if pair.tar is None else f"{100 * pair.tar:.1f} %"
        lines.append(
            f"  cameras {' and '.join(pair.cameras)}: FAR {pair.far or 0:.2g} at the default, genuine accepted {accepted}"
        )
    what = "that no pair of two people reached" if figures.default_far is None else f"at FAR {figures.default_far:g}"
    lines.append(f"  default threshold {figures.threshold:.4f} ({what}), ambiguous within {figures.margin:.4f}")
    return "\n".join([*lines, *(f"  warning: {text}" for text in figures.warnings)])


def _row(rate: Rate) -> str:
    low, high = rate.threshold_interval or (rate.threshold, rate.threshold)
    far_low, far_high = rate.far_interval or (rate.far, rate.far)
    tar_low, tar_high = rate.tar_interval or (rate.tar, rate.tar)
    strangers = ", ".join(f"{int(size):,}: {100 * share:.3g} %" for size, share in rate.strangers.items())
    return (
        f"  {rate.far:6g}  {rate.threshold:.3f} ({low:.3f}-{high:.3f})  {f'{far_low:.2g} to {far_high:.2g}':19}  "
        f"{f'{100 * rate.tar:.1f} % ({100 * tar_low:.1f}-{100 * tar_high:.1f})':21}  {strangers}"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate", description="Find the thresholds of an exported model on labelled crops."
    )
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder that exporter.run wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR|CSV", help="labelled crops, or a dataset with a test")
    parser.add_argument("--no-cameras", action="store_true", help="ignore the camids: every two crops of an identity are genuine")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: ARTEFACT/{calibration.FILE_NAME}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    out = args.out or args.artefact / calibration.FILE_NAME
    try:
        embed, manifest = evaluate.artefact_embedder(args.artefact)
        data = dataset.read_dataset(args.data, cameras=not args.no_cameras)
        chosen = choose(data, trained_on=str(manifest.get("training", {}).get("trained_on", "")))
        for note in data.warnings:
            if not (chosen.uses_all and note.startswith(NO_SPLIT)):
                print(f"warning: {note}")
        size = {side: int(manifest["input"][side]) for side in ("height", "width")}
        rows = embed_samples(embed, chosen.samples, **size, batch_size=BATCH, name="embed")
        ids = evaluate.ids_of(chosen.samples)
        figures = measure(rows, ids.pids, ids.camids if chosen.has_cameras else None)
        print(table(figures, source=chosen.source))
        for path in write(out, figures, model_id=manifest["model_id"], source=chosen.source):
            print(path)
    except (ValueError, OSError) as error:
        sys.exit(f"training.calibrate: {error}")


if __name__ == "__main__":
    main()
