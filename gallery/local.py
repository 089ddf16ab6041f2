"""LocalGallery: the store and what is searched in memory, kept in step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery import archive, listing
from gallery.changes import Enrolment
from gallery.checks import (
    MAX_NAME,
    OTHER_MODEL,
    check_dim,
    check_embedding,
    check_entry,
    check_entry_id,
    check_search,
    check_space,
    check_text,
)
from gallery.commits import GroupCommit
from gallery.database import Space
from gallery.entry import (
    Enrolled,
    Entry,
    Expired,
    Filter,
    Identity,
    NewEntry,
    Page,
    Receipt,
    Remember,
    Renamed,
    SearchResult,
    Snapshot,
    Stats,
)
from gallery.errors import CorruptStore, DimensionMismatch, InvalidRequest, gallery_closed, no_entry, no_identity
from gallery.files import Progress, quiet
from gallery.index import IndexChoice
from gallery.memory import GroupBy, Memory, Pool
from gallery.mirror import Mirror
from gallery.online import Rerank, check_rerank, reranked
from gallery.store import Store

EVERYTHING = Filter()


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class LocalGallery:
    """A gallery in one folder of this machine: synchronous, thread-safe, one process at a time.

    Every method may be called from any thread. It raises GalleryClosed after close(), and StoreFull, StoreUnavailable
    or CorruptStore when the disk fails. Searches run side by side and wait for no disk; each sees whole commits only, and
    every enrolment that has returned.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime],
        make_memory: Callable[[int], Memory],
        progress: Progress | None = None,
    ) -> None:
        """Takes over an open store; use open() or reopen()."""
        self._store = store
        self._clock = clock
        self._is_closed = False
        # The order of locks: first the files, which one uses at a time, then a turn in memory.
        self._using_store = threading.Lock()
        self._enrolments = GroupCommit(self._commit)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="check") as worker:
            checking = worker.submit(store.check_entries)
            try:
                self._mirror = Mirror(store, make_memory, progress or quiet)
            except CorruptStore:
                checking.result()  # damaged tables say more than the first row that suffers from it
                raise
            checking.result()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        space_id: str,
        dim: int,
        index: IndexChoice = "auto",
        progress: Progress | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> LocalGallery:
        """Opens the gallery in folder, making it when there is none; every entry is checked and indexed.

        Raises:
            ModelMismatch, DimensionMismatch: the folder holds embeddings of another space or size.
            GalleryLocked: another process has it open. CorruptStore: a damaged row or file. NewerSchema.
        """
        check_dim(dim)
        store = Store.open(folder, create=Space(space_id, dim))
        with _closed_on_error(store):
            check_space(space_id, store.space.space_id)
            if dim != store.space.dim:
                raise DimensionMismatch(
                    f"got a model of dimension {dim}, the gallery in {folder} holds {store.space.dim}; {OTHER_MODEL}"
                )
            return cls(store, clock=clock, make_memory=partial(Memory, index=index), progress=progress)

    @classmethod
    def reopen(
        cls,
        folder: Path,
        *,
        index: IndexChoice = "auto",
        progress: Progress | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> LocalGallery:
        """Opens a gallery that exists, taking its space and dimension from its store; raises GalleryMissing."""
        store = Store.open(folder)
        with _closed_on_error(store):
            return cls(store, clock=clock, make_memory=partial(Memory, index=index), progress=progress)

    @property
    def space_id(self) -> str:
        """The embedding space this gallery is tied to."""
        return self._store.space.space_id

    @property
    def dim(self) -> int:
        """D, the length of its embeddings."""
        return self._store.space.dim

    @property
    def is_ready(self) -> bool:
        """Whether it is open, can be searched and has its files; waits for nothing, so a change under way may go unseen."""
        return not self._is_closed and self._mirror.is_in_step and self._store.database.is_in_place

    def enroll(self, entries: Sequence[NewEntry], *, space_id: str, remember: Remember | None = None) -> list[Enrolled]:
        """Enrolls all entries durably, or none; answers in the order given. Calls at the same time share an fsync.

        An entry whose content_hash stands under its pid, or whose client_key stands with the same pid and content (the
        same embedding or content_hash), is not enrolled again, nor is its client_key taken down: its Enrolled names the
        standing entry, duplicate=True.
        With `remember`, a key that stands with the same fingerprint enrolls nothing and returns the first call's list;
        recall(key, fingerprint) then gives the answer to send, whichever of two simultaneous repeats made it.

        Raises:
            ModelMismatch, DimensionMismatch, NotUnitLength, InvalidRequest: nothing was enrolled.
            DuplicateKey: a client_key or the remembered key stands for other content. AnswerErased: see recall.
        """
        check_space(space_id, self.space_id)
        for new in entries:
            check_entry(new, self.dim)
        return self._enrolments.run(Enrolment(entries, remember))

    def recall(self, key: str, fingerprint: str) -> bytes | None:
        """The answer remembered under an Idempotency-Key, or None when the key is new.

        Raises:
            DuplicateKey: the key was used with another fingerprint.
            AnswerErased: the answer named an identity that has been erased since.
        """
        with self._open_store() as store:
            return store.recall(key, fingerprint)

    def search(
        self,
        query: NDArray[np.float32],
        *,
        k: int,
        where: Filter = EVERYTHING,
        group_by: GroupBy = "identity",
        pool: Pool = "max",
        best_of: int = 3,
        rerank: Rerank | None = None,
    ) -> SearchResult:
        """The k closest entries or identities that `where` admits, by falling cosine; k come back whenever k exist.

        With `rerank`, by rising re-ranked distance: see online.reranked. All that it reads is of one moment, as without.

        Args: query: float32 [D], unit length. pool: how an identity's entries make one cosine, see Match; unused by entry.
            best_of: 1 to 100, for pool best.
        Equal cosines are ordered by pid (identities) or entry_id (entries).
        Raises: DimensionMismatch, NotUnitLength, InvalidRequest (k < 1, a naive time, an attribute that is no plain value,
            what check_rerank refuses).
        """
        check_embedding(query, self.dim)
        check_search(k, group_by, pool, best_of)
        how: dict[str, Any] = {"where": where, "group_by": group_by, "pool": pool, "best_of": best_of}
        if rerank is None:
            with self._mirror.reading() as memory:
                return memory.search(query, k=k, **how)
        check_rerank(rerank)
        with self._mirror.reading() as memory:
            shortlist = memory.shortlist(query, k=k, size=rerank.shortlist, **how)
        started = time.perf_counter()
        result = reranked(query, shortlist, rerank, k=k)
        return replace(result, rerank_s=time.perf_counter() - started)

    def embedding(self, entry_id: int) -> NDArray[np.float32]:
        """The entry's embedding, float32 [D], the stored, half-precision values; raises EntryNotFound."""
        with self._mirror.reading() as memory:
            return memory.embedding(entry_id)

    def entry(self, entry_id: int) -> Entry:
        """The entry of that id; raises EntryNotFound."""
        check_entry_id(entry_id)
        with self._open_store() as store, store.database.reading() as connection:
            found = listing.entry(connection, entry_id)
        if found is None:
            raise no_entry(entry_id)
        return found

    def crop(self, entry_id: int) -> bytes | None:
        """The entry's stored JPEG, None when none was kept; raises EntryNotFound."""
        check_entry_id(entry_id)
        with self._open_store() as store:
            return store.crop(entry_id)

    def entries(
        self,
        *,
        pid: str | None = None,
        camid: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """Entries, newest enrolled first; since <= captured_at < until. A cursor stays good while entries come and go.

        Raises: InvalidCursor; InvalidRequest: limit outside 1..1000, a naive time.
        """
        with self._open_store() as store, store.database.reading() as connection:
            return listing.entries(connection, pid=pid, camid=camid, since=since, until=until, limit=limit, cursor=cursor)

    def identities(self, *, prefix: str = "", limit: int = 100, cursor: str | None = None) -> Page[Identity]:
        """Identities in the order of their pids' UTF-8 bytes; raises like entries()."""
        with self._open_store() as store, store.database.reading() as connection:
            return listing.identities(connection, prefix=prefix, limit=limit, cursor=cursor)

    def identity(self, pid: str) -> Identity:
        """The identity of that pid; raises IdentityNotFound."""
        with self._open_store() as store, store.database.reading() as connection:
            found = listing.identity(connection, pid)
        if found is None:
            raise no_identity(pid)
        return found

    def delete_entry(self, entry_id: int) -> None:
        """Deletes one entry with its vector and crop, durably; raises EntryNotFound.

        When it was its identity's last, the identity is erased as delete_identity does. Otherwise its row and the log are
        overwritten, but where SQLite had moved the row before, bytes of it may stay in the file until the next erasure.
        """
        check_entry_id(entry_id)
        with self._changing() as store:
            self._mirror.remove(store.delete_entry(entry_id).entry_ids)
            store.finish_erasure()
            store.database.empty_log()

    def delete_identity(self, pid: str) -> Receipt:
        """Erases an identity: afterwards no file of the gallery holds its pid, vectors or crops.

        Remembered answers that name it are erased too; their keys stay spent (AnswerErased), so that a late repeat of
        an old request cannot enroll the identity again. The file is rewritten, which takes time in proportion to its
        size; searches go on meanwhile. If that fails (StoreFull), the identity is gone all the same, and the rewriting
        is made up for at the next erasure or open. Raises IdentityNotFound.
        """
        with self._changing() as store:
            erased = store.delete_identity(pid)
            num_vectors = self._mirror.remove(erased.entry_ids)
            store.finish_erasure()
        return Receipt(pid, len(erased.entry_ids), num_vectors, erased.crops, erased.answers)

    def rename(self, pid: str, new_pid: str, *, merge: bool = False) -> Renamed:
        """Gives an identity another pid, durably; with `merge`, onto one that stands, which makes one identity of both.

        In a merge, entries whose content_hash stands under new_pid are dropped with their vectors, crops and client_keys.
        Remembered answers follow: an erasure of new_pid takes them, and with them the last of the old pid, which they
        still hold. A renaming is no erasure: until then the files may keep the old pid in bytes no longer used.

        Raises: IdentityNotFound; IdentityExists: new_pid stands and merge is False; InvalidRequest: new_pid is pid, or no
            pid at all.
        """
        check_text("pid", new_pid, MAX_NAME)
        if pid == new_pid:
            raise InvalidRequest(f"got the new pid {new_pid!r}, which the identity bears already; give another one")
        with self._changing() as store:
            moved = store.rename(pid, new_pid, merge=merge)
            self._mirror.rename(moved, new_pid)
            with store.database.reading() as connection:
                identity = listing.identity(connection, new_pid)
        assert identity is not None, "This is a bug: what was moved has entries."
        return Renamed(identity, len(moved.entry_ids), len(moved.dropped))

    def expire(self, before: datetime) -> Expired:
        """Erases every entry captured before that time, or enrolled before it where captured_at is unknown.

        What is erased leaves no byte in any file, as after delete_identity; answers go with identities that lose their
        last entry. Raises InvalidRequest for a naive time.
        """
        with self._changing() as store:
            erased = store.expire(before)
            num_vectors = self._mirror.remove(erased.entry_ids)
            store.finish_erasure()
        return Expired(len(erased.entry_ids), erased.identities, num_vectors, erased.crops, erased.answers)

    def snapshot(self, path: Path) -> Snapshot:
        """Writes one file that holds the whole gallery as it stands; searches go on, changes wait. See archive.snapshot."""
        with self._open_store() as store:
            return archive.snapshot(store, path)

    def stats(self) -> Stats:
        """The gallery in numbers."""
        with self._open_store() as store, self._mirror.reading() as memory:
            return Stats(
                entries=len(memory),
                identities=len(memory.columns.pids),
                cameras=len(memory.columns.camids),
                bytes=store.database.bytes(),
                index_type=memory.index.kind,
                space_id=self.space_id,
                schema_version=store.database.schema_version,
                dim=self.dim,
            )

    def faults(self) -> list[str]:
        """Everything wrong: in the store (see Store.faults), and between the store and memory; empty when sound.

        Reads every byte and keeps everyone else waiting meanwhile.
        """
        with self._open_store() as store, self._mirror.reading() as memory:
            found = list(store.faults())
            return found or memory.faults(store.rows())

    def differences(self) -> list[str]:
        """Where memory differs from the store's rows, which pass their checksums; empty when they agree bit for bit."""
        with self._open_store() as store, self._mirror.reading() as memory:
            return memory.faults(store.rows())

    def close(self) -> None:
        """Closes the files and frees the folder; harmless when repeated."""
        with self._using_store:
            if not self._is_closed:
                self._is_closed = True
                self._mirror.close()
                self._store.close()

    def __enter__(self) -> LocalGallery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _open_store(self) -> Iterator[Store]:
        with self._using_store:
            if self._is_closed:
                raise gallery_closed()
            yield self._store

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        with self._open_store() as store, self._mirror.following():
            yield store

    def _commit(self, calls: list[Enrolment]) -> list[list[Enrolled] | Exception]:
        """Enrolls a group of calls in one transaction, and brings memory in step in the order of the ids."""
        with self._changing() as store:
            outcomes, rows = store.insert_all(calls, now=self._clock())
            self._mirror.add(rows)
        return outcomes


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise
