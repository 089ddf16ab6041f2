"""The neighbours of a whole set on a GPU, for gallery.rerank: the product is most of the work, the rest stays where it is.

    prepared = rerank.prepare(query_QD, gallery_GD, find=finder("cuda"))

Differs from gallery.neighbours: every cosine is computed twice, in float32 without TF32, and of equally close crops at the end of
a list any may be the one that is listed. Shapes: Q queries, G gallery crops, N = Q + G, D dimensions, R rows of a block.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from gallery.rerank import Neighbours

Find = Callable[..., Neighbours]


def finder(device: str | torch.device) -> Find | None:
    """Returns what `rerank.prepare` takes as `find`: on a GPU the function below, elsewhere None, which is the gallery's own."""
    return partial(find_neighbours, device=device) if torch.device(device).type == "cuda" else None


def find_neighbours(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    k: int,
    block_bytes: int,
    cross: np.ndarray | None = None,
    progress: Callable[[int], object] | None = None,
    device: str | torch.device = "cuda",
) -> Neighbours:
    """Finds the k closest crops (itself first) of every crop of both sets, float32 [Q, D] and [G, D] of unit rows.

    `block_bytes` of cosines are held at a time beside the embeddings; `cross`, float32 [Q, G], is filled with those of queries
    and gallery; `progress` is called with the number of crops done since it was last called.
    """
    both = torch.cat([torch.from_numpy(query).to(device), torch.from_numpy(gallery).to(device)])
    num = len(both)
    index = np.empty((num, k), np.int32)
    cosine = np.empty((num, k), np.float32)
    lowest = np.empty(num, np.float32)
    size = max(1, block_bytes // (4 * num))
    for start in range(0, num, size):
        rows = slice(start, min(start + size, num))
        cosines = full_precision_product(both[rows], both)
        if cross is not None and start < len(query):
            cross[rows] = cosines[: len(query) - start, len(query) :].cpu().numpy()
        own = torch.arange(rows.stop - start, device=device)
        cosines[own, own + start] = torch.inf
        lowest[rows] = cosines.amin(dim=1).cpu().numpy()
        index[rows], cosine[rows] = closest(cosines, k)
        if progress is not None:
            progress(rows.stop - start)
    return Neighbours(index, cosine, np.maximum(2 - 2 * lowest, 0))


def full_precision_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns left @ right.T in float32, whatever the process allows elsewhere."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return left @ right.T
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def closest(cosines: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers and cosines [R, k] of each row's k highest, falling, equal ones by rising number."""
    numbers = cosines.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    order = cosines.gather(1, numbers).sort(dim=1, descending=True, stable=True)
    return numbers.gather(1, order.indices).cpu().numpy(), order.values.cpu().numpy()
