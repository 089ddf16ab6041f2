"""What changes the rows: SQL on a connection, inside a transaction that the caller has begun."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gallery import answers
from gallery.entry import Enrolled, NewEntry, Remember
from gallery.errors import CorruptStore, DuplicateKey, IdentityExists, no_entry, no_identity
from gallery.schema import KEYS, MARK_ERASING, is_sound_row, row_crc
from gallery.times import to_microseconds

RENAME_BATCH = 1000  # rows held in memory at a time
ROWS_AT_ONCE = 64  # rows of one INSERT: 11 values each, and SQLite takes 32,766

Keys = tuple[int, str, str | None, int | None, int, str, str, str | None, str | None]  # the columns of KEYS


class Fresh(NamedTuple):
    """A row just inserted: its columns, and its embedding's bytes."""

    keys: Keys
    embedding: bytes


@dataclass(frozen=True, eq=False)
class Enrolment:
    """One call that enrolls: all of its entries or none."""

    entries: Sequence[NewEntry]
    remember: Remember | None

    @property
    def is_single(self) -> bool:
        """Whether it is one entry and nothing else: it needs nothing undone when it is refused."""
        return len(self.entries) == 1 and self.remember is None


@dataclass(frozen=True)
class Erased:
    """What a deletion took out of the store; identities: those that lost their last entry."""

    entry_ids: list[int]
    identities: int
    crops: int
    answers: int


@dataclass(frozen=True)
class Moved:
    """What a renaming did to the rows: the entries that bear the new pid, and those that were dropped as duplicates."""

    entry_ids: list[int]
    dropped: list[int]


def enroll(
    connection: sqlite3.Connection, call: Enrolment, *, next_id: int, enrolled_us: int
) -> tuple[list[Enrolled], list[Fresh]]:
    """Enrolls all entries of a call, as insert() does; raises DuplicateKey and AnswerErased half-way."""
    remember = call.remember
    if remember is not None and answers.recall(connection, remember.key, remember.fingerprint) is not None:
        return answers.enrolled_under(connection, remember.key), []
    outcomes, fresh = insert(connection, call.entries, next_id=next_id, enrolled_us=enrolled_us)
    enrolled: list[Enrolled] = []
    for outcome in outcomes:
        if isinstance(outcome, DuplicateKey):
            raise outcome
        enrolled.append(outcome)
    if remember is not None:
        answers.write(connection, remember, enrolled)
    return enrolled, fresh


def insert(
    connection: sqlite3.Connection, entries: Sequence[NewEntry], *, next_id: int, enrolled_us: int
) -> tuple[list[Enrolled | DuplicateKey], list[Fresh]]:
    """Inserts the entries that repeat none; returns where each landed, or what it must not repeat, and the rows that are new.

    The entries are valid: LocalGallery has checked them. The n-th one's id is next_id + n; that of a repetition is left out.
    """
    embeddings = np.array([new.embedding for new in entries]).astype("<f2")  # all at once, as below: see _insert_rows
    rows = [
        Fresh(_keys(next_id + place, new, enrolled_us), embedding.tobytes())
        for place, (new, embedding) in enumerate(zip(entries, embeddings, strict=True))
    ]
    inserted = {entry_id for part in _parts(rows, ROWS_AT_ONCE) for entry_id in _insert_rows(connection, part)}
    outcomes: list[Enrolled | DuplicateKey] = []
    for new, row in zip(entries, rows, strict=True):
        if row.keys[0] in inserted:
            outcomes.append(Enrolled(row.keys[0], new.pid, duplicate=False))
            if new.crop_jpeg is not None:
                crop = (row.keys[0], zlib.crc32(new.crop_jpeg), new.crop_jpeg)
                connection.execute("INSERT INTO crops VALUES (?, ?, ?)", crop)
        else:
            outcomes.append(_standing(connection, new, row))
    return outcomes, [row for row in rows if row.keys[0] in inserted]


