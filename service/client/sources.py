"""What the shell names -> pictures and their labels: a folder per identity, a CSV file, or files of one identity."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_NAME = 128  # characters of a pid or camid
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Source:
    """One picture file and what is known of it; captured_at is RFC 3339 with an offset."""

    path: Path
    pid: str
    camid: str | None = None
    captured_at: str | None = None


def pictures(paths: Iterable[Path]) -> list[Path]:
    """List the files, and the pictures in the folders and below; raises ValueError when there are none."""
    found = [path for given in paths for path in (below(given) if given.is_dir() else [given])]
    if not found:
        raise ValueError(f"got no picture, wanted files that end in {', '.join(SUFFIXES)}")
    return found


def below(folder: Path) -> list[Path]:
    """List the pictures in a folder and below, in order; hidden files are left out."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def read_sources(paths: Sequence[Path], *, pid: str | None, camid: str | None) -> list[Source]:
    """Read what is to be enrolled.

    Args:
        pid: whose pictures the files are; None for one folder per identity, or a CSV file.
        camid: the camera of those that name none themselves.

    Raises:
        ValueError: nothing to enroll, or a line of the CSV file that makes no sense.
    """
    if pid is not None:
        check_name("--pid", pid)
        found = [Source(path, pid) for path in pictures(paths)]
    elif len(paths) == 1 and paths[0].is_dir():
        found = list(read_folder(paths[0]))
    elif len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        found = list(read_csv(paths[0]))
    elif missing := next((path for path in paths if not path.exists()), None):
        raise ValueError(f"{missing}: got nothing there, wanted a folder with PID/*.jpg, one CSV file, or files and --pid NAME")
    else:
        raise ValueError("got files without --pid, wanted --pid NAME FILES, a folder with PID/*.jpg, or one CSV file")
    return [Source(one.path, one.pid, one.camid or camid, one.captured_at) for one in found]


def read_folder(folder: Path) -> Iterator[Source]:
    """Read DIR/PID/*.jpg and DIR/PID/CAMID/*.jpg; raises ValueError when there is none."""
    found = below(folder)
    parts = {path: path.relative_to(folder).parts for path in found}
    strays = [path for path in found if len(parts[path]) not in (2, 3)]
    if strays or not found:
        got = f"{len(strays)} elsewhere, {strays[0]} first" if strays else "none"
        raise ValueError(f"{folder}: wanted every picture in PID/ or PID/CAMID/, got {got}; move it, or name files with --pid")
    for path in found:
        names = parts[path][:-1]
        for name in names:
            check_name(str(path), name)
        yield Source(path, names[0], names[1] if len(names) > 1 else None)


def read_csv(path: Path) -> Iterator[Source]:
    """Read the columns path and pid and, optionally, camid and captured_at; paths are relative to the file.

    Other columns, such as a training's split, are left out.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte-order mark first
            lines = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(lines, [])]
            if not {"path", "pid"} <= set(header) or len(set(header)) < len(header):
                raise ValueError(f"{path}: got the columns {','.join(header)!r}, wanted path,pid and perhaps camid,captured_at")
            yield from (read_line(path, lines.line_num, header, fields) for fields in lines if fields)
    except OSError as error:
        raise ValueError(f"{path}: got {error.strerror}, wanted a CSV file to read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: got {error}, wanted a comma-separated file in UTF-8") from error


def read_line(path: Path, number: int, header: Sequence[str], fields: Sequence[str]) -> Source:
    """Read one line; an empty camid or captured_at is none."""
    place = f"{path}, line {number}"
    if len(fields) != len(header):
        raise ValueError(f"{place}: got {len(fields)} fields, wanted {len(header)} ({','.join(header)})")
    values = {name: field.strip() for name, field in zip(header, fields, strict=True)}
    captured_at = values.get("captured_at") or None
    check_name(place, values["pid"])
    if values.get("camid"):
        check_name(place, values["camid"])
    if captured_at is not None:
        check_time(place, captured_at)
    return Source(path.parent / values["path"], values["pid"], values.get("camid") or None, captured_at)


def check_name(place: str, name: str) -> None:
    """Refuse what the service would refuse with the whole request, so that the place can be said."""
    is_strange = any(unicodedata.category(character) in ("Cc", "Cs") or character == "\ufffd" for character in name)
    if is_strange or not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"{place}: got the name {name[:MAX_NAME]!a}, wanted 1 to {MAX_NAME} printable characters of UTF-8")


def check_time(place: str, text: str) -> None:
    """Refuse what is no time with an offset."""
    wrong = ValueError(f"{place}: got captured_at {text!r}, wanted a time with an offset like 2026-01-31T12:00:00Z")
    if not RFC_3339.fullmatch(text):
        raise wrong
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise wrong from None
