"""The durable truth: entries, crops and remembered answers, in one SQLite file.

Every entry carries a CRC32 over all its columns and its embedding, every crop one over its bytes.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery import answers
from gallery.database import Database, Space
from gallery.entry import Enrolled, NewEntry, Remember
from gallery.errors import CorruptStore, DuplicateKey, no_entry, no_identity
from gallery.schema import KEYS, MARK_ERASING, is_sound_row, row_crc
from gallery.times import to_microseconds

BATCH = 2048  # entries read at a time: 8 MB of embeddings at D = 2048


@dataclass(frozen=True, eq=False)
class Rows:
    """Entries as the index needs them: n of each; attributes as stored JSON, embeddings float16 [n, D]."""

    entry_ids: list[int]
    pids: list[str]
    camids: list[str | None]
    captured_us: list[int | None]
    attributes: list[str]
    embeddings: NDArray[np.float16]


@dataclass(frozen=True)
class Erased:
    """What a deletion took out of the store."""

    entry_ids: list[int]
    crops: int
    answers: int


class Store:
    """The rows of one gallery; used from one thread at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.reading() as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta"))
        if not {"space_id", "dim"} <= meta.keys() or not meta["dim"].isdecimal():
            raise CorruptStore(f"{database.folder} does not name its space and dimension; restore a snapshot")
        self.space = Space(meta["space_id"], int(meta["dim"]))

    @classmethod
    def open(cls, folder: Path, *, create: Space | None = None) -> Store:
        """Opens the folder's store, or makes one of that space; finishes an erasure that was cut short."""
        database = Database.open(folder, create=create)
        try:
            store = cls(database)
            store.finish_erasure()
        except BaseException:
            database.close()
            raise
        return store

    def insert(self, entries: Sequence[NewEntry], *, now: datetime, remember: Remember | None) -> tuple[list[Enrolled], Rows]:
        """Enrolls all or none, durably; returns where each landed and the rows that are new.

        The entries are valid: LocalGallery has checked them.
        """
        with self.database.transaction() as connection:
            if remember is not None and answers.recall(connection, remember.key, remember.fingerprint) is not None:
                return answers.enrolled_under(connection, remember.key), _rows([], self.space.dim)
            enrolled: list[Enrolled] = []
            fresh: list[tuple[int, NewEntry]] = []
            next_id = _last_id(connection) + 1
            for new in entries:
                standing = _standing(connection, new)
                if standing is None:
                    _insert(connection, next_id, new, now)
                    fresh.append((next_id, new))
                    next_id += 1
                enrolled.append(Enrolled(fresh[-1][0] if standing is None else standing, new.pid, standing is not None))
            if remember is not None:
                answers.write(connection, remember, enrolled)
        return enrolled, _rows(fresh, self.space.dim)

    def recall(self, key: str, fingerprint: str) -> bytes | None:
        """The answer remembered under the key, None for a new one; raises DuplicateKey or AnswerErased."""
        with self.database.reading() as connection:
            return answers.recall(connection, key, fingerprint)

    def crop(self, entry_id: int) -> bytes | None:
        """The entry's crop, None when none is kept; raises EntryNotFound, CorruptStore when the checksum fails."""
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT crops.crc, jpeg FROM entries LEFT JOIN crops USING (entry_id) WHERE entry_id = ?", (entry_id,)
            ).fetchone()
        if found is None:
            raise no_entry(entry_id)
        if found == (None, None):
            return None
        if not _is_sound_crop(*found):
            raise CorruptStore(f"the crop of entry {entry_id} fails its checksum; delete the entry or restore a snapshot")
        return bytes(found[1])

    def delete_entry(self, entry_id: int) -> Erased:
        """Deletes one entry; as its identity's last one, the identity as delete_identity does. Raises EntryNotFound."""
        with self.database.transaction() as connection:
            found = connection.execute("SELECT pid FROM entries WHERE entry_id = ?", (entry_id,)).fetchone()
            if found is None:
                raise no_entry(entry_id)
            others = "SELECT 1 FROM entries WHERE pid = ? AND entry_id != ?"
            if connection.execute(others, (found[0], entry_id)).fetchone() is None:
                return _erase(connection, found[0])
            crops = connection.execute("SELECT count(*) FROM crops WHERE entry_id = ?", (entry_id,)).fetchone()[0]
            connection.execute("DELETE FROM entries WHERE entry_id = ?", (entry_id,))
            return Erased([entry_id], crops, 0)

    def delete_identity(self, pid: str) -> Erased:
        """Deletes an identity's entries, crops and remembered answers; then call finish_erasure()."""
        with self.database.transaction() as connection:
            return _erase(connection, pid)

    def finish_erasure(self) -> None:
        """Removes the last bytes of erased identities from the files, when any are left.

        The mark that asks for it is set in the deletion's own transaction, so an erasure cut short is finished on open.
        """
        with self.database.reading() as connection:
            if connection.execute("SELECT 1 FROM meta WHERE name = 'erasing'").fetchone() is None:
                return
        self.database.compact()
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM meta WHERE name = 'erasing'")

    def rows(self) -> Iterator[Rows]:
        """All entries by rising id in bounded batches; raises CorruptStore naming the first that fails its checksum."""
        with self.database.reading() as connection:
            cursor = connection.execute(f"SELECT crc, embedding, {KEYS} FROM entries ORDER BY entry_id")
            while batch := cursor.fetchmany(BATCH):
                for row in batch:
                    if (fault := row_fault(row, self.space.dim)) is not None:
                        raise CorruptStore(f"{fault}; restore a snapshot, or run python -m gallery verify to see all")
                joined = b"".join(row[1] for row in batch)
                embeddings = np.frombuffer(joined, "<f2").reshape(-1, self.space.dim)
                columns = list(zip(*batch, strict=True))
                yield Rows(list(columns[2]), list(columns[3]), list(columns[4]), list(columns[5]), list(columns[7]), embeddings)

    def num_entries(self) -> int:
        """How many entries there are."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def check_entries(self) -> None:
        """Raises CorruptStore unless the pages of the entries are whole and every index on them is complete.

        A damaged index would hide entries from a deletion, or let duplicates in, without a word.
        """
        with self.database.reading() as connection:
            finding = connection.execute("PRAGMA integrity_check(entries)").fetchone()[0]
        if finding != "ok":
            finding = " ".join(finding.split())  # SQLite's runs over several lines
            raise CorruptStore(f"the tables of {self.database.folder} are damaged: {finding}; restore a snapshot")

    def faults(self) -> Iterator[str]:
        """Everything wrong in the file: pages, indexes, references, then the checksum of every entry and crop."""
        with self.database.reading() as connection:
            for (finding,) in connection.execute("PRAGMA integrity_check"):
                if finding != "ok":
                    yield f"database: {' '.join(finding.split())}"
            for table, rowid, *_ in connection.execute("PRAGMA foreign_key_check"):
                yield f"{table}: row {rowid} belongs to nothing"
            for row in connection.execute(f"SELECT crc, embedding, {KEYS} FROM entries ORDER BY entry_id"):
                if (fault := row_fault(row, self.space.dim)) is not None:
                    yield fault
            for entry_id, crc, jpeg in connection.execute("SELECT entry_id, crc, jpeg FROM crops ORDER BY entry_id"):
                if not _is_sound_crop(crc, jpeg):
                    yield f"the crop of entry {entry_id} fails its checksum"

    def close(self) -> None:
        """Closes the file and frees the folder."""
        self.database.close()


def row_fault(row: Sequence[Any], dim: int) -> str | None:
    """What is wrong with a row of (crc, embedding, *KEYS), None when it is sound."""
    _, embedding, entry_id, *_ = row
    if not is_sound_row(row):
        return f"entry {entry_id} fails its checksum"
    if len(embedding) != 2 * dim:
        return f"entry {entry_id} has {len(embedding)} bytes of embedding, wanted {2 * dim}"
    return None


def _is_sound_crop(crc: object, jpeg: object) -> bool:
    return isinstance(jpeg, bytes) and zlib.crc32(jpeg) == crc


def _last_id(connection: sqlite3.Connection) -> int:
    """The largest id ever given out, 0 before the first; deleted ones count."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    return 0 if found is None else int(found[0])


