import threading
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest

from gallery.database import Space
from gallery.entry import Stats
from gallery.errors import (
    CorruptStore,
    DimensionMismatch,
    DuplicateKey,
    GalleryClosed,
    GalleryLocked,
    GalleryMissing,
    ModelMismatch,
    NotUnitLength,
    StoreUnavailable,
)
from gallery.local import LocalGallery, utc_now
from gallery.memory import Memory
from gallery.store import Store

HASH = "0123456789abcdef" * 4


def halved(embedding):
    """The embedding as the store keeps it, float32 again."""
    return embedding.astype(np.float16).astype(np.float32)


class FailingMemory(Memory):
    """A memory that fails, half changed, in the calls counted by `failures`, over all made from the same list."""

    def __init__(self, dim, failures):
        super().__init__(dim, "exact")
        self.failures = failures

    def add(self, rows):
        super().add(rows)
        if self.failures.pop(0):
            raise MemoryError("no room to add")

    def remove(self, entry_ids):
        super().remove(entry_ids)
        if self.failures.pop(0):
            raise MemoryError("no room to remove")


@pytest.fixture
def failing(tmp_path):
    """Opens the test's gallery with a memory that fails as given, call by call."""

    def make(*failures):
        store = Store.open(tmp_path / "gallery", create=Space("space-1", 8))
        return LocalGallery(store, clock=utc_now, make_memory=partial(FailingMemory, failures=list(failures)))

    return make


def test_embeddings_come_back_in_half_precision(gallery, enroll, new, reopen):
    entries = [new() for _ in range(20)]
    ids = enroll(*entries)
    for entry_id, entry in zip(ids, entries, strict=True):
        assert gallery.embedding(entry_id).tobytes() == halved(entry.embedding).tobytes()
    gallery.close()
    with reopen() as opened:
        for entry_id, entry in zip(ids, entries, strict=True):
            assert opened.embedding(entry_id).tobytes() == halved(entry.embedding).tobytes()


def test_returned_embedding_is_the_callers_own(gallery, enroll, new):
    entry = new()
    enroll(entry)
    gallery.embedding(1)[:] = 0
    assert np.array_equal(gallery.embedding(1), halved(entry.embedding))


def test_crop_comes_back_and_goes_with_its_entry(gallery, enroll, new):
    enroll(new(crop_jpeg=b"\xff\xd8 jpeg"), new())
    assert gallery.crop(1) == b"\xff\xd8 jpeg"
    assert gallery.crop(2) is None


def test_enrolled_at_is_the_clocks_time(reopen, new):
    now = datetime(2026, 11, 22, 12, 0, 0, 7, tzinfo=UTC)
    with reopen(clock=lambda: now) as gallery:
        gallery.enroll([new()], space_id="space-1")
        assert gallery.entry(1).enrolled_at == now


def test_same_bytes_under_the_same_pid_are_enrolled_once(gallery, enroll, new):
    enroll(new("ann", content_hash=HASH))
    again, other = gallery.enroll([new("ann", content_hash=HASH), new("bob", content_hash=HASH)], space_id="space-1")
    assert (again.entry_id, again.duplicate) == (1, True)
    assert (other.entry_id, other.duplicate) == (3, False)  # the id that the repetition would have had is left out
    assert gallery.stats().entries == 2


def test_duplicates_within_a_batch_are_enrolled_once(gallery, new):
    results = gallery.enroll(
        [new(content_hash=HASH), new(), new(content_hash=HASH), new(client_key="k", content_hash=HASH)],
        space_id="space-1",
    )
    assert [(one.entry_id, one.duplicate) for one in results] == [(1, False), (2, False), (1, True), (1, True)]


def test_client_key_with_the_same_content_names_the_standing_entry(gallery, enroll, new):
    entry = new(client_key="k", content_hash=HASH)
    enroll(entry)
    same_vector = new(client_key="k", embedding=entry.embedding)
    same_bytes = new(client_key="k", content_hash=HASH)
    results = gallery.enroll([same_vector, same_bytes], space_id="space-1")
    assert [(one.entry_id, one.duplicate) for one in results] == [(1, True), (1, True)]


