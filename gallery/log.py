"""The write-ahead log of a SQLite file, checked before SQLite reads it.

SQLite takes the first frame whose checksum fails for the end of the log (https://www.sqlite.org/fileformat2.html#walformat),
which is right after a crash, and after damage drops every later transaction without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gallery.errors import CorruptStore

HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint number, two salts, and the two sums of these six
FRAME_HEADER = 24  # bytes: page number, pages after a commit or 0, two salts, two sums
SUMMED = 8  # bytes of a frame's header that its sums cover, then the page; salts are compared instead
MAGIC = 0x377F0682  # of sums over little-endian words; with the lowest bit set, big-endian
BLOCK = 1024  # frames read at a time: 4 MB

Words = NDArray[np.uint32]


class Frames(NamedTuple):
    """Of each frame whether it belongs to this log and follows from the frame before it, and whether a commit ends there."""

    is_linked: NDArray[np.bool_]
    is_commit: NDArray[np.bool_]


def check_log(path: Path) -> None:
    """Raises CorruptStore for a log from which SQLite would drop transactions that were durably committed.

    Commits are synced one by one, so one that a later frame follows from was acknowledged; when SQLite would not reach
    it, the log is damaged. Damage to the last transaction, to the end of the last but one, from which it is reckoned, or
    a log cut short, is what a crash may leave as well, and passes.
    """
    if not path.exists():
        return
    with path.open("rb") as log:
        header = log.read(HEADER.size)
        if len(header) < HEADER.size or not log.peek(1):  # no frame is written before the header is on the disk
            return
        magic, *_ = HEADER.unpack(header)
        order = ">u4" if magic & 1 else "<u4"
        if magic | 1 != MAGIC | 1 or _sums(header[: SUMMED * 3], order) != HEADER.unpack(header)[6:]:
            raise CorruptStore(_message(path, "at its beginning"))
        frames = [Frames(*block) for block in _blocks(log, header, order)]
    if not frames:
        return
    is_linked, is_commit = (np.concatenate(parts) for parts in zip(*frames, strict=True))
    reached = len(is_linked) if is_linked.all() else int(np.argmin(is_linked))
    if (is_commit[reached:-1] & is_linked[reached + 1 :]).any():
        raise CorruptStore(_message(path, f"in frame {reached + 1} of {len(is_linked)}"))


def _blocks(log: BinaryIO, header: bytes, order: str) -> Iterator[Frames]:
    """The log's whole frames in bounded memory."""
    _, _, page_bytes, _, *rest = HEADER.unpack(header)
    salts, before = np.array(rest[:2], np.uint32), np.array([rest[2:]], np.uint32)
    size = FRAME_HEADER + page_bytes
    weights, carry = _weights((SUMMED + page_bytes) // 8)
    while len(content := log.read(BLOCK * size)) >= size:
        frames = np.frombuffer(content, np.uint8, len(content) // size * size).reshape(-1, size)
        fields = np.ascontiguousarray(frames[:, :FRAME_HEADER]).view(">u4").astype(np.uint32)
        summed = np.concatenate([frames[:, :SUMMED], frames[:, FRAME_HEADER:]], axis=1).view(order).astype(np.uint32)
        sums = fields[:, 4:]
        expected = summed @ weights + np.concatenate([before, sums[:-1]]) @ carry
        yield Frames((fields[:, 2:4] == salts).all(axis=1) & (sums == expected).all(axis=1), fields[:, 1] != 0)
        before = sums[-1:]


def _sums(content: bytes, order: str) -> tuple[int, int]:
    """SQLite's two sums of some bytes."""
    words = np.frombuffer(content, order).astype(np.uint32)
    first, second = (words @ _weights(len(words) // 2)[0]).tolist()
    return first, second


def _weights(num_pairs: int) -> tuple[Words, Words]:
    """What each word adds to the two sums, uint32 [2 * pairs, 2], and what the sums before add, uint32 [2, 2]; modulo 2^32.

    SQLite: for each pair of words a, b: first += a + second; second += b + first.
    """
    carry = np.eye(2, dtype=np.uint32)
    step, entering = np.array([[1, 1], [1, 2]], np.uint32), np.array([[1, 1], [0, 1]], np.uint32)
    weights = np.empty((num_pairs, 2, 2), np.uint32)
    for pair in reversed(range(num_pairs)):
        weights[pair] = entering @ carry
        carry = carry @ step
    return weights.reshape(-1, 2), carry


def _message(path: Path, where: str) -> str:
    return (
        f"{path} is damaged {where}, and holds enrolments and deletions that would be lost; restore a snapshot, "
        f"or remove {path.name} to go on without what was changed last"
    )
