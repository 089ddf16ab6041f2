"""An export holds every entry; an import enrolls them once, however often it is begun."""

import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gallery.database import FILE, Space
from gallery.entry import NewEntry
from gallery.errors import CorruptStore, DimensionMismatch, DuplicateKey, ModelMismatch, NotUnitLength, OutputExists
from gallery.local import LocalGallery
from gallery.shards import file_sha256, shard_path
from gallery.store import Store
from gallery.transfer import Exported, Imported, export_entries, import_entries

SPACE = Space("space-1", 8)
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def entries():
    """Five entries that fill and leave empty every column between them."""
    rows = np.random.default_rng(5).normal(size=(5, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return [
        NewEntry("ann", rows[0], "model-1", "north", NOON, {"coat": "réd", "tall": True}, "key-1", "ab" * 32, b"jpeg-1"),
        NewEntry("ann", rows[1], "model-1"),
        NewEntry("zoë", rows[2], "model-2", camid="south", captured_at=NOON + timedelta(days=1)),
        NewEntry("a\0b\n", rows[3], "model-2", crop_jpeg=b""),
        NewEntry("bob", rows[4], "model-2", content_hash="cd" * 32, crop_jpeg=b"jpeg-5" * 999),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The open store of those five entries; only read from."""
    folder = tmp_path_factory.mktemp("source")
    with LocalGallery.open(folder, space_id="space-1", dim=8) as gallery:
        gallery.enroll(entries(), space_id="space-1")
    with closing(Store.open(folder)) as store:
        yield store


@pytest.fixture(scope="module")
def original(source, tmp_path_factory):
    """An export of them with crops, in shards of two entries: to be copied."""
    folder = tmp_path_factory.mktemp("exports") / "out"
    export_entries(source, folder, crops=True, shard_entries=2)
    return folder


@pytest.fixture
def exported(original, tmp_path):
    """A copy of that export, to be changed."""
    return shutil.copytree(original, tmp_path / "out")


def table(folder, columns="pid, camid, captured_us, attributes, model_id, content_hash, embedding, jpeg"):
    """What the gallery in folder holds, without ids and the time of enrolment, after all of it was found sound."""
    with closing(Store.open(folder)) as store:
        assert list(store.faults()) == []
        return store.database.connection.execute(
            f"SELECT {columns} FROM entries LEFT JOIN crops USING (entry_id) ORDER BY entry_id"
        ).fetchall()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_import_gives_the_entries_of_the_export(source, exported, tmp_path):
    assert import_entries(exported, tmp_path / "new") == Imported(entries=5, duplicates=0)
    assert (
        table(tmp_path / "new")
        == source.database.connection.execute(
            "SELECT pid, camid, captured_us, attributes, model_id, content_hash, embedding, jpeg "
            "FROM entries LEFT JOIN crops USING (entry_id) ORDER BY entry_id"
        ).fetchall()
    )


def test_an_export_is_read_with_json_and_numpy_alone(exported):
    assert names(exported) == sorted(
        [
            "manifest.json",
            *(
                f"{kind}-0000{n}.{end}"
                for n in range(3)
                for kind, end in (("entries", "jsonl"), ("embeddings", "npy"), ("crops", "zip"))
            ),
        ]
    )
    lines = [json.loads(line) for line in (exported / "entries-00000.jsonl").read_text().splitlines()]
    enrolled_at = datetime.fromisoformat(lines[0].pop("enrolled_at"))
    assert timedelta(0) <= datetime.now(UTC) - enrolled_at < timedelta(hours=1)
    assert lines[0] == {
        "entry_id": 1,
        "pid": "ann",
        "camid": "north",
        "captured_at": "2026-11-22T12:00:00.123456+00:00",
        "attributes": {"coat": "réd", "tall": True},
        "model_id": "model-1",
        "client_key": "key-1",
        "content_hash": "ab" * 32,
    }
    embeddings = np.load(exported / "embeddings-00000.npy", allow_pickle=False)
    assert (embeddings.dtype, embeddings.shape) == (np.float16, (2, 8))
    assert np.array_equal(embeddings[0], entries()[0].embedding.astype(np.float16))
    with zipfile.ZipFile(exported / "crops-00000.zip") as crops:
        assert (crops.namelist(), crops.read("1.jpg")) == (["1.jpg"], b"jpeg-1")


def test_an_export_says_what_it_wrote_and_how_far_it_is(source, tmp_path):
    seen = []
    exported = export_entries(source, tmp_path / "out", crops=True, shard_entries=2, progress=lambda *done: seen.append(done))
    assert exported == Exported(entries=5, crops=3)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_crops_come_along_only_when_asked_for(source, tmp_path):
    assert export_entries(source, tmp_path / "out", crops=False) == Exported(entries=5, crops=0)
    assert names(tmp_path / "out") == ["embeddings-00000.npy", "entries-00000.jsonl", "manifest.json"]
    import_entries(tmp_path / "out", tmp_path / "new")
    assert {jpeg for (jpeg,) in table(tmp_path / "new", "jpeg")} == {None}


def test_only_the_owner_can_read_an_export(exported):
    assert exported.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in exported.iterdir())


def test_an_empty_gallery_is_exported_and_imported(tmp_path):
    with closing(Store.open(tmp_path / "empty", create=SPACE)) as store:
        assert export_entries(store, tmp_path / "out", crops=True) == Exported(0, 0)
    assert import_entries(tmp_path / "out", tmp_path / "new") == Imported(0, 0)
    assert table(tmp_path / "new") == []


def test_an_export_never_overwrites(source, exported):
    before = names(exported)
    with pytest.raises(OutputExists):
        export_entries(source, exported, crops=True)
    assert names(exported) == before


def test_an_export_of_a_damaged_entry_is_refused_and_leaves_nothing(tmp_path):
    with closing(Store.open(tmp_path / "gallery", create=SPACE)) as store:
        store.insert(entries(), now=NOON, remember=None)
        store.database.connection.execute("UPDATE entries SET model_id = 'model-3' WHERE entry_id = 4")
        with pytest.raises(CorruptStore, match="entry 4 fails its checksum"):
            export_entries(store, tmp_path / "out", crops=True, shard_entries=2)
    assert names(tmp_path) == ["gallery"]


def test_a_second_import_adds_nothing(exported, tmp_path):
    import_entries(exported, tmp_path / "new")
    before = table(tmp_path / "new")
    assert import_entries(exported, tmp_path / "new") == Imported(entries=0, duplicates=5)
    assert table(tmp_path / "new") == before


def test_a_later_export_of_the_same_gallery_adds_what_is_new(tmp_path):
    with closing(Store.open(tmp_path / "gallery", create=SPACE)) as store:
        store.insert(entries()[:3], now=NOON, remember=None)
        export_entries(store, tmp_path / "early", crops=True)
        store.insert(entries()[3:], now=NOON, remember=None)
        export_entries(store, tmp_path / "late", crops=True)
    import_entries(tmp_path / "early", tmp_path / "new")
    assert import_entries(tmp_path / "late", tmp_path / "new") == Imported(entries=2, duplicates=3)


def test_entries_come_to_those_of_a_gallery_that_exists(exported, tmp_path, new):
    with LocalGallery.open(tmp_path / "old", space_id="space-1", dim=8) as gallery:
        gallery.enroll([new("eve"), entries()[0]], space_id="space-1")
    assert import_entries(exported, tmp_path / "old") == Imported(entries=4, duplicates=1)
    with LocalGallery.reopen(tmp_path / "old") as gallery:
        assert (gallery.stats().entries, gallery.identity("ann").entries, gallery.faults()) == (6, 2, [])


def test_an_import_into_another_space_is_refused(exported, tmp_path):
    Store.open(tmp_path / "other", create=Space("space-2", 8)).close()
    with pytest.raises(ModelMismatch, match=r"space-1.*space-2"):
        import_entries(exported, tmp_path / "other")
    Store.open(tmp_path / "longer", create=Space("space-1", 16)).close()
    with pytest.raises(DimensionMismatch, match="dimension 8, the gallery holds 16"):
        import_entries(exported, tmp_path / "longer")
    assert table(tmp_path / "other") == []


def test_an_embedding_that_rounding_carried_over_the_tolerance_is_taken(tmp_path):
    edge = np.zeros(8, np.float32)
    edge[0] = 1.0009  # rounds to 1.0009766 in half precision; 0.9991 to 0.99902
    edges = [NewEntry("ann", edge, "model-1"), NewEntry("bob", -edge, "model-1")]
    edges[1].embedding[0] = -0.99901
    with closing(Store.open(tmp_path / "gallery", create=SPACE)) as store:
        store.insert(edges, now=NOON, remember=None)
        export_entries(store, tmp_path / "out", crops=False)
    assert import_entries(tmp_path / "out", tmp_path / "new") == Imported(entries=2, duplicates=0)
    assert import_entries(tmp_path / "out", tmp_path / "new") == Imported(entries=0, duplicates=2)


def test_a_key_that_stands_for_other_content_is_named_with_its_line(exported, tmp_path, new):
    with LocalGallery.open(tmp_path / "old", space_id="space-1", dim=8) as gallery:
        gallery.enroll([new("eve", client_key="key-1")], space_id="space-1")
    with pytest.raises(DuplicateKey, match=r"entries-00000\.jsonl, line 1: client_key 'key-1'"):
        import_entries(exported, tmp_path / "old")
    assert len(table(tmp_path / "old")) == 1


def test_an_embedding_that_is_not_of_unit_length_is_named_with_its_line(exported, tmp_path):
    np.save(exported / "embeddings-00000.npy", np.full((2, 8), [[0.35355339], [0.4]]).astype(np.float16))
    manifest = json.loads((exported / "manifest.json").read_text())
    manifest["shards"][0]["sha256"]["embeddings"] = file_sha256(shard_path(exported, "embeddings", 0))
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NotUnitLength, match=r"entries-00000\.jsonl, line 2: got an embedding of length 1\.13"):
        import_entries(exported, tmp_path / "new")


class Interrupted(Exception):
    """What the fake below raises."""


def stop(done, total):
    raise Interrupted


def test_an_export_stopped_on_the_way_leaves_nothing(source, tmp_path):
    with pytest.raises(Interrupted):
        export_entries(source, tmp_path / "out", crops=True, progress=stop)
    assert names(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from gallery.transfer import import_entries

calls = iter(range(int(sys.argv[3]), -1, -1))

def die(done, total):
    if next(calls) == 0:
        os.kill(os.getpid(), 9)

import_entries(Path(sys.argv[1]), Path(sys.argv[2]), progress=die)
"""


@pytest.mark.parametrize("batches", [1, 2])
def test_an_import_that_was_killed_is_finished_by_another(exported, tmp_path, batches):
    command = [sys.executable, "-c", KILLED, exported, tmp_path / "new", str(batches - 1)]
    assert subprocess.run(command).returncode == -9
    assert len(table(tmp_path / "new")) == 2 * batches
    assert import_entries(exported, tmp_path / "new") == Imported(entries=5 - 2 * batches, duplicates=2 * batches)
    assert [pid for (pid,) in table(tmp_path / "new", "pid")] == [entry.pid for entry in entries()]


def test_an_import_killed_before_its_gallery_stands_leaves_none(exported, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / f"{FILE}.new").write_bytes(b"half a gallery")
    import_entries(exported, tmp_path / "new")
    assert len(table(tmp_path / "new")) == 5
