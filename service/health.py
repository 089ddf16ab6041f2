"""Facts about the disk that readiness is made of: room for what is new, and files that are still those that were loaded."""

import shutil
from pathlib import Path

from gallery.errors import StoreFull, StoreUnavailable
from service.manifest import MANIFEST_NAME, MODEL_NAME

Marks = dict[str, tuple[int, int, int] | None]  # file name -> inode, bytes, time of change; None where there is none


def marks_of(artefact: Path) -> Marks:
    """Take down which files an artefact's are."""
    return {name: mark_of(artefact / name) for name in (MODEL_NAME, MANIFEST_NAME)}


def mark_of(path: Path) -> tuple[int, int, int] | None:
    """Tell one file from another that is put in its place, without reading it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def replaced(artefact: Path, loaded: Marks) -> list[str]:
    """Name the artefact's files that are no longer those that were loaded."""
    now = marks_of(artefact)
    return [name for name, mark in loaded.items() if now[name] != mark]


def free_bytes(folder: Path) -> int:
    """How much may be written to a folder's disk; raises StoreUnavailable when the folder is gone."""
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise StoreUnavailable(f"{folder} was removed or replaced ({error.strerror}); put the gallery's folder back") from None


def check_room(folder: Path, wanted: int) -> None:
    """Raise StoreFull when fewer bytes are free than wanted, before anything is written."""
    free = free_bytes(folder)
    if free < wanted:
        raise StoreFull(
            f"got {free} bytes free on the gallery's disk, wanted {wanted} for anything new; free some space, nothing was written"
        )
