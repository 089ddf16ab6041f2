"""The gallery's one SQLite file: made, opened for one process, migrated, written in transactions, compacted.

Durability: WAL with synchronous=FULL, so a transaction that has returned survives a crash. A gallery is made under
another name and renamed into place, so a file without a schema is damage, never a gallery half made.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from gallery.errors import (
    CorruptStore,
    GalleryMissing,
    InvalidRequest,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from gallery.lock import Lock, sign_lock, take_lock
from gallery.log import check_log
from gallery.schema import APPLICATION_ID, FIRST_SCHEMA, TABLES, migrate

FILE = "gallery.sqlite"
DRAFT = "gallery.sqlite.new"
DRAFT_JOURNAL = "gallery.sqlite.new-journal"  # SQLite's own, while it fills the draft
LOG = "gallery.sqlite-wal"
REEMBEDDING = "reembedding"  # a folder of the gallery being made with another model: reembed.py

CACHE_KIB = 32_768  # of pages; holds the indexes of some 200,000 entries, which every enrolment reads
CHECKPOINT_PAGES = 4000  # 16 MB of log before it is written into the file; SQLite's own 1000 writes half as much again


class Space(NamedTuple):
    """What every embedding of a gallery shares: its space, and its length D."""

    space_id: str
    dim: int


class Database:
    """The open file, its lock, and its connection, which the caller uses from one thread at a time."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock
        self._opened: list[tuple[int, int]] | None = []  # None while it is being replaced
        self._connect()

    @classmethod
    def open(cls, folder: Path, *, create: Space | None) -> Database:
        """Opens the folder's gallery, or makes one of that space when there is none.

        Raises:
            GalleryMissing: there is none and create is None.
            GalleryLocked, CorruptStore, NewerSchema, StoreFull, StoreUnavailable.
        """
        with disk_errors(folder):
            if create is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # people's pictures: nobody else's to read
            elif not (folder / FILE).exists():
                raise GalleryMissing(f"{folder} holds no {FILE}; give the folder of a gallery that exists")
            lock = take_lock(folder)
            try:
                if not (folder / FILE).exists() and create is not None:
                    _check_nothing_is_left(folder, lock)
                    _make(folder, create)
                sign_lock(lock)
                return cls(folder, lock)
            except BaseException:
                os.close(lock.descriptor)
                raise

    @property
    def connection(self) -> sqlite3.Connection:
        """The open file; opened again when that failed after a replacement, and then raises what opening raises."""
        if self._connection is None:
            with disk_errors(self.folder):
                self._connect()
        assert self._connection is not None, "This is a bug: _connect() connects or raises."
        return self._connection

    @property
    def is_in_place(self) -> bool:
        """Whether the file and its log are still those that were opened; what is written to removed ones is lost."""
        opened = self._opened
        return _numbers(self.folder) == opened != [] or opened is None or self._opened is not opened

    @property
    def schema_version(self) -> int:
        """The schema of the file as it stands."""
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, with SQLite's errors turned into the gallery's."""
        with disk_errors(self.folder):
            yield self.connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: durable when the block ends, undone when it raises."""
        connection = self.connection
        with disk_errors(self.folder):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                self._check_in_place()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back after some errors, such as a full disk
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a transaction, undone alone when its block raises, as long as SQLite keeps the transaction."""
        with disk_errors(self.folder):
            self.connection.execute("SAVEPOINT part")
            try:
                yield
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK TO part")
                    self.connection.execute("RELEASE part")
                raise
            self.connection.execute("RELEASE part")

    def compact(self) -> None:
        """Rewrites the file from its rows alone, so that nothing deleted is left anywhere in the folder.

        secure_delete is not enough: when SQLite moves cells between pages it leaves stale copies of live rows in the
        gaps, and no longer knows them when the row itself is deleted (measured with SQLite 3.40: 2 of 100 deletions
        left a pid behind).
        """
        draft = self.folder / DRAFT
        with disk_errors(self.folder):
            _remove_draft(self.folder)
            self.drop_reembedding()
            draft.touch(mode=0o600)  # SQLite fills an empty file; nobody may read it before it has the old one's mode
            self.connection.execute("VACUUM INTO ?", (str(draft),))
            (self.folder / DRAFT_JOURNAL).unlink(missing_ok=True)  # SQLite says nothing when it cannot
        self.replace(draft)

    def replace(self, draft: Path) -> None:
        """Puts another gallery's file, which nobody has open, in the place of this one, durably, and goes on with that."""
        with disk_errors(self.folder):
            draft.chmod(stat.S_IMODE((self.folder / FILE).stat().st_mode))
            self._close_connection()  # drops the log, which must never meet the new file
            try:
                _put_in_place(draft, self.folder / FILE)
            finally:
                self._connect()

    @contextmanager
    def reading_beside(self) -> Iterator[sqlite3.Connection]:
        """Another connection, for another thread: the file as it stands without the log, which nothing may empty meanwhile."""
        with disk_errors(self.folder):
            uri = (self.folder / FILE).absolute().as_uri() + "?mode=ro&immutable=1"  # asks for no lock: it would get none
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                yield connection

    def empty_log(self) -> None:
        """Writes the log into the file and empties it, so that what was deleted does not stand there until it is full."""
        with self.reading() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def drop_reembedding(self) -> None:
        """Removes half a copy of this gallery, which a stopped re-embedding left; no change makes it good again."""
        with disk_errors(self.folder):
            if (self.folder / REEMBEDDING).exists():
                shutil.rmtree(self.folder / REEMBEDDING)

    def bytes(self) -> int:
        """The size of the gallery's files."""
        return sum(path.stat().st_size for path in (self.folder / FILE, self.folder / LOG) if path.exists())

    def _connect(self) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _connect(self.folder / FILE)
            self._opened = _numbers(self.folder)
        except BaseException:
            self._opened = []
            raise

    def _close_connection(self) -> None:
        """Writes the log into the file, removes it, and closes the file."""
        self._check_in_place()
        is_busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        assert not is_busy, "This is a bug: a reader of our own holds the log."
        self._opened = None
        self.connection.close()

    def _check_in_place(self) -> None:
        if not self.is_in_place:
            raise StoreUnavailable(
                f"{FILE} or {LOG} in {self.folder} was removed or replaced while the gallery was open, so nothing can be "
                "kept; put the folder back or restore a snapshot, and open the gallery again"
            )

    def close(self) -> None:
        """Closes the file and frees the folder."""
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            os.close(self._lock.descriptor)


