"""Batch sizes that the runtime is given: a few fixed ones, so that its memory stays flat and a GPU can replay each of them."""

from collections.abc import Iterator, Sequence


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
