import errno
import random
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from gallery.database import Database, Space, disk_errors
from gallery.errors import (
    CorruptStore,
    GalleryError,
    GalleryMissing,
    StoreFull,
    StoreUnavailable,
)
from gallery.local import LocalGallery, utc_now
from gallery.memory import Memory
from gallery.schema import FIRST_SCHEMA, MIGRATIONS
from gallery.store import Store

SPACE = Space("space-1", 8)


@pytest.fixture
def folder(tmp_path):
    """The folder of a closed gallery file."""
    Database.open(tmp_path, create=SPACE).close()
    return tmp_path


@pytest.fixture
def people(gallery, enroll, new, tmp_path):
    """The file of a closed gallery with 12 entries; also their embeddings."""
    entries = [new(f"p{n // 4}", camid="c", crop_jpeg=b"jpeg" * 9, client_key=f"k{n}") for n in range(12)]
    enroll(*entries)
    gallery.close()
    return tmp_path / "gallery" / "gallery.sqlite", entries


def execute(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_settings_make_commits_durable_and_deletions_thorough(folder):
    database = Database.open(folder, create=None)
    settings = {
        name: database.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "locking_mode", "temp_store")
    }
    database.close()
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
        "locking_mode": "exclusive",
        "temp_store": 2,
    }


def test_gallery_half_made_is_made_again(folder):
    (folder / "gallery.sqlite").rename(folder / "gallery.sqlite.new")
    (folder / "lock").unlink()
    (folder / "gallery.sqlite.new").write_bytes(b"half")
    database = Database.open(folder, create=SPACE)
    assert database.schema_version == FIRST_SCHEMA + len(MIGRATIONS)
    database.close()


def test_log_without_its_file_is_damage(folder):
    (folder / "gallery.sqlite").rename(folder / "gallery.sqlite-wal")
    with pytest.raises(CorruptStore, match="put the file back"):
        Database.open(folder, create=SPACE)
    assert not (folder / "gallery.sqlite").exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"not a database", b"SQLite format 3\0" + b"x" * 5000])
def test_file_of_something_else_is_damage(folder, content):
    (folder / "gallery.sqlite").write_bytes(content)
    with pytest.raises(CorruptStore, match="restore"):
        Database.open(folder, create=SPACE)
    assert (folder / "gallery.sqlite").read_bytes() == content


def test_database_of_another_program_is_left_alone(folder):
    execute(folder / "gallery.sqlite", "PRAGMA application_id = 1")
    before = (folder / "gallery.sqlite").read_bytes()
    with pytest.raises(CorruptStore, match="not a gallery's file"):
        Database.open(folder, create=SPACE)
    assert (folder / "gallery.sqlite").read_bytes() == before


@pytest.mark.parametrize("damage", ["DELETE FROM meta WHERE name = 'dim'", "UPDATE meta SET value = 'x' WHERE name = 'dim'"])
def test_file_that_does_not_name_its_space_is_damage(folder, damage):
    execute(folder / "gallery.sqlite", damage)
    with pytest.raises(CorruptStore, match="space and dimension"):
        Store.open(folder)


def test_file_without_its_tables_is_damage(folder):
    execute(folder / "gallery.sqlite", "DROP TABLE meta")
    with pytest.raises(CorruptStore, match="not a gallery's"):
        Store.open(folder)


def test_missing_gallery_is_named(tmp_path):
    with pytest.raises(GalleryMissing, match=r"holds no gallery\.sqlite"):
        Database.open(tmp_path, create=None)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        Database.open(tmp_path / "file", create=SPACE)


def test_file_that_cannot_be_opened_is_named(folder):
    (folder / "gallery.sqlite").unlink()
    (folder / "gallery.sqlite").mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Database.open(folder, create=None)


def test_full_disk_writes_nothing_and_the_gallery_goes_on(tmp_path, new):
    store = Store.open(tmp_path, create=SPACE)
    with LocalGallery(store, clock=utc_now, make_memory=partial(Memory, index="exact")) as gallery:
        gallery.enroll([new()], space_id="space-1")
        connection = store.database.connection
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 2}")
        with pytest.raises(StoreFull, match="free some space"):
            gallery.enroll([new(crop_jpeg=b"x" * 5000) for _ in range(10)], space_id="space-1")
        assert (gallery.stats().entries, gallery.faults()) == (1, [])
        connection.execute("PRAGMA max_page_count = 1000000")
        gallery.enroll([new(crop_jpeg=b"x" * 5000)], space_id="space-1")
        assert (gallery.stats().entries, gallery.faults()) == (2, [])


