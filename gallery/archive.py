"""Snapshots: one file that holds a whole gallery, made while it is open, restored into a new folder or not at all.

The file is a plain tar of two members, in this order: manifest.json, and the gallery's SQLite file. It is written and
read here block by block, header by header, because a tar from elsewhere can ask for much more than these two files.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from gallery.database import FILE, disk_errors
from gallery.entry import Snapshot
from gallery.errors import CorruptArchive, CorruptStore
from gallery.files import Fields, Progress, aside, create, parse_object, put, quiet, refuse_inside, sync_folder
from gallery.store import Store

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 65_536
TAR_BLOCK = tarfile.BLOCKSIZE  # 512 bytes, to which tar fills up whatever it holds
END = bytes(2 * TAR_BLOCK)
MAX_END_BYTES = 12_288  # zeros: this file's filling, two blocks, and what other programs fill up to 10,240 bytes
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a snapshot says about the SQLite file in it; created_at is RFC 3339."""

    format: int
    schema: int
    space_id: str
    dim: int
    entries: int
    created_at: str
    bytes: int
    sha256: str


FIELDS: Fields = {
    **dict.fromkeys(("format", "schema", "dim", "entries", "bytes"), (int,)),
    **dict.fromkeys(("space_id", "created_at", "sha256"), (str,)),
}


def snapshot(store: Store, path: Path, *, progress: Progress = quiet) -> Snapshot:
    """Writes a consistent copy of the open gallery to path, which must be new; readable by its owner alone.

    Args: store: as it stands; nobody writes to it meanwhile. progress: bytes.
    Raises: OutputExists, StoreFull, StoreUnavailable, CorruptStore for a gallery that could not be restored,
        InvalidRequest for a path in the gallery's own folder: nothing stands at path.
    """
    refuse_inside(path, store.database.folder)
    if (fault := next(store.faults(), None)) is not None:
        raise CorruptStore(f"{fault}; a snapshot would not restore: run python -m gallery verify to see all")
    with aside(path, ".snapshotting") as draft:
        copy, tar = draft / FILE, draft / "tar"
        with create(copy), store.database.reading() as connection:  # SQLite fills an empty file, and keeps its mode
            connection.execute("VACUUM INTO ?", (str(copy),))
        with copy.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        manifest = Manifest(
            format=FORMAT,
            schema=store.database.schema_version,
            space_id=store.space.space_id,
            dim=store.space.dim,
            entries=store.num_entries(),
            created_at=datetime.now(UTC).isoformat(),
            bytes=copy.stat().st_size,
            sha256=digest,
        )
        _pack(tar, manifest, copy, progress)
        sync_folder(draft)
        put(tar, path)
    return describe(path)


def describe(path: Path) -> Snapshot:
    """What a snapshot file says about itself, and the sha256 of its bytes; what is in it is checked by restore()."""
    with disk_errors(path), path.open("rb") as tar:
        manifest = _read_manifest(tar, path)
        tar.seek(0)
        digest = hashlib.file_digest(tar, "sha256").hexdigest()
    created_at = datetime.fromisoformat(manifest.created_at)
    return Snapshot(path, path.stat().st_size, digest, manifest.entries, created_at)


def restore(path: Path, folder: Path, *, progress: Progress = quiet) -> Snapshot:
    """Makes a gallery of a snapshot in a folder that must be new; every byte and every entry is checked before.

    Args: progress: bytes.
    Raises: CorruptArchive, NewerSchema, OutputExists, StoreFull, StoreUnavailable: nothing stands at folder.
    """
    described = describe(path)
    with aside(folder, ".restoring") as draft:
        made = draft / "gallery"
        made.mkdir(mode=0o700)
        with path.open("rb") as tar:
            manifest = _read_manifest(tar, path)
            _unpack(tar, path, made / FILE, manifest, progress)
        _check(made, path, manifest)
        sync_folder(made)
        put(made, folder)
    return described


