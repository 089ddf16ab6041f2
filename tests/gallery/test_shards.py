"""What is not exactly an export is refused, by name of the file and number of the line."""

import json
import shutil
import zipfile
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import pytest

from gallery.database import Space
from gallery.entry import NewEntry
from gallery.errors import CorruptArchive, InvalidRequest, StoreUnavailable
from gallery.shards import file_sha256, shard_path
from gallery.store import Store
from gallery.transfer import export_entries, import_entries


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An export of five entries with crops, in shards of two: to be copied."""
    folder = tmp_path_factory.mktemp("original")
    rows = np.eye(8, dtype=np.float32)
    entries = [NewEntry(f"person-{n}", rows[n], "model-1", crop_jpeg=b"jpeg-%d" % n) for n in range(5)]
    with closing(Store.open(folder / "gallery", create=Space("space-1", 8))) as store:
        store.insert(entries, now=datetime(2026, 11, 22, tzinfo=UTC), remember=None)
        export_entries(store, folder / "out", crops=True, shard_entries=2)
    return folder / "out"


@pytest.fixture
def exported(original, tmp_path):
    """A copy of that export, to be changed."""
    return shutil.copytree(original, tmp_path / "out")


def sign(folder):
    """Makes the manifest fit files that a test has changed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for number, shard in enumerate(manifest["shards"]):
        shard["sha256"] = {
            kind: hashed and file_sha256(shard_path(folder, kind, number)) for kind, hashed in shard["sha256"].items()
        }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_line(folder, **changes):
    """Other values in the second line of the second shard."""
    path = folder / "entries-00001.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + json.dumps(json.loads(lines[1]) | changes) + "\n")
    sign(folder)


@pytest.mark.parametrize("name", ["entries-00001.jsonl", "embeddings-00001.npy", "crops-00001.zip"])
def test_a_flipped_byte_in_any_file_is_found_before_anything_is_enrolled(exported, tmp_path, name):
    content = bytearray((exported / name).read_bytes())
    content[-10] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(CorruptArchive, match=rf"{name}: got sha256"):
        import_entries(exported, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_file_is_named(exported, tmp_path):
    (exported / "embeddings-00002.npy").unlink()
    with pytest.raises(StoreUnavailable, match=r"embeddings-00002\.npy"):
        import_entries(exported, tmp_path / "new")
    with pytest.raises(StoreUnavailable, match="manifest"):
        import_entries(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"pid": ""}, InvalidRequest, "pid of 0 characters"),
        ({"pid": 7}, CorruptArchive, "got pid 7, wanted str"),
        ({"camid": 7}, CorruptArchive, "got camid 7, wanted str or null"),
        ({"captured_at": "yesterday"}, CorruptArchive, "'yesterday', wanted RFC 3339"),
        ({"captured_at": "2026-11-22T12:00:00"}, InvalidRequest, "without an offset"),
        ({"content_hash": "x"}, InvalidRequest, "content_hash 'x'"),
        ({"attributes": []}, CorruptArchive, "wanted dict"),
        ({"color": "red"}, CorruptArchive, "wanted an object of"),
    ],
)
def test_a_wrong_line_is_named(exported, tmp_path, changes, error, match):
    change_line(exported, **changes)
    with pytest.raises(error, match=rf"entries-00001\.jsonl, line 2: .*{match}"):
        import_entries(exported, tmp_path / "new")


@pytest.mark.parametrize("raw", ["", "{", "[1]", "null", "[" * 100_000])
def test_a_line_that_is_no_object_is_named(exported, tmp_path, raw):
    (exported / "entries-00000.jsonl").write_text(raw + "\n")
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"entries-00000\.jsonl, line 1: "):
        import_entries(exported, tmp_path / "new")


def test_a_line_too_few_or_too_many_is_found(exported, tmp_path):
    path = exported / "entries-00000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    sign(exported)
    with pytest.raises(CorruptArchive, match="line 2: got what is no JSON"):
        import_entries(exported, tmp_path / "new")
    path.write_text("".join([*lines, lines[1]]))
    sign(exported)
    with pytest.raises(CorruptArchive, match="got more than 2 lines"):
        import_entries(exported, tmp_path / "new")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 8), np.float32), np.zeros((3, 8), np.float16), np.zeros(16, np.float16), np.array([[object()]])]
)
def test_embeddings_of_another_form_are_refused(exported, tmp_path, array):
    np.save(exported / "embeddings-00000.npy", array)
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"embeddings-00000\.npy: got"):
        import_entries(exported, tmp_path / "new")


def test_a_file_that_is_no_array_or_no_zip_is_refused(exported, tmp_path):
    (exported / "crops-00001.zip").write_bytes(b"x" * 100)
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"crops-00001\.zip: got what is no zip"):
        import_entries(exported, tmp_path / "new")
    (exported / "embeddings-00000.npy").write_bytes(b"")
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"embeddings-00000\.npy: got what is no array"):
        import_entries(exported, tmp_path / "new")


def test_a_compressed_crop_is_refused(exported, tmp_path):
    with zipfile.ZipFile(exported / "crops-00000.zip", "w", zipfile.ZIP_DEFLATED) as crops:
        crops.writestr("1.jpg", bytes(100_000))
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"line 1: got a crop of 100000 bytes, compressed or too large"):
        import_entries(exported, tmp_path / "new")


def test_a_crop_damaged_in_the_zip_is_found(exported, tmp_path):
    path = exported / "crops-00000.zip"
    path.write_bytes(path.read_bytes().replace(b"jpeg-0", b"jpeg-2"))
    sign(exported)
    with pytest.raises(CorruptArchive, match=r"line 1: its crop cannot be read"):
        import_entries(exported, tmp_path / "new")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2}, "format 2, wanted 1"),
        ({"entries": 6}, "got 5 entries in its shards, wanted 6"),
        ({"shards": {}}, "wanted list"),
        ({"shards": [7]}, "shard 0: got int"),
        ({"shards": [{"entries": 2, "sha256": {"entries": "../x"}}]}, "shard 0: sha256"),
        ({"shards": [{"entries": 2, "sha256": {"entries": None, "embeddings": "", "crops": None}}]}, "wanted str"),
    ],
)
def test_a_wrong_manifest_is_refused(exported, tmp_path, changes, match):
    path = exported / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CorruptArchive, match=match):
        import_entries(exported, tmp_path / "new")
    assert not (tmp_path / "new").exists()
