"""A re-embedding gives every entry its new vector or changes nothing, wherever it is stopped."""

import shutil
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from gallery.database import Space
from gallery.entry import NewEntry, Remember
from gallery.errors import (
    CannotReembed,
    CorruptStore,
    DimensionMismatch,
    EntryNotFound,
    GalleryLocked,
    GalleryMissing,
    StoreUnavailable,
)
from gallery.local import LocalGallery, utc_now
from gallery.reembed import BATCH, Reembedded, reembed
from gallery.store import Store

NUM = 2 * BATCH + 5
KEPT = "entry_id, pid, camid, captured_us, enrolled_us, attributes, client_key, content_hash, jpeg"


def vector(jpeg, dim=4):
    """The embedding that the tests' new model makes of a crop."""
    row = np.random.default_rng(list(jpeg)).normal(size=dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


class Model:
    """A fake model; it stops with Interrupted in its n-th batch, and cannot embed the crops in `bad`."""

    def __init__(self, stop_at=None, bad=()):
        self.batches, self.stop_at, self.bad = 0, stop_at, bad

    def __call__(self, jpegs):
        self.batches += 1
        if self.batches == self.stop_at:
            raise Interrupted
        return [ValueError(f"a bad\ncrop of {len(one)} bytes") if one in self.bad else vector(one) for one in jpegs]


class Interrupted(Exception):
    """What stops a run."""


def entry(number, **fields):
    embedding = np.zeros(8, np.float32)
    embedding[number % 8] = 1
    fields = {"camid": "north", "client_key": f"key-{number}", "crop_jpeg": b"jpeg-%d" % number} | fields
    return NewEntry(f"person-{number // 3}", embedding, "model-1", attributes={"n": number}, **fields)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder of a closed gallery of entries with crops, and a remembered answer: to be copied."""
    folder = tmp_path_factory.mktemp("original") / "gallery"
    with closing(Store.open(folder, create=Space("space-1", 8))) as store:
        remember = Remember("request", "print", lambda enrolled: b"answer")
        store.insert([entry(number) for number in range(NUM)], now=utc_now(), remember=remember)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "gallery")


def run(folder, model=None, **changes):
    arguments = {"embed": model or Model(), "space_id": "space-2", "dim": 4, "model_id": "model-2"} | changes
    return reembed(folder, **arguments)


def table(folder, columns=KEPT):
    with closing(Store.open(folder)) as store:
        assert list(store.faults()) == []
        joined = f"SELECT {columns} FROM entries LEFT JOIN crops USING (entry_id) ORDER BY entry_id"
        return store.database.connection.execute(joined).fetchall()


def check_new(folder, original):
    """The gallery is of the new model, whole, and but for that what it was."""
    assert table(folder) == table(original)
    for embedding, jpeg, model_id in table(folder, "embedding, jpeg, model_id"):
        assert (embedding, model_id) == (vector(jpeg).astype(np.float16).tobytes(), "model-2")
    assert sorted(path.name for path in folder.iterdir()) == ["gallery.sqlite", "lock"]
    with LocalGallery.open(folder, space_id="space-2", dim=4) as gallery:
        assert gallery.faults() == []
        assert gallery.recall("request", "print") == b"answer"
        assert gallery.search(vector(b"jpeg-7"), k=1, group_by="entry").matches[0].entry_id == 8


def check_old(folder, original):
    """The gallery is what it was, to the byte."""
    assert (folder / "gallery.sqlite").read_bytes() == (original / "gallery.sqlite").read_bytes()


def test_every_entry_gets_the_new_models_embedding_and_keeps_all_else(folder, original):
    assert run(folder) == Reembedded(entries=NUM, missing=0, failed=0)
    check_new(folder, original)


def test_ids_go_on_where_they_were(folder):
    with closing(Store.open(folder)) as store:
        store.delete_entry(NUM)
    run(folder)
    with LocalGallery.reopen(folder) as gallery:
        new = NewEntry("eve", vector(b"eve"), "model-2")
        assert gallery.enroll([new], space_id="space-2")[0].entry_id == NUM + 1


def test_progress_counts_entries_to_the_last(folder):
    seen = []
    run(folder, progress=lambda *done: seen.append(done))
    assert seen == [(BATCH, NUM), (2 * BATCH, NUM), (NUM, NUM)]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stopped_run_goes_on_where_it_was(folder, original, batch):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=batch))
    check_old(folder, original)
    model = Model()
    assert run(folder, model) == Reembedded(entries=NUM, missing=0, failed=0)
    assert model.batches == 4 - batch
    check_new(folder, original)


def test_a_run_for_another_space_begins_anew(folder):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3), space_id="space-3")
    model = Model()
    run(folder, model)
    assert model.batches == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda gallery: gallery.enroll([entry(999)], space_id="space-1"),
        lambda gallery: gallery.delete_entry(1),
        lambda gallery: gallery.delete_identity("person-3"),
        lambda gallery: gallery.rename("person-3", "eve"),
        lambda gallery: gallery.enroll([entry(1)], space_id="space-1", remember=Remember("late", "x", lambda _: b"x")),
    ],
    ids=["enrolled", "entry deleted", "identity deleted", "renamed", "answer remembered"],
)
def test_a_run_after_a_change_of_the_gallery_begins_anew(folder, change):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3))
    with LocalGallery.reopen(folder) as gallery:
        change(gallery)
    before = table(folder)
    model = Model()
    run(folder, model)
    assert (model.batches, table(folder)) == (3, before)


def test_an_erasure_leaves_nothing_in_a_stopped_runs_copy(folder):
    eve = NewEntry("eve", vector(b"eve", dim=8), "model-1", client_key="the only key", crop_jpeg=b"the only crop")
    with closing(Store.open(folder)) as store:
        store.insert([eve], now=utc_now(), remember=None)
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3))
    assert b"the only key" in (folder / "reembedding" / "gallery.sqlite").read_bytes()
    with LocalGallery.reopen(folder) as gallery:
        gallery.delete_identity("eve")
        content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (b"the only key" in content, b"the only crop" in content, b"person-40" in content) == (False, False, True)


def test_a_deleted_entry_is_in_no_stopped_runs_copy(folder):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3))
    with LocalGallery.reopen(folder) as gallery:
        with pytest.raises(EntryNotFound):
            gallery.delete_entry(NUM + 1)
        assert (folder / "reembedding").exists()
        gallery.delete_entry(NUM)
        assert not (folder / "reembedding").exists()


def test_a_damaged_copy_of_a_stopped_run_is_made_anew(folder, original):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3))
    (folder / "reembedding" / "gallery.sqlite").write_bytes(b"x" * 5000)
    run(folder)
    check_new(folder, original)


def test_a_damaged_row_in_the_copy_is_found_before_the_switch(folder, original):
    with pytest.raises(Interrupted):
        run(folder, Model(stop_at=3))
    with closing(Store.open(folder / "reembedding")) as draft:
        draft.database.connection.execute("UPDATE entries SET camid = 'south' WHERE entry_id = 5")
    with pytest.raises(CorruptStore, match="entry 5 fails its checksum"):
        run(folder)
    check_old(folder, original)


def test_a_damaged_row_or_crop_of_the_gallery_is_not_blessed(folder):
    with closing(Store.open(folder)) as store:
        store.database.connection.execute("UPDATE crops SET jpeg = x'00' WHERE entry_id = 3")
    with pytest.raises(CorruptStore, match="crop of entry 3 fails its checksum"):
        run(folder)
    with closing(Store.open(folder)) as store:
        store.database.connection.execute("UPDATE entries SET pid = 'eve' WHERE entry_id = 2")
    with pytest.raises(CorruptStore, match="entry 2 fails its checksum"):
        run(folder)


def test_entries_without_a_crop_are_named_before_any_work(folder):
    with closing(Store.open(folder)) as store:
        store.insert([entry(n, crop_jpeg=None) for n in range(900, 907)], now=utc_now(), remember=None)
    model = Model()
    with pytest.raises(CannotReembed, match=rf"7 of {NUM + 7} entries have no stored crop \(first: 134, 135, 136, 137, 138\)"):
        run(folder, model)
    assert (model.batches, (folder / "reembedding").exists()) == (0, False)


def test_crops_that_cannot_be_embedded_are_named_and_nothing_is_switched(folder, original):
    bad = {b"jpeg-0", b"jpeg-70"}
    with pytest.raises(CannotReembed, match=r"2 of 133 entries have a crop .*\(a bad crop of 6 bytes\) \(first: 1, 71\)"):
        run(folder, Model(bad=bad))
    check_old(folder, original)


def test_drop_deletes_what_cannot_be_embedded_and_goes_on_from_the_refusal(folder, tmp_path):
    with closing(Store.open(folder)) as store:
        store.insert([entry(900, crop_jpeg=None), entry(901)], now=utc_now(), remember=None)
        store.insert([entry(960, crop_jpeg=None)], now=utc_now(), remember=None)
    bad = {b"jpeg-0", b"jpeg-70"}
    with pytest.raises(Interrupted):
        run(folder, Model(bad=bad, stop_at=3), drop=True)
    model = Model(bad=bad)
    assert run(folder, model, drop=True) == Reembedded(entries=NUM - 1, missing=2, failed=2)
    assert model.batches == 1
    assert {1, 71, 134, 136}.isdisjoint(entry_id for entry_id, *_ in table(folder))
    with LocalGallery.open(folder, space_id="space-2", dim=4) as gallery:
        assert (gallery.stats().entries, gallery.identity("person-300").entries, gallery.faults()) == (NUM - 1, 1, [])
        assert b"person-320" not in (folder / "gallery.sqlite").read_bytes()


def test_drop_never_empties_a_gallery(folder, original):
    with pytest.raises(CannotReembed, match="none of 133 entries could be embedded"):
        run(folder, Model(bad={b"jpeg-%d" % number for number in range(NUM)}), drop=True)
    check_old(folder, original)


def test_a_model_that_gives_no_unit_vectors_fails_its_entries(folder, original):
    with pytest.raises(CannotReembed, match="of length 2, wanted 1"):
        run(folder, lambda jpegs: [2 * vector(one) for one in jpegs])
    check_old(folder, original)


def test_a_model_of_another_dimension_stops_the_run(folder, original):
    with pytest.raises(DimensionMismatch, match=r"\[16\], wanted \[4\]"):
        run(folder, lambda jpegs: [vector(one, dim=16) for one in jpegs])
    check_old(folder, original)


def test_a_gallery_of_this_model_is_left_alone(folder):
    run(folder)
    before = (folder / "gallery.sqlite").read_bytes()
    assert run(folder, Model(stop_at=1)) == Reembedded(0, 0, 0)
    assert (folder / "gallery.sqlite").read_bytes() == before


def test_another_model_of_the_same_space_embeds_again(folder):
    run(folder)
    assert run(folder, model_id="model-3").entries == NUM


def test_an_empty_gallery_takes_the_new_space(tmp_path):
    Store.open(tmp_path / "empty", create=Space("space-1", 8)).close()
    assert run(tmp_path / "empty") == Reembedded(0, 0, 0)
    LocalGallery.open(tmp_path / "empty", space_id="space-2", dim=4).close()


def test_a_folder_without_a_gallery_or_in_use_is_refused(folder, tmp_path):
    with pytest.raises(GalleryMissing):
        run(tmp_path)
    with closing(Store.open(folder)), pytest.raises(GalleryLocked):
        run(folder)


def test_a_folder_that_stands_in_the_way_is_named(folder, original):
    (folder / "reembedding").write_text("a file")
    with pytest.raises(StoreUnavailable, match="reembedding"):
        run(folder)
    check_old(folder, original)


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from gallery.reembed import reembed

def vector(jpeg):
    row = np.random.default_rng(list(jpeg)).normal(size=4)
    return (row / np.linalg.norm(row)).astype(np.float32)

def die_in(frame, event, argument):
    if event == "call" and frame.f_code.co_name == sys.argv[2]:
        os.kill(os.getpid(), 9)

sys.setprofile(die_in)
embed = lambda jpegs: [vector(one) for one in jpegs]
reembed(Path(sys.argv[1]), embed=embed, space_id="space-2", dim=4, model_id="model-2")
"""


@pytest.mark.parametrize("moment", ["put", "_write", "_finish", "_put_in_place", "_switch"])
def test_a_killed_run_leaves_the_old_gallery_and_the_next_one_ends_it(folder, original, moment):
    assert subprocess.run([sys.executable, "-c", KILLED, folder, moment]).returncode == -9
    check_old(folder, original)
    with LocalGallery.reopen(folder) as gallery:
        assert (gallery.space_id, gallery.faults()) == ("space-1", [])
    run(folder)
    check_new(folder, original)


def test_what_a_run_killed_after_the_switch_leaves_is_removed_by_the_next(folder, original):
    run(folder)
    (folder / "reembedding").mkdir()
    (folder / "reembedding" / "lock").write_text("7")
    assert run(folder) == Reembedded(0, 0, 0)
    check_new(folder, original)
