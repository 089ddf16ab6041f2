"""A snapshot holds all of a gallery; what is not exactly a snapshot never becomes one."""

import hashlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gallery import archive
from gallery.entry import NewEntry
from gallery.errors import (
    CorruptArchive,
    CorruptStore,
    GalleryMissing,
    InvalidRequest,
    NewerSchema,
    OutputExists,
    StoreUnavailable,
)
from gallery.local import LocalGallery
from gallery.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of a closed gallery of three entries, "gallery", and a snapshot of it, "one.tar": to be copied."""
    made = tmp_path_factory.mktemp("made")
    rows = np.eye(8, dtype=np.float32)
    entries = [
        NewEntry("ann", rows[0], "model-1", crop_jpeg=b"jpeg" * 700),
        NewEntry("bob", rows[1], "model-1", camid="north", attributes={"coat": "red"}),
        NewEntry("zoë", rows[2], "model-1"),
    ]
    with LocalGallery.open(made / "gallery", space_id="space-1", dim=8) as gallery:
        gallery.enroll(entries, space_id="space-1")
    with closing(Store.open(made / "gallery")) as store:
        archive.snapshot(store, made / "one.tar")
    return made


@pytest.fixture
def store(made, tmp_path):
    """The open store of that gallery, in the folder "gallery"."""
    shutil.copytree(made / "gallery", tmp_path / "gallery")
    with closing(Store.open(tmp_path / "gallery")) as opened:
        yield opened


@pytest.fixture
def taken(made, tmp_path):
    """The path of the snapshot, alone in the test's folder."""
    return Path(shutil.copy(made / "one.tar", tmp_path))


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rewrite(path, manifest=None, **changes):
    """The same snapshot with other members; a name in changes gives its content, None leaves it out."""
    content = members(path)
    if manifest is not None:
        changed = json.loads(content["manifest.json"]) | manifest
        content["manifest.json"] = json.dumps(changed).encode()
    write(path, [(name, content.get(name, b"")) for name in content], **changes)


def write(path, content, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, raw in content:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(raw), kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(member, io.BytesIO(raw))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(taken, tmp_path, error, match):
    """Restoring fails so, and leaves nothing."""
    with pytest.raises(error, match=match):
        archive.restore(taken, tmp_path / "again")
    assert names(tmp_path) == ["one.tar"]


def test_a_restored_gallery_is_the_one_that_was_taken(store, taken, tmp_path):
    before = [store.database.connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("entries", "crops", "meta")]
    archive.restore(taken, tmp_path / "again")
    with closing(Store.open(tmp_path / "again")) as again:
        connection = again.database.connection
        assert [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("entries", "crops", "meta")] == before
    with LocalGallery.reopen(tmp_path / "again") as gallery:
        assert (gallery.stats().entries, gallery.faults()) == (3, [])


def test_a_snapshot_is_described_by_what_it_is(store, tmp_path):
    started = datetime.now(UTC)
    taken = archive.snapshot(store, tmp_path / "one.tar")
    assert taken.sha256 == hashlib.sha256(taken.path.read_bytes()).hexdigest()
    assert (taken.bytes, taken.entries) == (taken.path.stat().st_size, 3)
    assert started <= taken.created_at <= datetime.now(UTC)
    assert archive.describe(taken.path) == taken
    assert archive.restore(taken.path, tmp_path / "again") == taken


def test_a_snapshot_is_a_plain_tar_with_its_manifest_first(taken):
    content = members(taken)
    manifest = json.loads(content["manifest.json"])
    assert list(content) == ["manifest.json", "gallery.sqlite"]
    assert (manifest["format"], manifest["space_id"], manifest["dim"], manifest["entries"]) == (1, "space-1", 8, 3)
    assert manifest["sha256"] == hashlib.sha256(content["gallery.sqlite"]).hexdigest()


def test_only_the_owner_can_read_a_snapshot_and_what_is_restored(store, taken, tmp_path):
    archive.restore(taken, tmp_path / "again")
    archive.snapshot(store, tmp_path / "two.tar")
    assert (tmp_path / "two.tar").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "again").stat().st_mode & 0o077 == 0
    assert (tmp_path / "again" / "gallery.sqlite").stat().st_mode & 0o077 == 0