def _pack(path: Path, manifest: Manifest, copy: Path, progress: Progress) -> None:
    raw = json.dumps(asdict(manifest)).encode()
    with create(path) as tar, copy.open("rb") as content:
        tar.write(_header(MANIFEST, len(raw)) + raw + bytes(-len(raw) % TAR_BLOCK))
        tar.write(_header(FILE, manifest.bytes))
        while block := content.read(READ_BYTES):
            tar.write(block)
            progress(content.tell(), manifest.bytes)
        tar.write(bytes(-manifest.bytes % TAR_BLOCK) + END)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member.tobuf(tarfile.GNU_FORMAT)


def _read_manifest(tar: BinaryIO, path: Path) -> Manifest:
    """Reads up to the content of the second member; raises CorruptArchive unless both headers are as they must be."""
    size = _read_header(tar, path, MANIFEST)
    if size > MAX_MANIFEST_BYTES:
        raise CorruptArchive(f"{path}: got a {MANIFEST} of {size} bytes, wanted at most {MAX_MANIFEST_BYTES}")
    raw = _read(tar, path, size)
    _read(tar, path, -size % TAR_BLOCK)
    manifest = Manifest(**parse_object(raw, FIELDS, f"{path}: {MANIFEST}"))
    if manifest.format != FORMAT:
        raise CorruptArchive(f"{path}: got a snapshot of format {manifest.format}, wanted {FORMAT}; install another version")
    try:
        datetime.fromisoformat(manifest.created_at)
    except ValueError as error:
        raise CorruptArchive(f"{path}: got created_at {manifest.created_at!r:.80}, wanted RFC 3339") from error
    if (size := _read_header(tar, path, FILE)) != manifest.bytes:
        raise CorruptArchive(f"{path}: got {FILE} of {size} bytes, wanted {manifest.bytes}; use an undamaged copy")
    return manifest


def _read_header(tar: BinaryIO, path: Path, name: str) -> int:
    """The size of the next member, a plain file of exactly this name."""
    try:
        member = tarfile.TarInfo.frombuf(_read(tar, path, TAR_BLOCK), "utf-8", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise CorruptArchive(f"{path}: got what is no snapshot ({error}), wanted one that this package made") from error
    if (member.name, member.type) != (name, tarfile.REGTYPE) or member.size < 0:
        raise CorruptArchive(f"{path}: got the member {member.name!r:.80}, wanted the file {name} and nothing else")
    return member.size


def _read(tar: BinaryIO, path: Path, size: int) -> bytes:
    content = tar.read(size)
    if len(content) < size:
        raise CorruptArchive(f"{path} ends after {tar.tell()} bytes, in the middle; use an undamaged copy")
    return content


def _unpack(tar: BinaryIO, path: Path, target: Path, manifest: Manifest, progress: Progress) -> None:
    """Writes the second member to target, and checks its sha256 and that nothing follows it."""
    digest = hashlib.sha256()
    left = manifest.bytes
    with create(target) as content:
        while left:
            block = _read(tar, path, min(left, READ_BYTES))
            content.write(block)
            digest.update(block)
            left -= len(block)
            progress(manifest.bytes - left, manifest.bytes)
    if digest.hexdigest() != manifest.sha256:
        raise CorruptArchive(f"{path}: got {FILE} of sha256 {digest.hexdigest()}, wanted {manifest.sha256}; it is damaged")
    rest = tar.read(MAX_END_BYTES + TAR_BLOCK)
    if len(rest) > MAX_END_BYTES or any(rest):
        raise CorruptArchive(f"{path}: got more after {FILE}, wanted the end; use a snapshot that this package made")


def _check(folder: Path, path: Path, manifest: Manifest) -> None:
    """Opens the restored gallery and reads all of it; raises CorruptArchive unless it is sound and what was announced."""
    try:
        store = Store.open(folder)
        try:
            faults = list(store.faults())
            got = (store.space.space_id, store.space.dim, store.num_entries())
        finally:
            store.close()
    except CorruptStore as error:
        faults = [str(error)]
    if faults:
        raise CorruptArchive(f"{path} holds a damaged gallery ({len(faults)} faults, first: {faults[0]}); use another snapshot")
    if got != (wanted := (manifest.space_id, manifest.dim, manifest.entries)):
        raise CorruptArchive(f"{path}: got a gallery of space, dim and entries {got}, its manifest says {wanted}")