def test_client_key_with_other_content_enrolls_nothing(gallery, enroll, new):
    entry = new("ann", client_key="k")
    enroll(entry)
    for other in (new("ann", client_key="k"), new("bob", client_key="k", embedding=entry.embedding)):
        with pytest.raises(DuplicateKey, match="client_key 'k' stands for entry 1"):
            enroll(new("cyd"), other)
    assert gallery.stats().entries == 1
    assert gallery.entries(pid="cyd").items == ()


def test_bad_entry_keeps_the_whole_batch_out(gallery, enroll, new, unit):
    with pytest.raises(DimensionMismatch):
        enroll(new(), new(embedding=unit(dim=9)))
    with pytest.raises(NotUnitLength):
        enroll(new(), new(embedding=np.zeros(8, np.float32)))
    assert gallery.stats().entries == 0


def test_embedding_of_another_space_is_refused(gallery, new):
    with pytest.raises(ModelMismatch, match=r"'space-2'.*'space-1'.*new folder"):
        gallery.enroll([new()], space_id="space-2")
    assert gallery.stats().entries == 0


def test_gallery_of_another_space_or_dimension_is_refused_at_open(gallery, reopen):
    gallery.close()
    with pytest.raises(ModelMismatch, match=r"'space-2'.*'space-1'.*new folder"):
        reopen(space_id="space-2")
    with pytest.raises(DimensionMismatch, match="dimension 9, .* holds 8; .*new folder"):
        reopen(dim=9)
    with pytest.raises(DimensionMismatch, match="got dim 0"):
        reopen(dim=0)
    reopen().close()  # the refusals have freed the folder


def test_folder_that_is_open_is_refused(gallery, reopen):
    with pytest.raises(GalleryLocked, match="open in another process"):
        reopen()
    gallery.close()
    reopen().close()


def test_reopen_takes_the_space_from_the_store(tmp_path, gallery, enroll, new):
    enroll(new())
    gallery.close()
    with LocalGallery.reopen(tmp_path / "gallery") as opened:
        assert (opened.space_id, opened.dim, opened.stats().entries) == ("space-1", 8, 1)


