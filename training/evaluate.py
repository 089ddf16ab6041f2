"""From crops to figures: embeds query and gallery, ranks, and scores them.

python -m training.evaluate runs/market --data Market-1501
python -m training.evaluate service/model --data Market-1501
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from training import checkpoint, dataset, metrics, transforms
from training.dataset import Dataset, Sample

CHUNK = 256  # queries ranked at a time: 256 x 20,000 cosines are 20 MB

Embed = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> float32 [B, D], unit rows


@dataclass(frozen=True)
class EvalResult:
    """The figures of one evaluation; shares are 0..1.

    `far` maps a false-accept rate (text) to the cosine threshold measured for it, `tpr` to the share of genuine pairs accepted
    there; `margin` is the median gap by which a wrong first match led the right identity (0 when there was none).
    """

    data: str
    cmc: tuple[float, ...]
    mAP: float
    mINP: float
    num_queries: int
    num_valid_queries: int
    num_gallery: int
    far: dict[str, float]
    tpr: dict[str, float]
    margin: float

    @property
    def rank1(self) -> float:
        return self.cmc[0]


def batches(samples: Sequence[Sample], *, size: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Yields uint8 [B, height, width, 3] in order, decoding one batch ahead in threads."""
    chunks = [samples[start : start + size] for start in range(0, len(samples), size)]

    def load(chunk: Sequence[Sample]) -> np.ndarray:
        return np.stack([transforms.load_crop(sample.path, height=height, width=width) for sample in chunk])

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(load, chunks[0])
        for chunk in chunks[1:]:
            ready, waiting = waiting, pool.submit(load, chunk)
            yield ready.result()
        yield waiting.result()


def embed_samples(embed: Embed, samples: Sequence[Sample], *, height: int, width: int, batch_size: int, name: str) -> np.ndarray:
    """Returns float32 [N, D], one unit row per sample, with a progress bar."""
    rows = []
    with tqdm(total=len(samples), desc=name, unit="crop", disable=None) as bar:
        for crops in batches(samples, size=batch_size, height=height, width=width):
            rows.append(embed(crops))
            bar.update(len(crops))
    return np.concatenate(rows)


def torch_embedder(model: nn.Module) -> Embed:
    """Returns the fp32 reference: f_i of `model` (in evaluation mode) scaled to unit length."""

    def embed(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            f_i = model(transforms.normalize(torch.from_numpy(crops))).f_i_BC
            return nn.functional.normalize(f_i, dim=1).numpy()

    return embed


def ids_of(samples: Sequence[Sample]) -> metrics.Ids:
    """Returns the pids and camids of a list of samples."""
    return metrics.Ids(np.array([s.pid for s in samples]), np.array([s.camid for s in samples]))


def evaluate(embed: Embed, data: Dataset, *, height: int, width: int, batch_size: int = 32) -> EvalResult:
    """Embeds the whole query and gallery lists and scores them by cosine.

    Raises ValueError when no query has a correct gallery crop seen by another camera.
    """
    size = {"height": height, "width": width, "batch_size": batch_size}
    embedded_query = embed_samples(embed, data.query, name="embed query", **size)
    embedded_gallery = embed_samples(embed, data.gallery, name="embed gallery", **size)
    return score(embedded_query, embedded_gallery, data)


def score(query_QD: np.ndarray, gallery_GD: np.ndarray, data: Dataset) -> EvalResult:
    """Scores embeddings float32 [Q, D] and [G, D] of a dataset, in chunks of queries so that memory stays small."""
    query, gallery = ids_of(data.query), ids_of(data.gallery)
    parts, genuine_B, impostor_B = [], np.zeros(metrics.NUM_BINS, np.int64), np.zeros(metrics.NUM_BINS, np.int64)
    for start in tqdm(range(0, len(query.pids), CHUNK), desc="rank", unit="chunk", disable=None):
        rows = slice(start, start + CHUNK)
        chunk = metrics.Ids(query.pids[rows], query.camids[rows])
        cosine_QG = query_QD[rows] @ gallery_GD.T
        parts.append(metrics.score_queries(cosine_QG, chunk, gallery))
        genuine, impostor = metrics.pair_histogram(cosine_QG, chunk, gallery)
        genuine_B, impostor_B = genuine_B + genuine, impostor_B + impostor
    scores = metrics.QueryScores(*(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in parts), strict=True)))
    return summarize(scores, genuine_B, impostor_B, data)


