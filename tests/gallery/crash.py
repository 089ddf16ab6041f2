"""Kills a process that changes a gallery, again and again, and each time looks at what is left.

python -m tests.gallery.crash --rounds 300 --json FILE. Exit status 0: nothing acknowledged was lost, nothing deleted came
back, and what was under way is whole or absent. The short form runs in test_crash.py.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gallery import archive
from gallery.errors import AnswerErased
from gallery.local import LocalGallery
from tests.gallery.crash_model import DIM, Lane, counted, entry_of, histories
from tests.gallery.crash_writer import SPACE, start

LANES = 4
CROWD = 2400  # entries that stand in a quantised gallery from the beginning: fewer are scanned exactly in any case
OWN_FILES = {"gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm", "lock"}
INDEXES = ("exact", "quantised")


def main(arguments=None):
    """Runs the rounds and writes what was found; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gallery.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="how often the process is killed")
    parser.add_argument("--seed", type=int, default=0, help="what is done, and when the kills come, follows from it")
    parser.add_argument("--index", choices=("both", *INDEXES), default="both", help="how the gallery searches")
    parser.add_argument("--kills", type=int, default=20, help="rounds with one gallery; then a new one is begun")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where galleries are made; in memory more happens in a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    given = parser.parse_args(arguments)
    began, totals = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for number in range(given.rounds):
            index = INDEXES[number // given.kills % 2] if given.index == "both" else given.index
            if number % given.kills == 0:
                folder = Path(name) / f"gallery-{number}"
                lanes = _begin(folder, index)
            try:
                lanes = run_round(folder, lanes, index=index, seed=f"{given.seed}-{number}", totals=totals)
            except BaseException:
                kept = shutil.copytree(name, tempfile.mkdtemp(), dirs_exist_ok=True)
                sys.stderr.write(f"\nround {number} of seed {given.seed} failed; before/ in {kept} is the gallery as found\n")
                raise
            sys.stderr.write(f"\rkilled {number + 1} of {given.rounds} times")
    sys.stderr.write("\n")
    figures = dict(sorted(totals.items())) | {"rounds": given.rounds, "seed": given.seed, "index": given.index}
    figures["seconds"] = round(time.monotonic() - began, 1)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


def _begin(folder, index):
    """Lanes without any operation yet; only the crowd is put into a new gallery, if there is to be one."""
    if index == "quantised":
        with LocalGallery.open(folder, space_id=SPACE, dim=DIM) as gallery:
            gallery.enroll([entry_of(f"crowd-{place}", f"crowd-{place // 3}") for place in range(CROWD)], space_id=SPACE)
    return [Lane(number) for number in range(LANES)]


def run_round(folder, lanes, *, index, seed, totals):
    """Lets a process write for a while, kills it, and checks all that it left; returns the lanes as they now stand."""
    rng = random.Random(seed)
    outside = folder.parent / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    process, opened = start(folder, outside, lanes, index=index, seed=seed)
    if rng.random() < 0.75:  # else the kill may come while the gallery is being made or opened
        os.read(opened, 1)
    time.sleep(rng.uniform(0.005, 0.4))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(opened)
    shutil.rmtree(folder.parent / "before", ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, folder.parent / "before")
    made, num_lines = histories(lanes, outside / "journal")
    assert os.WIFSIGNALED(status), f"the writer ended by itself with {status}"
    with LocalGallery.open(folder, space_id=SPACE, dim=DIM, index=index) as gallery:
        settled = check_gallery(gallery, made, index=index)
        check_files(folder, made, settled)
    check_snapshots(outside, made, num_lines, totals)
    totals.update({f"acknowledged {do}": count for do, count in counted(made).items()})
    totals.update(_in_flight(made, settled))
    totals["entries read back"] += sum(len(lane.entries) for lane in settled)
    return settled


def check_gallery(gallery, made, *, index):
    """Raises AssertionError unless the gallery is sound and each lane is in one of the states it may be in; returns these."""
    assert gallery.faults() == []
    found = contents(gallery)
    crowd = [token for token in found if token.startswith("crowd")]
    assert len(crowd) == (CROWD if index == "quantised" else 0)
    settled = [settle(gallery, found, history.states[len(history.ended) :]) for history in made]
    for lane in settled:
        lane.ids = {token: found[token].entry_id for token in lane.entries}
    assert len(found) == len(crowd) + sum(len(lane.entries) for lane in settled)
    for token, entry in found.items():
        if token.startswith("crowd") and entry.entry_id % 20:
            continue  # gallery.faults() has read it; what is in motion is read one by one
        _check_entry(gallery, entry, entry_of(token, entry.pid))
    for history in made:
        for result in history.results:
            if result is not None:
                _check_told(gallery, found, result)
    return settled


def contents(gallery):
    """token -> entry of all that stands."""
    found, cursor = {}, None
    while True:
        page = gallery.entries(limit=1000, cursor=cursor)
        for entry in page.items:
            assert entry.attributes["token"] not in found
            found[entry.attributes["token"]] = entry
        if (cursor := page.next_cursor) is None:
            return found


def settle(gallery, found, states):
    """That of the states of a lane in which it is found."""
    number = states[0].number
    keys = {key for lane in states for key in lane.answers}
    entries = {token: entry.pid for token, entry in found.items() if token.startswith(f"{number}-")}
    seen = entries, {key: _state_of(gallery, key) for key in keys}
    for lane in states:
        if lane.seen(keys) == seen:
            return lane
    differing = [dict(was.items() ^ now.items()) for was, now in zip(states[0].seen(keys), seen, strict=True)]
    raise AssertionError(f"lane {number} is in none of {len(states)} states it may be in; the first differs by {differing}")


def _state_of(gallery, key):
    try:
        return "new" if gallery.recall(key, "print") is None else "kept"
    except AnswerErased:
        return "erased"


def _check_entry(gallery, entry, new):
    """The entry and its vector are those that were sent."""
    assert (entry.camid, entry.captured_at, entry.model_id) == (new.camid, new.captured_at, new.model_id)
    assert gallery.crop(entry.entry_id) == new.crop_jpeg
    assert gallery.embedding(entry.entry_id).tobytes() == new.embedding.astype(np.float16).astype(np.float32).tobytes()
    if entry.entry_id % 20 == 0:
        nearest = gallery.search(new.embedding, k=1, group_by="entry").matches[0]
        assert nearest.entry_id == entry.entry_id or nearest.cosine > 0.999, (entry, nearest)


def _check_told(gallery, found, result):
    """The ids and the answer that were told still hold, for what still stands."""
    if result["key"] is not None and _state_of(gallery, result["key"]) == "kept":
        assert gallery.recall(result["key"], "print").decode() == result["answer"]
    for token, entry_id in result["ids"].items():
        assert token not in found or found[token].entry_id >= entry_id, (token, entry_id)


def check_files(folder, made, settled):
    """No file is left over, and none holds a pid that was erased in this round."""
    assert (names := {path.name for path in folder.iterdir()}) <= OWN_FILES, names
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    for history, lane in zip(made, settled, strict=True):
        for pid in lane.erased - history.states[0].erased:
            assert pid.encode() not in content, pid


def check_snapshots(outside, made, num_lines, totals):
    """Every snapshot acknowledged is there, and each that is there restores to states the gallery had meanwhile."""
    for history in made:
        for place, op in enumerate(history.ops):
            if op["do"] != "snapshot":
                continue
            path = outside / op["name"]
            is_acknowledged = place < len(history.ended)
            assert path.exists() or not is_acknowledged, f"{path} was acknowledged and is not there"
            if path.exists():
                last = history.ended[place] if is_acknowledged else num_lines
                _check_snapshot(path, made, history.begun[place], last)
                totals["snapshots restored"] += 1


def _check_snapshot(path, made, first, last):
    restored = path.with_suffix("")
    archive.restore(path, restored)
    with LocalGallery.reopen(restored) as gallery:
        assert gallery.faults() == []
        found = contents(gallery)
        for history in made:
            settle(gallery, found, history.between(first, last))
    shutil.rmtree(restored)


def _in_flight(made, settled):
    """How many operations under way at the kill were found done, and how many undone; of those that change anything."""
    totals = Counter()
    for history, lane in zip(made, settled, strict=True):
        if len(history.ops) > len(history.ended):
            before, after = history.states[-2], history.states[-1]
            if before != after:
                totals["in flight, whole" if lane is after else "in flight, absent"] += 1
    return totals


if __name__ == "__main__":
    sys.exit(main())