def _standing(connection: sqlite3.Connection, new: NewEntry) -> int | None:
    """The id of the entry that this one repeats, None when it is new; raises DuplicateKey."""
    if new.client_key is not None:
        found = connection.execute(
            "SELECT entry_id, pid, embedding, content_hash FROM entries WHERE client_key = ?", (new.client_key,)
        ).fetchone()
        if found is not None:
            entry_id, pid, embedding, content_hash = found
            is_same_crop = new.content_hash is not None and new.content_hash == content_hash
            if pid == new.pid and (is_same_crop or embedding == _vector_bytes(new)):
                return int(entry_id)
            raise DuplicateKey(
                f"client_key {new.client_key!r} stands for entry {entry_id} with other content; "
                "use a new key for a new entry, or delete that one first"
            )
    found = connection.execute(
        "SELECT entry_id FROM entries WHERE pid = ? AND content_hash = ?", (new.pid, new.content_hash)
    ).fetchone()
    return None if found is None else int(found[0])


def _insert(connection: sqlite3.Connection, entry_id: int, new: NewEntry, now: datetime) -> None:
    keys = (
        entry_id,
        new.pid,
        new.camid,
        None if new.captured_at is None else to_microseconds(new.captured_at),
        to_microseconds(now),
        json.dumps(dict(new.attributes)),
        new.model_id,
        new.client_key,
        new.content_hash,
    )
    embedding = _vector_bytes(new)
    connection.execute(
        f"INSERT INTO entries ({KEYS}, crc, embedding) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*keys, row_crc(keys, embedding), embedding),
    )
    if new.crop_jpeg is not None:
        crop = (entry_id, zlib.crc32(new.crop_jpeg), new.crop_jpeg)
        connection.execute("INSERT INTO crops VALUES (?, ?, ?)", crop)


def _erase(connection: sqlite3.Connection, pid: str) -> Erased:
    """Deletes an identity and marks the erasure as unfinished; raises IdentityNotFound."""
    found = connection.execute("SELECT entry_id FROM entries WHERE pid = ? ORDER BY entry_id", (pid,))
    entry_ids = [entry_id for (entry_id,) in found]
    if not entry_ids:
        raise no_identity(pid)
    crops = "SELECT count(*) FROM crops JOIN entries USING (entry_id) WHERE pid = ?"
    num_crops = connection.execute(crops, (pid,)).fetchone()[0]
    connection.execute("DELETE FROM entries WHERE pid = ?", (pid,))
    connection.execute(MARK_ERASING)
    return Erased(entry_ids, num_crops, answers.erase(connection, pid))


def _rows(fresh: Sequence[tuple[int, NewEntry]], dim: int) -> Rows:
    return Rows(
        [entry_id for entry_id, _ in fresh],
        [new.pid for _, new in fresh],
        [new.camid for _, new in fresh],
        [None if new.captured_at is None else to_microseconds(new.captured_at) for _, new in fresh],
        [json.dumps(dict(new.attributes)) for _, new in fresh],
        np.array([new.embedding for _, new in fresh], np.float16).reshape(-1, dim),
    )


def _vector_bytes(new: NewEntry) -> bytes:
    return new.embedding.astype("<f2").tobytes()