def summarize(scores: metrics.QueryScores, genuine_B: np.ndarray, impostor_B: np.ndarray, data: Dataset) -> EvalResult:
    """Turns per-query scores and pair histograms into the figures of one evaluation."""
    valid = scores.is_valid
    if not valid.any():
        raise ValueError(f"{data.folder}: none of {len(valid)} queries has its identity in the gallery under another camera")
    wrong = scores.gap[valid & (scores.gap > 0)]
    far = {f"{rate:g}": metrics.threshold_at(impostor_B, rate) for rate in metrics.FALSE_ACCEPT_RATES}
    return EvalResult(
        data=data.folder.name,
        cmc=tuple(round(float(share), 6) for share in metrics.cmc(scores)),
        mAP=round(float(scores.ap[valid].mean()), 6),
        mINP=round(float(scores.inp[valid].mean()), 6),
        num_queries=len(valid),
        num_valid_queries=int(valid.sum()),
        num_gallery=len(data.gallery),
        far=far,
        tpr={rate: round(metrics.accept_rate(genuine_B, threshold), 6) for rate, threshold in far.items()},
        margin=round(float(np.median(wrong)), 4) if len(wrong) else 0.0,
    )


def table(result: EvalResult) -> str:
    """Returns the figures as people read them, in percent."""
    ranks = "  ".join(f"rank-{k} {100 * result.cmc[k - 1]:.1f}" for k in (1, 5, 10))
    lines = [
        f"{result.data}: {ranks}  mAP {100 * result.mAP:.1f}  mINP {100 * result.mINP:.1f}",
        f"  {result.num_valid_queries:,} valid of {result.num_queries:,} queries against {result.num_gallery:,} gallery crops",
    ]
    for rate, threshold in result.far.items():
        lines.append(
            f"  false-accept rate {rate:>6}: cosine >= {threshold:.4f} accepts {100 * result.tpr[rate]:.1f} % of genuine pairs"
        )
    return "\n".join(lines)


def artefact_embedder(folder: Path) -> tuple[Embed, dict[str, Any]]:
    """Returns an exported model's embed function on ONNX Runtime, and its manifest.

    Raises ValueError when the folder holds no whole artefact.
    """
    import onnxruntime  # only exported artefacts need it; training installs do not

    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        name = manifest["input"]["name"]
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has its own family of errors
        raise ValueError(f"{folder}: got no whole artefact ({error}), wanted a folder that exporter.run wrote") from error
    return lambda crops: session.run(None, {name: crops})[0], manifest


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Score a checkpoint or an exported artefact."
    )
    parser.add_argument(
        "model", type=Path, metavar="CHECKPOINT_OR_ARTEFACT", help="folder that training.run or exporter.run wrote"
    )
    parser.add_argument("--data", type=Path, required=True, help="Market-1501-layout folder with query/ and bounding_box_test/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    try:
        data = dataset.read_dataset(args.data)
        if (args.model / "manifest.json").is_file():
            embed, manifest = artefact_embedder(args.model)
            height, width = manifest["input"]["height"], manifest["input"]["width"]
        else:
            model, facts = checkpoint.load(args.model)
            embed, height, width = torch_embedder(model), facts.config.height, facts.config.width
        print(data.summary())
        result = evaluate(embed, data, height=height, width=width)
        print(table(result))
        if args.json:
            checkpoint.write_whole({args.json: lambda path: path.write_text(json.dumps(asdict(result), indent=2) + "\n")})
    except (ValueError, OSError) as error:
        sys.exit(f"training.evaluate: {error}")


if __name__ == "__main__":
    main()
