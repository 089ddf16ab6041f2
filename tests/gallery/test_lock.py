"""The lock's file: whose it is, what it remembers, and that nobody else's is overwritten."""

import os

import pytest

from gallery.errors import CorruptStore, StoreUnavailable
from gallery.lock import sign_lock, take_lock


def test_a_signed_lock_remembers_the_gallery(tmp_path):
    lock = take_lock(tmp_path)
    assert not lock.was_made
    sign_lock(lock)
    os.close(lock.descriptor)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()} gallery"
    again = take_lock(tmp_path)
    os.close(again.descriptor)
    assert again.was_made


@pytest.mark.parametrize("content", ["", "123", "4567 gallery"])
def test_a_lock_of_any_version_can_be_taken(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    lock = take_lock(tmp_path)
    sign_lock(lock)
    os.close(lock.descriptor)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()} gallery"


def test_a_file_of_somebody_else_stays_as_it_is(tmp_path):
    (tmp_path / "lock").write_text("combination: 1234")
    with pytest.raises(StoreUnavailable, match=r"lock holds b'combination: 1234', wanted a gallery's own; move it away"):
        take_lock(tmp_path)
    assert (tmp_path / "lock").read_text() == "combination: 1234"


def test_a_gallery_whose_file_is_gone_does_not_open_empty(reopen, tmp_path):
    reopen().close()
    (tmp_path / "gallery" / "gallery.sqlite").unlink()
    with pytest.raises(CorruptStore, match=r"held a gallery, and gallery\.sqlite is gone; put the file back"):
        reopen()
    (tmp_path / "gallery" / "lock").unlink()
    reopen().close()


def test_a_gallery_half_re_embedded_whose_file_is_gone_does_not_open_empty(reopen, tmp_path):
    (tmp_path / "gallery" / "reembedding").mkdir(parents=True)
    with pytest.raises(CorruptStore, match="holds reembedding but not"):
        reopen()


def test_the_files_are_their_owners_alone_in_a_folder_that_stood_before(reopen, new, tmp_path):
    (tmp_path / "gallery").mkdir(mode=0o755)
    with reopen() as gallery:
        gallery.enroll([new()], space_id="space-1")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "gallery").iterdir()}
    assert modes == dict.fromkeys(("gallery.sqlite", "gallery.sqlite-wal", "lock"), 0o600)
