import threading

import pytest

from gallery.entry import Remember
from gallery.errors import AnswerErased, DuplicateKey


def remember(key="key", fingerprint="print"):
    return Remember(key, fingerprint, lambda enrolled: repr(enrolled).encode())


def test_answer_is_kept_with_the_enrolment(gallery, new, reopen):
    assert gallery.recall("key", "print") is None
    enrolled = gallery.enroll([new(), new("bob")], space_id="space-1", remember=remember())
    assert gallery.recall("key", "print") == repr(enrolled).encode()
    gallery.close()
    with reopen() as opened:
        assert opened.recall("key", "print") == repr(enrolled).encode()


def test_repeat_enrolls_nothing_and_gets_the_first_list(gallery, new):
    first = gallery.enroll([new(), new("bob")], space_id="space-1", remember=remember())
    assert gallery.enroll([new(), new("bob")], space_id="space-1", remember=remember()) == first
    assert gallery.stats().entries == 2


def test_key_with_another_request_is_refused(gallery, new):
    gallery.enroll([new()], space_id="space-1", remember=remember())
    with pytest.raises(DuplicateKey, match="send a new key"):
        gallery.enroll([new()], space_id="space-1", remember=remember(fingerprint="other"))
    with pytest.raises(DuplicateKey):
        gallery.recall("key", "other")
    assert gallery.stats().entries == 1


def test_answer_that_cannot_be_made_undoes_the_enrolment(gallery, new):
    def fail(enrolled):
        raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer"):
        gallery.enroll([new()], space_id="space-1", remember=Remember("key", "print", fail))
    assert gallery.stats().entries == 0
    assert gallery.recall("key", "print") is None
    assert gallery.entries().items == ()


def test_simultaneous_repeats_enroll_once(gallery, new):
    entries, together, results = [new(), new("bob")], threading.Barrier(8), []

    def repeat():
        together.wait()
        results.append(gallery.enroll(entries, space_id="space-1", remember=remember()))

    threads = [threading.Thread(target=repeat) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result == results[0] for result in results)
    assert gallery.stats().entries == 2


def test_erasing_an_identity_erases_the_answers_that_name_it(gallery, new):
    gallery.enroll([new("ann"), new("bob")], space_id="space-1", remember=remember("both"))
    gallery.enroll([new("bob")], space_id="space-1", remember=remember("bob only"))
    assert gallery.delete_identity("ann").answers == 1
    with pytest.raises(AnswerErased, match="send a new key"):
        gallery.recall("both", "print")
    assert gallery.recall("bob only", "print") is not None


def test_late_repeat_cannot_bring_an_erased_identity_back(gallery, new):
    gallery.enroll([new("ann")], space_id="space-1", remember=remember())
    gallery.delete_identity("ann")
    with pytest.raises(AnswerErased):
        gallery.enroll([new("ann")], space_id="space-1", remember=remember())
    assert gallery.stats().entries == 0
    with pytest.raises(DuplicateKey):
        gallery.recall("key", "other")


def test_deleting_entry_by_entry_erases_the_answers_with_the_last(gallery, new):
    gallery.enroll([new("ann"), new("ann")], space_id="space-1", remember=remember())
    gallery.delete_entry(1)
    assert gallery.recall("key", "print") is not None
    gallery.delete_entry(2)
    with pytest.raises(AnswerErased):
        gallery.recall("key", "print")


def test_request_that_enrolled_nothing_is_remembered_too(gallery):
    assert gallery.enroll([], space_id="space-1", remember=remember()) == []
    assert gallery.recall("key", "print") == b"[]"
