import runpy
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gallery import changes
from gallery.changes import Enrolment
from gallery.database import Database, Space
from gallery.entry import Enrolled, Remember
from gallery.errors import AnswerErased, CorruptStore, DuplicateKey, StoreFull
from gallery.local import LocalGallery
from gallery.schema import row_crc
from gallery.store import UNFINISHED_ERASURE, Store, row_fault

GOLDEN = Path(__file__).parents[1] / "golden"
MAKE_GOLDEN = Path(__file__).with_name("make_golden.py")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HASH = "5" * 64
KEYS = (7, "ann", None, None, 1, "{}", "model-1", None, None)


def test_sound_row_has_no_fault():
    assert row_fault((row_crc(KEYS, b"12" * 8), b"12" * 8, *KEYS), 8) is None


def test_row_of_damaged_types_is_a_fault():
    assert row_fault((1, None, *KEYS), 8) == "entry 7 fails its checksum"
    assert row_fault((1, b"12" * 8, 7, b"ann", *KEYS[2:]), 8) == "entry 7 fails its checksum"


def test_row_of_another_dimension_is_a_fault():
    row = (row_crc(KEYS, b"1234"), b"1234", *KEYS)
    assert row_fault(row, 8) == "entry 7 has 4 bytes of embedding, wanted 16"


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "store", create=Space("space-1", 8))
    yield opened
    opened.close()


def test_call_that_fails_half_way_is_undone_alone(store, new):
    store.insert([new("ann", client_key="k")], now=NOON, remember=None)
    calls = [[new("bob")], [new("cyd"), new("ann", client_key="k")], [new("dan")]]
    outcomes, rows = store.insert_all([Enrolment(entries, None) for entries in calls], now=NOON)
    assert [outcomes[0][0].entry_id, outcomes[2][0].entry_id] == [2, 3]
    assert isinstance(outcomes[1], DuplicateKey)
    assert (rows.entry_ids, rows.pids) == ([2, 3], ["bob", "dan"])
    with pytest.raises(DuplicateKey):
        store.insert(calls[1], now=NOON, remember=None)
    assert (store.num_entries(), list(store.faults())) == (3, [])


def test_calls_of_one_entry_that_come_together_each_have_their_own_outcome(store, new):
    store.insert([new("ann", client_key="k")], now=NOON, remember=None)
    calls = [new("bob"), new("cyd", client_key="k"), new("dan", content_hash=HASH), new("dan", content_hash=HASH), new("eve")]
    outcomes, rows = store.insert_all([Enrolment([entry], None) for entry in calls], now=NOON)
    assert [outcome[0] for outcome in outcomes if isinstance(outcome, list)] == [
        Enrolled(2, "bob", duplicate=False),
        Enrolled(4, "dan", duplicate=False),
        Enrolled(4, "dan", duplicate=True),
        Enrolled(6, "eve", duplicate=False),
    ]
    assert isinstance(outcomes[1], DuplicateKey)
    assert (rows.entry_ids, rows.pids, list(store.faults())) == ([2, 4, 6], ["bob", "dan", "eve"], [])


def test_what_comes_after_a_repetition_does_not_make_it_a_conflict(store, new):
    store.insert([new("ann", content_hash=HASH)], now=NOON, remember=None)
    repeated, later = new("ann", content_hash=HASH, client_key="k"), new("bob", client_key="k")
    enrolled, _ = store.insert([repeated, later], now=NOON, remember=None)
    assert enrolled == [Enrolled(1, "ann", duplicate=True), Enrolled(3, "bob", duplicate=False)]


def test_entry_that_cannot_be_written_fails_alone_among_calls_that_come_together(store, new):
    bad = replace(new("bob"), attributes={"set": {1, 2}})  # which LocalGallery would have refused
    calls = [Enrolment([entry], None) for entry in (new("ann"), bad, new("cyd", crop_jpeg=b"jpeg"))]
    outcomes, rows = store.insert_all(calls, now=NOON)
    assert isinstance(outcomes[1], TypeError)
    assert [outcomes[0], outcomes[2]] == [[Enrolled(1, "ann", duplicate=False)], [Enrolled(2, "cyd", duplicate=False)]]
    assert (rows.entry_ids, store.crop(2), list(store.faults())) == ([1, 2], b"jpeg", [])


def test_ids_go_on_beyond_what_stands_though_the_file_remembers_less(store, new):
    store.insert([new("ann"), new("bob")], now=NOON, remember=None)
    store.database.connection.execute("UPDATE sqlite_sequence SET seq = 1")
    assert list(store.faults()) == ["the file remembers 1 as the last entry_id that was given out, wanted 2 or more"]
    enrolled, _ = store.insert([new("cyd")], now=NOON, remember=None)
    assert (enrolled, store.num_entries()) == ([Enrolled(3, "cyd", duplicate=False)], 3)


