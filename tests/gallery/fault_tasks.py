"""What is done while the disk fails, on a small gallery, and what must be so afterwards."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gallery import archive
from gallery.errors import OutputExists
from gallery.local import LocalGallery
from gallery.reembed import reembed
from gallery.schema import KEYS, row_crc
from gallery.store import UNFINISHED_ERASURE, Store
from gallery.transfer import export_entries, import_entries
from tests.gallery.crash import check_files, check_gallery, contents, settle
from tests.gallery.crash_model import DIM, History, Lane, entry_of
from tests.gallery.crash_writer import SPACE, perform

OTHER = "space-2"
TOKENS = [token for number in range(60) if entry_of(token := f"0-{number}{'-old' * (number % 5 == 0)}", "0").crop_jpeg]
BASE = {"do": "enroll", "key": "request", "entries": [[token, f"0-pid{place // 3:02}"] for place, token in enumerate(TOKENS)]}
GONE = {"do": "delete_identity", "pid": "0-pid03"}


@dataclass
class Scene:
    """A gallery's folder, a folder beside it, what the gallery holds, and the gallery while it is open."""

    folder: Path
    outside: Path
    lane: Lane
    gallery: LocalGallery | None = None

    def open(self):
        self.gallery = LocalGallery.open(self.folder, space_id=SPACE, dim=DIM)
        self.lane.ids.update({token: entry.entry_id for token, entry in contents(self.gallery).items()})

    def close(self):
        if self.gallery is not None:
            self.gallery.close()
            self.gallery = None


@dataclass
class Task:
    """What is done under the fault; op: what it does to the lane. made: the folder of another gallery that it makes."""

    name: str
    act: Callable[[Scene], object]
    op: dict = field(default_factory=lambda: {"do": "nothing"})
    base: str = "base"
    prepare: Callable[[Scene], object] = lambda scene: None
    made: str | None = None

    def check_after(self, scene, *, is_done):
        """With the fault gone: what stands is as before or as after the task, and the task can be done, if it is not."""
        before, after = scene.lane, scene.lane.after(self.op)
        if scene.gallery is not None:
            assert set(scene.gallery.faults()) <= {UNFINISHED_ERASURE}
            found = settle(scene.gallery, contents(scene.gallery), [after] if is_done else [before, after])
            is_done = is_done or found is after != before
        if not is_done:
            with suppress(OutputExists):  # what was put in place, and could not be synced there, is whole
                self.act(scene)
        scene.close()
        with LocalGallery.reopen(scene.folder) as gallery:
            if gallery.space_id == SPACE:
                check_gallery(gallery, [History([after], [], [], [], [])], index="exact")
                check_files(scene.folder, [History([before], [], [], [], [])], [after])
            else:
                assert gallery.faults() == [] and set(contents(gallery)) == set(after.entries)
        if self.made == "tar":
            _restore(scene)
        if self.made is not None:
            with LocalGallery.reopen(scene.outside / self.made.replace("tar", "restored")) as gallery:
                assert gallery.faults() == [] and set(contents(gallery)) == set(after.entries)


def make_bases(folder):
    """The galleries that tasks begin with, all of one lane, which is returned: closed, killed in an erasure, and old."""
    lane = Lane(0)
    scene = Scene(folder / "base", folder, lane)
    scene.open()
    perform(scene.gallery, folder, lane, BASE)
    scene.close()
    with closing(Store.open(folder / "base")) as store:
        store.delete_identity(GONE["pid"])
        shutil.copytree(folder / "base", folder / "killed")
        store.finish_erasure()
    shutil.copytree(folder / "base", folder / "old")
    _make_old(folder / "old" / "gallery.sqlite")
    return lane.after(BASE).after(GONE)


def _make_old(path):
    """Gives a gallery's file schema 1: embeddings in float32."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for embedding, *keys in connection.execute(f"SELECT embedding, {KEYS} FROM entries").fetchall():
            wide = np.frombuffer(embedding, "<f2").astype("<f4").tobytes()
            row = row_crc(keys, wide), wide, keys[0]
            connection.execute("UPDATE entries SET crc = ?, embedding = ? WHERE entry_id = ?", row)
        connection.execute("PRAGMA user_version = 1")


def tasks(lane):
    """Everything that writes."""
    many = [[f"0-many{number}", f"0-pid{number % 30:02}"] for number in range(40)]
    ops = {
        "enroll one": {"do": "enroll", "key": "one", "entries": [["0-new", "0-pid01"]]},
        "enroll many": {"do": "enroll", "key": None, "entries": many},
        "delete entry": {"do": "delete_entry", "token": TOKENS[0]},
        "delete identity": {"do": "delete_identity", "pid": "0-pid01"},
        "rename": {"do": "rename", "pid": "0-pid01", "new": "0-pid99"},
        "merge": {"do": "rename", "pid": "0-pid01", "new": "0-pid02"},
        "expire": {"do": "expire"},
    }
    for name, op in ops.items():
        yield Task(name, lambda scene, op=op: perform(scene.gallery, scene.outside, scene.lane, op), op, prepare=Scene.open)
    yield Task("snapshot", lambda scene: scene.gallery.snapshot(scene.outside / "tar"), prepare=Scene.open, made="tar")
    yield Task("restore", _restore, prepare=_take_snapshot, made="restored")
    yield Task("export", _export)
    yield Task("import", _import, prepare=_export, made="imported")
    yield Task("open killed", _open, base="killed")
    yield Task("migrate", _open, base="old")
    yield Task("reembed", _reembed)
    yield Task("create", _create)
    yield Task("open", _open)


def _take_snapshot(scene):
    with closing(Store.open(scene.folder)) as store:
        archive.snapshot(store, scene.outside / "tar")


def _restore(scene):
    archive.restore(scene.outside / "tar", scene.outside / "restored")


def _export(scene):
    with closing(Store.open(scene.folder)) as store:
        export_entries(store, scene.outside / "export", crops=True)


def _import(scene):
    import_entries(scene.outside / "export", scene.outside / "imported")


def _open(scene):
    LocalGallery.open(scene.folder, space_id=SPACE, dim=DIM).close()


def _create(scene):
    LocalGallery.open(scene.outside / "new", space_id=SPACE, dim=DIM).close()


def _reembed(scene):
    def embed(jpegs):
        rows = [np.random.default_rng(len(jpeg)).normal(size=8) for jpeg in jpegs]
        return [(row / np.linalg.norm(row)).astype(np.float32) for row in rows]

    reembed(scene.folder, embed=embed, space_id=OTHER, dim=8, model_id="model-2")