def _check_nothing_is_left(folder: Path, lock: Lock) -> None:
    """Raises CorruptStore where a gallery was: in its place an empty one would answer that nobody is known."""
    left = [name for name in (LOG, REEMBEDDING) if (folder / name).exists()]
    if left or lock.was_made:
        why = f"holds {left[0]} but not {FILE}" if left else f"held a gallery, and {FILE} is gone"
        raise CorruptStore(f"{folder} {why}; put the file back, restore a snapshot, or give an empty folder")


def _make(folder: Path, space: Space) -> None:
    draft = folder / DRAFT
    _remove_draft(folder)
    draft.touch(mode=0o600)  # SQLite fills an empty file and keeps its mode
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")  # an unfinished draft is thrown away whole
        connection.executescript(TABLES)
        rows = [("space_id", space.space_id), ("dim", str(space.dim))]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FIRST_SCHEMA}")
        migrate(connection)
    _put_in_place(draft, folder / FILE)
    sync(folder.parent)


def _connect(path: Path) -> sqlite3.Connection:
    """Opens a gallery's file with its settings, its log emptied, its schema up to date."""
    check_log(path.with_name(LOG))
    connection = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, isolation_level=None, check_same_thread=False)
    try:
        # Before anything is read: no reader from outside can hold a checkpoint back, and no file is shared with any.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise CorruptStore(f"{path} is not a gallery's file; restore it from a snapshot, or give another folder")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # no temporary file holds what may have to be erased
        # Damaged text must reach the checksum that names its row, and not stop the reading.
        connection.text_factory = _text
        migrate(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _check_size(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _numbers(folder: Path) -> list[tuple[int, int]]:
    """Which files the gallery's file and its log are, none when one of them is missing."""
    try:
        return [(found.st_dev, found.st_ino) for found in (os.stat(folder / FILE), os.stat(folder / LOG))]
    except FileNotFoundError:
        return []


def _check_size(connection: sqlite3.Connection, path: Path) -> None:
    """Raises CorruptStore for a file cut short; SQLite itself reads a missing end of the last page as zeros."""
    pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if path.stat().st_size < pages * page_bytes:
        raise CorruptStore(
            f"{path} has {path.stat().st_size} bytes, wanted {pages * page_bytes}: it was cut short; restore a snapshot"
        )


def _remove_draft(folder: Path) -> None:
    for name in (DRAFT, DRAFT_JOURNAL):
        (folder / name).unlink(missing_ok=True)


def _put_in_place(draft: Path, path: Path) -> None:
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what SQLite and the operating system raise into the gallery's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, folder) from error
    except UnicodeDecodeError as error:  # SQLite quotes damaged text in its message
        raise CorruptStore(f"the gallery in {folder} has damaged tables; restore a snapshot") from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"got text that is not valid Unicode: {error.object!r}; remove the lone surrogates") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no room left for the gallery in {folder} ({error}); free some space") from error
        raise StoreUnavailable(f"the gallery in {folder} cannot be used: {error}; check the path and its rights") from error


def _from_sqlite(error: sqlite3.Error, folder: Path) -> Exception:
    """The gallery's error for SQLite's, or the same one when it is none of the disk's."""
    kinds: dict[int, tuple[type[StoreError], str]] = {
        sqlite3.SQLITE_ERROR: (CorruptStore, "its tables are not a gallery's; restore a snapshot"),
        sqlite3.SQLITE_FULL: (StoreFull, "free some space, nothing was written"),
        sqlite3.SQLITE_CORRUPT: (CorruptStore, "the file is damaged, or the disk cannot read it; restore a snapshot"),
        sqlite3.SQLITE_NOTADB: (CorruptStore, "the file is not a database; restore a snapshot"),
        sqlite3.SQLITE_IOERR: (StoreUnavailable, "the disk failed, or the file may not be written; check it and its rights"),
        sqlite3.SQLITE_READONLY: (StoreUnavailable, "the file cannot be written; check its rights"),
        sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "the file cannot be opened; check its rights"),
        sqlite3.SQLITE_BUSY: (StoreUnavailable, "another program has the file open; close that one"),
    }
    kind = kinds.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the low byte: the rest says where it happened
    return error if kind is None else kind[0](f"the gallery in {folder}: {error}; {kind[1]}")
