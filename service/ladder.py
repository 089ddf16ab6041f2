"""Batch sizes that the runtime is given: a few fixed ones, so that its memory stays flat and a GPU can replay each of them."""

from collections.abc import Iterator, Sequence

CPU_LADDER = (1, 2, 4, 8)  # two batches of 8 are as fast as one of 16, and need less memory
GPU_BATCH_MAX = 64


def batch_of(*, is_gpu: bool, threads: int) -> int:
    """Give how many crops suit one pass: a part for each core of a CPU, as the next full batch is with the runtime already."""
    return GPU_BATCH_MAX if is_gpu else CPU_LADDER[-1] * threads


def ladder_of(*, is_gpu: bool, batch_max: int) -> tuple[int, ...]:
    """Give the sizes that are run for batches of at most `batch_max` crops; 0 takes what suits the device.

    A GPU captures every size and has buffers for it: 1, 2, 4 and so on up to batch_max. A CPU runs no more than 8 at once.
    """
    if not is_gpu:
        return CPU_LADDER
    most = batch_max or GPU_BATCH_MAX
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def cut(count: int, ladder: Sequence[int], *, most_padding: float) -> Iterator[tuple[int, int]]:
    """Cut a batch into pieces and yield (rows, size) of each, in order; size - rows are padding.

    Args:
        ladder: rising sizes, the first of them 1.
        most_padding: share of a piece that may be padding; 0 never pads, as a CPU computes padding as slowly as crops.
    """
    while count:
        size = next((size for size in ladder if size >= count), ladder[-1])
        if size - count > most_padding * size:
            size = max(size for size in ladder if size <= count)
        rows = min(count, size)
        yield rows, size
        count -= rows