def delete_entry(connection: sqlite3.Connection, entry_id: int) -> Erased:
    """Deletes one entry; as its identity's last one, the identity as delete_identity does. Raises EntryNotFound."""
    found = connection.execute("SELECT pid FROM entries WHERE entry_id = ?", (entry_id,)).fetchone()
    if found is None:
        raise no_entry(entry_id)
    if connection.execute("SELECT 1 FROM entries WHERE pid = ? AND entry_id != ?", (found[0], entry_id)).fetchone() is None:
        return delete_identity(connection, found[0])
    crops = connection.execute("SELECT count(*) FROM crops WHERE entry_id = ?", (entry_id,)).fetchone()[0]
    connection.execute("DELETE FROM entries WHERE entry_id = ?", (entry_id,))
    return Erased([entry_id], 0, crops, 0)


def delete_identity(connection: sqlite3.Connection, pid: str) -> Erased:
    """Deletes an identity and marks the erasure as unfinished; raises IdentityNotFound."""
    erased = _erase(connection, "pid = ?", pid)
    if not erased.entry_ids:
        raise no_identity(pid)
    return erased


def expire(connection: sqlite3.Connection, before_us: int) -> Erased:
    """Deletes entries seen before that time, or enrolled before it where unseen, and marks the erasure as unfinished."""
    return _erase(connection, "coalesce(captured_us, enrolled_us) < ?", before_us)


def rename(connection: sqlite3.Connection, pid: str, new_pid: str, *, merge: bool) -> Moved:
    """Gives an identity's entries and remembered answers to another pid.

    Raises: IdentityNotFound; IdentityExists: new_pid stands and merge is False; CorruptStore: a row fails its checksum.
    """
    if not _stands(connection, pid):
        raise no_identity(pid)
    if not merge and _stands(connection, new_pid):
        raise IdentityExists(
            f"got the new pid {new_pid!r}, which another identity bears; merge the two (merge: true), or choose another pid"
        )
    twice = "SELECT content_hash FROM entries WHERE pid = ? AND content_hash IS NOT NULL"
    found = connection.execute(
        f"SELECT entry_id FROM entries WHERE pid = ? AND content_hash IN ({twice}) ORDER BY entry_id", (pid, new_pid)
    )
    dropped = [entry_id for (entry_id,) in found]
    connection.executemany("DELETE FROM entries WHERE entry_id = ?", [(entry_id,) for entry_id in dropped])
    moved = _give_rows(connection, pid, new_pid)
    answers.rename(connection, pid, new_pid)
    return Moved(moved, dropped)


def last_id(connection: sqlite3.Connection) -> int:
    """The largest id ever given out, 0 before the first; deleted ones count, as long as the file remembers them."""
    given = "SELECT seq FROM sqlite_sequence WHERE name = 'entries' UNION ALL SELECT max(entry_id) FROM entries"
    return max(int(entry_id or 0) for (entry_id,) in connection.execute(given))


def _standing(connection: sqlite3.Connection, new: NewEntry, row: Fresh) -> Enrolled | DuplicateKey:
    """The entry that this one, which could not be inserted, repeats; or the error, when its client_key stands for another.

    Only what stood before it counts: the entries after it in its batch are in already.
    """
    own_id = row.keys[0]
    if new.client_key is not None:
        found = connection.execute(
            "SELECT entry_id, pid, embedding, content_hash FROM entries WHERE client_key = ? AND entry_id < ?",
            (new.client_key, own_id),
        ).fetchone()
        if found is not None:
            entry_id, pid, stored, content_hash = found
            is_same_crop = new.content_hash is not None and new.content_hash == content_hash
            if pid == new.pid and (is_same_crop or row.embedding == stored):
                return Enrolled(int(entry_id), pid, duplicate=True)
            return DuplicateKey(
                f"client_key {new.client_key!r} stands for entry {entry_id} with other content; "
                "use a new key for a new entry, or delete that one first"
            )
    found = connection.execute(
        "SELECT entry_id FROM entries WHERE pid = ? AND content_hash = ? AND entry_id < ?", (new.pid, new.content_hash, own_id)
    ).fetchone()
    assert found is not None, "This is a bug: a free id, client_key and content_hash conflict with nothing."
    return Enrolled(int(found[0]), new.pid, duplicate=True)


