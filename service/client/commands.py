"""What each command of python -m service.client does: a function of what was given, which returns what to say."""

from __future__ import annotations

import asyncio
import csv
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import orjson

from service.client.aio import AsyncClient
from service.client.answers import Enrolled, Entry, Identity, ItemError, SearchAnswer
from service.client.blocking import Client, Progress
from service.client.errors import AllFailed, NotFound, Rejected
from service.client.page import page
from service.client.sources import pictures, read_sources
from service.client.tables import in_words, plain, table

# The parameters of a search that the shell can give; --pid is taken by the truth.
SEARCH_OPTIONS = (
    *("k", "group_by", "pool", "best_of", "camid", "exclude_camid", "since", "until", "threshold", "far"),
    *("attributes", "rerank", "k1", "k2", "lambda_", "shortlist"),
)
OF_A_CROP = ("undecodable_image", "image_too_large")  # codes that are a single crop's fault


@dataclass(frozen=True)
class Report:
    """What a command did: for people, for scripts, and a line for everything that failed."""

    text: str
    values: dict[str, Any]
    failures: tuple[str, ...] = ()


def options(given: Namespace) -> dict[str, Any]:
    """Say where the service is, and who asks."""
    return {"url": given.url, "key": given.key, "timeout_s": given.timeout}


def embed(given: Namespace, progress: Progress) -> Report:
    """Embeds pictures into OUT.npy, float32 [N, D], and writes their names into OUT.txt, a line for each row.

    A picture that fails is named at the end and has no row.
    """
    return asyncio.run(embed_files(given, progress))


async def embed_files(given: Namespace, progress: Progress) -> Report:
    """Embed, and write what came of it."""
    paths = pictures(given.paths)
    try:
        async with AsyncClient(**options(given)) as reid:
            answer = await reid.embed(paths, progress=progress)
    except AllFailed as error:
        return Report("embedded 0", {"embedded": 0}, named(error.items, paths))
    failed = {error.index for error in answer.errors}
    good = [place for place in range(len(paths)) if place not in failed]
    with whole(given.out) as aside, aside.open("wb") as file:
        np.save(file, answer.embeddings[good])
    with whole(given.out.with_suffix(".txt")) as aside, aside.open("wb") as file:
        file.writelines(os.fsencode(paths[place]) + b"\n" for place in good)
    values = {"embedded": len(good), "model_id": answer.model_id, "dim": answer.embeddings.shape[1], "out": str(given.out)}
    return Report(f"embedded {len(good)} into {given.out}", values, named(answer.errors, paths))


def enroll(given: Namespace, progress: Progress) -> Report:
    """Enrolls pictures: DIR (PID/*.jpg, PID/CAMID/*.jpg), FILE.csv (path,pid,camid,captured_at), or --pid NAME FILES.

    What failed is named at the end; running it again is harmless: what is enrolled already stays as it is.
    """
    return asyncio.run(enroll_files(given, progress))


async def enroll_files(given: Namespace, progress: Progress) -> Report:
    """Enroll, and count what came of it."""
    sources = read_sources(given.paths, pid=given.pid, camid=given.camid)
    paths = [one.path for one in sources]
    results: tuple[Enrolled, ...] = ()
    try:
        async with AsyncClient(**options(given)) as reid:
            answer = await reid.enroll(
                paths,
                pid=[one.pid for one in sources],
                camid=[one.camid for one in sources],
                captured_at=[one.captured_at for one in sources],
                progress=progress,
            )
        results, errors = answer.results, answer.errors
    except AllFailed as error:
        errors = error.items
    known = sum(one.duplicate for one in results)
    values = {"enrolled": len(results) - known, "duplicates": known, "failed": len(errors)}
    text = f"enrolled {values['enrolled']}, {known} were there already, {len(errors)} failed"
    return Report(text, values, named(errors, paths))


