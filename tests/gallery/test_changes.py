"""Renaming, merging and retention: what they do to rows, memory, remembered answers and files."""

from datetime import UTC, datetime, timedelta

import pytest

from gallery.entry import Expired, Filter, Remember
from gallery.errors import (
    AnswerErased,
    CorruptStore,
    DuplicateKey,
    EntryNotFound,
    IdentityExists,
    IdentityNotFound,
    InvalidRequest,
)

HASHES = [f"{number:064x}" for number in range(5)]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def remember(key, text=b"answer"):
    return Remember(key, "print", lambda enrolled: text)


def pids_found(gallery, entry, **filters):
    result = gallery.search(entry.embedding, k=100, where=Filter(**filters))
    return {match.pid: match.entries for match in result.matches}


def folder_bytes(folder):
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_renamed_identity_is_found_under_its_new_pid_only(gallery, enroll, new, reopen):
    first = new("ann", camid="north", attributes={"coat": "red"}, crop_jpeg=b"jpeg")
    enroll(first, new("ann"), new("bob"))
    renamed = gallery.rename("ann", "zoë")
    assert (renamed.identity, renamed.moved, renamed.dropped) == (gallery.identity("zoë"), 2, 0)
    assert renamed.identity.camids == ("north",)
    for _ in range(2):
        assert pids_found(gallery, first) == {"zoë": 2, "bob": 1}
        assert pids_found(gallery, first, pids=frozenset({"ann"})) == {}
        assert gallery.crop(1) == b"jpeg"
        assert gallery.faults() == []
        with pytest.raises(IdentityNotFound):
            gallery.identity("ann")
        gallery.close()
        gallery = reopen()
    gallery.close()


def test_old_pid_is_free_again(gallery, enroll, new):
    enroll(new("ann", content_hash=HASHES[0]))
    gallery.rename("ann", "bob")
    assert enroll(new("ann", content_hash=HASHES[0])) == [2]
    assert gallery.stats().identities == 2
    assert gallery.faults() == []


def test_renaming_onto_another_identity_is_refused(gallery, enroll, new):
    enroll(new("ann"), new("bob"))
    with pytest.raises(IdentityExists, match=r"'bob', which another identity bears; merge"):
        gallery.rename("ann", "bob")
    assert {one.pid: one.entries for one in gallery.identities().items} == {"ann": 1, "bob": 1}


def test_merge_makes_one_identity_of_two(gallery, enroll, new):
    entry = new("ann", camid="north", captured_at=NOON)
    enroll(entry, new("bob", camid="south"), new("bob"), new("cyd"))
    renamed = gallery.rename("ann", "bob", merge=True)
    assert (renamed.moved, renamed.dropped) == (1, 0)
    assert (renamed.identity.entries, renamed.identity.camids) == (3, ("north", "south"))
    assert pids_found(gallery, entry) == {"bob": 3, "cyd": 1}
    assert gallery.faults() == []


def test_merge_drops_what_stands_in_both(gallery, enroll, new):
    enroll(new("ann", content_hash=HASHES[0], client_key="k", crop_jpeg=b"jpeg"), new("ann", content_hash=HASHES[1]))
    enroll(new("bob", content_hash=HASHES[0]), new("bob"))
    renamed = gallery.rename("ann", "bob", merge=True)
    assert (renamed.moved, renamed.dropped, renamed.identity.entries) == (1, 1, 3)
    with pytest.raises(EntryNotFound):
        gallery.entry(1)
    assert gallery.stats().entries == 3
    assert gallery.faults() == []
    assert enroll(new("cyd", client_key="k")) == [5]  # the key went with its entry


def test_merge_of_nothing_but_duplicates_leaves_the_other(gallery, enroll, new):
    enroll(new("ann", content_hash=HASHES[0]), new("bob", content_hash=HASHES[0]))
    renamed = gallery.rename("ann", "bob", merge=True)
    assert (renamed.moved, renamed.dropped, renamed.identity.entries) == (0, 1, 1)
    assert (gallery.stats().identities, gallery.faults()) == (1, [])


def test_merge_onto_a_new_pid_is_a_renaming(gallery, enroll, new):
    enroll(new("ann"))
    assert gallery.rename("ann", "bob", merge=True).moved == 1


@pytest.mark.parametrize("new_pid", ["ann", "", "x" * 129, "\ud800"])
def test_pid_that_none_can_be_renamed_to_is_refused(gallery, enroll, new, new_pid):
    enroll(new("ann"))
    with pytest.raises(InvalidRequest, match="pid"):
        gallery.rename("ann", new_pid, merge=True)


def test_renaming_nobody_is_refused(gallery, enroll, new):
    enroll(new("bob"))
    for merge in (False, True):
        with pytest.raises(IdentityNotFound, match="'ann'"):
            gallery.rename("ann", "bob", merge=merge)


