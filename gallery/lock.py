"""The lock on a gallery's folder: one process at a time; and its memory that there was a gallery."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gallery.errors import GalleryLocked, StoreUnavailable

LOCK = "lock"
MAX_BYTES = 64
CONTENT = re.compile(rb"(\d{0,20})( gallery)?\s*")  # who has it, for a message; and whether a gallery was made here


class Lock(NamedTuple):
    """A lock that is held until its descriptor is closed or the process ends."""

    descriptor: int
    was_made: bool


def take_lock(folder: Path) -> Lock:
    """Locks the folder; raises GalleryLocked, StoreUnavailable for a file of that name that is none of ours."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        read = os.pread(descriptor, MAX_BYTES, 0)
        found = CONTENT.fullmatch(read)
        if found is None:
            raise StoreUnavailable(
                f"{folder / LOCK} holds {read[:20]!r}, wanted a gallery's own; move it away, or give another folder"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = found[1].decode() or "unknown"
            message = f"{folder} is open in another process (pid {holder}); stop that one, or give another folder"
            raise GalleryLocked(message) from error
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor, found[2] is not None)


def sign_lock(lock: Lock) -> None:
    """Writes down who has the lock, and that there is a gallery.

    A full disk keeps nobody from searching: what cannot be written is left out.
    """
    content = b"%d gallery" % os.getpid()
    with suppress(OSError):
        os.pwrite(lock.descriptor, content, 0)
        os.ftruncate(lock.descriptor, len(content))
