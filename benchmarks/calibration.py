"""Does a threshold hold for people it was not made from? Calibrated on half of the identities, tried on the other half.

    python -m benchmarks.calibration service/model --data Market-1501 --features features.npz --json calibration.json

`--features` keeps the embeddings for the next time. One split, drawn by seed, is calibrated in full, each half
for the other; then many random splits say how often the observed rate is within a factor of two of the asked one. The splits
overlap, so their spread is a description of this set of people, not an interval.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gallery import bootstrap, pairs
from gallery.calibration import RATES
from gallery.pairs import People, from_above
from training import calibrate, dataset, evaluate
from training.embedders import embed_samples
from training.progress import progress


def features(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings [N, D], pids [N] and camids [N] of the crops that calibrate would take; kept where a file is named."""
    chosen = calibrate.choose(dataset.read_dataset(args.data), trained_on="")
    ids = evaluate.ids_of(chosen.samples)
    if args.features is None or not args.features.exists():
        embed, manifest = evaluate.artefact_embedder(args.artefact)
        size = {side: manifest["input"][side] for side in ("height", "width")}
        rows = embed_samples(embed, chosen.samples, **size, batch_size=32, name="embed").astype(np.float16)
        if args.features is not None:
            np.savez(args.features, embeddings=rows, pids=ids.pids, model_id=manifest["model_id"])
        return rows, ids.pids, ids.camids
    kept = np.load(args.features)
    if not np.array_equal(kept["pids"], ids.pids):
        raise SystemExit(f"{args.features}: got embeddings of other crops, wanted those of {args.data}; remove it")
    return kept["embeddings"], ids.pids, ids.camids


def tried(embeddings: np.ndarray, pids: np.ndarray, camids: np.ndarray, mine: np.ndarray) -> list[dict[str, Any]]:
    """Calibrates on the crops `mine` bool [N] and counts on the others."""
    made = calibrate.measure(embeddings[mine], pids[mine], camids[mine])
    people = pairs.people_of(embeddings[~mine], pids[~mine], camids[~mine])
    with progress(len(people.embeddings) * (len(people.embeddings) - 1) // 2, name="try", unit="pair") as bar:
        found = pairs.tally(people, np.zeros((0, len(people))), progress=bar.update)
    impostor, genuine = from_above(found.impostor), from_above(found.genuine)
    lines = []
    for rate in made.rates:
        place = round((rate.threshold + 1) * pairs.FINE / 2)
        observed = {"far": impostor[place] / impostor[0], "tar": genuine[place] / genuine[0]}
        asked = {"asked": rate.far, "threshold": rate.threshold, "threshold_interval": rate.threshold_interval}
        lines.append({**asked, "far_interval": rate.far_interval, "tar": rate.tar, "observed": observed})
    return lines


def many(people: People, num: int, seed: int) -> list[dict[str, float]]:
    """Splits the identities `num` times and gives each half's threshold to the other: one count of all pairs for all splits."""
    rng = np.random.default_rng(seed)
    halves = np.argsort(rng.random((num, len(people))), axis=1) < len(people) // 2
    weights = np.concatenate([halves, ~halves]).astype(float)
    with progress(len(people.embeddings) * (len(people.embeddings) - 1) // 2, name="count splits", unit="pair") as bar:
        counts = pairs.tally(people, weights, progress=bar.update).impostor_of
    others = np.roll(counts, num, axis=0)
    found = []
    for rate in RATES:
        ratio = bootstrap.shares_at(others, bootstrap.thresholds_at(counts, rate)) / rate
        low, middle, high = np.quantile(ratio, [0.025, 0.5, 0.975]).tolist()
        within = float(np.mean((ratio >= 0.5) & (ratio <= 2)))
        found.append({"asked": rate, "low": low, "median": middle, "high": high, "within_a_factor_of_two": within})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Try thresholds on people they were not made from.")
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="keep the embeddings here, or take those that are")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    embeddings, pids, camids = features(args)
    drawn = np.random.default_rng(args.seed).permutation(np.unique(pids))
    is_first = np.isin(pids, drawn[: len(drawn) // 2])
    results: dict[str, Any] = {"identities": len(drawn), "crops": len(pids), "seed": args.seed}
    for name, mine in (("first half for the second", is_first), ("second half for the first", ~is_first)):
        results[name] = tried(embeddings, pids, camids, mine)
        print(name)
        for line in results[name]:
            low, high = line["far_interval"]
            print(
                f"  FAR {line['asked']:g}: cosine >= {line['threshold']:.4f}; observed {line['observed']['far']:.3g}, "
                f"{line['observed']['far'] / line['asked']:.2f} times the asked one (interval of the calibration: {low:.2g} to "
                f"{high:.2g}); genuine accepted {100 * line['tar']:.1f} %, observed {100 * line['observed']['tar']:.1f} %"
            )
    results["splits"] = many(pairs.people_of(embeddings, pids, camids), args.splits, args.seed)
    print(f"{args.splits} random splits, both ways: observed / asked")
    for line in results["splits"]:
        spread = f"{line['median']:.2f} ({line['low']:.2f} to {line['high']:.2f})"
        print(f"  FAR {line['asked']:g}: {spread}, within a factor of two {100 * line['within_a_factor_of_two']:.1f} %")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
