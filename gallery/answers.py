"""Remembered answers: what a request with an Idempotency-Key was told, kept in the transaction that made it true.

Of an answer's entries the places from 0 up say what was enrolled. A place below 0 keeps, once an identity was renamed,
the pid that the answer's text still holds: an erasure of either pid takes the answer.
Key and fingerprint are stored as sha256 only, so that neither can carry a pid past its erasure. An answer is kept until
an identity it names is erased; then the key alone stays, spent.
"""

from __future__ import annotations

import hashlib
import sqlite3

from gallery.entry import Enrolled, Remember
from gallery.errors import AnswerErased, DuplicateKey


def recall(connection: sqlite3.Connection, key: str, fingerprint: str) -> bytes | None:
    """The remembered answer, None for a new key; raises DuplicateKey or AnswerErased."""
    found = connection.execute("SELECT fingerprint_hash, answer FROM answers WHERE key_hash = ?", (_hash(key),)).fetchone()
    if found is None:
        return None
    if found[0] != _hash(fingerprint):
        raise DuplicateKey("the idempotency key was used for another request; send a new key with a new request")
    if found[1] is None:
        raise AnswerErased(
            "the request of this idempotency key enrolled an identity that has been erased since; "
            "to enroll it anew, send a new key"
        )
    return bytes(found[1])


def enrolled_under(connection: sqlite3.Connection, key: str) -> list[Enrolled]:
    """What the request with this key enrolled, in its order."""
    found = connection.execute(
        "SELECT entry_id, pid, duplicate FROM answer_entries WHERE key_hash = ? AND place >= 0 ORDER BY place", (_hash(key),)
    )
    return [Enrolled(entry_id, pid, bool(duplicate)) for entry_id, pid, duplicate in found]


def write(connection: sqlite3.Connection, remember: Remember, enrolled: list[Enrolled]) -> None:
    """Renders and stores the answer under a new key."""
    key_hash = _hash(remember.key)
    answer = remember.answer(enrolled)
    connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (key_hash, _hash(remember.fingerprint), answer))
    connection.executemany(
        "INSERT INTO answer_entries VALUES (?, ?, ?, ?, ?)",
        [(key_hash, place, one.entry_id, one.pid, one.duplicate) for place, one in enumerate(enrolled)],
    )


def erase(connection: sqlite3.Connection, pid: str) -> int:
    """Erases every answer that names the pid, whole; returns how many. Their keys stay, spent."""
    naming = [key for (key,) in connection.execute("SELECT DISTINCT key_hash FROM answer_entries WHERE pid = ?", (pid,))]
    for key_hash in naming:
        connection.execute("UPDATE answers SET answer = NULL WHERE key_hash = ?", (key_hash,))
        connection.execute("DELETE FROM answer_entries WHERE key_hash = ?", (key_hash,))
    return len(naming)


def rename(connection: sqlite3.Connection, pid: str, new_pid: str) -> None:
    """Lets every answer that names the pid follow it to the new one."""
    connection.execute(
        "INSERT OR IGNORE INTO answer_entries "  # IGNORE: an earlier renaming has kept what the text holds
        "SELECT key_hash, -1 - place, entry_id, pid, duplicate FROM answer_entries WHERE pid = ? AND place >= 0",
        (pid,),
    )
    connection.execute("UPDATE answer_entries SET pid = ? WHERE pid = ? AND place >= 0", (new_pid, pid))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
