"""The tables of a gallery's file, the checksum of a row, and how a file of an older schema is brought up to date."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gallery.errors import CorruptStore, NewerSchema

APPLICATION_ID = 0x52654944  # "ReID": tells a gallery from any other SQLite file
FIRST_SCHEMA = 1
MIGRATION_BATCH = 1000  # rows held in memory at a time

KEYS = "entry_id, pid, camid, captured_us, enrolled_us, attributes, model_id, client_key, content_hash"

# The tables of schema FIRST_SCHEMA; a new file is made with these and migrated like any other.
# The embedding stands last, so that reading the columns before it does not touch its pages.
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE entries (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    pid TEXT NOT NULL,
    camid TEXT,
    captured_us INTEGER,
    enrolled_us INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    model_id TEXT NOT NULL,
    client_key TEXT UNIQUE,
    content_hash TEXT,
    crc INTEGER NOT NULL,
    embedding BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_content ON entries (pid, content_hash) WHERE content_hash IS NOT NULL;
CREATE INDEX entries_identity ON entries (pid, camid, captured_us);
CREATE INDEX entries_camera ON entries (camid);
CREATE TABLE crops (
    entry_id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE,
    crc INTEGER NOT NULL,
    jpeg BLOB NOT NULL
) STRICT;
CREATE TABLE answers (
    key_hash BLOB PRIMARY KEY,
    fingerprint_hash BLOB NOT NULL,
    answer BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE answer_entries (
    key_hash BLOB NOT NULL REFERENCES answers,
    place INTEGER NOT NULL,
    entry_id INTEGER NOT NULL,
    pid TEXT NOT NULL,
    duplicate INTEGER NOT NULL,
    PRIMARY KEY (key_hash, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_entries_identity ON answer_entries (pid);
"""

# Asks for the file to be rewritten, so that what was taken out of it leaves no byte behind: Store.finish_erasure.
MARK_ERASING = "INSERT OR REPLACE INTO meta VALUES ('erasing', '')"


def row_crc(keys: Sequence[object], embedding: bytes) -> int:
    """CRC32 over the columns of KEYS, as ASCII JSON, and then the embedding's bytes."""
    return zlib.crc32(embedding, zlib.crc32(json.dumps(keys).encode("ascii")))


def is_sound_row(row: Sequence[Any]) -> bool:
    """Whether a row of (crc, embedding, *KEYS) passes its checksum."""
    crc, embedding, *keys = row
    try:
        return bool(row_crc(keys, embedding) == crc)
    except TypeError:  # damage can give a column another type
        return False


def halve_embeddings(connection: sqlite3.Connection) -> None:
    """Schema 1 to 2: embeddings from float32 to float16, each row's checksum checked before and made anew after."""
    last_id = 0
    while rows := connection.execute(
        f"SELECT crc, embedding, {KEYS} FROM entries WHERE entry_id > ? ORDER BY entry_id LIMIT {MIGRATION_BATCH}", (last_id,)
    ).fetchall():
        last_id = rows[-1][2]
        connection.executemany("UPDATE entries SET crc = ?, embedding = ? WHERE entry_id = ?", _halved(rows))
    if last_id:
        connection.execute(MARK_ERASING)


def _halved(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, bytes, int]]:
    for row in rows:
        _, embedding, *keys = row
        if not is_sound_row(row):
            raise CorruptStore(f"entry {keys[0]} fails its checksum, so the gallery stays in schema 1; restore a snapshot")
        halved = np.frombuffer(embedding, "<f4").astype("<f2").tobytes()
        yield row_crc(keys, halved), halved, keys[0]


# MIGRATIONS[i] brings schema FIRST_SCHEMA + i to the next one. Append only; every released schema keeps a golden file.
Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: tuple[Migration, ...] = (halve_embeddings,)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Brings the schema up to date, each step with its version number in one transaction; raises NewerSchema."""
    newest = FIRST_SCHEMA + len(migrations)
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise NewerSchema(f"the gallery has schema {version}, this version reads up to {newest}; install a newer version")
    if version < FIRST_SCHEMA:
        raise CorruptStore(f"the gallery has schema {version}, wanted {FIRST_SCHEMA} to {newest}; restore a snapshot")
    for step in range(version, newest):
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrations[step - FIRST_SCHEMA](connection)
            connection.execute(f"PRAGMA user_version = {step + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back after some errors, such as a full disk
                connection.execute("ROLLBACK")
            raise
