"""python -m gallery: look at a gallery's folder while no service has it open."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from gallery.errors import CorruptStore, GalleryError
from gallery.local import LocalGallery
from gallery.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 only when the thing asked for was done and found sound."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("stats", "the gallery in numbers"),
        ("verify", "check every entry and crop against its checksum, and the index against the entries"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("folder", type=Path, help="the gallery's folder")
        command.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        return (_stats if given.command == "stats" else _verify)(given.folder, as_json=given.json)
    except GalleryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _stats(folder: Path, *, as_json: bool) -> int:
    with LocalGallery.reopen(folder) as gallery:
        numbers = asdict(gallery.stats())
    print(json.dumps(numbers) if as_json else "\n".join(f"{name:15}{number}" for name, number in numbers.items()))
    return 0


def _verify(folder: Path, *, as_json: bool) -> int:
    faults = _faults(folder)
    if as_json:
        print(json.dumps({"sound": not faults, "faults": faults}))
    else:
        print("\n".join(faults) or "sound")
    return 1 if faults else 0


def _faults(folder: Path) -> list[str]:
    """Everything wrong; the store is read first and by itself, because a gallery with a damaged row does not open."""
    faults: list[str] = []
    try:
        store = Store.open(folder)
        try:
            faults.extend(store.faults())
        finally:
            store.close()
        if not faults:
            with LocalGallery.reopen(folder) as gallery:
                faults.extend(gallery.faults())
    except CorruptStore as error:
        faults.append(str(error))
    return faults


if __name__ == "__main__":  # pragma: no cover (runs in a process of its own)
    sys.exit(main())
