"""Exports: every entry in files that other programs read (see shards.py), imported as enrolments into any gallery.

Remembered answers (Idempotency-Keys) and entry ids are not carried over; a snapshot holds everything.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gallery.checks import check_dim, check_entry, check_space
from gallery.database import Space
from gallery.entry import Enrolled
from gallery.errors import DimensionMismatch, DuplicateKey, GalleryError
from gallery.files import Progress, aside, create, put, quiet, refuse_inside, sync_folder
from gallery.schema import KEYS
from gallery.shards import ENDINGS, FORMAT, MANIFEST, Line, Shard, file_sha256, read_contents, read_shard, shard_path
from gallery.store import Store, check_rows
from gallery.times import from_microseconds, optional_time

SHARD = 50_000  # entries a file: 200 MB of embeddings at D = 2048
BATCH = 1024  # entries read, or enrolled, at a time


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    entries: int
    crops: int


@dataclass(frozen=True)
class Imported:
    """What an import found: entries that were new to the gallery, and duplicates of entries that stood there."""

    entries: int
    duplicates: int


def export_entries(
    store: Store, folder: Path, *, crops: bool, progress: Progress = quiet, shard_entries: int = SHARD
) -> Exported:
    """Writes every entry, checked against its checksum, into a folder that must be new; in bounded memory.

    Args: crops: whether the stored crops come along. progress: entries.
    Raises: OutputExists, CorruptStore, StoreFull, StoreUnavailable, InvalidRequest for a folder in the gallery's own:
        nothing stands at folder.
    """
    refuse_inside(folder, store.database.folder)
    total, num_crops, after = store.num_entries(), 0, 0
    shards: list[Shard] = []
    with aside(folder, ".exporting") as draft:
        made = draft / "export"
        made.mkdir(mode=0o700)
        for first in range(0, total, shard_entries):
            number, num = len(shards), min(shard_entries, total - first)
            last = _write_entries(made, number, store, after=after, num=num, report=_from(first, total, progress))
            if crops:
                num_crops += _write_crops(made, number, store, after=after, last=last)
            after = last
            shards.append(Shard(number, num, _hashes(made, number)))
        _write_manifest(made, store, shards)
        sync_folder(made)
        put(made, folder)
    return Exported(total, num_crops)


def import_entries(folder: Path, gallery_folder: Path, *, progress: Progress = quiet) -> Imported:
    """Enrolls an export's entries into a gallery of the same space, which is made when there is none; in bounded memory.

    The files are checked first, then every entry as any enrolment is. Entries get new ids and are enrolled now. Batches
    are durable one by one, and a repeat finds standing what it has enrolled before, so an import that was stopped is
    finished by another one. progress: entries.

    Raises:
        CorruptArchive: a damaged file, or a line that says nothing an entry can be made of.
        ModelMismatch, DimensionMismatch: another space. InvalidRequest, NotUnitLength, DuplicateKey: naming the line.
        GalleryLocked and all that opening a gallery raises.
    """
    contents = read_contents(folder)
    check_dim(contents.dim)
    with closing(Store.open(gallery_folder, create=Space(contents.space_id, contents.dim))) as store:
        store.check_entries()  # a damaged index would let duplicates in
        check_space(contents.space_id, store.space.space_id)
        if contents.dim != store.space.dim:
            raise DimensionMismatch(f"got an export of dimension {contents.dim}, the gallery holds {store.space.dim}")
        done, duplicates = 0, 0
        for shard in contents.shards:
            lines = read_shard(folder, shard, contents.dim)
            while batch := list(islice(lines, BATCH)):
                duplicates += sum(one.duplicate for one in _enroll(store, batch))
                done += len(batch)
                progress(done, contents.entries)
    return Imported(done - duplicates, duplicates)


def sound_rows(store: Store, *, after: int, num: int) -> list[tuple[Any, ...]]:
    """The next rows of (crc, embedding, *KEYS) by rising id, every checksum checked; raises CorruptStore."""
    wanted = f"SELECT crc, embedding, {KEYS} FROM entries WHERE entry_id > ? ORDER BY entry_id LIMIT ?"
    with store.database.reading() as connection:
        rows = connection.execute(wanted, (after, num)).fetchall()
    check_rows(rows, store.space.dim)
    return rows


def _from(first: int, total: int, progress: Progress) -> Callable[[int], None]:
    return lambda done: progress(first + done, total)


def _write_entries(folder: Path, number: int, store: Store, *, after: int, num: int, report: Callable[[int], None]) -> int:
    """Writes lines and embeddings of the `num` entries after an id; returns the last one's. report: how many are written."""
    with create(shard_path(folder, "entries", number)) as lines, create(shard_path(folder, "embeddings", number)) as embeddings:
        header = {"descr": "<f2", "fortran_order": False, "shape": (num, store.space.dim)}
        np.lib.format.write_array_header_1_0(embeddings, header)
        done = 0
        while rows := sound_rows(store, after=after, num=min(BATCH, num - done)):
            lines.writelines(_line(keys) for _, _, *keys in rows)
            embeddings.writelines(embedding for _, embedding, *_ in rows)
            done, after = done + len(rows), rows[-1][2]
            report(done)
    return after


