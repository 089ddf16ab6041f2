"""Fails the disk at every step of what a gallery does, and looks at what it says and what is left.

python -m tests.gallery.faults limit       files may not grow beyond a size: writing ends half-way
python -m tests.gallery.faults disk DIR    DIR, on a small file system of its own, has only so many bytes left
fiu-run -x python -m tests.gallery.faults writes    the n-th call that opens, writes, syncs or renames fails (libfiu)
fiu-run -x python -m tests.gallery.faults reads     the n-th call that reads fails

Exit status 0: every fault was a named error, everything acknowledged stood afterwards, and what had failed could be done
again. The short forms run in test_faults.py.
"""

import argparse
import ctypes
import errno
import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from gallery.errors import CorruptArchive, CorruptStore, StoreError, StoreFull, StoreUnavailable
from tests.gallery.fault_tasks import Scene, make_bases, tasks

SIZES = [0, 1, 8, 30, 33, 60, 90, 130, 180, 200, 230, 260, 300, 340, 400, 480, 600, 800, 1200, 4000]  # KB
FEW_SIZES = [0, 40, 150]
CALLS = {
    "writes": ["oc/open", "rw/write", "rw/pwrite", "rw/ftruncate", "sync/fsync", "sync/fdatasync", "dir/rename", "dir/unlink"],
    "reads": ["rw/read", "rw/pread"],
}
NAMED = {by: {StoreFull, StoreUnavailable} for by in ("limit", "disk", "writes")}
NAMED["reads"] = {StoreUnavailable, CorruptStore, CorruptArchive}  # SQLite takes a page that cannot be read for a damaged one
KINDS = {"writes": (errno.EIO, errno.ENOSPC), "reads": (errno.EIO,)}


def main(arguments=None):
    """Runs every task with every fault and prints how often which error came; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gallery.faults", description=__doc__)
    parser.add_argument("by", choices=("limit", "disk", *CALLS), help="how the disk is made to fail")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()), help="where galleries are made")
    parser.add_argument("--tasks", nargs="*", metavar="TASK", help="only these")
    parser.add_argument("--few", action="store_true", help="fewer sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    given = parser.parse_args(arguments)
    figures = {}
    with tempfile.TemporaryDirectory() as bases, tempfile.TemporaryDirectory(dir=given.folder) as work:
        lane = make_bases(Path(bases))
        for task in tasks(lane):
            if given.tasks is None or task.name in given.tasks:
                faults = _faults(given.by, FEW_SIZES if given.few else SIZES, Path(work))
                figures[task.name] = dict(_sweep(task, faults, NAMED[given.by], Path(bases), Path(work), lane))
                sys.stderr.write(f"{task.name:18}{figures[task.name]}\n")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _sweep(task, faults, named, bases, work, lane):
    """Does the task once with every fault; how often it was done all the same, and how often it failed with which error.

    Args: named: the errors that may come.
    """
    counts = Counter()
    for name, fault in faults:
        place = work / "scene"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        scene = Scene(shutil.copytree(bases / task.base, place / "gallery"), place, lane)
        try:
            task.prepare(scene)
            error, is_fired = _attempt(task, scene, fault)
            counts["done" if error is None else type(error).__name__] += 1
            assert error is None or type(error) in named, error
            assert error is None or ";" in str(error), f"no word on what to do in {error}"
            task.check_after(scene, is_done=error is None)
        except BaseException:
            sys.stderr.write(f"{task.name} failed with the fault {name}\n")
            raise
        finally:
            scene.close()
        if not is_fired:
            return counts
    return counts


def _attempt(task, scene, fault):
    """The StoreError that the fault led to, None when the task was done all the same; and whether the fault came at all."""
    with fault as has_fired:
        try:
            task.act(scene)
        except StoreError as error:
            return error, True
    return None, has_fired()


def _faults(by, sizes, work):
    if by == "limit":
        return ((f"{size} KB", _limit(size * 1000)) for size in sizes)
    if by == "disk":
        return ((f"{size} KB", _full(work, size * 1000)) for size in sizes)
    every = ((number, kind) for number in itertools.count(1) for kind in KINDS[by])
    return ((f"call {number}, {errno.errorcode[kind]}", _failing(CALLS[by], number, kind)) for number, kind in every)


@contextmanager
def _limit(size):
    """No file may grow beyond that many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield lambda: True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def _full(folder, left):
    """The folder's file system has that many bytes left."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        found = os.statvfs(folder)
        if (size := found.f_bavail * found.f_frsize - left) > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield lambda: True
    finally:
        filler.unlink()


@contextmanager
def _failing(calls, number, kind):
    """The number-th of these calls fails with that error."""
    library = ctypes.CDLL("libfiu.so.0")
    made = 0

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    def is_failing(name, failnum, failinfo, flags):
        nonlocal made
        made += 1
        return int(made == number)

    points = [f"posix/io/{call}".encode() for call in calls]
    for point in points:  # the error goes where libfiu takes a pointer to whatever the caller likes
        assert library.fiu_enable_external(point, 1, ctypes.c_void_p(kind), 0, is_failing) == 0
    try:
        yield lambda: made >= number
    finally:
        for point in points:
            library.fiu_disable(point)


if __name__ == "__main__":
    sys.exit(main())