def search(given: Namespace, _: Progress) -> Report:
    """Searches by a crop, by several of one person, or by an enrolled entry, and prints the ranked list.

    --html writes it as one page with the stored crops; --pid says who the query is, for green and red frames.
    """
    asked: Any = {name: value for name in SEARCH_OPTIONS if (value := getattr(given, name)) is not None}
    if given.html is not None and not given.html.parent.is_dir():
        raise ValueError(f"--html: got {given.html}, wanted a name in a folder that is there; make the folder first")
    with Client(**options(given)) as reid:
        query = [path.read_bytes() for path in given.paths] or None
        try:
            answer = reid.search(query, entry_id=given.entry, **asked)
        except Rejected as error:
            if error.code not in OF_A_CROP or len(given.paths) != 1:
                raise
            raise ValueError(f"{given.paths[0]}: {error.message}") from error
        if given.html is not None:
            drawn = draw(reid, answer, query=query, entry=given.entry, truth=given.pid)
            with whole(given.html) as aside:
                aside.write_text(drawn, encoding="utf-8")
    failures = named(answer.rejected, given.paths)
    return Report(f"{in_words(answer)}\n{table(answer.matches)}", plain(answer), failures)


def draw(reid: Client, answer: SearchAnswer, *, query: list[bytes] | None, entry: int | None, truth: str | None) -> str:
    """Fetch the stored crops and draw the page."""
    wanted = [match.entry_id for match in answer.matches] + ([] if entry is None else [entry])
    crops = {entry_id: crop for entry_id in wanted if (crop := stored_crop(reid, entry_id)) is not None}
    asked = query if query is not None else [crops[entry_id] for entry_id in [entry] if entry_id in crops]
    return page(answer, query=asked, crops=crops, truth=truth)


def stored_crop(reid: Client, entry_id: int) -> bytes | None:
    """Fetch a crop, None where it was not kept or has been deleted meanwhile."""
    try:
        return reid.crop(entry_id)
    except NotFound:
        return None


def export(given: Namespace, progress: Progress) -> Report:
    """Writes entries, newest first, or with --identities identities, into OUT.jsonl or OUT.csv."""
    if given.out.suffix.lower() not in (".jsonl", ".csv"):
        raise ValueError(f"got {given.out}, wanted a name that ends in .jsonl or .csv")
    where: Any = {name: value for name in ("pid", "camid", "since", "until") if (value := getattr(given, name)) is not None}
    if given.identities and where:
        raise ValueError(f"got --identities with {', '.join(f'--{name}' for name in where)}, wanted these with entries only")
    count = 0
    with Client(**options(given)) as reid:
        stats = reid.stats()
        total = stats.identities if given.identities else stats.entries
        items: Iterable[Any] = reid.identities() if given.identities else reid.entries(**where)
        with whole(given.out) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            write = line_writer(file, given.out.suffix.lower(), Identity if given.identities else Entry)
            for count, item in enumerate(items, 1):
                write(plain(item))
                progress(count, max(count, total))
    return Report(f"wrote {count} into {given.out}", {"written": count, "out": str(given.out)})


def line_writer(file: TextIO, suffix: str, kind: type[Any]) -> Callable[[dict[str, Any]], object]:
    """Make what writes one line: a JSON object, or the CSV of a header's columns with lists and objects as JSON."""
    if suffix == ".jsonl":
        return lambda row: file.write(orjson.dumps(row).decode() + "\n")
    writer = csv.DictWriter(file, [column.name for column in fields(kind)])
    writer.writeheader()
    return lambda row: writer.writerow({name: flat(value) for name, value in row.items()})


def flat(value: object) -> object:
    """Write a list or an object as JSON."""
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def delete(given: Namespace, progress: Progress) -> Report:
    """Erases identities everywhere (rows, vectors, stored crops), or with --entry single entries."""
    receipts, failures = [], []
    jobs: list[Any] = [*given.pids, *given.entry]
    if not jobs:
        raise ValueError("got nothing to delete, wanted a PID or --entry ID")
    with Client(**options(given)) as reid:
        for count, wanted in enumerate(jobs, 1):
            try:
                if isinstance(wanted, int):
                    reid.delete_entry(wanted)
                    receipts.append({"entry_id": wanted})
                else:
                    receipts.append(plain(reid.delete_identity(wanted)))
            except NotFound as error:
                failures.append(error.message)
            progress(count, len(jobs))
    lines = [", ".join(f"{name} {value}" for name, value in receipt.items()) for receipt in receipts]
    return Report("\n".join(f"deleted {line}" for line in lines or ["nothing"]), {"deleted": receipts}, tuple(failures))


def named(errors: Sequence[ItemError], paths: Sequence[Path]) -> tuple[str, ...]:
    """Say which files failed, and why."""
    return tuple(f"{paths[error.index]}: {error.message}" for error in errors)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to, and put that file in its place once it is whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename == os.fspath(aside):  # which nobody has heard of
            error.filename = os.fspath(path)
        raise
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
