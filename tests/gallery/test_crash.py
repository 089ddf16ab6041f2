"""A process that dies at any moment loses nothing it has acknowledged and brings nothing back that it has deleted."""

import random
import subprocess
import sys

import numpy as np
import pytest

from gallery.errors import GalleryLocked
from gallery.local import LocalGallery

# Says "+ENTRY_ID PID" after an enrolment has returned, "?PID" before a deletion and "-PID" after it.
WRITE_FOR_EVER = """
import random, sys
import numpy as np
from pathlib import Path
from gallery.entry import NewEntry
from gallery.local import LocalGallery
rng = random.Random(int(sys.argv[2]))
with LocalGallery.open(Path(sys.argv[1]), space_id="space-1", dim=64) as gallery:
    pids = []
    while True:
        if len(pids) > 20 and rng.random() < 0.1:
            pid = pids.pop(rng.randrange(len(pids)))
            print(f"?{pid}", flush=True)
            gallery.delete_identity(pid)
            print(f"-{pid}", flush=True)
            continue
        batch = []
        for _ in range(rng.choice([1, 1, 8])):
            pids.append(f"p{rng.getrandbits(64)}")
            vector = np.random.default_rng(len(pids)).normal(size=64)
            vector = (vector / np.linalg.norm(vector)).astype(np.float32)
            batch.append(NewEntry(pids[-1], vector, "model-1", crop_jpeg=rng.randbytes(1000)))
        for one in gallery.enroll(batch, space_id="space-1"):
            print(f"+{one.entry_id} {one.pid}", flush=True)
"""


def write_and_die(folder, seed):
    """Lets a process write until some line of its output, kills it, and returns every line it got out."""
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(random.Random(seed).randrange(20, 150))]
        process.kill()
        lines += process.stdout.readlines()
    return [line.strip() for line in lines if line.endswith("\n")]  # the last one may be cut


def test_killed_process_loses_nothing_acknowledged(tmp_path):
    standing, deleted = {}, set()
    for seed in range(4):
        for line in write_and_die(tmp_path, seed):
            if line[0] == "+":
                entry_id, pid = line[1:].split()
                standing[int(entry_id)] = pid
            else:
                standing = {entry_id: pid for entry_id, pid in standing.items() if pid != line[1:]}
                if line[0] == "-":
                    deleted.add(line[1:])
        with LocalGallery.open(tmp_path, space_id="space-1", dim=64) as gallery:
            assert gallery.faults() == []
            for entry_id, pid in standing.items():
                assert gallery.entry(entry_id).pid == pid
                match = gallery.search(gallery.embedding(entry_id), k=1, group_by="entry").matches[0]
                assert match.cosine == pytest.approx(1, abs=1e-6)
            listed = gallery.identities(limit=1000).items
            assert not deleted & {identity.pid for identity in listed}
            assert gallery.stats().entries == sum(identity.entries for identity in listed)
    assert len(standing) > 50
    assert len(deleted) > 0


def test_second_process_is_refused_while_the_first_lives(tmp_path):
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(GalleryLocked, match=rf"pid {process.pid}\); stop that one"):
            LocalGallery.reopen(tmp_path)
        process.kill()
    with LocalGallery.reopen(tmp_path) as gallery:
        assert np.isfinite(gallery.embedding(1)).all()
