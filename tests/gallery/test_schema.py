"""Files of older schemas are brought up to date whole or not at all."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gallery.database import Database, Space
from gallery.errors import CorruptStore, NewerSchema
from gallery.local import LocalGallery
from gallery.schema import FIRST_SCHEMA, MIGRATIONS, migrate

GOLDEN = Path(__file__).parents[1] / "golden"
NEWEST = FIRST_SCHEMA + len(MIGRATIONS)


@pytest.fixture
def folder(tmp_path):
    """The folder of a closed gallery file."""
    Database.open(tmp_path, create=Space("space-1", 8)).close()
    return tmp_path


@pytest.fixture
def first(tmp_path):
    """The folder of a gallery of schema 1."""
    (tmp_path / "first").mkdir()
    shutil.copy(GOLDEN / "gallery_v1.sqlite", tmp_path / "first" / "gallery.sqlite")
    return tmp_path / "first"


def execute(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_newer_schema_is_refused(folder):
    execute(folder / "gallery.sqlite", "PRAGMA user_version = 1000")
    with pytest.raises(NewerSchema, match="schema 1000, this version reads up to"):
        Database.open(folder, create=None)


def test_schema_before_the_first_is_damage(folder):
    execute(folder / "gallery.sqlite", "PRAGMA user_version = 0")
    with pytest.raises(CorruptStore, match="schema 0"):
        Database.open(folder, create=None)


def columns_and_version(connection):
    names = [row[1] for row in connection.execute("PRAGMA table_info(meta)")]
    return names, connection.execute("PRAGMA user_version").fetchone()[0]


def test_migrations_run_once_and_in_order(folder):
    steps = [
        lambda connection: connection.execute("ALTER TABLE meta ADD COLUMN one TEXT"),
        lambda connection: connection.execute("ALTER TABLE meta RENAME COLUMN one TO two"),
    ]
    with closing(sqlite3.connect(folder / "gallery.sqlite", isolation_level=None)) as connection:
        migrate(connection, [*MIGRATIONS, *steps[:1]])
        assert columns_and_version(connection) == (["name", "value", "one"], NEWEST + 1)
        migrate(connection, [*MIGRATIONS, *steps])
        migrate(connection, [*MIGRATIONS, *steps])
        assert columns_and_version(connection) == (["name", "value", "two"], NEWEST + 2)


def test_failing_migration_leaves_the_step_before_it(folder):
    def fail(connection):
        connection.execute("ALTER TABLE meta ADD COLUMN two TEXT")
        raise RuntimeError("half way")

    steps = [lambda connection: connection.execute("ALTER TABLE meta ADD COLUMN one TEXT"), fail]
    with closing(sqlite3.connect(folder / "gallery.sqlite", isolation_level=None)) as connection:
        with pytest.raises(RuntimeError, match="half way"):
            migrate(connection, [*MIGRATIONS, *steps])
        assert columns_and_version(connection) == (["name", "value", "one"], NEWEST + 1)


def test_migration_that_sqlite_itself_undoes_leaves_the_step_before_it(folder):
    def fail(connection):
        connection.execute("ROLLBACK")  # as SQLite does on a full disk
        raise sqlite3.OperationalError("database or disk is full")

    with closing(sqlite3.connect(folder / "gallery.sqlite", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="full"):
            migrate(connection, [*MIGRATIONS, fail])
        assert columns_and_version(connection) == (["name", "value"], NEWEST)


def test_float32_embeddings_become_float16_and_leave_no_byte(first):
    row = np.eye(8, dtype="<f4")[3:5].sum(axis=0) / np.float32(np.sqrt(2))
    assert row.astype("<f4").tobytes() in (first / "gallery.sqlite").read_bytes()
    with LocalGallery.reopen(first) as gallery:
        assert np.array_equal(gallery.embedding(4), row.astype(np.float16))
        assert gallery.stats().schema_version == 2
        files = b"".join(path.read_bytes() for path in first.iterdir())
        assert row.astype("<f4").tobytes()[12:20] not in files
        assert row.astype("<f2").tobytes() in files


def test_migration_cut_short_before_the_rewriting_is_finished_on_open(first):
    Database.open(first, create=None).close()  # migrates; what rewrites the file is the store
    row = (np.eye(8, dtype="<f4")[3:5].sum(axis=0) / np.float32(np.sqrt(2))).astype("<f4").tobytes()[12:20]
    with LocalGallery.reopen(first) as gallery:
        assert gallery.faults() == []
        assert all(row not in path.read_bytes() for path in first.iterdir())


@pytest.mark.parametrize("damage", ["embedding = zeroblob(32)", "pid = 'bob'"])
def test_damaged_row_of_an_older_schema_stops_the_migration(first, damage):
    execute(first / "gallery.sqlite", f"UPDATE entries SET {damage} WHERE entry_id = 3")
    with pytest.raises(CorruptStore, match="entry 3 fails its checksum, so the gallery stays in schema 1"):
        LocalGallery.reopen(first)
    with closing(sqlite3.connect(first / "gallery.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
        assert connection.execute("SELECT count(*) FROM entries WHERE length(embedding) = 32").fetchone()[0] == 4
