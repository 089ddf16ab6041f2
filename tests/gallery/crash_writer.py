"""A process that changes a gallery from several threads until it is killed, and keeps a journal of it elsewhere."""

import json
import os
import random
import threading
import traceback
from pathlib import Path

from gallery.entry import Remember
from gallery.local import LocalGallery
from tests.gallery.crash_model import DIM, LIMIT, Journal, content_hash, entry_of

SPACE = "space-1"
BUG = 3  # the exit status of a writer that found a fault itself

WEIGHTS = {
    "enroll": 40,
    "repeat": 5,
    "delete_entry": 10,
    "delete_identity": 7,
    "rename": 6,
    "merge": 6,
    "expire": 4,
    "snapshot": 4,
    "checkpoint": 6,
}


def write_until_killed(folder, outside, lanes, *, index, seed, opened):
    """Opens the gallery and changes it, one thread a lane; never returns.

    Args: outside: a folder for the journal and for snapshots. opened: a pipe's end, closed when the gallery is open.
    """
    journal = Journal(outside / "journal")
    try:
        gallery = LocalGallery.open(folder, space_id=SPACE, dim=DIM, index=index)
        os.close(opened)
        threads = [
            threading.Thread(target=_work, args=(gallery, outside, lane, journal, random.Random(f"{seed}-{lane.number}")))
            for lane in lanes
        ]
        for thread in threads:
            thread.start()
        threads[0].join()
    except BaseException:
        journal.write(0, "bug", traceback.format_exc())
    os._exit(BUG)


def _work(gallery, outside, lane, journal, rng):
    try:
        while True:
            op = _choose(lane, rng)
            journal.write(lane.number, "begin", op)
            result = perform(gallery, outside, lane, op)
            lane = lane.after(op)
            journal.write(lane.number, "end", result)
    except BaseException:
        journal.write(lane.number, "bug", traceback.format_exc())
        os._exit(BUG)


def _choose(lane, rng):
    """The next operation, one that the lane's state allows."""
    do = rng.choices(list(WEIGHTS), WEIGHTS.values())[0]
    pids = sorted(set(lane.entries.values()))
    fresh = f"{lane.number}-{rng.getrandbits(64):016x}"
    if do == "checkpoint":
        return {"do": do, "mode": rng.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])}
    if do == "snapshot":
        return {"do": do, "name": f"{fresh}.tar"}
    if do == "repeat" and (kept := [key for key, named in lane.answers.items() if named is not None]):
        return {"do": do, "key": rng.choice(kept)}
    if do == "delete_entry" and lane.entries:
        return {"do": do, "token": rng.choice(sorted(lane.entries))}
    if do == "delete_identity" and pids:
        return {"do": do, "pid": rng.choice(pids)}
    if do == "rename" and pids:
        return {"do": do, "pid": rng.choice(pids), "new": fresh}
    if do == "merge" and len(pids) > 1:
        pid, new = rng.sample(pids, 2)
        return {"do": "rename", "pid": pid, "new": new}
    if do == "expire" and lane.number == 0:
        return {"do": do}
    return _choose_entries(lane, rng, fresh, pids)


def _choose_entries(lane, rng, fresh, pids):
    """An enrolment of new entries, and at times of a standing one, or a twin of it under another pid."""
    entries = []
    for place in range(rng.choice([1, 1, 1, 1, 2, 5, 20])):
        token = f"{fresh}-{place}" + ("-old" if lane.number == 0 and rng.random() < 0.2 else "")
        pid = rng.choice(pids) if pids and rng.random() < 0.5 else f"{fresh}-pid{place // 3}"
        standing = rng.choice(sorted(lane.entries)) if lane.entries else None
        if standing is not None and rng.random() < 0.1:
            token, pid = standing, lane.entries[standing]
        elif standing is not None and rng.random() < 0.1 and content_hash(standing) and f"{standing}'" not in lane.entries:
            token = f"{standing}'"
        if all(token != other for other, _ in entries):
            entries.append((token, pid))
    return {"do": "enroll", "entries": entries, "key": f"request-{fresh}" if rng.random() < 0.4 else None}


def perform(gallery, outside, lane, op):
    """Does it, checks what it returns against the lane, and gives what the parent should know."""
    do, after = op["do"], lane.after(op)
    gone = len(lane.entries) - len(after.entries)
    if do == "enroll":
        return _enroll(gallery, lane, after, op)
    if do == "repeat":
        assert gallery.recall(op["key"], "print") is not None
        again = gallery.enroll([], space_id=SPACE, remember=_remember(op["key"]))
        assert [one.pid for one in again] == [now for _, now in lane.answers[op["key"]]]
    elif do == "delete_entry":
        gallery.delete_entry(lane.ids[op["token"]])
    elif do == "delete_identity":
        receipt = gallery.delete_identity(op["pid"])
        assert (receipt.entries, receipt.vectors) == (gone, gone), (receipt, gone)
    elif do == "rename":
        renamed = gallery.rename(op["pid"], op["new"], merge=op["new"] in lane.entries.values())
        assert renamed.dropped == gone, (renamed, gone)
        assert renamed.identity.entries == list(after.entries.values()).count(op["new"])
    elif do == "expire":
        assert gallery.expire(LIMIT).entries == gone
    elif do == "snapshot":
        gallery.snapshot(outside / op["name"])
    else:
        with gallery._open_store() as store:  # the one thing here that no caller of the gallery can ask for
            store.database.connection.execute(f"PRAGMA wal_checkpoint({op['mode']})").fetchall()
    return None


def _enroll(gallery, lane, after, op):
    remember = None if op["key"] is None else _remember(op["key"])
    made = gallery.enroll([entry_of(*one) for one in op["entries"]], space_id=SPACE, remember=remember)
    for (token, pid), one in zip(op["entries"], made, strict=True):
        assert one.pid == pid
        is_new = token in after.entries and token not in lane.entries
        assert one.duplicate != is_new, (token, one)
        if is_new:
            lane.ids[token] = one.entry_id
    answer = None if op["key"] is None else gallery.recall(op["key"], "print").decode()
    return {
        "ids": {token: lane.ids[token] for token, _ in op["entries"] if token in after.entries},
        "key": op["key"],
        "answer": answer,
    }


def _remember(key):
    return Remember(key, "print", lambda made: json.dumps([[one.entry_id, one.pid] for one in made]).encode())


def start(folder: Path, outside: Path, lanes, *, index, seed) -> tuple[int, int]:
    """Forks the writer; returns its process id, and a pipe that ends once it has opened the gallery."""
    opened, opening = os.pipe()
    process = os.fork()
    if process == 0:
        write_until_killed(folder, outside, lanes, index=index, seed=seed, opened=opening)
    os.close(opening)
    return process, opened