def test_reopen_makes_no_gallery(tmp_path):
    with pytest.raises(GalleryMissing, match="holds no gallery"):
        LocalGallery.reopen(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_entry_ids_are_never_used_again(gallery, enroll, new, reopen):
    enroll(new(), new("bob"))
    gallery.delete_entry(2)
    gallery.delete_identity("ann")
    gallery.close()
    with reopen() as opened:
        assert opened.enroll([new()], space_id="space-1")[0].entry_id == 3


def test_deleted_entry_is_found_no_more(gallery, enroll, new):
    entry = new()
    enroll(entry, new(), new("bob"))
    gallery.delete_entry(1)
    matches = gallery.search(entry.embedding, k=10, group_by="entry").matches
    assert sorted(match.entry_id for match in matches) == [2, 3]
    assert gallery.search(entry.embedding, k=10).matches[0].entries == 1


def test_stats_count_what_is_there(gallery, enroll, new):
    enroll(new(camid="north"), new(camid="south"), new("bob", camid="north"), new("cyd"))
    gallery.delete_identity("cyd")
    stats = gallery.stats()
    assert stats == Stats(3, 2, 2, stats.bytes, stats.index_type, "space-1", 2, 8)
    assert stats.bytes > 0


def test_closed_gallery_says_so(gallery, unit):
    gallery.close()
    gallery.close()
    for ask in (gallery.stats, lambda: gallery.search(unit(), k=1), lambda: gallery.enroll([], space_id="space-1")):
        with pytest.raises(GalleryClosed, match="open it again"):
            ask()


def test_index_that_fails_after_the_commit_is_rebuilt(failing, new):
    entry = new()
    with failing(True, False, True, False) as gallery:
        gallery.enroll([entry], space_id="space-1")  # the add fails, the rebuild does not
        assert gallery.search(entry.embedding, k=1).matches[0].entry_id == 1
        assert gallery.faults() == []
        receipt = gallery.delete_identity("ann")  # the remove fails; there is nothing to rebuild from
        assert receipt.vectors == 1
        assert gallery.search(entry.embedding, k=1).matches == ()


def test_index_that_cannot_be_rebuilt_refuses_to_search(failing, new):
    entry = new()
    with failing(True, True, False) as gallery:
        with pytest.raises(MemoryError):
            gallery.enroll([entry], space_id="space-1")
        with pytest.raises(StoreUnavailable, match="open the gallery again"):
            gallery.search(entry.embedding, k=1)
        assert not gallery.is_ready
        gallery.enroll([new("bob")], space_id="space-1")  # the next write brings it back in step
        assert gallery.is_ready
        assert gallery.search(entry.embedding, k=2).identities == 2


def test_deletion_brings_a_failed_index_back_in_step(failing, new):
    with failing(True, True, False) as gallery:
        with pytest.raises(MemoryError):
            gallery.enroll([new("ann"), new("bob")], space_id="space-1")
        gallery.delete_identity("ann")
        assert gallery.search(new().embedding, k=2).identities == 1


def test_searches_and_writes_from_many_threads_stay_in_step(gallery, new, unit):
    batches = [[new(f"p{worker}", content_hash=f"{worker:062x}{n:02x}") for n in range(5)] for worker in range(8)]
    query, errors = unit(), []

    def write(batch):
        gallery.enroll(batch[:3], space_id="space-1")
        gallery.enroll(batch, space_id="space-1")
        gallery.delete_entry(gallery.entries(pid=batch[0].pid).items[0].entry_id)

    def read():
        for _ in range(30):
            result = gallery.search(query, k=100, group_by="entry")
            if len(result.matches) != result.entries:
                errors.append(result)

    threads = [threading.Thread(target=write, args=(batch,)) for batch in batches]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (gallery.stats().entries, gallery.faults()) == (8 * 4, [])


def test_enrolments_that_wait_together_share_a_commit_and_fail_alone(gallery, enroll, new):
    enroll(new("ann", client_key="k"))
    commits, outcomes = [], {}
    gallery._store.database.connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)

    def run(number):
        key = "k" if number == 5 else None
        try:
            outcomes[number] = gallery.enroll([new(f"p{number}"), new("bob", client_key=key)], space_id="space-1")
        except DuplicateKey as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    with gallery._using_store:  # someone lists entries, say
        for number, thread in enumerate(threads):
            thread.start()
            while len(gallery._enrolments._waiting) < number:  # the first one has taken itself off the list
                pass
    for thread in threads:
        thread.join()
    assert len(commits) == 2
    assert isinstance(outcomes.pop(5), DuplicateKey)
    ids = sorted(one.entry_id for enrolled in outcomes.values() for one in enrolled)
    assert ids == list(range(2, 16))
    assert gallery.entries(pid="p5").items == ()
    assert gallery.faults() == []


def test_snapshot_holds_the_gallery_as_it_stands(gallery, enroll, new, tmp_path):
    enroll(new(), new("bob"))
    made = gallery.snapshot(tmp_path / "gallery.tar")
    assert (made.path, made.entries) == (tmp_path / "gallery.tar", 2)
    assert made.bytes == (tmp_path / "gallery.tar").stat().st_size


def test_opening_tells_how_far_it_has_come(gallery, enroll, new, reopen):
    enroll(new(), new("bob"))
    gallery.close()
    told = []
    reopen(progress=lambda done, total: told.append((done, total))).close()
    assert told == [(2, 2)]


def test_faults_name_an_index_that_differs_from_the_store(gallery, enroll, new, unit):
    enroll(new(), new("bob"))
    memory = gallery._mirror._memory
    memory.index.remove(np.array([1]))
    memory.index.add(unit(1).astype(np.float16))
    assert gallery.faults() == ["entry 2 differs between the index and the store"]
    memory.remove([2])
    assert gallery.faults() == [
        "entry 2 differs between the index and the store",
        "the index holds 1 entries, the store 2",
    ]


def test_damaged_crop_is_not_handed_out(gallery, enroll, new):
    enroll(new(crop_jpeg=b"jpeg"))
    gallery._store.database.connection.execute("UPDATE crops SET jpeg = x'00'")
    with pytest.raises(CorruptStore, match="crop of entry 1 fails its checksum"):
        gallery.crop(1)
    assert gallery.faults() == ["the crop of entry 1 fails its checksum"]
