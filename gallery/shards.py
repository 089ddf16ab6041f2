"""The files of an export, and how they are read: strictly, whoever wrote them.

manifest.json, and for every 50,000 entries: entries-00000.jsonl (one object a line), embeddings-00000.npy (float16
[n, D], in the order of the lines) and, when crops were wanted, crops-00000.zip (uncompressed, ENTRY_ID.jpg).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.checks import LENGTH_TOLERANCE
from gallery.database import disk_errors
from gallery.entry import NewEntry
from gallery.errors import CorruptArchive
from gallery.files import Fields, check_object, parse_object

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 24  # of 50,000 shards and more
MAX_LINE_BYTES = 1 << 24
MAX_CROP_BYTES = 1 << 26

MANIFEST_FIELDS: Fields = {
    **dict.fromkeys(("format", "dim", "entries"), (int,)),
    **dict.fromkeys(("space_id", "created_at"), (str,)),
    "shards": (list,),
}
SHARD_FIELDS: Fields = {"entries": (int,), "sha256": (dict,)}
HASH_FIELDS: Fields = {"entries": (str,), "embeddings": (str,), "crops": (str, NoneType)}
LINE_FIELDS: Fields = {
    "entry_id": (int,),
    "pid": (str,),
    "camid": (str, NoneType),
    "captured_at": (str, NoneType),
    "enrolled_at": (str,),
    "attributes": (dict,),
    "model_id": (str,),
    "client_key": (str, NoneType),
    "content_hash": (str, NoneType),
}
ENDINGS = {"entries": "jsonl", "embeddings": "npy", "crops": "zip"}


@dataclass(frozen=True)
class Shard:
    """The files of some entries: its number in the export, how many entries, and the sha256 of each kind of file.

    That of crops is None when they were not wanted.
    """

    number: int
    entries: int
    sha256: Mapping[str, str | None]


@dataclass(frozen=True)
class Contents:
    """What an export says it holds."""

    space_id: str
    dim: int
    entries: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, eq=False)
class Line:
    """One entry of an export, and where it stands there, for messages."""

    where: str
    new: NewEntry


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """Where a shard's file of that kind lies; names are made here alone, and never read from a manifest."""
    return folder / f"{kind}-{number:05d}.{ENDINGS[kind]}"


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_contents(folder: Path) -> Contents:
    """Reads an export's manifest and checks every file it speaks of; raises CorruptArchive, StoreUnavailable."""
    where = str(folder / MANIFEST)
    with disk_errors(folder):
        with (folder / MANIFEST).open("rb") as file:
            manifest = parse_object(file.read(MAX_MANIFEST_BYTES), MANIFEST_FIELDS, where)
        if manifest["format"] != FORMAT:
            raise CorruptArchive(f"{where}: got an export of format {manifest['format']}, wanted {FORMAT}; use another version")
        shards = [_shard(number, given, f"{where}: shard {number}") for number, given in enumerate(manifest["shards"])]
        for shard in shards:
            _check_files(folder, shard)
    if (found := sum(shard.entries for shard in shards)) != manifest["entries"]:
        raise CorruptArchive(f"{where}: got {found} entries in its shards, wanted {manifest['entries']}; use an undamaged copy")
    return Contents(manifest["space_id"], manifest["dim"], manifest["entries"], tuple(shards))


