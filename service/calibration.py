"""calibration.json: which cosine to believe, measured on labelled people; read strictly, made from the enrolled ones.

Its thresholds go before the manifest's. A service looks for one of its own (REID_CALIBRATION, or beside the gallery's folder,
since it speaks of the people enrolled there) and then for the artefact's. It is not kept inside the gallery's folder, which is
the gallery's alone, and holds counts, no vectors and no names but the cameras'.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gallery import bootstrap, pairs
from gallery import calibration as figures
from gallery.database import disk_errors, sync
from gallery.entry import Entry
from gallery.errors import EntryNotFound
from gallery.files import create
from gallery.local import LocalGallery
from service.errors import ArtefactRefused, CalibrationUnderWay, NotCalibrated, TooFewPeople
from service.manifest import ModelInfo, Thresholds, parse_thresholds

FEWEST = 20  # identities that two cameras saw; a threshold from fewer says little of anybody else
MOST_PEOPLE, MOST_CROPS = 1000, 8  # drawn by seed: 8,000 crops, half a minute of a slow core
PAGE = 1000


@dataclass(frozen=True)
class Calibration:
    """A calibration that fits the model: its thresholds, what they are called in answers, and the whole file."""

    thresholds: Thresholds
    name: str
    content: dict[str, Any]


class InUse:
    """The calibration that searches go by; it may be replaced while they run, and is made by one at a time."""

    def __init__(self, model: ModelInfo, calibration: Calibration | None) -> None:
        self._model = model
        self._making = threading.Lock()
        self.calibration = calibration

    @property
    def terms(self) -> tuple[Thresholds | None, str]:
        """What searches go by, the calibration's thresholds or else the manifest's, and whose they are: both of one moment."""
        held = self.calibration
        return (self._model.thresholds, "model") if held is None else (held.thresholds, held.name)

    @property
    def content(self) -> dict[str, Any]:
        """The whole calibration; raises NotCalibrated where there is none."""
        held = self.calibration
        if held is None:
            raise NotCalibrated("got no calibration, the manifest's thresholds are used; POST /calibration makes one")
        return held.content

    @property
    def shown(self) -> dict[str, Any]:
        """What goes before the manifest's `thresholds` where the model is described: those of a calibration, or nothing."""
        held = self.calibration
        if held is None:
            return {}
        far = {f"{rate:g}": cosine for rate, cosine in held.thresholds.far}
        default, margin = held.thresholds.default, held.thresholds.margin
        return {"thresholds": {"default": default, "margin": margin, "far": far, "source": held.name}}

    @contextmanager
    def making(self) -> Iterator[None]:
        """Hold the right to make one; raises CalibrationUnderWay when somebody else does."""
        if not self._making.acquire(blocking=False):
            raise CalibrationUnderWay("another calibration is being made, wanted one at a time; ask again a little later")
        try:
            yield
        finally:
            self._making.release()


def find_calibration(own: Path, artefact: Path | None, model: ModelInfo) -> Calibration | None:
    """Read the service's own calibration where there is one, or else the artefact's, or else none.

    Raises:
        ArtefactRefused: it is of another model, or broken; nothing else is used in its place.
    """
    for path in (own, *([] if artefact is None else [artefact / figures.FILE_NAME])):
        if os.path.lexists(path):
            return read_calibration(path, model)
    return None


def read_calibration(path: Path, model: ModelInfo) -> Calibration:
    """Read and check one file; raises ArtefactRefused."""
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ArtefactRefused(f"{path}: got {error.strerror}, wanted a calibration; remove it, or make it readable") from None
    except orjson.JSONDecodeError as error:
        raise ArtefactRefused(f"{path}: got broken JSON ({error}), wanted a calibration; remove it and calibrate again") from None
    return parse_calibration(content, model, path)


