"""What each command of python -m gallery does: a function of what was given and of a progress, which returns what to say."""

from __future__ import annotations

import re
import sqlite3
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery import archive
from gallery.database import DRAFT, REEMBEDDING
from gallery.errors import CorruptStore, InvalidRequest
from gallery.files import Progress
from gallery.local import LocalGallery
from gallery.reembed import Embed, Outcome, reembed
from gallery.store import Store
from gallery.transfer import export_entries, import_entries

UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}
MAX_PIXELS = 16_000_000  # of a stored crop; the service's own default limit


@dataclass(frozen=True)
class Report:
    """What a command found or did: names and values, and whether all is sound."""

    values: dict[str, Any]
    is_sound: bool = True


def stats(given: Namespace, progress: Progress) -> Report:
    """The gallery in numbers."""
    with closing(Store.open(given.folder)) as store:
        database, space = store.database, store.space
        counts = dict(zip(("entries", "identities", "cameras"), store.counts(), strict=True))
        return Report(counts | {"bytes": database.bytes(), "schema_version": database.schema_version, **space._asdict()})


def verify(given: Namespace, progress: Progress) -> Report:
    """Checks everything, and fails on any finding.

    Every entry and crop against its checksum, every index and reference against the rows, the search index against the
    entries; what belongs to nothing, and what stopped commands left behind.
    """
    faults = find_faults(given.folder, progress)
    return Report({"sound": not faults, "faults": faults}, is_sound=not faults)


def rebuild(given: Namespace, progress: Progress) -> Report:
    """Makes every index anew from the rows, rewrites the file without gaps, then verifies it."""
    with closing(Store.open(given.folder)) as store:
        before = store.database.bytes()
        try:
            with store.database.transaction() as connection:
                connection.execute("REINDEX")
        except sqlite3.IntegrityError as error:
            raise CorruptStore(f"rows of {given.folder} contradict each other ({error}); restore a snapshot") from error
        store.database.compact()
        after = store.database.bytes()
    faults = find_faults(given.folder, progress)
    return Report({"sound": not faults, "faults": faults, "bytes_before": before, "bytes": after}, is_sound=not faults)


def snapshot(given: Namespace, progress: Progress) -> Report:
    """Writes the whole gallery into one checksummed file, readable by its owner alone."""
    with closing(Store.open(given.folder)) as store:
        return Report(asdict(archive.snapshot(store, given.out, progress=progress)))


def restore(given: Namespace, progress: Progress) -> Report:
    """Makes a gallery of a snapshot; every byte and every entry is checked before the folder appears."""
    taken = archive.restore(given.snapshot, given.folder, progress=progress)
    return Report(asdict(taken) | {"folder": given.folder})


def export(given: Namespace, progress: Progress) -> Report:
    """Writes every entry into files for other programs.

    For every 50,000 entries entries-00000.jsonl (one JSON object a line), embeddings-00000.npy (float16, a row for each
    line) and with --crops crops-00000.zip (ENTRY_ID.jpg); and manifest.json with the sha256 of each. Remembered answers
    of Idempotency-Keys are not exported; a snapshot holds everything.
    """
    with closing(Store.open(given.folder)) as store:
        done = export_entries(store, given.out, crops=given.crops, progress=progress)
    return Report(asdict(done) | {"path": given.out})


def import_(given: Namespace, progress: Progress) -> Report:
    """Enrolls an export's entries into a gallery of the same embedding space.

    Entries get new ids and are enrolled now: where captured_at is unknown, their age counts from the import. A repeat
    adds nothing, and finishes what was stopped; for that, an entry with neither client_key nor content_hash gets a
    client_key made of its content.
    """
    return Report(asdict(import_entries(given.export, given.folder, progress=progress)))


def expire(given: Namespace, progress: Progress) -> Report:
    """Erases the entries whose captured_at, or where unknown the time of enrolment, is older than a time.

    No byte of them is left in any file of the folder.
    """
    before = time_of(given.older_than, datetime.now(UTC))
    with closing(Store.open(given.folder)) as store:
        store.check_entries()
        _check_rows(store, progress)
        erased = store.expire(before)
        store.finish_erasure()
    counts = {"identities": erased.identities, "crops": erased.crops, "answers": erased.answers}
    return Report({"before": before.isoformat(), "entries": len(erased.entry_ids)} | counts)