def read_shard(folder: Path, shard: Shard, dim: int) -> Iterator[Line]:
    """A shard's entries one by one; raises CorruptArchive naming file and line, StoreUnavailable."""
    path = shard_path(folder, "entries", shard.number)
    with disk_errors(folder), ExitStack() as stack:
        lines = stack.enter_context(path.open("rb"))
        embeddings = _read_embeddings(shard_path(folder, "embeddings", shard.number), (shard.entries, dim))
        crops = None
        if shard.sha256["crops"] is not None:
            crops = stack.enter_context(_open_crops(shard_path(folder, "crops", shard.number)))
        for number, embedding in enumerate(embeddings, start=1):
            where = f"{path}, line {number}"
            raw = lines.readline(MAX_LINE_BYTES)
            line = parse_object(raw, LINE_FIELDS, where)
            crop = None if crops is None else _read_crop(crops, line["entry_id"], where)
            try:
                new = _new_entry(line, raw, embedding, crop)
            except ValueError as error:
                raise CorruptArchive(
                    f"{where}: got captured_at {line['captured_at']!r:.80}, wanted RFC 3339; use an undamaged copy"
                ) from error
            yield Line(where, new)
        if lines.read(1):
            raise CorruptArchive(
                f"{path}: got more than {shard.entries} lines, wanted one for each embedding; use an undamaged copy"
            )


def _shard(number: int, given: object, where: str) -> Shard:
    shard = check_object(given, SHARD_FIELDS, where)
    return Shard(number, shard["entries"], check_object(shard["sha256"], HASH_FIELDS, f"{where}: sha256"))


def _check_files(folder: Path, shard: Shard) -> None:
    for kind, wanted in shard.sha256.items():
        path = shard_path(folder, kind, shard.number)
        if wanted is not None and (got := file_sha256(path)) != wanted:
            raise CorruptArchive(f"{path}: got sha256 {got}, wanted {wanted}; use an undamaged copy of the export")


def _read_embeddings(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    """The embeddings of a shard, float16 [n, D], read from the file as they are asked for."""
    try:
        embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptArchive(
            f"{path}: got what is no array ({error}), wanted float16 {list(shape)}; use an undamaged copy"
        ) from error
    if embeddings.dtype != np.float16 or embeddings.shape != shape:
        got = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise CorruptArchive(f"{path}: got {got}, wanted float16 {list(shape)}, a row for each line; use an undamaged copy")
    return np.asarray(embeddings)


def _open_crops(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError) as error:
        raise CorruptArchive(f"{path}: got what is no zip ({error}), wanted crops; use an undamaged copy") from error


def _read_crop(crops: zipfile.ZipFile, entry_id: int, where: str) -> bytes | None:
    """The entry's crop, None where the zip has none."""
    try:
        member = crops.getinfo(f"{entry_id}.jpg")
    except KeyError:
        return None
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > MAX_CROP_BYTES:  # what unpacks to more than it is
        raise CorruptArchive(f"{where}: got a crop of {member.file_size} bytes, compressed or too large; wanted a stored JPEG")
    try:
        return crops.read(member)
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        raise CorruptArchive(f"{where}: its crop cannot be read ({error}); use an undamaged copy of the export") from error


def _new_entry(line: Mapping[str, Any], raw: bytes, embedding: NDArray[np.float16], crop: bytes | None) -> NewEntry:
    """The entry to enroll; raises ValueError for a captured_at that is no time.

    One that has neither client_key nor content_hash gets a client_key made of all it holds, so that importing it once
    more finds it standing.
    """
    client_key, content_hash = line["client_key"], line["content_hash"]
    if client_key is None and content_hash is None:
        client_key = f"export-{hashlib.sha256(raw + embedding.tobytes()).hexdigest()}"
    captured_at = line["captured_at"]
    return NewEntry(
        pid=line["pid"],
        embedding=_unit(embedding),
        model_id=line["model_id"],
        camid=line["camid"],
        captured_at=None if captured_at is None else datetime.fromisoformat(captured_at),
        attributes=line["attributes"],
        client_key=client_key,
        content_hash=content_hash,
        crop_jpeg=crop,
    )


def _unit(embedding: NDArray[np.float16]) -> NDArray[np.float32]:
    """The same embedding in float32 [D]; a length that rounding to half precision carried over the tolerance is mended."""
    row = embedding.astype(np.float32)
    length = float(np.linalg.norm(row))
    return row / np.float32(length) if LENGTH_TOLERANCE < abs(length - 1) < 2 * LENGTH_TOLERANCE else row