def test_nothing_is_overwritten(store, taken, tmp_path):
    before = taken.read_bytes()
    with pytest.raises(OutputExists, match=r"one\.tar exists already"):
        archive.snapshot(store, taken)
    with pytest.raises(OutputExists, match="gallery exists already"):
        archive.restore(taken, tmp_path / "gallery")
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(OutputExists):
        archive.restore(taken, tmp_path / "broken")
    assert taken.read_bytes() == before


def test_a_damaged_gallery_is_not_taken(store, tmp_path):
    store.database.connection.execute("UPDATE entries SET pid = 'eve' WHERE entry_id = 2")
    with pytest.raises(CorruptStore, match="entry 2 fails its checksum; a snapshot would not restore"):
        archive.snapshot(store, tmp_path / "one.tar")
    assert not (tmp_path / "one.tar").exists()


def test_a_snapshot_in_the_gallerys_own_folder_is_refused(store):
    with pytest.raises(InvalidRequest, match="is in the gallery's own folder, wanted another place"):
        archive.snapshot(store, store.database.folder / "monday.tar")


def test_a_gallery_can_be_used_after_its_snapshot(made, new, tmp_path):
    shutil.copytree(made / "gallery", tmp_path / "gallery")
    with closing(Store.open(tmp_path / "gallery")) as store:
        archive.snapshot(store, tmp_path / "one.tar")
    with LocalGallery.reopen(tmp_path / "gallery") as gallery:
        gallery.enroll([new("eve")], space_id="space-1")
        assert gallery.stats().entries == 4


def test_missing_files_are_named(store, tmp_path):
    with pytest.raises(StoreUnavailable, match=r"none\.tar"):
        archive.restore(tmp_path / "none.tar", tmp_path / "again")
    with pytest.raises(StoreUnavailable, match="nowhere"):
        archive.snapshot(store, tmp_path / "nowhere" / "one.tar")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.99])
def test_a_snapshot_cut_short_is_refused(taken, tmp_path, share):
    content = taken.read_bytes()
    end = len(content) - 1024  # the end's zeros are no part of the gallery
    taken.write_bytes(content[: int(end * share)])
    refused(taken, tmp_path, CorruptArchive, "ends after")


@pytest.mark.parametrize("place", [3, 100, 600, 2000, 9000, 20000, -700])
def test_a_flipped_byte_is_found(taken, tmp_path, place):
    content = bytearray(taken.read_bytes())
    content[place] ^= 0x55
    taken.write_bytes(content)
    refused(taken, tmp_path, CorruptArchive, "wanted")


@pytest.mark.parametrize(
    "name", ["/gallery.sqlite", "../gallery.sqlite", "gallery.sqlite/../../x", "GALLERY.SQLITE", "gallery.sqlite-wal", "a" * 300]
)
def test_a_member_of_another_name_is_refused(taken, tmp_path, name):
    content = members(taken)
    write(taken, [("manifest.json", content["manifest.json"]), (name, content["gallery.sqlite"])])
    refused(taken, tmp_path, CorruptArchive, "nothing else")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_refused(taken, tmp_path, kind):
    write(taken, [("manifest.json", b""), ("gallery.sqlite", b"")], kind)
    refused(taken, tmp_path, CorruptArchive, "nothing else")


def test_members_in_another_order_or_one_more_are_refused(taken, tmp_path):
    content = members(taken)
    write(taken, reversed(content.items()))
    refused(taken, tmp_path, CorruptArchive, "nothing else")
    write(taken, [*content.items(), ("more", b"x")])
    refused(taken, tmp_path, CorruptArchive, "wanted the end")
    write(taken, [])
    refused(taken, tmp_path, CorruptArchive, "no snapshot")


def test_zeros_of_another_programs_tar_are_the_end(taken, tmp_path):
    rewrite(taken)  # Python's writes records of 10,240 bytes
    archive.restore(taken, tmp_path / "again")
    taken.write_bytes(taken.read_bytes() + bytes(20_480))
    shutil.rmtree(tmp_path / "again")
    refused(taken, tmp_path, CorruptArchive, "wanted the end")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2}, "format 2, wanted 1"),
        ({"format": "1"}, "wanted int"),
        ({"entries": True}, "wanted int"),
        ({"entries": 4}, "manifest says"),
        ({"dim": 4}, "manifest says"),
        ({"space_id": "other"}, "manifest says"),
        ({"created_at": "yesterday"}, "RFC 3339"),
        ({"bytes": 1}, "wanted 1;"),
        ({"sha256": "0" * 64}, "wanted 0000"),
        ({"more": 1}, "wanted an object of"),
    ],
)
def test_a_manifest_that_is_not_the_gallerys_is_refused(taken, tmp_path, changes, match):
    rewrite(taken, changes)
    refused(taken, tmp_path, CorruptArchive, match)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"[" * 60_000, b"\xff", b" " * 70_000])
