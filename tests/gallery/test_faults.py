"""A disk that fails, files that are damaged, removed or not to be written: a named error, and afterwards all is there."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gallery.database import Database, Space
from gallery.errors import CorruptStore, StoreError, StoreUnavailable

ROOT = Path(__file__).parents[2]
NO_OVERRIDE = "-dac_override,-dac_read_search"  # without these rights even root may only what a file's mode says

OPEN = """
import sys
import threading
from pathlib import Path
from gallery.errors import GalleryError
from gallery.local import LocalGallery
try:
    LocalGallery.reopen(Path(sys.argv[1])).close()
except GalleryError as error:
    print(type(error).__name__, error)
"""


def run_faults(*arguments, before=()):
    """Runs tests/gallery/faults.py; returns how often each task ended how."""
    command = [*before, sys.executable, "-m", "tests.gallery.faults", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def failures(counts):
    return sum(number for outcome, number in counts.items() if outcome != "done")


def test_writing_that_fails_half_way_is_named_and_undone(tmp_path):
    figures = run_faults("limit", str(tmp_path), "--few")
    assert failures(figures.pop("open")) == 0  # what cannot be written can still be searched
    assert len(figures) == 15
    assert all(failures(counts) > 0 for counts in figures.values())


def test_full_disk_is_named_and_loses_nothing(tmp_path):
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=8m tmpfs "{tmp_path}" && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing, so there is no disk to fill")
    figures = run_faults("disk", str(tmp_path), "--few", before=mount)
    assert failures(figures.pop("open")) == failures(figures.pop("open killed")) == 0  # what is left undone can wait
    assert len(figures) == 14
    assert all(set(counts) <= {"done", "StoreFull"} and failures(counts) > 0 for counts in figures.values())


def open_without_overriding(folder):
    """What a process says that may do no more than the modes allow."""
    command = [sys.executable, "-c", OPEN, str(folder)]
    if os.geteuid() == 0:
        command = ["setpriv", f"--bounding-set={NO_OVERRIDE}", f"--inh-caps={NO_OVERRIDE}", *command]
        if shutil.which("setpriv") is None:
            pytest.skip("root may write to read-only files")
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "mode"), [("gallery.sqlite", 0o400), ("gallery.sqlite", 0), (".", 0o500), ("lock", 0o400)])
def test_what_may_not_be_written_is_named(gallery, enroll, new, reopen, tmp_path, name, mode):
    enroll(new())
    gallery.close()
    folder, path = tmp_path / "gallery", tmp_path / "gallery" / name
    if name == ".":
        (folder / "lock").unlink()
    was = path.stat().st_mode
    path.chmod(mode)
    said = open_without_overriding(folder)
    path.chmod(was)
    assert said.startswith("StoreUnavailable") and "rights" in said and "gallery" in said
    with reopen() as gallery:
        assert gallery.stats().entries == 1


def changes(gallery, new):
    """Everything that writes."""
    return [
        lambda: gallery.enroll([new("carl")], space_id="space-1"),
        lambda: gallery.delete_entry(1),
        lambda: gallery.delete_identity("ann"),
        lambda: gallery.rename("ann", "zoe"),
        lambda: gallery.rename("ann", "bob", merge=True),
    ]


def refuses_changes(gallery, new):
    for change in changes(gallery, new):
        with pytest.raises(StoreUnavailable, match="removed or replaced while the gallery was open"):
            change()


@pytest.fixture
def people(gallery, enroll, new):
    """Two entries of ann and one of bob in the open gallery."""
    entries = [new(), new(), new("bob")]
    enroll(*entries)
    return entries


def test_folder_that_vanishes_while_open_takes_no_more_changes(gallery, people, new, tmp_path):
    (tmp_path / "gallery").rename(tmp_path / "elsewhere")
    refuses_changes(gallery, new)
    assert not gallery.is_ready
    assert gallery.search(people[2].embedding, k=1).matches[0].pid == "bob"
    assert gallery.faults() == []
    (tmp_path / "elsewhere").rename(tmp_path / "gallery")
    assert gallery.is_ready
    for change in (changes(gallery, new)[number] for number in (0, 1, 3)):
        change()
    assert [identity.pid for identity in gallery.identities().items] == ["bob", "carl", "zoe"]


@pytest.mark.parametrize("name", ["gallery.sqlite", "gallery.sqlite-wal"])
def test_file_that_is_removed_while_open_takes_no_more_changes(gallery, people, new, tmp_path, name):
    (tmp_path / "gallery" / name).unlink()
    refuses_changes(gallery, new)
    assert not gallery.is_ready


def test_file_that_is_replaced_while_open_takes_no_more_changes(gallery, people, new, tmp_path):
    Database.open(tmp_path / "other", create=Space("space-2", 8)).close()
    (tmp_path / "other" / "gallery.sqlite").replace(tmp_path / "gallery" / "gallery.sqlite")
    refuses_changes(gallery, new)
    assert not gallery.is_ready


def test_file_that_could_not_be_opened_again_is_opened_by_the_next_call(tmp_path):
    database = Database.open(tmp_path / "gallery", create=Space("space-1", 8))
    good, bad = tmp_path / "good", tmp_path / "bad"
    shutil.copy(tmp_path / "gallery" / "gallery.sqlite", good)
    bad.write_bytes(b"no database" * 999)
    for _ in range(2):  # the second time, the connection is gone before
        with pytest.raises(CorruptStore, match="not a database"):
            database.replace(bad) if bad.exists() else database.connection
        assert not database.is_in_place
    shutil.copy(good, tmp_path / "gallery" / "gallery.sqlite")
    assert database.connection.execute("SELECT value FROM meta WHERE name = 'space_id'").fetchone() == ("space-1",)
    assert database.is_in_place
    database.close()


def test_database_that_lost_its_file_can_be_closed(tmp_path):
    database = Database.open(tmp_path / "gallery", create=Space("space-1", 8))
    (tmp_path / "bad").write_bytes(b"no database" * 999)
    with pytest.raises(CorruptStore):
        database.replace(tmp_path / "bad")
    database.close()
    with pytest.raises(CorruptStore, match="restore"):  # and the folder is free again
        Database.open(tmp_path / "gallery", create=None)


def test_gallery_is_ready_while_its_file_is_being_rewritten(gallery, people, tmp_path):
    seen = []
    watch = threading.Thread(target=lambda: seen.extend(gallery.is_ready for _ in iter(lambda: done.is_set(), True)))
    done = threading.Event()
    watch.start()
    gallery.delete_identity("ann")
    done.set()
    watch.join()
    assert seen and all(seen)


def test_damage_anywhere_in_a_killed_gallery_is_refused_or_harmless(gallery, new, reopen, tmp_path):
    entries = [new(f"p{number}", camid="c") for number in range(12)]
    for entry in entries:
        gallery.enroll([entry], space_id="space-1")
    alive, killed = tmp_path / "gallery", tmp_path / "killed"
    shutil.copytree(alive, killed)
    gallery.close()
    rng, refused = random.Random(11), 0
    for _ in range(40):
        shutil.rmtree(alive)
        shutil.copytree(killed, alive)
        path = rng.choice([alive / "gallery.sqlite", alive / "gallery.sqlite-wal", alive / "gallery.sqlite-wal"])
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            with reopen() as gallery:
                for number, entry in enumerate(entries[:-1], start=1):  # the last commit's damage is what a crash leaves
                    stored = entry.embedding.astype(np.float16).astype(np.float32)
                    assert gallery.embedding(number).tobytes() == stored.tobytes()
                    assert gallery.search(entry.embedding, k=1).matches[0].pid == entry.pid
        except StoreError:
            refused += 1
    assert refused > 5