def _line(keys: Sequence[Any]) -> bytes:
    entry_id, pid, camid, captured_us, enrolled_us, attributes, model_id, client_key, content_hash = keys
    captured_at = optional_time(captured_us)
    line = {
        "entry_id": entry_id,
        "pid": pid,
        "camid": camid,
        "captured_at": None if captured_at is None else captured_at.isoformat(),
        "enrolled_at": from_microseconds(enrolled_us).isoformat(),
        "attributes": json.loads(attributes),
        "model_id": model_id,
        "client_key": client_key,
        "content_hash": content_hash,
    }
    return json.dumps(line).encode("ascii") + b"\n"


def _write_crops(folder: Path, number: int, store: Store, *, after: int, last: int) -> int:
    """Writes the crops of the entries after one id up to another; returns how many there are."""
    wanted = "SELECT entry_id FROM crops WHERE entry_id > ? AND entry_id <= ? ORDER BY entry_id"
    with store.database.reading() as connection:
        entry_ids = [entry_id for (entry_id,) in connection.execute(wanted, (after, last))]
    with create(shard_path(folder, "crops", number)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as crops:
        for entry_id in entry_ids:
            crops.writestr(zipfile.ZipInfo(f"{entry_id}.jpg"), store.crop(entry_id) or b"")
    return len(entry_ids)


def _hashes(folder: Path, number: int) -> dict[str, str | None]:
    """The sha256 of every file of a shard, None for one that was not wanted."""
    paths = {kind: shard_path(folder, kind, number) for kind in ENDINGS}
    return {kind: file_sha256(path) if path.exists() else None for kind, path in paths.items()}


def _write_manifest(folder: Path, store: Store, shards: Sequence[Shard]) -> None:
    manifest = {
        "format": FORMAT,
        "space_id": store.space.space_id,
        "dim": store.space.dim,
        "entries": sum(shard.entries for shard in shards),
        "created_at": datetime.now(UTC).isoformat(),
        "shards": [{"entries": shard.entries, "sha256": shard.sha256} for shard in shards],
    }
    with create(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode("ascii"))


def _enroll(store: Store, batch: Sequence[Line]) -> list[Enrolled]:
    """Enrolls a batch in one transaction; an error names the line it belongs to.

    Of a DuplicateKey only the store knows whose it is: then the batch goes in one by one, up to that entry.
    """
    for line in batch:
        try:
            check_entry(line.new, store.space.dim)
        except GalleryError as error:
            raise type(error)(f"{line.where}: {error}") from error
    try:
        return store.insert([line.new for line in batch], now=datetime.now(UTC), remember=None)[0]
    except DuplicateKey as error:
        if len(batch) == 1:
            raise DuplicateKey(f"{batch[0].where}: {error}") from error
        return [one for line in batch for one in _enroll(store, [line])]
