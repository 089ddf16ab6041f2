"""Snapshots of the running gallery: files in one folder, named by the service alone, each with its description beside it."""

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from gallery.archive import describe
from gallery.database import disk_errors, sync
from gallery.entry import Snapshot
from gallery.errors import CorruptArchive, StoreFull, StoreUnavailable
from gallery.files import Fields, create, parse_object
from gallery.local import LocalGallery
from service.errors import SnapshotNotFound, SnapshotUnderWay

NAME = re.compile(r"\d{8}T\d{6}Z-\d{1,9}\.tar")  # UTC, and a number among those of one second
COPIES = 2  # of the gallery stand on the disk while one is packed
log = logging.getLogger("service")
FIELDS: Fields = {"bytes": (int,), "sha256": (str,), "entries": (int,), "created_at": (str,)}


def make(gallery: LocalGallery, folder: Path, now: datetime, *, spare_bytes: int = 0) -> Snapshot:
    """Take a snapshot of the gallery into the folder.

    Args:
        now: aware; it names the file.
        spare_bytes: how much must stay free on the disk.

    Raises:
        SnapshotUnderWay while another one is made; StoreFull and what else LocalGallery.snapshot raises: nothing new stands
        in the folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the folder for snapshots {folder} cannot be made: {error}; set REID_SNAPSHOTS to one that can be written"
        ) from error
    with disk_errors(folder), alone(folder):
        require_room(folder, COPIES * gallery.stats().bytes + spare_bytes)
        snapshot = gallery.snapshot(free_path(folder, now))
        with suppress(OSError):  # the snapshot stands, and whoever asks next describes it again
            write_description(snapshot)
        return snapshot


def require_room(folder: Path, wanted: int) -> None:
    """Raise StoreFull when a snapshot would not fit, before anything is written: others use the disk, too."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise StoreFull(
            f"got {free} bytes free for snapshots in {folder}, wanted {wanted}; free some space, or set REID_SNAPSHOTS elsewhere"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, which ends with the process; raises SnapshotUnderWay when somebody else does."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnapshotUnderWay("another snapshot is being made, wanted one at a time; list them a little later") from None
        yield
    finally:
        os.close(held)


def free_path(folder: Path, now: datetime) -> Path:
    """Choose a path that nothing stands at."""
    number = 1
    while os.path.lexists(path := folder / f"{now:%Y%m%dT%H%M%SZ}-{number}.tar"):
        number += 1
    return path


def listed(folder: Path) -> list[Snapshot]:
    """Describe every snapshot in the folder that can be, newest first; no folder holds none."""
    found = []
    with disk_errors(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                found += [described(path)] if is_snapshot(path) else []
            except CorruptArchive as error:  # the others can be restored all the same
                log.error("a damaged snapshot is not listed", extra={"fields": {"got": str(error)}})
    return sorted(found, key=lambda snapshot: (snapshot.created_at, snapshot.path.name), reverse=True)


def find(folder: Path, name: str) -> Snapshot:
    """Describe one snapshot that is as long as when it was made; raises SnapshotNotFound, CorruptArchive."""
    path = folder / name if NAME.fullmatch(name) else None
    with disk_errors(folder):
        if path is None or not is_snapshot(path):
            raise SnapshotNotFound(f"got {name!r}, which is no snapshot here; GET /gallery/snapshots lists them")
        snapshot, size = described(path), path.stat().st_size
    if size != snapshot.bytes:
        raise CorruptArchive(f"{path}: got {size} bytes, wanted {snapshot.bytes}; use an undamaged copy, or another snapshot")
    return snapshot


def is_snapshot(path: Path) -> bool:
    """Tell whether a path has a snapshot's name and is a plain file, not a link to one."""
    return NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def description_of(path: Path) -> Path:
    """Where a snapshot's description stands."""
    return path.with_name(path.name + ".json")


def described(path: Path) -> Snapshot:
    """Read what was written down when a snapshot was made; where that is missing, read the whole file and write it down."""
    beside = description_of(path)
    if not beside.exists():
        snapshot = describe(path)
        with suppress(OSError):
            write_description(snapshot)
        return snapshot
    content = parse_object(beside.read_bytes(), FIELDS, str(beside))
    try:
        created_at = datetime.fromisoformat(content["created_at"])
    except ValueError as error:
        raise CorruptArchive(f"{beside}: got created_at {content['created_at']!r:.80}, wanted RFC 3339; delete it") from error
    return Snapshot(path, content["bytes"], content["sha256"], content["entries"], created_at)


def write_description(snapshot: Snapshot) -> None:
    """Put a snapshot's description beside it, whole or not at all."""
    beside = description_of(snapshot.path)
    draft = beside.with_name(f"{beside.name}.{os.getpid()}.{id(snapshot)}")
    content = {"bytes": snapshot.bytes, "sha256": snapshot.sha256, "entries": snapshot.entries}
    try:
        with create(draft) as file:
            file.write(json.dumps({**content, "created_at": snapshot.created_at.isoformat()}).encode())
        sync(draft)
        draft.replace(beside)
    finally:
        draft.unlink(missing_ok=True)
