"""From crops to figures: embeds query and gallery, ranks, and scores them.

python -m training.evaluate runs/market --data Market-1501 --rerank --pictures runs/market/pictures
python -m training.evaluate service/model --data Market-1501
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from gallery.rerank import check_parameters
from training import checkpoint, dataset, metrics, results, scoring
from training.config import Feature, Metric
from training.dataset import Dataset, Sample
from training.embedders import Embed, Embedder, embed_samples, torch_embedder
from training.metrics import Evidence
from training.rerank_gpu import finder
from training.results import EvalResult, table

__all__ = ["Embed", "EvalResult", "Evidence", "embed_samples", "evaluate", "measure", "score", "table", "torch_embedder"]

K1, K2, BLEND = 20, 6, 0.3  # of the re-ranking, as in the released code


def ids_of(samples: Sequence[Sample]) -> metrics.Ids:
    """Returns the pids and camids of a list of samples."""
    return metrics.Ids(np.array([s.pid for s in samples]), np.array([s.camid for s in samples]))


def measure(
    embed: Embed,
    data: Dataset,
    *,
    height: int,
    width: int,
    batch_size: int = 32,
    metric: Metric = "cosine",
    rerank: bool = False,
    k1: int = K1,
    k2: int = K2,
    blend: float = BLEND,
    seed: int = 0,
) -> tuple[EvalResult, Evidence]:
    """Embeds the whole query and gallery lists and scores them; returns the figures and what their pictures are drawn from.

    The cosine needs an `embed` that gives unit rows. `seed` draws the identities of the open-set figures.
    Raises ValueError when the lists cannot be scored (see `dataset.check_test`), or not be re-ranked so.
    """
    dataset.check_test(data)
    if rerank:  # said before an hour of embedding, not after
        check_parameters(len(data.query) + len(data.gallery), k1, k2, blend)
    size = {"height": height, "width": width, "batch_size": batch_size}
    query_QD = embed_samples(embed, data.query, name="embed query", **size)
    known = embed if isinstance(embed, Embedder) else None
    if known:
        known.take_norms()  # those of the queries and of anything before
    gallery_GD = embed_samples(embed, data.gallery, name="embed gallery", **size)
    settings: dict[str, Any] = {"metric": metric, "rerank": rerank, "k1": k1, "k2": k2, "blend": blend, "seed": seed}
    result, evidence = figures(query_QD, gallery_GD, data, **settings, device=known.device if known else "cpu")
    if not known:
        return result, evidence
    return replace(result, feature=known.feature, flip=known.flip), replace(evidence, norms=known.take_norms())


def evaluate(embed: Embed, data: Dataset, *, height: int, width: int, batch_size: int = 32, **options: Any) -> EvalResult:
    """Returns the figures of `measure`, which tells its options."""
    return measure(embed, data, height=height, width=width, batch_size=batch_size, **options)[0]


def score(query_QD: np.ndarray, gallery_GD: np.ndarray, data: Dataset, **options: Any) -> EvalResult:
    """Returns the figures of `figures`, which tells its options."""
    return figures(query_QD, gallery_GD, data, **options)[0]


def figures(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    data: Dataset,
    *,
    metric: Metric = "cosine",
    rerank: bool = False,
    k1: int = K1,
    k2: int = K2,
    blend: float = BLEND,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[EvalResult, Evidence]:
    """Scores features float32 [Q, D] and [G, D] of a dataset, in chunks of queries so that memory stays small.

    The neighbours of a re-ranking are found on `device` where that is a GPU. Raises ValueError for rows that do not fit
    (cosine: that are not of unit length), and when no query is valid.
    """
    query, gallery = ids_of(data.query), ids_of(data.gallery)
    scored = scoring.rank(query_QD, gallery_GD, query, gallery, metric=metric, seed=seed)
    result, found = results.summarize(scored, data, metric=metric), scored.queries
    if rerank:
        settings: dict[str, Any] = {"k1": k1, "k2": k2, "blend": blend}
        again = scoring.rank_again(query_QD, gallery_GD, query, gallery, metric=metric, find=finder(device), **settings)
        result = replace(result, rerank=results.reranked(again, **settings))
    counts = (scored.genuine_B, scored.impostor_B, scored.edges)
    return result, Evidence(*counts, found.is_valid, found.ap, found.first_hit, found.top_QK, norms={})


def runtime_session(model: str | bytes) -> Any:
    """Opens an ONNX file, or the bytes of one, on ONNX Runtime's CPU provider."""
    import onnxruntime  # only exported artefacts need it; training installs do not

    options = onnxruntime.SessionOptions()
    # int8 gives the same rows on every processor so. With VNNI it would without: there it changes no bit and takes longer, and
    # the service leaves it out.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runtime_embedder(path: Path) -> Embed:
    """Returns the embed function of an ONNX file on ONNX Runtime's CPU provider."""
    session = runtime_session(str(path))
    name = session.get_inputs()[0].name

    def embed(crops: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: crops})[0])

    return embed


