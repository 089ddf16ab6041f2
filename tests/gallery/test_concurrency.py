"""Readers beside writers: every search sees whole commits only, none fails, and the end is what the writers did."""

import random
import threading
from contextlib import closing, suppress
from functools import partial

import numpy as np
import pytest

from gallery.database import Space
from gallery.entry import Filter, NewEntry
from gallery.errors import EntryNotFound
from gallery.local import LocalGallery, utc_now
from gallery.memory import Memory
from gallery.store import Store

DIM = 16
CROWD = 2400  # entries, two an identity: enough for a first pass
WRITERS = 3
STEPS = 15  # of each writer


def pair(pid, seed):
    """Two entries of one identity, the second one's camera and attribute tell them apart."""
    row = np.random.default_rng(seed).normal(size=DIM)
    row = (row / np.linalg.norm(row)).astype(np.float32)
    return [NewEntry(pid, row, "model-1", camid=camid, attributes={"of": camid}) for camid in ("north", "south")]


def write(gallery, number, standing):
    """Enrolls, renames, merges and deletes pairs, each in one call; keeps what stands in `standing`: pid -> pairs."""
    rng = random.Random(number)
    for step in range(STEPS):
        pids = sorted(standing)
        do = rng.choice(["enroll", "enroll", "rename", "merge", "delete"]) if len(pids) > 1 else "enroll"
        fresh = f"writer-{number}-{step}"
        if do == "enroll":
            gallery.enroll(pair(fresh, seed=[number, step]), space_id="space-1")
            standing[fresh] = 1
        elif do == "rename":
            gallery.rename(pids[0], fresh)
            standing[fresh] = standing.pop(pids[0])
        elif do == "merge":
            gallery.rename(pids[0], pids[1], merge=True)
            standing[pids[1]] += standing.pop(pids[0])
        else:
            gallery.delete_identity(pids[-1])
            del standing[pids[-1]]


def read(gallery, number, done, seen):
    """Searches until told to stop; every answer has to be made of whole pairs."""
    rng = random.Random(-number)
    while not done.is_set() or not seen[number]:
        query = pair("query", seed=[rng.randrange(WRITERS), rng.randrange(STEPS)])[0].embedding
        result = gallery.search(query, k=rng.choice([1, 10, 5000]), pool=rng.choice(["max", "mean", "best"]))
        assert result.entries % 2 == 0 and all(match.entries % 2 == 0 for match in result.matches)
        one_camera = gallery.search(query, k=5, where=Filter(camids=frozenset({"north"})))
        other = gallery.search(query, k=5, where=Filter(attributes={"of": "south"}), group_by="entry")
        assert all(match.camid == "south" for match in other.matches)
        assert all(match.camid == "north" for match in one_camera.matches)
        for match in result.matches[:2]:
            with suppress(EntryNotFound):  # deleted since
                assert gallery.embedding(match.entry_id).shape == (DIM,)
        seen[number] += 1


def run_all(calls):
    """Runs every call in a thread of its own; what any of them raised."""
    raised = []

    def run(call):
        try:
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    return threads, raised


@pytest.mark.parametrize("index", ["exact", "quantised"])
def test_readers_see_whole_commits_only(tmp_path, index):
    with LocalGallery.open(tmp_path, space_id="space-1", dim=DIM, index=index) as gallery:
        crowd = [one for number in range(CROWD // 2) for one in pair(f"crowd-{number}", seed=[9, number])]
        gallery.enroll(crowd, space_id="space-1")
        standing = [{} for _ in range(WRITERS)]
        done, seen = threading.Event(), [0, 0]
        readers, failed_reading = run_all([partial(read, gallery, number, done, seen) for number in range(2)])
        writers, failed_writing = run_all([partial(write, gallery, number, standing[number]) for number in range(WRITERS)])
        for writer in writers:
            writer.join()
        done.set()
        for reader in readers:
            reader.join()
        assert (failed_writing, failed_reading) == ([], [])
        assert min(seen) > 0
        wanted = {pid: 2 * pairs for one in standing for pid, pairs in one.items()}
        found = gallery.search(crowd[0].embedding, k=5000)
        assert {match.pid: match.entries for match in found.matches if match.pid.startswith("writer")} == wanted
        assert found.entries == CROWD + sum(wanted.values())
        assert gallery.faults() == []


def test_an_enrolment_that_has_returned_is_seen_by_the_next_search(tmp_path):
    with LocalGallery.open(tmp_path, space_id="space-1", dim=DIM) as gallery:

        def enroll_and_look(number):
            for step in range(10):
                entries = pair(f"p-{number}-{step}", seed=[number, step])
                gallery.enroll(entries, space_id="space-1")
                found = gallery.search(entries[0].embedding, k=1).matches[0]
                assert (found.pid, found.entries) == (f"p-{number}-{step}", 2)

        threads, raised = run_all([partial(enroll_and_look, number) for number in range(4)])
        for thread in threads:
            thread.join()
        assert raised == []


def test_a_search_does_not_wait_for_the_disk(tmp_path):
    """A writer that holds the store, as one does while it waits for the disk, keeps nobody from searching."""
    with closing(Store.open(tmp_path, create=Space("space-1", DIM))) as store:
        gallery = LocalGallery(store, clock=utc_now, make_memory=partial(Memory, index="exact"))
        gallery.enroll(pair("ann", seed=[0]), space_id="space-1")
        with store.database.transaction(), gallery._using_store:
            found = []
            searching = threading.Thread(target=lambda: found.append(gallery.search(pair("", seed=[0])[0].embedding, k=1)))
            searching.start()
            searching.join(timeout=30)
            assert found[0].matches[0].pid == "ann"
