"""Another model for a gallery: every entry is embedded anew from its stored crop, and all are switched at once.

The new gallery grows in a folder inside the old one's, batch by batch, each durable, while the old one stays as it is. A
run that was stopped goes on where it was. At the end one rename puts the new file in the place of the old.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.checks import MAX_KEY, check_embedding, check_text
from gallery.database import DRAFT, FILE, REEMBEDDING, Space, disk_errors, sync
from gallery.errors import CannotReembed, CorruptStore, GalleryMissing, NotUnitLength
from gallery.files import Progress, put, quiet
from gallery.schema import KEYS, MARK_ERASING, row_crc
from gallery.store import Store
from gallery.transfer import sound_rows

Outcome = NDArray[np.float32] | Exception  # of one crop
Embed = Callable[[list[bytes]], Sequence[Outcome]]

BATCH = 64  # crops embedded and committed at a time
MODEL_ID = KEYS.split(", ").index("model_id")
NAMED = 5  # entries that a refusal names

# All that a gallery's file holds, with the checksum of a row for the row.
CONTENT = (
    "SELECT entry_id, crc FROM entries ORDER BY entry_id",
    "SELECT entry_id, crc FROM crops ORDER BY entry_id",
    "SELECT * FROM answers ORDER BY key_hash",
    "SELECT * FROM answer_entries ORDER BY key_hash, place",
    "SELECT * FROM meta ORDER BY name",
)
WITHOUT_CROP = "entry_id NOT IN (SELECT entry_id FROM crops)"
NOT_EMBEDDED = f"SELECT entry_id FROM entries WHERE {WITHOUT_CROP} OR entry_id IN (SELECT entry_id FROM failed)"


@dataclass(frozen=True)
class Reembedded:
    """How many entries were embedded anew, and how many were dropped: they had no crop, or it could not be embedded."""

    entries: int
    missing: int
    failed: int


def reembed(
    folder: Path, *, embed: Embed, space_id: str, dim: int, model_id: str, drop: bool = False, progress: Progress = quiet
) -> Reembedded:
    """Gives every entry the embedding that `embed` makes of its stored crop; its id and all else of it stay.

    A gallery that this model has made is left as it is.

    Args:
        embed: gives for each JPEG its embedding, float32 [D] of unit length, or the error that keeps it from having one.
        model_id: the artefact that embeds, of space space_id and dimension dim.
        drop: delete the entries that cannot be embedded; identities that lose their last one are erased.
        progress: entries.

    Raises:
        CannotReembed: entries have no crop that can be embedded, and drop was not given, or there are no others.
        GalleryMissing, GalleryLocked, CorruptStore, StoreFull, StoreUnavailable, and what embed raises: the gallery
        stays what it was, and the next run goes on from here.
    """
    check_text("model_id", model_id, MAX_KEY)
    space = Space(space_id, dim)
    with closing(Store.open(folder)) as source:
        source.check_entries()
        if source.space == space and not _ids(source, "SELECT entry_id FROM entries WHERE model_id != ? LIMIT 1", model_id):
            source.database.drop_reembedding()
            return Reembedded(0, 0, 0)
        total, missing = source.num_entries(), _ids(source, f"SELECT entry_id FROM entries WHERE {WITHOUT_CROP}")
        if missing and not drop:
            raise _refusal(missing, total, "have no stored crop")
        with closing(_open_draft(source, space)) as draft:
            _embed_rest(source, draft, embed, model_id, progress)
            failed = _ids(draft, "SELECT entry_id FROM failed")
            if failed and not drop:
                raise _refusal(failed, total, f"have a crop that cannot be embedded{_first_reason(draft)}")
            if total and len(missing) + len(failed) == total:
                raise CannotReembed(f"none of {total} entries could be embedded{_first_reason(draft)}; nothing was changed")
            _finish(draft)
        _switch(source)
    return Reembedded(total - len(missing) - len(failed), len(missing), len(failed))


def _open_draft(source: Store, space: Space) -> Store:
    """The new gallery: the one a stopped run left, when it is of this source as it stands and of this space, or a fresh copy."""
    folder = source.database.folder / REEMBEDDING
    fingerprint = _fingerprint(source)
    try:
        draft = Store.open(folder)
    except (GalleryMissing, CorruptStore):
        pass
    else:
        if draft.space == space and _mark(draft, "source") == fingerprint:
            return draft
        draft.close()
    source.database.drop_reembedding()
    _copy(source, folder, space, fingerprint)
    return Store.open(folder)


def _fingerprint(store: Store) -> str:
    digest = hashlib.sha256()
    with store.database.reading() as connection:
        for statement in CONTENT:
            for row in connection.execute(statement):
                digest.update(repr(row).encode())
    return digest.hexdigest()


def _copy(source: Store, folder: Path, space: Space, fingerprint: str) -> None:
    """Makes a gallery of the other space in folder, holding all of source, and marks where its re-embedding stands."""
    with disk_errors(folder):
        folder.mkdir(mode=0o700)
        made = folder / DRAFT
        made.touch(mode=0o600)
        with source.database.reading() as connection:
            connection.execute("VACUUM INTO ?", (str(made),))
        marks = {"space_id": space.space_id, "dim": str(space.dim), "source": fingerprint, "reembedded": "0"}
        with closing(sqlite3.connect(made)) as connection, connection:
            connection.execute("CREATE TABLE failed (entry_id INTEGER PRIMARY KEY, reason TEXT NOT NULL) STRICT")
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", marks.items())
        sync(made)
        put(made, folder / FILE)


def _embed_rest(source: Store, draft: Store, embed: Embed, model_id: str, progress: Progress) -> None:
    """Embeds the entries that the draft does not have yet, batch by batch."""
    after, total = int(_mark(draft, "reembedded")), source.num_entries()
    done = len(_ids(source, "SELECT entry_id FROM entries WHERE entry_id <= ?", after))
    while rows := sound_rows(source, after=after, num=BATCH):
        crops = {row[2]: crop for row in rows if (crop := source.crop(row[2])) is not None}
        outcomes = dict(zip(crops, embed(list(crops.values())), strict=True))
        after, done = rows[-1][2], done + len(rows)
        with draft.database.transaction() as connection:
            for _, _, *keys in rows:
                if keys[0] in outcomes:
                    keys[MODEL_ID] = model_id
                    _write(connection, keys, _checked(outcomes[keys[0]], draft.space.dim))
            connection.execute("UPDATE meta SET value = ? WHERE name = 'reembedded'", (str(after),))
        progress(done, total)


def _checked(outcome: Outcome, dim: int) -> Outcome:
    """The same, or why it is no embedding; raises DimensionMismatch and InvalidRequest, which no other crop would mend."""
    if not isinstance(outcome, Exception):
        try:
            check_embedding(outcome, dim)
        except NotUnitLength as error:
            return error
    return outcome


def _write(connection: sqlite3.Connection, keys: Sequence[Any], outcome: Outcome) -> None:
    """Writes an entry's new embedding and checksum, or why it has none."""
    if isinstance(outcome, Exception):
        reason = " ".join(str(outcome).split())
        connection.execute("INSERT INTO failed VALUES (?, ?)", (keys[0], reason))
    else:
        embedding = outcome.astype("<f2").tobytes()
        connection.execute(
            "UPDATE entries SET model_id = ?, crc = ?, embedding = ? WHERE entry_id = ?",
            (keys[MODEL_ID], row_crc(keys, embedding), embedding, keys[0]),
        )