WRITE_UNTIL_IT_FAILS = """
import resource, sys
import numpy as np
from pathlib import Path
from gallery.entry import NewEntry
from gallery.errors import StoreUnavailable
from gallery.local import LocalGallery
with LocalGallery.open(Path(sys.argv[1]), space_id="space-1", dim=8) as gallery:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    vector = np.eye(8, dtype=np.float32)[0]
    try:
        for number in range(1000):
            gallery.enroll([NewEntry(f"p{number}", vector, "model-1", crop_jpeg=b"x" * 5000)], space_id="space-1")
    except StoreUnavailable as error:
        print(number, gallery.stats().entries, gallery.search(vector, k=1000).identities, error)
"""


def test_failing_disk_is_reported_and_keeps_what_was_acknowledged(tmp_path):
    command = [sys.executable, "-c", WRITE_UNTIL_IT_FAILS, str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    acknowledged, counted, searched, message = answer.split(maxsplit=3)
    assert int(acknowledged) == int(counted) == int(searched) > 0
    assert "check it" in message
    with LocalGallery.reopen(tmp_path) as gallery:
        assert gallery.stats().entries >= int(acknowledged)
        assert gallery.faults() == []


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreUnavailable)]
)
def test_errors_of_the_operating_system_are_translated(tmp_path, number, kind):
    with pytest.raises(kind, match=str(tmp_path)), disk_errors(tmp_path):
        raise OSError(number, "by the operating system")


def test_damaged_text_in_sqlites_messages_is_damage(tmp_path):
    with pytest.raises(CorruptStore, match="damaged tables"), disk_errors(tmp_path):
        b"\xff".decode()


def test_errors_that_are_not_the_disks_pass_unchanged(folder):
    database = Database.open(folder, create=None)
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        connection.execute("INSERT INTO meta VALUES ('dim', '9')")
    database.close()


def test_flipped_byte_in_an_embedding_is_found_on_open(people, reopen):
    path, entries = people
    content = bytearray(path.read_bytes())
    vector = struct.pack("<8e", *entries[6].embedding)
    assert content.count(vector) == 1
    content[content.index(vector) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptStore, match="entry 7 fails its checksum"):
        reopen()


@pytest.mark.parametrize(
    "damage",
    [
        "pid = 'p9'",
        "camid = NULL",
        "captured_us = 1",
        "enrolled_us = 1",
        "attributes = '[]'",
        "model_id = 'other'",
        "client_key = 'other'",
        "content_hash = 'other'",
        "embedding = zeroblob(16)",
        "crc = 1",
    ],
)
def test_changed_column_is_found_on_open(people, reopen, damage):
    execute(people[0], f"UPDATE entries SET {damage} WHERE entry_id = 7")
    with pytest.raises(CorruptStore, match="entry 7 fails its checksum"):
        reopen()


def test_damaged_index_is_found_on_open(people, reopen):
    path, _ = people
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_identity'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    start = content.index(b"p1c", (page - 1) * size)
    assert start < page * size
    content[start : start + 3] = b"p1d"  # in the index another camera, in the row the same one
    path.write_bytes(content)
    with pytest.raises(CorruptStore, match="damaged: .*missing from index entries_identity"):
        reopen()


def test_random_damage_never_changes_an_embedding_silently(people, reopen):
    path, entries = people
    whole = path.read_bytes()
    refused = 0
    for seed in range(60):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        start = rng.randrange(len(damaged))
        damaged[start : start + rng.choice([1, 100, 4096])] = rng.randbytes(rng.choice([1, 100, 4096]))
        path.write_bytes(damaged)
        try:
            with reopen() as gallery:
                stored = [gallery.embedding(entry_id).tobytes() for entry_id in range(1, 13)]
            assert stored == [entry.embedding.astype(np.float16).astype(np.float32).tobytes() for entry in entries]
        except GalleryError:
            refused += 1
    assert refused > 10


def test_truncated_file_is_refused(people, reopen):
    path, _ = people
    whole = path.read_bytes()
    for size in range(0, len(whole), 4096 + 999):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptStore, match="restore"):
            reopen()
