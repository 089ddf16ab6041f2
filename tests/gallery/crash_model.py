"""What a gallery should hold after operations that one thread made one after the other: a lane, beside its journal.

Every entry is told apart by its token, which stands in its attributes and from which all else of it is made. A token
with ' at its end is a twin: another entry of the same content_hash. Old ones were captured in 2000, which expires.
"""

import hashlib
import json
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from gallery.entry import NewEntry

DIM = 32
OLD = datetime(2000, 1, 1, tzinfo=UTC)
LIMIT = datetime(2001, 1, 1, tzinfo=UTC)
RECENT = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Lane:
    """The state that one thread's operations lead to; lanes share no token, pid or key.

    entries: token -> pid. answers: key -> the first and the present pid of each entry named, None once erased.
    erased: pids that may be in no file any more. ids: entry_id of each token, one dict for all that come after a lane.
    """

    number: int
    entries: dict[str, str] = field(default_factory=dict)
    answers: dict[str, list[list[str]] | None] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    ids: dict[str, int] = field(default_factory=dict)

    def seen(self, keys):
        """What of it a gallery can show: pids by token, and for each key whether it is new, kept or erased."""
        states = {key: "new" if key not in self.answers else "erased" if self.answers[key] is None else "kept" for key in keys}
        return self.entries, states

    def after(self, op):
        """The lane that the operation makes of this one."""
        lane = Lane(self.number, dict(self.entries), dict(self.answers), set(self.erased), self.ids)
        change = CHANGES.get(op["do"])
        if change is not None:
            change(lane, op)
        return lane


def content_hash(token):
    """None for some, which then have a client_key."""
    stem = token.rstrip("'")
    return None if zlib.crc32(stem.encode()) % 8 == 1 else hashlib.sha256(stem.encode()).hexdigest()


def client_key(token):
    return f"key-{token}" if zlib.crc32(token.encode()) % 2 and "'" not in token else None


@lru_cache(maxsize=10_000)
def entry_of(token, pid):
    """The entry that the token stands for."""
    seed = zlib.crc32(token.encode())
    rng = np.random.default_rng(seed)
    row = rng.normal(size=DIM)
    return NewEntry(
        pid,
        (row / np.linalg.norm(row)).astype(np.float32),
        "model-1",
        camid=(None, "north", "south")[seed % 3],
        captured_at=OLD if "old" in token else (None, RECENT)[seed % 2],
        attributes={"token": token},
        client_key=client_key(token),
        content_hash=content_hash(token),
        crop_jpeg=rng.bytes(seed % 6000) if seed % 4 and not token.startswith("crowd") else None,
    )


def enroll(lane, op):
    for token, pid in op["entries"]:
        hashed = content_hash(token)
        twins = (one for one, its in lane.entries.items() if its == pid and hashed is not None and content_hash(one) == hashed)
        if token not in lane.entries and next(twins, None) is None:
            lane.entries[token] = pid
    if op["key"] is not None:
        lane.answers[op["key"]] = [[pid, pid] for _, pid in op["entries"]]


def delete_entry(lane, op):
    _take_out(lane, {op["token"]})


def delete_identity(lane, op):
    _take_out(lane, {token for token, pid in lane.entries.items() if pid == op["pid"]})


def expire(lane, op):
    _take_out(lane, {token for token in lane.entries if "old" in token})


def _take_out(lane, tokens):
    losing = {lane.entries.pop(token) for token in tokens}
    for pid in losing - set(lane.entries.values()):
        lane.erased.add(pid)
        for key, named in lane.answers.items():
            if named is not None and any(pid in pair for pair in named):
                lane.answers[key] = None


def rename(lane, op):
    standing = {content_hash(token) for token, pid in lane.entries.items() if pid == op["new"]} - {None}
    for token, pid in list(lane.entries.items()):
        if pid == op["pid"]:
            if content_hash(token) in standing:
                del lane.entries[token]
            else:
                lane.entries[token] = op["new"]
    for key, named in lane.answers.items():
        if named is not None:
            lane.answers[key] = [[first, op["new"] if now == op["pid"] else now] for first, now in named]


CHANGES = {"enroll": enroll, "delete_entry": delete_entry, "delete_identity": delete_identity, "expire": expire, "rename": rename}


class Journal:
    """An append-only file of what was about to be done and what was acknowledged; a line is one write, so a kill tears none."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, number, event, content):
        os.write(self._file, json.dumps([number, event, content]).encode() + b"\n")


@dataclass(frozen=True)
class History:
    """A lane's states, the first before any operation of this round, and where in the journal each began and ended."""

    states: list[Lane]
    ops: list[dict]
    begun: list[int]
    ended: list[int]
    results: list

    def between(self, first, last):
        """The states of which a gallery may show one when it was looked at between these lines of the journal."""
        at_least = sum(place < first for place in self.ended)
        at_most = sum(place < last for place in self.begun)
        return self.states[at_least : at_most + 1]


def histories(lanes, path):
    """What the journal says of every lane, and its length; raises AssertionError for a fault that the writer itself found."""
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    lines = [json.loads(line) for line in whole]
    bugs = [content for _, event, content in lines if event == "bug"]
    assert not bugs, bugs[0]
    made = [History([lane], [], [], [], []) for lane in lanes]
    for place, (number, event, content) in enumerate(lines):
        history = made[number]
        if event == "begin":
            history.begun.append(place)
            history.ops.append(content)
            history.states.append(history.states[-1].after(content))
        else:
            history.ended.append(place)
            history.results.append(content)
    return made, len(lines)


def counted(made):
    """How many operations of each kind were acknowledged."""
    return Counter(op["do"] for history in made for op in history.ops[: len(history.ended)])