def test_a_manifest_that_is_no_object_is_refused(taken, tmp_path, raw):
    write(taken, [("manifest.json", raw), ("gallery.sqlite", members(taken)["gallery.sqlite"])])
    refused(taken, tmp_path, CorruptArchive, "wanted")


def test_a_member_of_negative_size_is_refused(taken, tmp_path):
    header = bytearray(members(taken) and taken.read_bytes()[:512])
    header[124:136] = b"\xff" * 12  # the form of sizes beyond 8 GiB: here, -1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    taken.write_bytes(header + taken.read_bytes()[512:])
    refused(taken, tmp_path, CorruptArchive, "nothing else")


def replaced(taken, tmp_path, *statements):
    """The snapshot with its gallery changed, and a manifest that fits the change."""
    changed = tmp_path / "changed"
    changed.write_bytes(members(taken)["gallery.sqlite"])
    with closing(sqlite3.connect(changed)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    raw = changed.read_bytes()
    changed.unlink()
    manifest = json.loads(members(taken)["manifest.json"])
    manifest |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    write(taken, [("manifest.json", json.dumps(manifest).encode()), ("gallery.sqlite", raw)])


def test_a_damaged_row_is_found_though_the_bytes_are_those_announced(taken, tmp_path):
    replaced(taken, tmp_path, "UPDATE entries SET pid = 'eve' WHERE entry_id = 2", "UPDATE crops SET jpeg = x'00'")
    refused(taken, tmp_path, CorruptArchive, "2 faults, first: entry 2 fails its checksum")


def test_a_file_that_is_no_gallery_is_refused(taken, tmp_path):
    replaced(taken, tmp_path, "PRAGMA application_id = 7")
    refused(taken, tmp_path, CorruptArchive, "not a gallery's file")


def test_a_snapshot_of_a_newer_version_is_refused(taken, tmp_path):
    replaced(taken, tmp_path, "PRAGMA user_version = 99")
    refused(taken, tmp_path, NewerSchema, "schema 99")


class Interrupted(Exception):
    """What the fakes below raise."""


def stop(done, total):
    """A progress that raises in its first call."""
    assert 0 < done <= total
    raise Interrupted


def test_a_snapshot_stopped_on_the_way_leaves_nothing(store, tmp_path):
    with pytest.raises(Interrupted):
        archive.snapshot(store, tmp_path / "one.tar", progress=stop)
    assert names(tmp_path) == ["gallery"]


def test_a_restore_stopped_on_the_way_leaves_nothing(taken, tmp_path):
    with pytest.raises(Interrupted):
        archive.restore(taken, tmp_path / "again", progress=stop)
    assert names(tmp_path) == ["one.tar"]


KILLED = """
import os, sys
from pathlib import Path
from gallery import archive
from gallery.store import Store

def die(done, total):
    os.kill(os.getpid(), 9)

command, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if command == "snapshot":
    archive.snapshot(Store.open(source), target, progress=die)
else:
    archive.restore(source, target, progress=die)
"""


def kill(command, source, target):
    assert subprocess.run([sys.executable, "-c", KILLED, command, source, target]).returncode == -9


def test_what_a_killed_snapshot_leaves_is_removed_by_the_next_one(made, tmp_path):
    shutil.copytree(made / "gallery", tmp_path / "gallery")
    kill("snapshot", tmp_path / "gallery", tmp_path / "one.tar")
    assert names(tmp_path) == ["gallery", "one.tar.snapshotting"]
    with closing(Store.open(tmp_path / "gallery")) as again:
        archive.snapshot(again, tmp_path / "two.tar")
    assert names(tmp_path) == ["gallery", "two.tar"]


def test_what_a_killed_restore_leaves_is_no_gallery_and_is_removed_by_the_next_one(taken, tmp_path):
    kill("restore", taken, tmp_path / "again")
    assert names(tmp_path) == ["again.restoring", "one.tar"]
    with pytest.raises(GalleryMissing):
        Store.open(tmp_path / "again")
    archive.restore(taken, tmp_path / "again")
    assert names(tmp_path) == ["again", "one.tar"]
