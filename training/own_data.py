"""The user's own crops: a CSV file, or a folder per identity, with or without cameras and with or without a split.

    path,pid,camid,split                   DIR/train/anna/0001_c1.jpg      camera 1, from _c<number>, c<number>_, cam<number>_
    crops/1.jpg,anna,door,train            DIR/query/ben/c2_0001.jpg       camera 2
    crops/2.jpg,ben,yard,query             DIR/gallery/ben/yard/0001.jpg   camera "yard", from one more folder
    ...                                    DIR/anna/..., DIR/ben/...       no split: some identities are held out

Identities and cameras may be any text; identity "-1" is junk, as in Market-1501.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from training.samples import JUNK_PID, Dataset, Sample, images, refuse_missing, subfolders

SPLITS = ("train", "query", "gallery")
COLUMNS = ("path", "pid", "camid", "split")
OTHER_SPLITS = frozenset({*SPLITS, "test", "val", "valid", "validation", "training", "testing", "probe"})
# Of a file name: c2, cam02 or camera2, where a part of it begins; the s is Market-1501's: 0002_c1s1_000451_03.jpg
CAMERA = re.compile(r"(?:^|_)c(?:am(?:era)?)?(\d+)(?![0-9a-rt-zA-Z])")
HELD_OUT = 0.2  # ours: share of the identities, where the data has no split
NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Row:
    """One crop before identities and cameras are numbered; camera and split are None where they are not given."""

    path: Path
    pid: str
    camera: str | None
    split: str | None


def read_csv(path: Path, *, cameras: bool, seed: int) -> Dataset:
    """Reads a CSV file with the columns path and pid and, optionally, camid and split; paths are relative to the file.

    Raises ValueError for a file that is not UTF-8 or not CSV, a missing column, a wrong line (its number is named), a path
    listed twice, and files that are listed and missing.
    """
    lines = csv_lines(path)
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    if not {"path", "pid"} <= set(header) or len(set(header)) < len(header):
        raise ValueError(f"{path}: got the columns {','.join(header)!r}, wanted {','.join(COLUMNS)} (camid and split optional)")
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    for number, fields in lines:
        row = csv_row(f"{path}, line {number}", path.parent, header, fields)
        before = first_line.setdefault(os.path.normpath(row.path), number)
        if before != number:
            raise ValueError(f"{path}, line {number}: got {row.path} again, wanted it once; it is listed in line {before}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: got a header and no crop, wanted a line for each")
    refuse_missing(path, [row.path for row in rows])
    unused = [name for name in header if name not in COLUMNS]
    notes = [f"{path.name}: columns not used: {', '.join(unused)}"] if unused else []
    return to_dataset(path, rows, notes, cameras=cameras, seed=seed, name=path.stem)


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the lines of a CSV file that are not blank, each with its number from 1; raises ValueError as `read_csv` does."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte-order mark first
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, fields) for fields in reader if fields)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: got bytes that are not UTF-8 ({error.reason}), wanted a CSV file saved as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: got {error}, wanted a comma-separated file") from error


def csv_row(place: str, folder: Path, header: Sequence[str], fields: Sequence[str]) -> Row:
    """Returns one line of a CSV file; raises ValueError that begins with `place`."""
    if len(fields) != len(header):
        raise ValueError(f"{place}: got {len(fields)} fields, wanted {len(header)} ({','.join(header)})")
    values = {name: field.strip() for name, field in zip(header, fields, strict=True) if name in COLUMNS}
    for name, value in values.items():
        if not value:
            raise ValueError(f"{place}: got an empty {name}, wanted one on every line")
    split = values.get("split")
    if split not in (None, *SPLITS):
        raise ValueError(f"{place}: got the split {split!r}, wanted one of {', '.join(SPLITS)}")
    return Row(folder / values["path"], values["pid"], values.get("camid"), split)


def read_folders(folder: Path, *, cameras: bool, seed: int) -> Dataset | None:
    """Reads a folder per identity, split into train/, query/ and gallery/ or not; None when no folder in it holds an image.

    Raises ValueError for another set of splits (test/, val/) and for folders without an image.
    """
    inside = {path.name: path for path in subfolders(folder)}
    splits = [name for name in SPLITS if name in inside]
    left_out = [f"{name}/" for name in inside if splits and name not in splits]
    if not splits and any(name.lower() in OTHER_SPLITS for name in inside):
        raise ValueError(f"{folder}: got {', '.join(f'{name}/' for name in inside)}, wanted {'/, '.join(SPLITS)}/")
    rows = []
    for name in splits:
        part = list(folder_rows(inside[name], name))
        if not part:
            raise ValueError(f"{inside[name]}: got no image in a folder below, wanted a folder per identity: {name}/<pid>/*.jpg")
        rows += part
    rows = rows if splits else list(folder_rows(folder, None))
    if not rows:
        return None
    strays = sum(len(images(place)) for place in (folder, *(inside[name] for name in splits)))
    notes = [f"left out: {', '.join(left_out)}"] if left_out else []
    notes += [f"{strays} images left out that lie in no identity's folder"] if strays else []
    return to_dataset(folder, rows, notes, cameras=cameras, seed=seed)


def folder_rows(folder: Path, split: str | None) -> Iterator[Row]:
    """Yields the crops of a folder per identity; the camera is a folder's name below the identity, else in the file's name."""
    for person in subfolders(folder):
        for path in images(person):
            found = CAMERA.search(path.name)
            yield Row(path, person.name, found[1] if found else None, split)
        for place in subfolders(person):
            yield from (Row(path, person.name, place.name, split) for path in images(place))


def to_dataset(source: Path, rows: Sequence[Row], notes: Sequence[str], *, cameras: bool, seed: int, name: str = "") -> Dataset:
    """Numbers identities and cameras, drops junk, and holds out a test where the rows have no split.

    Raises ValueError when only some crops have a camera, one test list comes without the other, or too few identities are left.
    """
    kept = [row if cameras else replace(row, camera=None) for row in rows if row.pid != str(JUNK_PID)]
    if not kept:
        raise ValueError(f"{source}: got {len(rows)} crops, all junk (pid -1), wanted at least one identity")
    notes = list(notes)
    unknown = [row.path for row in kept if row.camera is None]
    if 0 < len(unknown) < len(kept):
        wanted = (
            "a camera for every crop (file names such as 0001_c2.jpg or cam2_0001.jpg, or DIR/<pid>/<camera>/), or --no-cameras"
        )
        raise ValueError(f"{source}: got {len(unknown)} of {len(kept)} crops without a camera ({unknown[0]}), wanted {wanted}")
    if unknown and cameras:
        notes.append(
            "no crop has a camera (a CSV column camid, a file name like 0001_c2.jpg or cam2_0001.jpg, or DIR/<pid>/<camera>/): "
            "testing will need --no-cameras"
        )
    if kept[0].split is None:
        kept, note = hold_out(source, kept, seed=seed)
        notes.append(note)
    pids, camids = numbered(row.pid for row in kept), numbered(row.camera or "" for row in kept)
    lists: dict[str | None, list[Sample]] = defaultdict(list)
    for row in kept:
        lists[row.split].append(Sample(row.path, pids[row.pid], camids[row.camera or ""] if row.camera else 0))
    if bool(lists["query"]) != bool(lists["gallery"]):
        raise ValueError(
            f"{source}: got {len(lists['query'])} query and {len(lists['gallery'])} gallery crops, wanted both or none; "
            "identities to test with need two crops or more"
        )
    train, query, gallery = (tuple(lists[split]) for split in SPLITS)
    junk = len(rows) - len(kept)
    return Dataset(source, train, query, gallery, junk, warnings=tuple(notes), has_cameras=not unknown, name=name)


def numbered(texts: Iterable[str]) -> dict[str, int]:
    """Returns a number from 1 for each text: the number it spells where all of them spell one, else its place in sorted order."""
    distinct = sorted(set(texts))
    if all(NUMBER.fullmatch(text) for text in distinct):
        return {text: int(text) for text in distinct}
    return {text: place for place, text in enumerate(distinct, 1)}


def hold_out(source: Path, rows: Sequence[Row], *, seed: int) -> tuple[list[Row], str]:
    """Returns the rows with a split, a fifth of the identities held out to test with, and the sentence that says so.

    The identities are drawn by `seed` among those that can be tested with: two cameras saw them, or, without cameras, they
    have two crops. Where there is none, any are taken. Raises ValueError with fewer than four identities.
    """
    people: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        people[row.pid].append(row)
    if len(people) < 4:
        raise ValueError(f"{source}: got {len(people)} identities and no split, wanted at least 4, or a split of your own")
    has_cameras = rows[0].camera is not None
    testable = [
        pid for pid, crops in people.items() if len({row.camera if has_cameras else row.path for row in crops}) > 1
    ] or list(people)
    wanted = min(max(2, round(HELD_OUT * len(people))), len(testable))
    held_out = set(np.random.default_rng(seed).permutation(sorted(testable))[:wanted].tolist())
    trained = [replace(row, split="train") for row in rows if row.pid not in held_out]
    tested = chain.from_iterable(test_rows(people[pid]) for pid in sorted(held_out))
    note = f"no split given: {wanted} of {len(people)} identities, drawn by seed {seed}, are held out to test with"
    return [*trained, *tested], note


def test_rows(crops: Sequence[Row]) -> list[Row]:
    """Splits one identity's crops: the first of each camera is a query and the others are the gallery.

    A camera that took one crop gives it to the gallery; where all did, the first camera's is the query. So whoever two cameras
    saw has a valid query.
    """
    by_camera: dict[str | None, list[Row]] = defaultdict(list)
    for row in crops:
        by_camera[row.camera].append(row)
    queries = [taken[0] for taken in by_camera.values() if len(taken) > 1] or [crops[0]]
    return [replace(row, split="query" if row in queries else "gallery") for row in crops]
