"""P x K batches: P identities with K crops each, as the authors' released code draws them.

Corner cases, all deliberate: an identity with fewer than K crops is filled by drawing its own crops again; the remainder of
an identity whose crops are no multiple of K sits out this epoch; an epoch ends when fewer than P identities have crops left,
so every batch is full and the number of batches differs a little from epoch to epoch.
"""

from collections.abc import Sequence

import numpy as np


def epoch_batches(
    labels: Sequence[int] | np.ndarray, *, ids_per_batch: int, crops_per_id: int, rng: np.random.Generator
) -> list[list[int]]:
    """Draws one epoch: a list of batches, each P * K indices into `labels`, K of one identity side by side.

    Args: labels: int [N], the identity of each training crop.
    Raises ValueError with fewer identities than a batch needs.

    >>> rng = np.random.default_rng(0)
    >>> batches = epoch_batches([0, 0, 1, 1, 2, 2], ids_per_batch=3, crops_per_id=2, rng=rng)
    >>> [sorted(batch) for batch in batches]
    [[0, 1, 2, 3, 4, 5]]
    """
    labels = np.asarray(labels)
    pids = np.unique(labels)
    if len(pids) < ids_per_batch:
        raise ValueError(
            f"P x K batch: got {len(pids)} identities, wanted at least {ids_per_batch}; lower --ids-per-batch or add identities"
        )
    chunks = {int(pid): _chunks(np.flatnonzero(labels == pid), crops_per_id, rng) for pid in pids}
    batches = []
    while len(chunks) >= ids_per_batch:
        drawn = rng.choice(sorted(chunks), size=ids_per_batch, replace=False)
        batches.append([index for pid in drawn for index in chunks[int(pid)].pop()])
        chunks = {pid: left for pid, left in chunks.items() if left}
    return batches


def _chunks(indices: np.ndarray, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Shuffles one identity's crops into groups of `size`, filling a group that is short from the start by drawing again."""
    if len(indices) < size:
        indices = rng.choice(indices, size=size, replace=True)
    shuffled = rng.permutation(indices)
    whole = len(shuffled) // size * size
    return [chunk.tolist() for chunk in shuffled[:whole].reshape(-1, size)]
