"""Entries and identities read from the store, one page at a time.

A cursor says after which entry or pid to go on, not how many to skip, so it stays good while entries come and go.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

from gallery.entry import Entry, Identity, Page
from gallery.errors import CorruptStore, InvalidCursor, InvalidRequest
from gallery.times import from_microseconds, optional_time, to_microseconds

MAX_LIMIT = 1000  # entries or identities a page

COLUMNS = """entry_id, pid, camid, captured_us, enrolled_us, attributes, model_id,
    EXISTS (SELECT 1 FROM crops WHERE crops.entry_id = entries.entry_id)"""


def entry(connection: sqlite3.Connection, entry_id: int) -> Entry | None:
    """The entry of that id, None when there is none."""
    found = connection.execute(f"SELECT {COLUMNS} FROM entries WHERE entry_id = ?", (entry_id,)).fetchone()
    return None if found is None else _entry(found)


def entries(
    connection: sqlite3.Connection,
    *,
    pid: str | None,
    camid: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
) -> Page[Entry]:
    """Entries by falling id; raises InvalidRequest and InvalidCursor."""
    check_limit(limit)
    conditions = {
        "pid = ?": pid,
        "camid = ?": camid,
        "captured_us >= ?": None if since is None else to_microseconds(since),
        "captured_us < ?": None if until is None else to_microseconds(until),
        "entry_id < ?": None if cursor is None else _entry_id(cursor),
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = " AND ".join(given) or "TRUE"
    found = connection.execute(
        f"SELECT {COLUMNS} FROM entries WHERE {where} ORDER BY entry_id DESC LIMIT ?", (*given.values(), limit + 1)
    )
    items = [_entry(row) for row in found]
    next_cursor = f"e{items[limit - 1].entry_id}" if len(items) > limit else None
    return Page(tuple(items[:limit]), next_cursor)


def identities(connection: sqlite3.Connection, *, prefix: str, limit: int, cursor: str | None) -> Page[Identity]:
    """Identities by rising pid; raises InvalidRequest and InvalidCursor."""
    check_limit(limit)
    after = None if cursor is None else _pid(cursor)
    found = connection.execute(
        "SELECT pid FROM entries WHERE pid >= ? AND (? IS NULL OR pid > ?) GROUP BY pid ORDER BY pid LIMIT ?",
        (prefix, after, after, limit + 1),
    )
    pids = list(takewhile(lambda pid: pid.startswith(prefix), (pid for (pid,) in found)))
    items = [one for pid in pids[:limit] if (one := identity(connection, pid)) is not None]
    next_cursor = _pid_cursor(pids[limit - 1]) if len(pids) > limit else None
    return Page(tuple(items), next_cursor)


def identity(connection: sqlite3.Connection, pid: str) -> Identity | None:
    """The identity of that pid, None when there is none."""
    num, first, last = connection.execute(
        "SELECT count(*), min(captured_us), max(captured_us) FROM entries WHERE pid = ?", (pid,)
    ).fetchone()
    if not num:
        return None
    camids = connection.execute("SELECT DISTINCT camid FROM entries WHERE pid = ? AND camid IS NOT NULL ORDER BY camid", (pid,))
    return Identity(pid, num, tuple(camid for (camid,) in camids), optional_time(first), optional_time(last))


def check_limit(limit: int) -> None:
    """Raises InvalidRequest unless limit is in 1..MAX_LIMIT."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"got limit {limit}, wanted 1 to {MAX_LIMIT}; ask for further pages with the cursor")


def _entry(row: Sequence[Any]) -> Entry:
    entry_id, pid, camid, captured_us, enrolled_us, attributes, model_id, has_crop = row
    try:
        parsed = json.loads(attributes)
    except ValueError as error:
        raise CorruptStore(f"the attributes of entry {entry_id} are damaged; restore a snapshot") from error
    captured_at = optional_time(captured_us)
    return Entry(entry_id, pid, camid, captured_at, from_microseconds(enrolled_us), parsed, model_id, bool(has_crop))


def _entry_id(cursor: str) -> int:
    if not (cursor.startswith("e") and cursor[1:].isascii() and cursor[1:].isdecimal() and len(cursor) < 20):
        raise InvalidCursor(f"got the cursor {cursor!r}, wanted one that a listing of entries gave out")
    return int(cursor[1:])


def _pid_cursor(pid: str) -> str:
    return "p" + urlsafe_b64encode(pid.encode()).decode()


def _pid(cursor: str) -> str:
    try:
        pid = urlsafe_b64decode(cursor[1:]).decode()
    except ValueError as error:
        raise InvalidCursor(_wanted_pid_cursor(cursor)) from error
    if _pid_cursor(pid) != cursor:
        raise InvalidCursor(_wanted_pid_cursor(cursor))
    return pid


def _wanted_pid_cursor(cursor: str) -> str:
    return f"got the cursor {cursor!r}, wanted one that a listing of identities gave out"
