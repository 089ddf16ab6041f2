"""Files and folders that are made aside and put in place whole, or not at all; and the manifests that describe them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

from gallery.database import disk_errors, sync
from gallery.errors import CorruptArchive, InvalidRequest, OutputExists

Progress = Callable[[int, int], None]  # (done, in all)
UNFINISHED = ".unfinished"  # tells a folder made here from anybody's of the same name
Fields = Mapping[str, tuple[type, ...]]  # of a JSON object, each with the types it may have


def quiet(done: int, total: int) -> None:
    """The progress of what nobody watches."""


@contextmanager
def aside(target: Path, suffix: str) -> Iterator[Path]:
    """A folder of the owner's alone beside target, to make target in; gone with all it holds when the block ends.

    Such folders of this suffix that dead processes left beside target are removed first; a live process holds a lock on its own.

    Raises:
        OutputExists: target stands already, or another process is making it.
        StoreUnavailable, StoreFull: the disk fails, here or in the block.
    """
    with disk_errors(target):
        refuse_existing(target)
        for left in sorted(target.parent.glob(f"*{suffix}/{UNFINISHED}")):
            if not left.parent.is_symlink() and (held := _lock(left.parent)) is not None:
                _remove(left.parent, held)
        draft = target.with_name(target.name + suffix)
        try:
            draft.mkdir(mode=0o700)
        except FileExistsError as error:
            raise OutputExists(f"{draft} stands already; wait until the process that makes it is done") from error
        held = _lock(draft)
        assert held is not None, "This is a bug: nobody else locks a folder that was made a moment ago."
        try:
            create(draft / UNFINISHED).close()
            yield draft
        finally:
            _remove(draft, held)


def refuse_existing(target: Path) -> None:
    """Raises OutputExists when something stands at target, even a broken link."""
    if os.path.lexists(target):
        raise OutputExists(f"{target} exists already, wanted a new name; nothing is ever overwritten: give another one")


def refuse_inside(target: Path, folder: Path) -> None:
    """Raises InvalidRequest for a target in a gallery's own folder, where an erasure would not reach what it holds."""
    if target.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(f"got {target}, which is in the gallery's own folder, wanted another place; give another name")


def put(made: Path, target: Path) -> None:
    """Renames a synced file or folder to where nothing stands, durably; raises OutputExists.

    When the last sync fails, it stands there whole all the same, and only a power failure could take it away.
    """
    refuse_existing(target)
    made.rename(target)
    sync(target.parent)


def create(path: Path) -> BinaryIO:
    """A new file to write to, its owner's alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def sync_folder(folder: Path) -> None:
    """Waits until a folder and the files in it are on the disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def parse_object(raw: bytes, fields: Fields, where: str) -> dict[str, Any]:
    """The JSON object in raw, checked by check_object(); raises CorruptArchive naming where."""
    try:
        return check_object(json.loads(raw), fields, where)
    except (ValueError, RecursionError) as error:
        raise CorruptArchive(f"{where}: got what is no JSON ({error}), wanted an object; use an undamaged copy") from error


def check_object(parsed: object, fields: Fields, where: str) -> dict[str, Any]:
    """The same object, which has exactly these fields of these types; raises CorruptArchive naming where."""
    if not isinstance(parsed, dict) or parsed.keys() != fields.keys():
        got = sorted(parsed) if isinstance(parsed, dict) else type(parsed).__name__
        raise CorruptArchive(f"{where}: got {got}, wanted an object of {sorted(fields)}; use an undamaged copy")
    for name, kinds in fields.items():
        if not isinstance(parsed[name], kinds) or isinstance(parsed[name], bool):
            wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            raise CorruptArchive(f"{where}: got {name} {parsed[name]!r:.80}, wanted {wanted}; use an undamaged copy")
    return parsed


def _lock(folder: Path) -> int | None:
    """A lock on the folder that ends with the process, None when another one holds it."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _remove(folder: Path, held: int) -> None:
    try:
        shutil.rmtree(folder)
    finally:
        os.close(held)
