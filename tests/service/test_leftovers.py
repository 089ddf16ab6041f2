"""A call leaves nothing for Python's collector, however it ends: what it held would stay until then, and memory with it."""

import gc
import types
from pathlib import Path

import pytest

OURS = ("service", "gallery", "PIL")  # and pictures


def is_ours(thing):
    """Tell whether a left object is a frame of the package's, or made by it."""
    if isinstance(thing, types.FrameType):
        return Path(thing.f_code.co_filename).parent.name in ("service", "routes", "gallery")
    return type(thing).__module__.partition(".")[0] in OURS


def left_by(call, *, times=3):
    """What calls have left to the collector; the first of them does not count."""
    call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            call()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [repr(thing)[:200] for thing in gc.garbage if is_ours(thing)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


FORM = {"pid": "anna"}
CALLS = {
    "embed": (lambda client, good, bad: client.post("/embed", files={"crops": good}), 200),
    "embed, one of two broken": (lambda client, good, bad: client.post("/embed", files=[("crops", good), ("crops", bad)]), 200),
    "embed a broken one": (lambda client, good, bad: client.post("/embed", files={"crops": bad}), 422),
    "embed no picture": (lambda client, good, bad: client.post("/embed", files={"crops": b"none"}), 422),
    "embed JSON that is wrong": (lambda client, good, bad: client.post("/embed", json={"crops": "none"}), 422),
    "embed text": (lambda client, good, bad: client.post("/embed", content=good, headers={"Content-Type": "text/plain"}), 415),
    "enroll": (lambda client, good, bad: client.post("/gallery", files={"crops": good}, data=FORM), 201),
    "enroll nobody": (lambda client, good, bad: client.post("/gallery", files={"crops": good}), 422),
    "enroll an unknown field": (
        lambda client, good, bad: client.post("/gallery", files={"crops": good}, data={"hat": "red"}),
        422,
    ),
    "enroll a broken one": (lambda client, good, bad: client.post("/gallery", files={"crops": bad}, data=FORM), 422),
    "search": (lambda client, good, bad: client.post("/search", files={"crops": good}), 200),
    "search for none": (lambda client, good, bad: client.post("/search?k=none", files={"crops": good}), 422),
    "show what is not there": (lambda client, good, bad: client.get("/gallery/entries/123456"), 404),
    "erase what is not there": (lambda client, good, bad: client.delete("/gallery/identities/nobody"), 404),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_leaves_nothing_to_the_collector(client, pictures, name):
    call, status = CALLS[name]
    good, whole = pictures(1, form="JPEG"), pictures(2, form="JPEG")
    bad = whole[: len(whole) * 2 // 3]
    assert call(client, good, bad).status_code == status
    assert left_by(lambda: call(client, good, bad)) == []


def test_key_that_stands_for_other_content_leaves_nothing(client, pictures):
    headers = {"Idempotency-Key": "once"}
    contents = iter(range(100))

    def enroll():
        return client.post("/gallery", files={"crops": pictures(next(contents))}, data={"pid": "anna"}, headers=headers)

    assert enroll().status_code == 201
    assert left_by(enroll) == []
    assert enroll().status_code == 409
