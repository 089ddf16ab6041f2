"""The gate of every export: the runtime must give what torch gives, row by row, at several batch sizes."""

from dataclasses import dataclass

import numpy as np

from exporter.sensitivity import LEAST_WORST
from training import synthetic
from training.evaluate import Embed
from training.evaluate import runtime_embedder as runtime_embedder

BATCH_SIZES = (1, 2, 7, 32)
NUM_NEIGHBOURS = 5
# Of the worst row. fp32: sums in another order, nothing else. fp16: 11 bits; a trained ResNet-50 lost 3e-6, and a neck that
# magnifies the loss a hundred times still passes, while a layer that overflowed does not. int8: the floor that chose its
# layers. What either truly costs is the mAP that --data measures.
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": LEAST_WORST}


@dataclass(frozen=True)
class Parity:
    """Agreement of an artefact with torch in fp32, or what stood for it: worst and mean cosine over every batch size's crops."""

    worst_cosine: float
    mean_cosine: float
    num_crops: int
    batch_sizes: tuple[int, ...]
    reference: str = "torch"


def drawn_crops(count: int, *, height: int, width: int) -> np.ndarray:
    """Returns uint8 [count, height, width, 3]: drawn people, each another identity."""
    rng = np.random.default_rng(0)
    cameras = [synthetic.draw_camera(rng) for _ in range(4)]
    drawn = (synthetic.draw_crop(synthetic.draw_person(rng), cameras[index % 4], rng) for index in range(count))
    return np.stack([np.asarray(image.resize((width, height))) for image in drawn])


def check(reference: Embed, exported: Embed, crops: np.ndarray, *, precision: str, name: str = "torch") -> Parity:
    """Compares both on batches cut from uint8 crops [N, H, W, 3]; N >= 42 so that every batch size is met.

    Raises ValueError with too few crops, else naming the worst row: its cosine to the reference (`name`), a length other than
    1, an output that depends on its batch; or (fp32) other neighbours.
    """
    if len(crops) < sum(BATCH_SIZES):
        raise ValueError(f"parity: got {len(crops)} crops, wanted at least {sum(BATCH_SIZES)} to fill batches of {BATCH_SIZES}")
    expected = reference(crops)
    got, start = np.zeros_like(expected), 0
    for size in BATCH_SIZES:
        got[start : start + size] = exported(crops[start : start + size])
        start += size
    cosines = np.sum(got[:start] * expected[:start], axis=1)
    norms = np.linalg.norm(got[:start], axis=1)
    if not np.allclose(norms, 1, atol=1e-4):
        row = int(np.abs(norms - 1).argmax())
        raise ValueError(f"parity: got an embedding of length {norms[row]:.6f} at row {row}, wanted 1")
    worst, mean = float(cosines.min()), float(cosines.mean())
    if worst < LEAST_COSINE[precision]:
        row = int(cosines.argmin())
        raise ValueError(f"parity: got cosine {worst:.6f} to {name} at row {row}, wanted at least {LEAST_COSINE[precision]}")
    together = exported(crops[: BATCH_SIZES[-1]])
    apart = np.concatenate([exported(crops[row : row + 1]) for row in range(BATCH_SIZES[-1])])
    change = np.abs(together - apart).max(axis=1)
    row = int(change.argmax())
    if change[row] > 1e-4:
        raise ValueError(f"parity: got an embedding that changes by {change[row]:.6f} with its batch at row {row}, wanted 0.0001")
    if precision == "fp32" and not np.array_equal(_neighbours(got[:start]), _neighbours(expected[:start])):
        raise ValueError(f"parity: got other nearest neighbours than {name} among {start} crops")
    return Parity(round(worst, 6), round(mean, 6), num_crops=start, batch_sizes=BATCH_SIZES, reference=name)


def _neighbours(embeddings: np.ndarray) -> np.ndarray:
    """Returns int [N, NUM_NEIGHBOURS]: each row's nearest other rows, as sets (near-ties may swap places)."""
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    return np.sort(np.argsort(-cosine, axis=1, kind="stable")[:, :NUM_NEIGHBOURS], axis=1)
