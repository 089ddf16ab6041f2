"""The durable truth: entries, crops and remembered answers, in one SQLite file.

Every entry carries a CRC32 over all its columns and its embedding, every crop one over its bytes.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery import answers, changes
from gallery.changes import Enrolment, Erased, Fresh, Moved
from gallery.database import Database, Space
from gallery.entry import Enrolled, NewEntry, Remember
from gallery.errors import CorruptStore, DuplicateKey, GalleryError, StoreFull, no_entry
from gallery.files import Progress, quiet
from gallery.schema import KEYS, is_sound_row
from gallery.times import to_microseconds

Inserted = tuple[list[list[Enrolled] | Exception], list[Fresh]]  # the outcome of each call, and the rows that are new

UNFINISHED_ERASURE = "what was erased still has bytes in the file; free some disk and open the gallery again"
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
            with suppress(StoreFull):  # the mark stands, verify tells, and what is left can still be searched
                store.finish_erasure()
        except BaseException:
            database.close()
            raise
        return store

    def insert(self, entries: Sequence[NewEntry], *, now: datetime, remember: Remember | None) -> tuple[list[Enrolled], Rows]:
        """Enrolls all or none, durably; returns where each landed and the rows that are new.

        The entries are valid: LocalGallery has checked them.
        """
        (outcome,), rows = self.insert_all([Enrolment(entries, remember)], now=now)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, rows

    def insert_all(self, calls: Sequence[Enrolment], *, now: datetime) -> tuple[list[list[Enrolled] | Exception], Rows]:
        """Enrolls the calls in one transaction, each wholly or not at all; returns each one's outcome and all new rows.

        Raises what kept the whole transaction from being committed.
        """
        outcomes: list[list[Enrolled] | Exception] = []
        fresh: list[Fresh] = []
        enrolled_us = to_microseconds(now)
        with self.database.transaction() as connection:
            next_id = changes.last_id(connection) + 1
            for is_single, run in itertools.groupby(calls, key=lambda call: call.is_single):
                insert = self._insert_singles if is_single else self._insert_each
                found, rows = insert(list(run), next_id=next_id, enrolled_us=enrolled_us)
                outcomes += found
                fresh += rows
                next_id = fresh[-1].keys[0] + 1 if fresh else next_id
        return outcomes, _rows(fresh, self.space.dim)

    def _insert_singles(self, calls: list[Enrolment], *, next_id: int, enrolled_us: int) -> Inserted:
        """Enrolls calls of one entry each, all at once; one after the other when that fails."""
        entries = [call.entries[0] for call in calls]
        connection = self.database.connection
        try:
            with self.database.savepoint():
                found, rows = changes.insert(connection, entries, next_id=next_id, enrolled_us=enrolled_us)
        except Exception:
            if not connection.in_transaction:
                raise
            return self._insert_each(calls, next_id=next_id, enrolled_us=enrolled_us)
        return [one if isinstance(one, DuplicateKey) else [one] for one in found], rows

    def _insert_each(self, calls: list[Enrolment], *, next_id: int, enrolled_us: int) -> Inserted:
        """Enrolls calls one after the other; what is refused is undone alone."""
        outcomes: list[list[Enrolled] | Exception] = []
        fresh: list[Fresh] = []
        connection = self.database.connection
        for call in calls:
            try:
                with self.database.savepoint():
                    enrolled, rows = changes.enroll(connection, call, next_id=next_id, enrolled_us=enrolled_us)
            except Exception as error:
                if not connection.in_transaction:
                    raise
                # Its traceback holds this frame, and all calls; of what nobody expects somebody wants to read it all the same.
                outcomes.append(error.with_traceback(None) if isinstance(error, GalleryError) else error)
            else:
                outcomes.append(enrolled)
                fresh += rows
                next_id = rows[-1].keys[0] + 1 if rows else next_id
        return outcomes, fresh

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
            erased = changes.delete_entry(connection, entry_id)
            self.database.drop_reembedding()  # a stopped one's copy would keep the entry
            return erased

    def delete_identity(self, pid: str) -> Erased:
        """Deletes an identity's entries, crops and remembered answers; then call finish_erasure()."""
        with self.database.transaction() as connection:
            return changes.delete_identity(connection, pid)

    def expire(self, before: datetime) -> Erased:
        """Deletes the entries that are older, and what delete_identity does of identities that lose their last one.

        Then call finish_erasure().
        """
        with self.database.transaction() as connection:
            return changes.expire(connection, to_microseconds(before))

    def rename(self, pid: str, new_pid: str, *, merge: bool) -> Moved:
        """Renames or merges; raises IdentityNotFound, IdentityExists, CorruptStore."""
        with self.database.transaction() as connection:
            return changes.rename(connection, pid, new_pid, merge=merge)

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
                check_rows(batch, self.space.dim)
                joined = b"".join(row[1] for row in batch)
                embeddings = np.frombuffer(joined, "<f2").reshape(-1, self.space.dim)
                columns = list(zip(*batch, strict=True))
                yield Rows(list(columns[2]), list(columns[3]), list(columns[4]), list(columns[5]), list(columns[7]), embeddings)

    def counts(self) -> tuple[int, int, int]:
        """How many entries, identities and cameras there are."""
        statement = "SELECT count(*), count(DISTINCT pid), count(DISTINCT camid) FROM entries"
        with self.database.reading() as connection:
            entries, identities, cameras = connection.execute(statement).fetchone()
        return int(entries), int(identities), int(cameras)

    def num_entries(self) -> int:
        """How many entries there are."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def check_entries(self) -> None:
        """Raises CorruptStore unless the pages of entries and answers are whole and every index on them is complete.

        A damaged index would hide entries or answers from a deletion, or let duplicates in, without a word. Looks at the file
        as it was opened, so that it can go on beside what reads through the store.
        """
        with self.database.reading_beside() as connection:
            checks = (f"PRAGMA integrity_check({table})" for table in ("entries", "answers", "answer_entries"))
            findings = [connection.execute(check).fetchone()[0] for check in checks]
        for finding in (finding for finding in findings if finding != "ok"):
            finding = " ".join(finding.split())  # SQLite's runs over several lines
            raise CorruptStore(f"the tables of {self.database.folder} are damaged: {finding}; restore a snapshot")

    def faults(self, progress: Progress = quiet) -> Iterator[str]:
        """Everything wrong in the file: pages, indexes, references, then the checksum of every entry and crop.

        progress counts entries.
        """
        with self.database.reading() as connection:
            for (finding,) in connection.execute("PRAGMA integrity_check"):
                if finding != "ok":
                    yield f"database: {' '.join(finding.split())}"
            for table, rowid, *_ in connection.execute("PRAGMA foreign_key_check"):
                yield f"{table}: row {rowid} belongs to nothing"
            if connection.execute("SELECT 1 FROM meta WHERE name = 'erasing'").fetchone():
                yield UNFINISHED_ERASURE
            total = self.num_entries()
            rows = connection.execute(f"SELECT crc, embedding, {KEYS} FROM entries ORDER BY entry_id")
            for done, row in enumerate(rows, start=1):
                if (fault := row_fault(row, self.space.dim)) is not None:
                    yield fault
                progress(done, total)
            last_id, given = connection.execute(
                "SELECT max(entry_id), (SELECT seq FROM sqlite_sequence WHERE name = 'entries') FROM entries"
            ).fetchone()
            if (last_id or 0) > (given or 0):
                yield f"the file remembers {given} as the last entry_id that was given out, wanted {last_id} or more"
            for entry_id, crc, jpeg in connection.execute("SELECT entry_id, crc, jpeg FROM crops ORDER BY entry_id"):
                if not _is_sound_crop(crc, jpeg):
                    yield f"the crop of entry {entry_id} fails its checksum"

    def close(self) -> None:
        """Closes the file and frees the folder."""
        self.database.close()


def check_rows(rows: Sequence[Sequence[Any]], dim: int) -> None:
    """Raises CorruptStore naming the first of these rows of (crc, embedding, *KEYS) that is not sound."""
    for row in rows:
        if (fault := row_fault(row, dim)) is not None:
            raise CorruptStore(f"{fault}; restore a snapshot, or run python -m gallery verify to see all")


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


def _rows(fresh: Sequence[Fresh], dim: int) -> Rows:
    columns = [row.keys for row in fresh]
    return Rows(
        [keys[0] for keys in columns],
        [keys[1] for keys in columns],
        [keys[2] for keys in columns],
        [keys[3] for keys in columns],
        [keys[5] for keys in columns],
        np.frombuffer(b"".join(row.embedding for row in fresh), "<f2").reshape(-1, dim),
    )
