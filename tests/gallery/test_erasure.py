"""After an erasure no byte of the identity is left in any file of the gallery's folder."""

import random
import shutil

import numpy as np
import pytest

from gallery.database import Space
from gallery.entry import Receipt, Remember
from gallery.errors import IdentityNotFound, StoreUnavailable
from gallery.local import LocalGallery, utc_now
from gallery.store import Store


def folder_bytes(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def traces(entries, content):
    """What of these entries is in the content: a pid, a key, a hash, or a piece of a vector or a crop."""
    texts = {text.encode() for entry in entries for text in (entry.pid, entry.client_key, entry.content_hash)}
    vectors = {entry.embedding.astype("<f2").tobytes()[:16] for entry in entries}
    crops = {entry.crop_jpeg[:8] for entry in entries if entry.crop_jpeg is not None}
    return [trace for trace in texts | vectors | crops if trace in content]


def person(new, unit, number, rng):
    """Entries of one identity; sizes and order of pids vary, so that SQLite moves rows between pages.

    Vectors and crops repeat one short pattern, so that any piece of 31 bytes betrays them.
    """
    pid = f"{rng.randrange(10**10):010d}-{number}-" + "x" * rng.randrange(60)
    return [
        new(
            pid,
            embedding=np.tile(unit(dim=4) / np.float32(np.sqrt(32)), 32),
            client_key=f"key-of-{pid}-{n}",
            content_hash=f"{rng.getrandbits(256):064x}",
            attributes={"of": pid},
            crop_jpeg=rng.randbytes(8) * rng.randrange(1, 400) if n else None,
        )
        for n in range(rng.randrange(1, 5))
    ]


@pytest.fixture
def crowd(new, unit):
    rng = random.Random(3)
    return [person(new, unit, number, rng) for number in range(120)]


def remember(number):
    return Remember(f"request-{number}", "print", lambda enrolled: repr(enrolled).encode())


def test_traces_are_seen_where_they_are(reopen, crowd, tmp_path):
    with reopen(dim=128) as gallery:
        gallery.enroll(crowd[0], space_id="space-1")
        assert len(traces(crowd[0], folder_bytes(tmp_path / "gallery"))) >= 1 + 3 * len(crowd[0])


def test_erased_identities_leave_no_byte(reopen, crowd, tmp_path):
    with reopen(dim=128) as gallery:
        for number, entries in enumerate(crowd):
            gallery.enroll(entries, space_id="space-1", remember=remember(number))
        for number, entries in enumerate(crowd[::10]):
            if number % 3 == 0:  # some entries have gone before
                gallery.delete_entry(gallery.entries(pid=entries[0].pid).items[0].entry_id)
            if number % 3 or len(entries) > 1:
                gallery.delete_identity(entries[0].pid)
            assert traces(entries, folder_bytes(tmp_path / "gallery")) == []
        assert gallery.faults() == []
        kept = [entry for number, entries in enumerate(crowd) for entry in entries if number % 10]
        assert gallery.stats().entries == len(kept)


def test_receipt_counts_what_went(gallery, new):
    entries = [new(crop_jpeg=b"jpeg"), new(), new("bob", crop_jpeg=b"jpeg")]
    gallery.enroll(entries, space_id="space-1", remember=remember(1))
    assert gallery.delete_identity("ann") == Receipt("ann", entries=2, vectors=2, crops=1, answers=1)
    assert gallery.delete_identity("bob") == Receipt("bob", entries=1, vectors=1, crops=1, answers=0)
    with pytest.raises(IdentityNotFound):
        gallery.delete_identity("bob")


def test_last_entry_takes_its_identity_with_it(reopen, crowd, tmp_path):
    with reopen(dim=128) as gallery:
        for entries in crowd[:5]:
            gallery.enroll(entries, space_id="space-1")
        for entry in gallery.entries(pid=crowd[2][0].pid).items:
            gallery.delete_entry(entry.entry_id)
        assert traces(crowd[2], folder_bytes(tmp_path / "gallery")) == []


def test_erasure_cut_short_by_a_crash_is_finished_on_open(reopen, crowd, tmp_path):
    store = Store.open(tmp_path / "gallery", create=Space("space-1", 128))
    for entries in crowd[:4]:
        store.insert(entries, now=utc_now(), remember=None)
    store.delete_identity(crowd[0][0].pid)
    shutil.copytree(tmp_path / "gallery", tmp_path / "crashed")  # what a process leaves that dies here
    store.close()
    assert traces(crowd[0], folder_bytes(tmp_path / "crashed")) != []
    with LocalGallery.reopen(tmp_path / "crashed") as gallery:
        assert traces(crowd[0], folder_bytes(tmp_path / "crashed")) == []
        assert (gallery.stats().identities, gallery.faults()) == (3, [])


def test_erasure_that_the_disk_refuses_is_made_up_for(reopen, crowd, tmp_path):
    obstacle = tmp_path / "gallery" / "gallery.sqlite.new"
    with reopen(dim=128) as gallery:
        for entries in crowd[:4]:
            gallery.enroll(entries, space_id="space-1")
        obstacle.mkdir()
        with pytest.raises(StoreUnavailable, match=r"gallery\.sqlite\.new"):
            gallery.delete_identity(crowd[0][0].pid)
        assert gallery.search(crowd[0][0].embedding, k=9).identities == 3
        with pytest.raises(IdentityNotFound):
            gallery.identity(crowd[0][0].pid)
        obstacle.rmdir()
        gallery.delete_identity(crowd[1][0].pid)
        assert traces(crowd[0] + crowd[1], folder_bytes(tmp_path / "gallery")) == []
        assert (gallery.stats().identities, gallery.faults()) == (2, [])


def test_an_erasure_keeps_the_mode_of_the_file(gallery, enroll, new, tmp_path):
    enroll(new("ann"), new("bob"))
    (tmp_path / "gallery" / "gallery.sqlite").chmod(0o640)
    gallery.delete_identity("ann")
    assert (tmp_path / "gallery" / "gallery.sqlite").stat().st_mode & 0o777 == 0o640


def test_a_new_folder_is_its_owners_alone(gallery, tmp_path):
    assert (tmp_path / "gallery").stat().st_mode & 0o077 == 0


def test_a_single_deleted_entry_leaves_the_log_too(gallery, enroll, new, tmp_path):
    kept, gone = new("ann", crop_jpeg=b"kept" * 20), new("ann", crop_jpeg=b"gone" * 20)
    _, entry_id = enroll(kept, gone)
    gallery.delete_entry(entry_id)
    content = folder_bytes(tmp_path / "gallery")
    assert gone.crop_jpeg not in content and gone.embedding.astype("<f2").tobytes() not in content
    assert kept.crop_jpeg in content and gallery.faults() == []
