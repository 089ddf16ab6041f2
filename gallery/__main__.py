"""python -m gallery: look after a gallery's folder while no service has it open."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gallery import commands
from gallery.commands import Report
from gallery.errors import GalleryError
from gallery.files import Progress
from gallery.progress import ProgressLine

Command = Callable[[argparse.Namespace, Progress], Report]

FOLDER = ("folder", "the gallery's folder")
STOPPED = 130  # what shells say of a program that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 only when the thing asked for was done and found sound."""
    return run_command(make_parser().parse_args(arguments))


def run_command(given: argparse.Namespace) -> int:
    """Runs the command and says what came of it; an error is one line on standard error."""
    line = ProgressLine(given.command, sys.stderr)
    try:
        report: Report = given.run(given, line)
    except (GalleryError, KeyboardInterrupt) as error:
        line.close()
        is_stopped = isinstance(error, KeyboardInterrupt)
        print("error: stopped before the end" if is_stopped else f"error: {error}", file=sys.stderr)
        return STOPPED if is_stopped else 1
    line.close()
    print(json.dumps(report.values, default=str) if given.json else _text(report))
    return 0 if report.is_sound else 1


def make_parser() -> argparse.ArgumentParser:
    """The commands and what each takes."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=f"{__doc__} Exit status 0: done, and found sound.")
    every = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run in (("stats", commands.stats), ("verify", commands.verify), ("rebuild", commands.rebuild)):
        _add(every, name, run, FOLDER)

    to = ("out", "the file to make, for instance gallery.tar; nothing is overwritten")
    _add(every, "snapshot", commands.snapshot, FOLDER, to)
    of, into = ("snapshot", "the file that a snapshot made"), ("folder", "the folder to make; it must not exist")
    _add(every, "restore", commands.restore, of, into)

    export = _add(every, "export", commands.export, FOLDER, ("out", "the folder to make; it must not exist"))
    export.add_argument("--crops", action="store_true", help="the stored crops too")
    of, into = ("export", "the folder that an export made"), ("folder", "the gallery's folder; made when there is none")
    _add(every, "import", commands.import_, of, into)

    expire = _add(every, "expire", commands.expire, FOLDER)
    age = "30d or 12h before now, or a time with offset: 2026-01-01T00:00:00Z"
    expire.add_argument("--older-than", required=True, metavar="AGE", help=age)

    reembed = _add(every, "reembed", commands.reembed_, FOLDER)
    reembed.add_argument("--model", type=Path, required=True, metavar="ARTEFACT", help="the new model's folder")
    reembed.add_argument("--drop", action="store_true", help="delete entries that have no crop that can be embedded")
    return parser


def _add(every: Any, name: str, run: Command, *paths: tuple[str, str]) -> argparse.ArgumentParser:
    """One command; its docstring is its help."""
    text = inspect.getdoc(run) or ""
    command: argparse.ArgumentParser = every.add_parser(name, help=text.split("\n")[0], description=text)
    for path, meaning in paths:
        command.add_argument(path, type=Path, help=meaning)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def _text(report: Report) -> str:
    """For people: faults, one a line, or names and values."""
    if "faults" in report.values:
        return "\n".join(report.values["faults"]) or "sound"
    return "\n".join(f"{name:15}{value}" for name, value in report.values.items())


if __name__ == "__main__":  # pragma: no cover (runs in a process of its own)
    sys.exit(main())