def _keys(entry_id: int, new: NewEntry, enrolled_us: int) -> Keys:
    return (
        entry_id,
        new.pid,
        new.camid,
        None if new.captured_at is None else to_microseconds(new.captured_at),
        enrolled_us,
        json.dumps(dict(new.attributes)),
        new.model_id,
        new.client_key,
        new.content_hash,
    )


def _parts(rows: list[Fresh], size: int) -> Iterator[list[Fresh]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _insert_rows(connection: sqlite3.Connection, rows: list[Fresh]) -> Iterable[int]:
    """Inserts rows but those whose client_key, or content_hash under its pid, stands; returns the ids that are in.

    One statement for all: the interpreter lets others run, and waits for its turn again, at each.
    """
    marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * len(rows))
    values = [value for keys, embedding in rows for value in (*keys, row_crc(keys, embedding), embedding)]
    sql = f"INSERT INTO entries ({KEYS}, crc, embedding) VALUES {marks} ON CONFLICT DO NOTHING"
    entry_ids = [row.keys[0] for row in rows]
    if connection.execute(sql, values).rowcount == len(rows):
        return entry_ids
    first, last = entry_ids[0], entry_ids[-1]
    return [
        entry_id
        for (entry_id,) in connection.execute("SELECT entry_id FROM entries WHERE entry_id BETWEEN ? AND ?", (first, last))
    ]


def _erase(connection: sqlite3.Connection, condition: str, value: object) -> Erased:
    """Deletes the entries of one condition, with the answers of identities that lost their last one."""
    found = connection.execute(f"SELECT entry_id, pid FROM entries WHERE {condition} ORDER BY entry_id", (value,)).fetchall()
    if not found:
        return Erased([], 0, 0, 0)
    crops = f"SELECT count(*) FROM crops JOIN entries USING (entry_id) WHERE {condition}"
    num_crops = connection.execute(crops, (value,)).fetchone()[0]
    connection.execute(f"DELETE FROM entries WHERE {condition}", (value,))
    connection.execute(MARK_ERASING)
    gone = [pid for pid in sorted({pid for _, pid in found}) if not _stands(connection, pid)]
    num_answers = sum(answers.erase(connection, pid) for pid in gone)
    return Erased([entry_id for entry_id, _ in found], len(gone), num_crops, num_answers)


def _stands(connection: sqlite3.Connection, pid: str) -> bool:
    return connection.execute("SELECT 1 FROM entries WHERE pid = ?", (pid,)).fetchone() is not None


def _give_rows(connection: sqlite3.Connection, pid: str, new_pid: str) -> list[int]:
    """Writes the new pid into the identity's rows, each with its checksum checked before and made anew after."""
    moved: list[int] = []
    select = f"SELECT crc, embedding, {KEYS} FROM entries WHERE pid = ? ORDER BY entry_id LIMIT {RENAME_BATCH}"
    while rows := connection.execute(select, (pid,)).fetchall():  # those renamed are no longer found
        for row in rows:
            _, embedding, entry_id, _, *keys = row
            if not is_sound_row(row):
                raise CorruptStore(f"entry {entry_id} fails its checksum; delete it or restore a snapshot")
            crc = row_crc((entry_id, new_pid, *keys), embedding)
            connection.execute("UPDATE entries SET pid = ?, crc = ? WHERE entry_id = ?", (new_pid, crc, entry_id))
            moved.append(entry_id)
    return moved