def reembed_(given: Namespace, progress: Progress) -> Report:
    """Embeds every entry anew with another model, from its stored crop, and switches to that model at once at the end.

    A run that was stopped goes on where it was, as long as the gallery has not changed since. Stored crops are small
    JPEGs (up to 512 pixels), so the embeddings differ a little from those of the pictures first sent.
    """
    # The one place where the gallery knows the service: a model is needed here, and nowhere else.
    from service.embedder import Embedder
    from service.errors import ServiceError

    try:
        embedder = Embedder.open(given.model)
    except ServiceError as error:
        raise InvalidRequest(str(error)) from error
    model = embedder.model
    done = reembed(
        given.folder,
        embed=embed_with(embedder),
        space_id=model.space_id,
        dim=model.dim,
        model_id=model.model_id,
        drop=given.drop,
        progress=progress,
    )
    return Report(asdict(done) | {"space_id": model.space_id, "model_id": model.model_id})


def _check_rows(store: Store, progress: Progress) -> None:
    """Raises CorruptStore when an entry fails its checksum: a damaged time would erase the wrong person, or keep one."""
    done, total = 0, store.num_entries()
    for rows in store.rows():
        done += len(rows.entry_ids)
        progress(done, total)


def find_faults(folder: Path, progress: Progress) -> list[str]:
    """Everything wrong; the store is read first and by itself, because a gallery with a damaged row does not open."""
    faults: list[str] = []
    try:
        with closing(Store.open(folder)) as store:
            faults.extend(store.faults(progress))
        if not faults:
            with LocalGallery.reopen(folder, progress=progress) as gallery:
                faults.extend(gallery.differences())
    except CorruptStore as error:
        faults.append(str(error))
    return faults + [f"{left} was left behind by a command that was stopped; {what}" for left, what in leftovers(folder)]


def leftovers(folder: Path) -> list[tuple[Path, str]]:
    """What stopped commands left in the folder or beside it, and what to do with each."""
    known = [
        (folder / DRAFT, "python -m gallery rebuild removes it"),
        (folder / REEMBEDDING, "python -m gallery reembed goes on with it, rebuild removes it"),
        *((path, "remove it") for path in sorted(folder.glob("*.snapshotting")) + sorted(folder.glob("*.exporting"))),
        (Path(f"{folder.absolute()}.restoring"), "remove it"),
    ]
    return [(path, what) for path, what in known if path.exists()]


def time_of(older_than: str, now: datetime) -> datetime:
    """The time that "30d", "12h" (before now) or an RFC 3339 time with offset names; raises InvalidRequest."""
    wrong = InvalidRequest(f"got --older-than {older_than!r}, wanted 30d, 12h, or a time such as 2026-01-01T00:00:00Z")
    try:
        if ago := re.fullmatch(r"(\d{1,6})([dh])", older_than, re.ASCII):
            return now - int(ago[1]) * UNITS[ago[2]]
        time = datetime.fromisoformat(older_than)
    except (ValueError, OverflowError) as error:
        raise wrong from error
    if time.utcoffset() is None:
        raise wrong
    return time


def embed_with(embedder: Any) -> Embed:
    """Embeds JPEGs as an enrolment does, the same decoding, the same pixels; one that cannot be gives its error.

    Args: embedder: a service.embedder.Embeds, named here without importing it.
    """
    from service.crops import decode, resize
    from service.errors import InferenceFailed, ServiceError

    def pixels_of(jpeg: bytes) -> NDArray[np.uint8] | Exception:
        try:
            return resize(decode(jpeg, max_pixels=MAX_PIXELS), height=embedder.model.height, width=embedder.model.width)
        except ServiceError as error:
            return error

    def rows_of(crops: Sequence[NDArray[np.uint8]]) -> list[Outcome]:
        try:
            return list(embedder.embed(np.stack(crops))) if crops else []
        except InferenceFailed as error:  # of one crop, perhaps: then the others are embedded without it
            return [error] if len(crops) == 1 else [row for crop in crops for row in rows_of([crop])]

    def embed(jpegs: list[bytes]) -> list[Outcome]:
        pixels = [pixels_of(jpeg) for jpeg in jpegs]
        rows = iter(rows_of([one for one in pixels if not isinstance(one, Exception)]))
        return [one if isinstance(one, Exception) else next(rows) for one in pixels]

    return embed
