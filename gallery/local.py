"""LocalGallery: the store and what is searched in memory, kept in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gallery import listing
from gallery.checks import check_embedding, check_entry, check_entry_id, check_search, check_space
from gallery.database import Space
from gallery.entry import Enrolled, Entry, Filter, Identity, NewEntry, Page, Receipt, Remember, SearchResult, Stats
from gallery.errors import DimensionMismatch, GalleryClosed, StoreUnavailable, no_entry, no_identity
from gallery.index import IndexChoice
from gallery.memory import GroupBy, Memory, Pool
from gallery.store import Erased, Store

EVERYTHING = Filter()

Progress = Callable[[int, int], None]  # (entries read, entries in all)


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class LocalGallery:
    """A gallery in one folder of this machine: synchronous, thread-safe, one process at a time.

    Every method may be called from any thread. It raises GalleryClosed after close(), and StoreFull, StoreUnavailable
    or CorruptStore when the disk fails. A search waits for no disk, and sees an enrolment whole as soon as it returns.
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
        self._make_memory = make_memory
        self._is_closed = False
        # Two locks, always taken in this order: one writer of the files, and short moments in memory.
        self._writing = threading.Lock()
        self._remembering = threading.Lock()
        self._memory: Memory | None = self._load(progress)  # None: out of step with the store, searches are refused
        store.check_entries()

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
        if dim < 1:
            raise DimensionMismatch(f"got dim {dim}, wanted 1 or more: the length of the model's embeddings")
        store = Store.open(folder, create=Space(space_id, dim))
        with _closed_on_error(store):
            check_space(space_id, store.space.space_id)
            if dim != store.space.dim:
                raise DimensionMismatch(
                    f"got a model of dimension {dim}, the gallery in {folder} holds {store.space.dim}; "
                    "serve the model it was made with, or open a new folder and enroll the crops there again"
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
        """Whether it is open and can be searched; waits for nothing, so a change under way may go unseen."""
        return not self._is_closed and self._memory is not None

    def enroll(self, entries: Sequence[NewEntry], *, space_id: str, remember: Remember | None = None) -> list[Enrolled]:
        """Enrolls all entries in one durable transaction, or none; answers in the order given.

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
        with self._open_store() as store:
            enrolled, rows = store.insert(entries, now=self._clock(), remember=remember)
            self._follow(lambda memory: memory.add(rows))
        return enrolled

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
    ) -> SearchResult:
        """The k closest entries or identities that `where` admits, by falling cosine; k come back whenever k exist.

        Args: query: float32 [D], unit length. pool: how an identity's entries make one cosine; unused by entry.
        Equal cosines are ordered by pid (identities) or entry_id (entries).
        Raises: DimensionMismatch, NotUnitLength, InvalidRequest (k < 1, a naive time).
        """
        check_embedding(query, self.dim)
        check_search(k, group_by, pool, best_of)
        with self._open_memory() as memory:
            return memory.search(query, k=k, where=where, group_by=group_by, pool=pool, best_of=best_of)

    def embedding(self, entry_id: int) -> NDArray[np.float32]:
        """The entry's embedding, float32 [D], as stored, in half precision; raises EntryNotFound."""
        with self._open_memory() as memory:
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

        When it was its identity's last, the identity is erased as delete_identity does.
        """
        check_entry_id(entry_id)
        with self._open_store() as store:
            self._forget(store.delete_entry(entry_id))
            store.finish_erasure()

    def delete_identity(self, pid: str) -> Receipt:
        """Erases an identity: afterwards no file of the gallery holds its pid, vectors or crops.

        Remembered answers that name it are erased too; their keys stay spent (AnswerErased), so that a late repeat of
        an old request cannot enroll the identity again. The file is rewritten, which takes time in proportion to its
        size; searches go on meanwhile. If that fails (StoreFull), the identity is gone all the same, and the rewriting
        is made up for at the next erasure or open. Raises IdentityNotFound.
        """
        with self._open_store() as store:
            erased = store.delete_identity(pid)
            num_vectors = self._forget(erased)
            store.finish_erasure()
        return Receipt(pid, len(erased.entry_ids), num_vectors, erased.crops, erased.answers)

    def stats(self) -> Stats:
        """The gallery in numbers."""
        with self._open_store() as store, self._open_memory() as memory:
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
        with self._open_store() as store, self._open_memory() as memory:
            found = list(store.faults())
            return found or memory.faults(store.rows())

    def close(self) -> None:
        """Closes the files and frees the folder; harmless when repeated."""
        with self._writing, self._remembering:
            if not self._is_closed:
                self._is_closed = True
                self._memory = None
                self._store.close()

    def __enter__(self) -> LocalGallery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _open_store(self) -> Iterator[Store]:
        with self._writing:
            if self._is_closed:
                raise GalleryClosed("the gallery is closed; open it again")
            yield self._store

    @contextmanager
    def _open_memory(self) -> Iterator[Memory]:
        with self._remembering:
            if self._is_closed:
                raise GalleryClosed("the gallery is closed; open it again")
            if self._memory is None:
                raise StoreUnavailable("the index could not be rebuilt from the store; open the gallery again")
            yield self._memory

    def _follow(self, change: Callable[[Memory], None]) -> None:
        """Brings memory in step with a commit: by the change, or from the store when that fails."""
        with self._remembering:
            try:
                if self._memory is not None:
                    return change(self._memory)
            except Exception:  # whatever it was, memory may be half changed, and the store is right
                self._memory = None
            self._memory = self._load(None)

    def _forget(self, erased: Erased) -> int:
        """Takes deleted entries out of memory, returns how many vectors went."""
        before = 0 if self._memory is None else len(self._memory)
        self._follow(lambda memory: memory.remove(erased.entry_ids))
        assert self._memory is not None, "This is a bug: _follow returns in step or raises."
        return max(0, before - len(self._memory))

    def _load(self, progress: Progress | None) -> Memory:
        """Builds memory from the store, in bounded batches."""
        memory = self._make_memory(self.dim)
        total = self._store.num_entries()
        for rows in self._store.rows():
            memory.add(rows)
            if progress is not None:
                progress(len(memory), total)
        return memory


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise
