"""From files to feature rows: crops decoded ahead in threads, embedded batch by batch."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from training import transforms
from training.config import Feature
from training.dataset import Sample
from training.progress import progress

AHEAD = 3  # batches decoded before they are asked for
MAX_THREADS = 8  # a decoder each; Pillow decodes and resizes without the interpreter's lock

Embed = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> float32 [B, D]
Features = Callable[[np.ndarray], dict[str, np.ndarray]]  # the same, for several features by name


@dataclass(frozen=True)
class Embedder:
    """An embed function that knows what it gives: one feature, perhaps averaged over a crop and its mirror, perhaps unit rows.

    It keeps the lengths that features had before they were scaled, if `is_raw` says that they mean something.
    """

    features: Features
    feature: Feature = "f_i"
    flip: bool = False
    normalize: bool = True
    is_raw: bool = True
    device: str | torch.device = "cpu"  # that the features are computed on
    lengths: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        found = self.features(crops)
        if self.flip:
            mirrored = self.features(np.ascontiguousarray(crops[:, :, ::-1]))
            found = {name: (rows + mirrored[name]) / 2 for name, rows in found.items()}
        lengths = {name: np.linalg.norm(rows, axis=1) for name, rows in found.items()}
        if self.is_raw:
            self.lengths.append(lengths)
        rows = found[self.feature]
        return rows / np.maximum(lengths[self.feature], 1e-12)[:, None] if self.normalize else rows

    def take_norms(self) -> dict[str, np.ndarray]:
        """Returns float32 [N] lengths by feature of everything embedded since the last call."""
        taken = self.lengths.copy()
        self.lengths.clear()
        return {name: np.concatenate([part[name] for part in taken]) for name in taken[0]} if taken else {}


def torch_embedder(
    model: nn.Module,
    *,
    device: str | torch.device = "cpu",
    feature: Feature = "f_i",
    flip: bool = False,
    normalize: bool = True,
) -> Embedder:
    """Returns the fp32 reference: a feature of `model`, averaged over each crop and its mirror with `flip`, then scaled to unit
    length with `normalize`.

    The model is moved to the device. Raises ValueError when it is in training mode, where a row would depend on its batch.
    """
    if model.training:
        raise ValueError("torch_embedder: got a model in training mode, wanted model.eval(): rows would depend on their batch")
    model.to(device)

    def features(crops: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            output = model(transforms.normalize(torch.from_numpy(crops).to(device)))
            return {"f_t": output.f_t_BC.float().cpu().numpy(), "f_i": output.f_i_BC.float().cpu().numpy()}

    return Embedder(features, feature=feature, flip=flip, normalize=normalize, device=device)


def batches(samples: Sequence[Sample], *, size: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Yields uint8 [B, height, width, 3] in order, decoding the next batches in threads."""
    waiting: deque[list[Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            waiting.append([pool.submit(transforms.load_crop, sample.path, height=height, width=width) for sample in chunk])
            if len(waiting) > AHEAD:
                yield np.stack([crop.result() for crop in waiting.popleft()])
        while waiting:
            yield np.stack([crop.result() for crop in waiting.popleft()])


def embed_samples(embed: Embed, samples: Sequence[Sample], *, height: int, width: int, batch_size: int, name: str) -> np.ndarray:
    """Returns float32 [N, D], one row per sample, with a progress bar; raises ValueError without a sample."""
    if not samples:
        raise ValueError(f"{name}: got no crop, wanted at least one")
    rows, filled = np.zeros((0, 0), np.float32), 0
    with progress(len(samples), name=name, unit="crop") as bar:
        for crops in batches(samples, size=batch_size, height=height, width=width):
            found = embed(crops)
            if filled == 0:  # one array from the start: a list of batches would be held twice while it is joined
                rows = np.empty((len(samples), found.shape[1]), np.float32)
            rows[filled : filled + len(found)] = found
            filled += len(found)
            bar.update(len(found))
    return rows