def parse_calibration(content: Any, model: ModelInfo, path: Path) -> Calibration:
    """Check a calibration's fields; `path` names it in refusals."""
    again = "remove it, or calibrate again"
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != figures.SCHEMA_VERSION:
        raise ArtefactRefused(f"{path}: got schema_version {version!r}, wanted {figures.SCHEMA_VERSION}; {again}")
    if content.get("model_id") != model.model_id:
        got = f"a calibration of model_id {content.get('model_id')!r}"
        raise ArtefactRefused(f"{path}: got {got}, wanted {model.model_id}: cosines of two models do not compare; {again}")
    try:
        created_at = datetime.fromisoformat(content["created_at"])
        name = f"calibration of {created_at:%Y-%m-%d %H:%M} on {content['source']}"
        measured = {str(float(rate["far"])): rate["threshold"] for rate in content["rates"]}
        taken = {"default": content["threshold"], "margin": content["margin"], "far": measured, "source": name}
        default_far = content["default_far"]
        if default_far is not None and measured.get(str(float(default_far))) != content["threshold"]:
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ArtefactRefused(
            f"{path}: got fields that do not fit, wanted created_at, source, threshold, default_far, margin and rates; {again}"
        ) from None
    thresholds = parse_thresholds(taken, path)
    assert thresholds is not None, "This is a bug: only a manifest may have no thresholds."
    return Calibration(thresholds, name, content)


def from_gallery(gallery: LocalGallery, model: ModelInfo, *, now: datetime, seed: int = 0) -> Calibration:
    """Calibrate on the enrolled identities that two cameras saw; entries without a camera take no part.

    What is enrolled under two pids counts as two people: merge first. Of more than MOST_PEOPLE identities and MOST_CROPS
    entries of one, so many are drawn by `seed`. Searches and changes go on meanwhile.

    Raises:
        TooFewPeople: fewer than FEWEST such identities.
    """
    chosen, num_seen = draw_entries(gallery, np.random.default_rng(seed))
    kept, rows = [], []
    for entry in chosen:
        try:
            rows.append(gallery.embedding(entry.entry_id))
        except EntryNotFound:  # deleted a moment ago
            continue
        kept.append(entry)
    cameras = np.array([str(entry.camid) for entry in kept])
    people = pairs.people_of(np.array(rows), np.array([entry.pid for entry in kept]), cameras)
    if figures.num_paired(people) < FEWEST:
        raise too_few(figures.num_paired(people))
    found = pairs.tally(people, bootstrap.draw_weights(len(people), seed=seed))
    measured = figures.measure(found, people, camera_names=np.unique(cameras).tolist())
    source = f"{len(people):,} of {num_seen:,} enrolled identities that two cameras saw"
    created_at = now.isoformat(timespec="seconds")
    content = figures.document(measured, model_id=model.model_id, source=source, created_at=created_at)
    content = orjson.loads(orjson.dumps(content))  # as it will be read again
    return parse_calibration(content, model, Path(figures.FILE_NAME))


def draw_entries(gallery: LocalGallery, rng: np.random.Generator) -> tuple[list[Entry], int]:
    """Draw entries to calibrate on; returns them and how many identities could have been drawn."""
    by_pid: dict[str, list[Entry]] = defaultdict(list)
    for entry in all_entries(gallery):
        if entry.camid is not None:
            by_pid[entry.pid].append(entry)
    seen = sorted(pid for pid, entries in by_pid.items() if len({entry.camid for entry in entries}) > 1)
    if len(seen) < FEWEST:
        raise too_few(len(seen))
    chosen = [seen[place] for place in sorted(rng.permutation(len(seen))[:MOST_PEOPLE])]
    return [entry for pid in chosen for entry in draw_crops(by_pid[pid], rng)], len(seen)


def too_few(num: int) -> TooFewPeople:
    """The refusal of so many identities."""
    got = f"{num} enrolled identities that two cameras saw"
    return TooFewPeople(f"got {got}, wanted at least {FEWEST}; enroll with camid, or use python -m training.calibrate")


def draw_crops(entries: list[Entry], rng: np.random.Generator) -> list[Entry]:
    """Draw at most MOST_CROPS of an identity's entries, of as many cameras as there are."""
    shuffled = [entries[place] for place in rng.permutation(len(entries))]
    taken: dict[str | None, int] = defaultdict(int)
    turns = []
    for entry in shuffled:
        turns.append(taken[entry.camid])
        taken[entry.camid] += 1
    return [shuffled[place] for place in np.argsort(turns, kind="stable")[:MOST_CROPS]]


def all_entries(gallery: LocalGallery) -> Iterator[Entry]:
    """Yield every entry, page by page."""
    cursor = None
    while True:
        page = gallery.entries(limit=PAGE, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def keep(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all, in place of the one that stands; raises StoreFull, StoreUnavailable."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        try:
            with create(draft) as file:
                file.write(orjson.dumps(calibration.content) + b"\n")
            sync(draft)
            draft.replace(path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)