def test_damaged_index_on_answers_is_found(store, new):
    store.insert([new("ann")], now=NOON, remember=Remember("key", "print", lambda enrolled: b"answer"))
    connection = store.database.connection
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'entries_camera') "
        "WHERE name = 'answer_entries_identity'"
    )
    connection.execute("PRAGMA writable_schema = RESET")
    store.database.empty_log()
    with pytest.raises(CorruptStore, match="are damaged"):
        store.check_entries()


def test_full_disk_keeps_no_gallery_with_an_unfinished_erasure_from_opening(new, tmp_path, monkeypatch):
    def full(database):
        raise StoreFull("no room")

    with closing(Store.open(tmp_path / "store", create=Space("space-1", 8))) as store:
        store.insert([new("ann"), new("bob")], now=NOON, remember=None)
        store.delete_identity("ann")
    with monkeypatch.context() as patched:
        patched.setattr(Database, "compact", full)
        with closing(Store.open(tmp_path / "store")) as store:
            assert list(store.faults()) == [UNFINISHED_ERASURE]
    with closing(Store.open(tmp_path / "store")) as store:
        assert list(store.faults()) == []


def test_call_of_more_rows_than_a_statement_takes_is_enrolled_whole(store, new):
    entries = [new("ann", content_hash=f"{number % 150:064x}", crop_jpeg=b"%d" % number) for number in range(200)]
    enrolled, rows = store.insert(entries, now=NOON, remember=None)
    assert [one.entry_id for one in enrolled] == [1 + number % 150 for number in range(200)]
    assert rows.entry_ids == list(range(1, 151))
    assert [store.crop(entry_id) for entry_id in (1, 50, 150)] == [b"0", b"49", b"149"]


def test_disk_that_fails_undoes_every_call(store, new):
    def fail(enrolled):
        store.database.connection.execute("ROLLBACK")  # as SQLite does on a full disk
        raise sqlite3.OperationalError("database or disk is full")

    calls = [Enrolment([new("ann")], None), Enrolment([new("bob")], Remember("key", "print", fail))]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.insert_all(calls, now=NOON)
    assert store.num_entries() == 0


def test_disk_that_fails_undoes_calls_of_one_entry_that_came_together(store, new, monkeypatch):
    def fail(connection, entries, **places):
        connection.execute("ROLLBACK")  # as SQLite does on a full disk
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(changes, "insert", fail)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.insert_all([Enrolment([new(name)], None) for name in ("ann", "bob")], now=NOON)
    assert store.num_entries() == 0


def test_faults_name_what_belongs_to_nothing_and_what_is_damaged(store, new):
    store.insert([new("ann", crop_jpeg=b"jpeg"), new("bob")], now=NOON, remember=None)
    for damage in (
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO crops VALUES (9, 0, x'00')",
        "UPDATE entries SET model_id = 'other' WHERE entry_id = 2",
    ):
        store.database.connection.execute(damage)
    assert list(store.faults()) == [
        "crops: row 9 belongs to nothing",
        "entry 2 fails its checksum",
        "the crop of entry 9 fails its checksum",
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_gallery_of_every_released_schema_opens(tmp_path, version):
    entries = runpy.run_path(str(MAKE_GOLDEN))["entries"]
    (tmp_path / "gallery").mkdir()
    shutil.copy(GOLDEN / f"gallery_v{version}.sqlite", tmp_path / "gallery" / "gallery.sqlite")
    with LocalGallery.open(tmp_path / "gallery", space_id="space-golden", dim=8) as gallery:
        assert gallery.faults() == []
        for entry_id, new in enumerate(entries(), start=1):
            entry = gallery.entry(entry_id)
            assert (entry.pid, entry.camid, entry.captured_at) == (new.pid, new.camid, new.captured_at)
            assert (entry.attributes, entry.model_id) == (new.attributes, new.model_id)
            assert entry.enrolled_at == datetime(2026, 11, 22, tzinfo=UTC)
            assert gallery.crop(entry_id) == new.crop_jpeg
            assert np.array_equal(gallery.embedding(entry_id), new.embedding.astype(np.float16))
        assert gallery.enroll(entries(), space_id="space-golden")[0] == Enrolled(1, "ann", duplicate=True)
        assert gallery.recall("golden", "print") == b"answer"
        with pytest.raises(AnswerErased):
            gallery.recall("erased", "print")


def test_what_checks_every_entry_says_how_far_it_is(store, new):
    store.insert([new("ann"), new("bob")], now=NOON, remember=None)
    seen = []
    assert list(store.faults(lambda done, total: seen.append((done, total)))) == []
    assert seen == [(1, 2), (2, 2)]