def artefact_embedder(folder: Path) -> tuple[Embed, dict[str, Any]]:
    """Returns an exported model's embed function on ONNX Runtime, and its manifest.

    Raises ValueError when the folder holds no whole artefact.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if not {"height", "width"} <= manifest["input"].keys():
            raise ValueError("its input has no height and width")
        got, wanted = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(), manifest["model_id"]
        if got != wanted:
            raise ValueError(f"its model.onnx is {got}, its manifest says {wanted}")
        return runtime_embedder(folder / "model.onnx"), manifest
    except Exception as error:  # the runtime has its own family of errors
        raise ValueError(f"{folder}: got no whole artefact ({error}), wanted a folder that exporter.run wrote") from error


def open_model(args: argparse.Namespace) -> tuple[Embedder, Metric, dict[str, Any]]:
    """Returns the embedder, the metric and the input size of a checkpoint or artefact; flags go before its own values."""
    if (args.model / "manifest.json").is_file():
        if args.feature == "f_t":
            raise ValueError(f"--feature: got f_t for the artefact {args.model}, wanted its checkpoint: artefacts give f_i alone")
        embed, manifest = artefact_embedder(args.model)
        size = {side: manifest["input"][side] for side in ("height", "width")}
        known = Embedder(lambda crops: {"f_i": embed(crops)}, flip=bool(args.flip), is_raw=False)
        return known, args.metric or "cosine", size
    model, facts = checkpoint.load(args.model)
    config = facts.config
    metric: Metric = args.metric or config.test_metric
    known = torch_embedder(
        model,
        device=args.device,
        feature=args.feature or config.test_feature,
        flip=config.flip_test if args.flip is None else args.flip,
        normalize=metric == "cosine",
    )
    return known, metric, {"height": config.height, "width": config.width}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; values that are not given stay None and leave the checkpoint's."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Score a checkpoint or an exported artefact."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder that training.run or exporter.run wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset with query and gallery")
    parser.add_argument("--no-cameras", action="store_true", help="ignore the camids: every crop of an identity may match")
    own = "default: what the checkpoint was trained to be tested with, else"
    parser.add_argument("--feature", choices=get_args(Feature), help=f"feature before or after the neck ({own} f_i)")
    parser.add_argument("--metric", choices=get_args(Metric), help=f"how features are compared ({own} cosine)")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, help=f"average each crop with its mirror ({own} no)")
    parser.add_argument("--rerank", action="store_true", help="score k-reciprocal re-ranked lists too")
    parser.add_argument("--k1", type=int, default=K1, metavar="N", help=f"neighbours in a crop's list ({K1})")
    parser.add_argument("--k2", type=int, default=K2, metavar="N", help=f"crops whose neighbourhoods are averaged ({K2})")
    parser.add_argument("--blend", type=float, default=BLEND, metavar="X", help=f"share of the original distance ({BLEND})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for checkpoints; artefacts: CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw curves, histograms and rank lists here")
    args = parser.parse_args(argv)
    if not (1 <= args.k2 <= args.k1 and 0 <= args.blend <= 1):  # said before an hour of embedding, not after
        parser.error(f"got k1 {args.k1}, k2 {args.k2}, blend {args.blend:g}, wanted 1 <= k2 <= k1 and a blend of 0 to 1")
    has_cuda = torch.cuda.is_available()
    if args.device == "cuda" and not has_cuda:
        parser.error("--device: got cuda, wanted cpu or auto: torch finds no GPU here")
    args.device = ("cuda" if has_cuda else "cpu") if args.device == "auto" else args.device
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.backends.cudnn.allow_tf32 = False  # figures of fp32 mean it
    try:
        is_artefact = (args.model / "manifest.json").is_file()
        has_cameras = not args.no_cameras and (is_artefact or checkpoint.load_facts(checkpoint.folder_of(args.model)).has_cameras)
        data = dataset.read_dataset(args.data, cameras=has_cameras)
        embed, metric, size = open_model(args)
        print(data.summary(), flush=True)
        batch_size = 256 if args.device == "cuda" else 32
        again: dict[str, Any] = {"rerank": args.rerank, "k1": args.k1, "k2": args.k2, "blend": args.blend}
        result, evidence = measure(embed, data, **size, batch_size=batch_size, metric=metric, **again)
        print(table(result))
        if args.json:
            checkpoint.write_whole({args.json: lambda path: path.write_text(json.dumps(asdict(result), indent=2) + "\n")})
        if args.pictures:
            from training import plots  # matplotlib is for pictures only

            for path in plots.evaluation_pictures(args.pictures, result, evidence, data):
                print(path)
    except (ValueError, OSError) as error:
        sys.exit(f"training.evaluate: {error}")


if __name__ == "__main__":
    main()
