"""Memory is in step with the store, whatever comes between a commit and what memory does about it."""

from contextlib import suppress

import pytest

from gallery.memory import Memory
from gallery.store import UNFINISHED_ERASURE


def interrupt(*args):
    raise KeyboardInterrupt


CHANGES = {
    "enroll": lambda gallery, new: gallery.enroll([new("cyd")], space_id="space-1"),
    "delete": lambda gallery, new: gallery.delete_identity("ann"),
    "delete one": lambda gallery, new: gallery.delete_entry(2),
    "rename": lambda gallery, new: gallery.rename("ann", "bob", merge=True),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("method", ["add", "remove", "rename"])
def test_interrupt_after_the_commit_leaves_memory_in_step(gallery, enroll, new, monkeypatch, name, method):
    first = new("ann")
    enroll(first, new("bob"), new("ann"))
    with monkeypatch.context() as patched:
        patched.setattr(Memory, method, interrupt)
        if method == "add":  # which reading the store anew needs as well: the second interrupt
            patched.setattr("gallery.mirror.Mirror._reload", lambda mirror: patched.undo() or type(mirror)._reload(mirror))
        with suppress(KeyboardInterrupt):
            CHANGES[name](gallery, new)
    assert gallery.is_ready and set(gallery.faults()) <= {UNFINISHED_ERASURE}
    later = [new(f"later{number}") for number in range(3)]
    enroll(*later)
    assert [gallery.search(one.embedding, k=1).matches[0].pid for one in later] == ["later0", "later1", "later2"]


def test_memory_that_lacks_an_entry_is_read_anew_when_it_goes(gallery, enroll, new):
    enroll(new("ann"), new("bob"), new("cyd"))
    gallery._mirror._memory.remove([2])
    gallery.delete_identity("bob")
    assert gallery.faults() == [] and gallery.stats().entries == 2


@pytest.mark.parametrize("entry_ids", [[4], [1, 4], [0]])
def test_what_memory_does_not_hold_cannot_be_taken_out(gallery, enroll, new, entry_ids):
    enroll(new("ann"), new("bob"))
    memory = gallery._mirror._memory
    for change in (lambda: memory.remove(entry_ids), lambda: memory.rename(entry_ids, "cyd")):
        with pytest.raises(KeyError, match="does not hold"):
            change()
    assert gallery.faults() == []
