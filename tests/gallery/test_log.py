"""The log as a killed process leaves it, damaged byte by byte; SQLite itself is the reference for what it would drop."""

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from gallery.database import Database, Space
from gallery.errors import CorruptStore
from gallery.log import FRAME_HEADER, HEADER, check_log

COMMITS = 12


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a gallery killed after COMMITS commits leaves, all of them in its log."""
    alive, folder = tmp_path_factory.mktemp("alive"), tmp_path_factory.mktemp("left") / "gallery"
    with closing(Database.open(alive, create=Space("space-1", 8))) as database:
        for number in range(COMMITS):
            with database.transaction() as connection:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (f"commit-{number}", "x" * (1 + 6000 * (number % 3))))
        shutil.copytree(alive, folder, ignore=shutil.ignore_patterns("*-shm"))
    return folder


@pytest.fixture
def killed(left, tmp_path):
    """A copy of it."""
    return shutil.copytree(left, tmp_path / "killed")


def recovered(folder):
    """How many commits SQLite finds."""
    with closing(sqlite3.connect(folder / "gallery.sqlite")) as connection:
        return connection.execute("SELECT count(*) FROM meta WHERE name LIKE 'commit-%'").fetchone()[0]


def frame_at(folder, number):
    """Where a frame of the log starts."""
    page_bytes = HEADER.unpack((folder / "gallery.sqlite-wal").read_bytes()[: HEADER.size])[2]
    return HEADER.size + number * (FRAME_HEADER + page_bytes)


def flip(path, place, bit=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def test_log_of_a_killed_process_passes_and_is_whole(killed):
    check_log(killed / "gallery.sqlite-wal")
    assert recovered(killed) == COMMITS


def test_damaged_header_is_refused(killed):
    log = killed / "gallery.sqlite-wal"
    whole = log.read_bytes()
    for place in range(HEADER.size):
        log.write_bytes(whole)
        flip(log, place)
        with pytest.raises(CorruptStore, match="damaged at its beginning.*restore a snapshot"):
            check_log(log)


def test_log_from_which_sqlite_would_drop_commits_is_refused(killed, tmp_path):
    log, rng = killed / "gallery.sqlite-wal", np.random.default_rng(5)
    whole, refused = log.read_bytes(), 0
    for place in rng.integers(HEADER.size, len(whole), 40):
        log.write_bytes(whole)
        flip(log, int(place), bit=1 << int(rng.integers(8)))
        copy = shutil.copytree(killed, tmp_path / "copy", dirs_exist_ok=True)
        try:
            check_log(log)
        except CorruptStore:
            refused += 1
            assert recovered(copy) < COMMITS
        else:
            assert recovered(copy) >= COMMITS - 1  # damage to the last commit alone is what a crash may leave
    assert refused > 20


def test_damage_is_named_with_its_frame_and_the_log_is_left_as_it_is(killed):
    log = killed / "gallery.sqlite-wal"
    flip(log, frame_at(killed, 1) + FRAME_HEADER + 7)
    before = log.read_bytes()
    with pytest.raises(CorruptStore, match=r"in frame 2 of .* remove gallery\.sqlite-wal to go on"):
        Database.open(killed, create=None)
    assert log.read_bytes() == before


def test_log_cut_short_is_what_a_crash_leaves(killed):
    log = killed / "gallery.sqlite-wal"
    whole = log.read_bytes()
    for size in (0, 5, HEADER.size, HEADER.size + 9, frame_at(killed, 3), frame_at(killed, 3) + 77):
        log.write_bytes(whole[:size])
        check_log(log)
    assert recovered(killed) < COMMITS


def test_frames_of_a_log_begun_anew_are_not_this_ones(tmp_path):
    with closing(Database.open(tmp_path, create=Space("space-1", 8))) as database:
        for number in range(COMMITS):
            with database.transaction() as connection:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (f"commit-{number}", "x" * 6000))
            if number == COMMITS - 3:
                assert database.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
        log = (tmp_path / "gallery.sqlite-wal").read_bytes()
        check_log(tmp_path / "gallery.sqlite-wal")
    assert len(log) > 10 * HEADER.size


def transactions(folder):
    """The log's frames, joined up to each commit."""
    log, size = (folder / "gallery.sqlite-wal").read_bytes(), frame_at(folder, 1) - HEADER.size
    joined = [b""]
    for start in range(HEADER.size, len(log), size):
        joined[-1] += log[start : start + size]
        if log[start + 4 : start + 8] != bytes(4):
            joined.append(b"")
    return joined[:-1], size


@pytest.mark.parametrize("pieces", [[(5, 0)], [(5, 1), (2, 1)], [(8, 2), (8, 1), (2, 0)]])
def test_leftovers_of_commits_that_failed_are_no_damage(killed, pieces):
    """The last frames of a commit that failed stay behind those of the next one; here they are put there by hand."""
    log = killed / "gallery.sqlite-wal"
    each, size = transactions(killed)
    log.write_bytes(log.read_bytes() + b"".join(each[number][first * size :] for number, first in pieces))
    check_log(log)
    assert (len(each), recovered(killed)) == (COMMITS, COMMITS)
