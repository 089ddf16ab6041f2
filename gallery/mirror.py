"""What the store holds, in memory: searched by many at once, and brought in step after every commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from gallery.changes import Moved
from gallery.errors import StoreUnavailable, gallery_closed
from gallery.files import Progress, quiet
from gallery.memory import Memory
from gallery.store import Rows, Store
from gallery.turns import Turns


class Mirror:
    """Memory and whose turn it is there; whoever changes it has the store for itself, so changes keep their order."""

    def __init__(self, store: Store, make_memory: Callable[[int], Memory], progress: Progress) -> None:
        """Reads the whole store."""
        self._store = store
        self._make_memory = make_memory
        self._turns = Turns()
        self._is_closed = False
        self._memory: Memory | None = self._load(progress)  # None: out of step with the store, searches are refused

    @property
    def is_in_step(self) -> bool:
        """Whether it can be searched; waits for nothing, so a change under way may go unseen."""
        return self._memory is not None

    @contextmanager
    def reading(self) -> Iterator[Memory]:
        """Memory, unchanged while the block runs; raises GalleryClosed, StoreUnavailable."""
        with self._turns.reading():
            if self._is_closed:
                raise gallery_closed()
            if self._memory is None:
                raise StoreUnavailable("the index could not be rebuilt from the store; open the gallery again")
            yield self._memory

    @contextmanager
    def following(self) -> Iterator[None]:
        """A block that commits a change and then brings memory in step; interrupted in between, memory is read anew."""
        try:
            yield
        except Exception:  # nothing was committed, or memory was read anew already
            raise
        except BaseException:
            self._reload()
            raise

    def add(self, rows: Rows) -> None:
        """Takes in rows that were committed."""
        if rows.entry_ids:
            self._follow(lambda memory: memory.add(rows))

    def remove(self, entry_ids: list[int]) -> int:
        """Takes out entries that were deleted, returns how many vectors went."""
        before = 0 if self._memory is None else len(self._memory)
        if entry_ids or self._memory is None:
            self._follow(lambda memory: memory.remove(entry_ids))
        assert self._memory is not None, "This is a bug: _follow returns in step or raises."
        return max(0, before - len(self._memory))

    def rename(self, moved: Moved, pid: str) -> None:
        """Does what a renaming to pid did to the rows."""

        def change(memory: Memory) -> None:
            if moved.dropped:
                memory.remove(moved.dropped)
            memory.rename(moved.entry_ids, pid)

        self._follow(change)

    def close(self) -> None:
        """Lets go of the memory, once nobody reads it."""
        with self._turns.writing():
            self._is_closed = True
            self._memory = None

    def _follow(self, change: Callable[[Memory], None]) -> None:
        """Brings memory in step with a commit: by the change, or from the store when that fails."""
        with self._turns.writing():
            try:
                if self._memory is not None:
                    return change(self._memory)
            except Exception:  # whatever it was, memory may be half changed, and the store is right
                pass
            self._memory = None
            self._memory = self._load(quiet)

    def _reload(self) -> None:
        with self._turns.writing():
            self._memory = None
            self._memory = self._load(quiet)

    def _load(self, progress: Progress) -> Memory:
        """Builds memory from the store, in bounded batches, the next one being read meanwhile; progress counts entries."""
        memory = self._make_memory(self._store.space.dim)
        total, done = self._store.num_entries(), 0
        memory.index.reserve(total)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as worker:
            adding: Future[None] | None = None
            for rows in self._store.rows():
                if adding is not None:
                    adding.result()
                adding = worker.submit(memory.add, rows)
                done += len(rows.entry_ids)
                progress(done, total)
            if adding is not None:
                adding.result()
        return memory