def test_renaming_does_not_cover_damage_with_a_new_checksum(gallery, enroll, new):
    enroll(new("ann"), new("ann"))
    gallery._store.database.connection.execute("UPDATE entries SET model_id = 'other' WHERE entry_id = 2")
    with pytest.raises(CorruptStore, match="entry 2 fails its checksum"):
        gallery.rename("ann", "bob")
    assert gallery.identity("ann").entries == 2


def test_many_entries_are_renamed(gallery, enroll, new):
    enroll(*(new("ann") for _ in range(1001)))
    assert gallery.rename("ann", "bob").moved == 1001
    assert gallery.faults() == []


def test_client_key_stands_for_the_new_pid(gallery, enroll, new):
    entry = new("ann", client_key="k")
    enroll(entry)
    gallery.rename("ann", "bob")
    assert enroll(new("bob", client_key="k", embedding=entry.embedding)) == [1]
    with pytest.raises(DuplicateKey):
        enroll(entry)


def test_remembered_answers_follow_a_renaming(gallery, new):
    gallery.enroll([new("ann")], space_id="space-1", remember=remember("key"))
    gallery.rename("ann", "bob")
    assert gallery.recall("key", "print") == b"answer"
    assert [one.pid for one in gallery.enroll([new("ann")], space_id="space-1", remember=remember("key"))] == ["bob"]
    assert gallery.delete_identity("bob").answers == 1
    with pytest.raises(AnswerErased):
        gallery.recall("key", "print")


def test_erasing_the_new_pid_takes_the_old_one_from_every_file(gallery, new, tmp_path):
    gallery.enroll([new("old-name-of-ann")], space_id="space-1", remember=remember("key", b"enrolled old-name-of-ann"))
    gallery.rename("old-name-of-ann", "middle-name")
    gallery.rename("middle-name", "new-name")
    gallery.delete_identity("new-name")
    files = folder_bytes(tmp_path / "gallery")
    assert not any(name in files for name in (b"old-name", b"middle-name", b"new-name"))


def test_erasing_a_pid_takes_answers_that_still_hold_it_for_another(gallery, new, tmp_path):
    gallery.enroll([new("first-name")], space_id="space-1", remember=remember("key", b"enrolled first-name"))
    gallery.rename("first-name", "bob")
    gallery.rename("bob", "cyd")
    gallery.enroll([new("first-name")], space_id="space-1")
    assert gallery.delete_identity("first-name").answers == 1
    assert b"first-name" not in folder_bytes(tmp_path / "gallery")
    assert gallery.identity("cyd").entries == 1


def aged(reopen, *entries):
    """A gallery whose entries were enrolled at noon."""
    gallery = reopen(clock=lambda: NOON)
    gallery.enroll(entries, space_id="space-1")
    return gallery


def seen(new, pid, days, **fields):
    """An entry captured so many days before noon, with traces of its own."""
    return new(pid, captured_at=NOON - timedelta(days=days), crop_jpeg=f"crop of {pid} {days}".encode(), **fields)


def test_old_entries_expire_and_leave_no_byte(reopen, new, tmp_path):
    entries = seen(new, "gone-ann", 9), seen(new, "gone-ann", 8), seen(new, "kept-bob", 7), seen(new, "kept-bob", 1)
    with aged(reopen, *entries) as gallery:
        gallery.enroll([], space_id="space-1", remember=remember("key"))
        gallery.enroll([seen(new, "gone-cyd", 6)], space_id="space-1", remember=remember("cyd", b"gone-cyd"))
        assert gallery.expire(NOON - timedelta(days=2)) == Expired(entries=4, identities=2, vectors=4, crops=4, answers=1)
        files = folder_bytes(tmp_path / "gallery")
        assert not any(trace in files for trace in (b"gone-", b"crop of kept-bob 7"))
        vectors = [entry.embedding.astype("<f2").tobytes() for entry in entries]
        assert [vector in files for vector in vectors] == [False, False, False, True]
        assert {one.pid: one.entries for one in gallery.identities().items} == {"kept-bob": 1}
        assert pids_found(gallery, entries[0]) == {"kept-bob": 1}
        assert gallery.recall("key", "print") == b"answer"
        assert gallery.faults() == []
        with pytest.raises(AnswerErased):
            gallery.recall("cyd", "print")


def test_entry_of_unknown_time_expires_by_its_enrolment(reopen, new):
    with aged(reopen, new("ann")) as gallery:
        assert gallery.expire(NOON).entries == 0
        assert gallery.expire(NOON + timedelta(microseconds=1)) == Expired(1, 1, 1, 0, 0)


def test_entry_seen_at_the_limit_is_kept(reopen, new):
    with aged(reopen, seen(new, "ann", 1)) as gallery:
        assert gallery.expire(NOON - timedelta(days=1)) == Expired(0, 0, 0, 0, 0)
        assert gallery.stats().entries == 1


def test_expiry_needs_a_zone(gallery):
    with pytest.raises(InvalidRequest, match="offset"):
        gallery.expire(datetime(2026, 1, 1))
