from datetime import UTC, datetime, timedelta

import pytest

from gallery.errors import CorruptStore, EntryNotFound, IdentityNotFound, InvalidCursor, InvalidRequest

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ids(page):
    return [entry.entry_id for entry in page.items]


def pids(page):
    return [identity.pid for identity in page.items]


def walk(listing, limit):
    """Every page of a listing, following its cursors."""
    pages = [listing(limit=limit, cursor=None)]
    while pages[-1].next_cursor is not None:
        pages.append(listing(limit=limit, cursor=pages[-1].next_cursor))
    return pages


def test_entries_are_listed_newest_first_in_pages(gallery, enroll, new):
    enroll(*[new() for _ in range(6)])
    assert [ids(page) for page in walk(gallery.entries, 4)] == [[6, 5, 4, 3], [2, 1]]
    assert [ids(page) for page in walk(gallery.entries, 3)] == [[6, 5, 4], [3, 2, 1]]


def test_cursor_is_stable_while_entries_come_and_go(gallery, enroll, new):
    enroll(*[new() for _ in range(6)])
    first = gallery.entries(limit=2)
    gallery.delete_entry(5)
    gallery.delete_entry(4)
    enroll(new())
    assert ids(gallery.entries(limit=2, cursor=first.next_cursor)) == [3, 2]


def test_entries_are_filtered(gallery, enroll, new):
    enroll(
        new("ann", camid="north", captured_at=NOON),
        new("ann", camid="south", captured_at=NOON + timedelta(hours=1)),
        new("bob", camid="north", captured_at=NOON + timedelta(hours=2)),
        new("bob"),
    )
    assert ids(gallery.entries(pid="ann")) == [2, 1]
    assert ids(gallery.entries(camid="north")) == [3, 1]
    assert ids(gallery.entries(pid="bob", camid="north")) == [3]
    assert ids(gallery.entries(since=NOON + timedelta(hours=1))) == [3, 2]
    assert ids(gallery.entries(until=NOON + timedelta(hours=1))) == [1]
    assert ids(gallery.entries(pid="nobody")) == []


def test_entry_comes_back_as_enrolled(gallery, enroll, new):
    attributes = {"coat": "réd", "bags": [1, 2.5, None, True], "nested": {"a": {}}}
    enroll(new("ann", camid="north", captured_at=NOON, attributes=attributes, crop_jpeg=b"jpeg"), new())
    entry = gallery.entry(1)
    assert (entry.pid, entry.camid, entry.captured_at, entry.model_id) == ("ann", "north", NOON, "model-1")
    assert entry.attributes == attributes
    assert entry.has_crop
    assert gallery.entries().items[1] == entry
    assert (gallery.entry(2).camid, gallery.entry(2).captured_at, gallery.entry(2).has_crop) == (None, None, False)


@pytest.mark.parametrize("entry_id", [0, 2, -1, 2**63, 10**30])
def test_entry_that_is_not_there_is_named(gallery, enroll, new, entry_id):
    enroll(new())
    for ask in (gallery.entry, gallery.crop, gallery.embedding, gallery.delete_entry):
        with pytest.raises(EntryNotFound, match=f"got entry_id {entry_id}"):
            ask(entry_id)


@pytest.mark.parametrize("limit", [0, 1001])
def test_limit_out_of_range_is_refused(gallery, limit):
    for listing in (gallery.entries, gallery.identities):
        with pytest.raises(InvalidRequest, match="wanted 1 to 1000"):
            listing(limit=limit)


@pytest.mark.parametrize("cursor", ["", "e", "e-1", "e1x", "e²", "e" + "9" * 30, "pYW5u"])
def test_made_up_cursor_of_entries_is_refused(gallery, cursor):
    with pytest.raises(InvalidCursor, match="wanted one that a listing of entries gave out"):
        gallery.entries(cursor=cursor)


@pytest.mark.parametrize("cursor", ["", "e1", "p!", "pYW5", "pgICA"])
def test_made_up_cursor_of_identities_is_refused(gallery, cursor):
    with pytest.raises(InvalidCursor, match="wanted one that a listing of identities gave out"):
        gallery.identities(cursor=cursor)


def test_identities_are_listed_by_pid_in_pages(gallery, enroll, new):
    names = ["bob", "ann", "zoë", "Ann", "a" * 128, "\U0001f600", "a\0b"]
    enroll(*[new(name) for name in names], new("ann"))
    ordered = sorted(names, key=str.encode)
    assert pids(gallery.identities()) == ordered
    assert [name for page in walk(gallery.identities, 2) for name in pids(page)] == ordered
    assert len(walk(gallery.identities, 7)) == 1


def test_identities_are_found_by_prefix(gallery, enroll, new):
    enroll(*[new(name) for name in ("an", "ann", "anna", "anne", "ao", "an%", "b")])
    assert pids(gallery.identities(prefix="ann")) == ["ann", "anna", "anne"]
    first = gallery.identities(prefix="ann", limit=2)
    assert pids(gallery.identities(prefix="ann", limit=2, cursor=first.next_cursor)) == ["anne"]
    assert pids(gallery.identities(prefix="an%")) == ["an%"]
    assert pids(gallery.identities(prefix="c")) == []


def test_identity_sums_up_its_entries(gallery, enroll, new):
    enroll(
        new(camid="south", captured_at=NOON + timedelta(hours=1)),
        new(camid="north", captured_at=NOON),
        new(camid="north"),
        new("bob"),
    )
    ann, bob = gallery.identity("ann"), gallery.identity("bob")
    assert (ann.entries, ann.camids) == (3, ("north", "south"))
    assert (ann.first_seen, ann.last_seen) == (NOON, NOON + timedelta(hours=1))
    assert (bob.entries, bob.camids, bob.first_seen, bob.last_seen) == (1, (), None, None)
    assert gallery.identities().items == (ann, bob)


def test_identity_that_is_not_there_is_named(gallery):
    for ask in (gallery.identity, gallery.delete_identity):
        with pytest.raises(IdentityNotFound, match="got pid 'nobody'"):
            ask("nobody")


def test_text_that_is_not_unicode_is_refused(gallery):
    for ask in (gallery.identity, gallery.delete_identity):
        with pytest.raises(InvalidRequest, match="lone surrogates"):
            ask("\ud800")


def test_damaged_attributes_are_reported(gallery, enroll, new):
    enroll(new())
    gallery._store.database.connection.execute("UPDATE entries SET attributes = '{'")
    with pytest.raises(CorruptStore, match="attributes of entry 1"):
        gallery.entry(1)
