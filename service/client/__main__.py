"""python -m service.client: embed, enroll, search, export and delete from the shell, on a running service."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gallery.progress import ProgressLine
from service.client import commands
from service.client.blocking import Client, Progress
from service.client.commands import Report
from service.client.connection import DEFAULT_URL
from service.client.errors import ReidError, Unauthorised

Command = Callable[[argparse.Namespace, Progress], Report]

STOPPED = 130  # what shells say of a program that Ctrl-C ended


def main(arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run one command and return the exit status: 0 only when everything asked for was done."""
    given = make_parser(environment).parse_args(arguments)
    given.key = environment.get("REID_API_KEY") or None
    return run_command(given)


def run_command(given: argparse.Namespace) -> int:
    """Run the command and say what came of it; an error is one line on standard error."""
    line = ProgressLine(given.command, sys.stderr)
    try:
        with Client(**commands.options(given), retry_s=0) as reid:
            reid.model()  # a service that is not there is said at once; one that goes away meanwhile is waited for
        report: Report = given.run(given, line)
    except (ReidError, ValueError, OSError, KeyboardInterrupt) as error:
        line.close()
        is_stopped = isinstance(error, KeyboardInterrupt)
        print("error: stopped before the end" if is_stopped else f"error: {advised(error)}", file=sys.stderr)
        return STOPPED if is_stopped else 1
    line.close()
    print(json.dumps(report.values) if given.json else report.text)
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def advised(error: BaseException) -> str:
    """Put an error on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: got {error.strerror}, wanted a file to read or a place to write"
    advice = "; the environment variable REID_API_KEY holds the key that is sent" if isinstance(error, Unauthorised) else ""
    return " ".join(str(error).split()) + advice


def make_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The commands and what each takes."""
    parser = argparse.ArgumentParser(
        prog="python -m service.client",
        description=f"{__doc__} The key, where the service wants one, is read from REID_API_KEY. "
        "Exit status 0: everything was done; 1: something failed, named on standard error.",
    )
    every = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    url = environment.get("REID_URL") or DEFAULT_URL

    embed = add(every, "embed", commands.embed, url)
    embed.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    embed.add_argument("-o", "--out", required=True, type=npy, metavar="OUT.npy", help="the file to write; names go to OUT.txt")

    enroll = add(every, "enroll", commands.enroll, url)
    enroll.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="a folder, a CSV file, or --pid's pictures")
    enroll.add_argument("--pid", metavar="NAME", help="whose pictures the files are")
    enroll.add_argument("--camid", metavar="NAME", help="the camera of those that name none")

    add_search(add(every, "search", commands.search, url))

    export = add(every, "export", commands.export, url)
    export.add_argument("out", type=Path, metavar="OUT", help="the file to write: OUT.jsonl or OUT.csv")
    export.add_argument("--identities", action="store_true", help="identities, not entries")
    for name, what in (("pid", "of this identity"), ("camid", "of this camera"), ("since", "from then on"), ("until", "before")):
        export.add_argument(f"--{name}", help=f"only entries {what}")

    delete = add(every, "delete", commands.delete, url)
    delete.add_argument("pids", nargs="*", metavar="PID", help="an identity to erase; there is no way back")
    delete.add_argument("--entry", type=int, action="append", default=[], metavar="ID", help="an entry to delete; repeatable")
    return parser


def add(every: Any, name: str, run: Command, url: str) -> argparse.ArgumentParser:
    """One command with what all of them take; its docstring is its help."""
    text = inspect.getdoc(run) or ""
    command: argparse.ArgumentParser = every.add_parser(name, help=text.split("\n")[0], description=text)
    command.add_argument("--url", default=url, help="where the service is, also REID_URL [%(default)s]")
    command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="longest wait for an answer [%(default)s]")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def add_search(search: argparse.ArgumentParser) -> None:
    """What a search takes; what is not given is the service's default."""
    search.add_argument("paths", nargs="*", type=Path, metavar="CROP", help="pictures of one person")
    search.add_argument("--entry", type=int, metavar="ID", help="search by this entry instead, itself excluded")
    search.add_argument("--html", type=Path, metavar="OUT.html", help="write the list as one page with pictures, too")
    search.add_argument("--pid", metavar="NAME", help="who the query is: the page's frames become green and red")
    search.add_argument("--k", type=int, help="how many matches")
    search.add_argument("--group-by", choices=("identity", "entry"))
    search.add_argument("--pool", choices=("max", "mean", "best"), help="how an identity's entries make one cosine")
    search.add_argument("--best-of", type=int, metavar="N", help="with --pool best: of how many")
    search.add_argument("--camid", action="append", metavar="NAME", help="only this camera; repeatable")
    search.add_argument("--exclude-camid", action="append", metavar="NAME", help="not this camera; repeatable")
    search.add_argument("--since", metavar="TIME", help="captured from then on: 2026-01-31T12:00:00Z")
    search.add_argument("--until", metavar="TIME", help="captured before")
    search.add_argument("--attributes", metavar="JSON", help='only entries with these: {"site":"north"}')
    search.add_argument("--threshold", type=float, metavar="COSINE", help="what a match must reach")
    search.add_argument("--far", type=float, metavar="RATE", help="the same by false-accept rate, such as 0.001")
    search.add_argument("--rerank", action="store_true", default=None, help="re-rank the first ones by their neighbours")
    for name, kind in (("k1", int), ("k2", int), ("shortlist", int)):
        search.add_argument(f"--{name}", type=kind, help="of the re-ranking")
    search.add_argument("--lambda", type=float, dest="lambda_", help="of the re-ranking")


def npy(text: str) -> Path:
    """Take a name that ends in .npy."""
    if Path(text).suffix != ".npy":
        raise argparse.ArgumentTypeError(f"got {text}, wanted a name that ends in .npy")
    return Path(text)


if __name__ == "__main__":  # pragma: no cover (runs in a process of its own)
    sys.exit(main())
