"""A call leaves nothing for Python's collector, however it ends: what it held would stay until then, and memory with it."""

import base64
import gc
import itertools
import types
from pathlib import Path

import numpy as np
import pytest

from gallery.errors import StoreFull

OURS = ("service", "gallery", "PIL")  # and pictures
NUMBERS = itertools.count()
TEXT = {"Content-Type": "text/plain"}


def is_ours(thing):
    """Tell whether a left object is a frame of the package's, or made by it."""
    if isinstance(thing, types.FrameType):
        return Path(thing.f_code.co_filename).parent.name in ("service", "routes", "gallery")
    return type(thing).__module__.partition(".")[0] in OURS


def left_by(call, status, *, times=3):
    """What calls, each of which is answered so, have left to the collector; the first does not count."""
    statuses = [call().status_code]
    gc.collect()
    gc.disable()
    try:
        statuses += [call().status_code for _ in range(times)]
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [repr(thing)[:200] for thing in gc.garbage if is_ours(thing)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert statuses == (times + 1) * [status]
    return found


def anew(**labels):
    """Labels of somebody who is not enrolled yet."""
    return {"pid": f"nobody-{next(NUMBERS)}", **labels}


def entry(client, **labels):
    """An entry to send, with an embedding of its own."""
    row = np.random.default_rng(next(NUMBERS)).normal(size=client.app.state.parts.model.dim)
    text = base64.b64encode((row / np.linalg.norm(row)).astype("<f4").tobytes()).decode()
    return anew(embedding=text, **labels)


CALLS = {
    "embed": (lambda client, good, bad: client.post("/embed", files={"crops": good}), 200),
    "embed, one of two broken": (lambda client, good, bad: client.post("/embed", files=[("crops", good), ("crops", bad)]), 200),
    "embed a broken one": (lambda client, good, bad: client.post("/embed", files={"crops": bad}), 422),
    "embed no picture": (lambda client, good, bad: client.post("/embed", files={"crops": b"none"}), 422),
    "embed JSON that is wrong": (lambda client, good, bad: client.post("/embed", json={"crops": "none"}), 422),
    "embed text": (lambda client, good, bad: client.post("/embed", content=good, headers=TEXT), 415),
    "enroll": (lambda client, good, bad: client.post("/gallery", files={"crops": good}, data=anew()), 201),
    "enroll again": (lambda client, good, bad: client.post("/gallery", files={"crops": good}, data={"pid": "anna"}), 201),
    "enroll nobody": (lambda client, good, bad: client.post("/gallery", files={"crops": good}), 422),
    "enroll an unknown field": (
        lambda client, good, bad: client.post("/gallery", files={"crops": good}, data={"hat": "red"}),
        422,
    ),
    "enroll a broken one": (lambda client, good, bad: client.post("/gallery", files={"crops": bad}, data=anew()), 422),
    "enroll an embedding": (lambda client, good, bad: client.post("/gallery", json={"entries": [entry(client)]}), 201),
    "enroll no embedding": (lambda client, good, bad: client.post("/gallery", json={"entries": [anew(embedding="none")]}), 422),
    "search": (lambda client, good, bad: client.post("/search", files={"crops": good}), 200),
    "search for none": (lambda client, good, bad: client.post("/search?k=none", files={"crops": good}), 422),
    "show what is not there": (lambda client, good, bad: client.get("/gallery/entries/123456"), 404),
    "erase what is not there": (lambda client, good, bad: client.delete("/gallery/identities/nobody"), 404),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_leaves_nothing_to_the_collector(client, pictures, name):
    call, status = CALLS[name]
    good, whole = pictures(1, form="JPEG"), pictures(2, form="JPEG")
    assert left_by(lambda: call(client, good, whole[: len(whole) * 2 // 3]), status) == []


def test_idempotency_key_that_stands_for_other_content_leaves_nothing(client, pictures):
    headers = {"Idempotency-Key": "once"}

    def enroll():
        return client.post("/gallery", files={"crops": pictures(next(NUMBERS))}, data=anew(), headers=headers)

    assert enroll().status_code == 201
    assert left_by(enroll, 409) == []


@pytest.mark.parametrize("count", [1, 2])
def test_client_key_that_stands_for_other_content_leaves_nothing(client, count):
    def enroll():
        entries = [entry(client, client_key="once"), *(entry(client) for _ in range(1, count))]
        return client.post("/gallery", json={"entries": entries})

    assert enroll().status_code == 201
    assert left_by(enroll, 409) == []


def test_full_disk_leaves_nothing(client, pictures, monkeypatch):
    def fail(*_, **__):
        raise StoreFull("no room")

    monkeypatch.setattr(client.app.state.parts.gallery._store, "insert_all", fail)
    assert left_by(lambda: client.post("/gallery", files={"crops": pictures(1)}, data=anew()), 507) == []


def test_forward_pass_that_fails_leaves_nothing(serving, without, pictures):
    sizes = []

    def fail(size):
        sizes.append(size)
        if len(sizes) > 1:  # the first is the start's own
            raise RuntimeError("no memory")

    client = serving(embed=without(before=fail))
    assert left_by(lambda: client.post("/embed", files={"crops": pictures(1)}), 500) == []