def _finish(draft: Store) -> None:
    """Deletes what could not be embedded, rewrites the file without a byte of it, and reads all of it once more."""
    for entry_id in _ids(draft, NOT_EMBEDDED):
        draft.delete_entry(entry_id)
    with draft.database.transaction() as connection:
        connection.execute(MARK_ERASING)
    draft.finish_erasure()
    if (fault := next(draft.faults(), None)) is not None:
        raise CorruptStore(f"the re-embedded gallery is damaged ({fault}); check the disk, remove {draft.database.folder}")
    with draft.database.transaction() as connection:
        connection.execute("DROP TABLE failed")
        connection.execute("DELETE FROM meta WHERE name IN ('source', 'reembedded')")
    with draft.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # closing would do it as well, but say nothing if it fails


def _switch(source: Store) -> None:
    """Puts the finished gallery, which is closed, in the place of the old one."""
    source.database.replace(source.database.folder / REEMBEDDING / FILE)
    source.database.drop_reembedding()


def _refusal(entry_ids: list[int], total: int, why: str) -> CannotReembed:
    first = ", ".join(map(str, entry_ids[:NAMED]))
    return CannotReembed(
        f"{len(entry_ids)} of {total} entries {why} (first: {first}), wanted one for every entry; nothing was changed: "
        "delete these entries and enroll them anew later, or give --drop to have them deleted"
    )


def _first_reason(draft: Store) -> str:
    with draft.database.reading() as connection:
        found = connection.execute("SELECT reason FROM failed ORDER BY entry_id").fetchone()
    return "" if found is None else f" ({found[0]:.200})"


def _ids(store: Store, statement: str, *parameters: object) -> list[int]:
    with store.database.reading() as connection:
        return [entry_id for (entry_id,) in connection.execute(statement, parameters)]


def _mark(draft: Store, name: str) -> str:
    with draft.database.reading() as connection:
        found = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return "" if found is None else str(found[0])
