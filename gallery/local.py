"""LocalGallery: the store and the index behind one lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gallery.entry import Enrolled, Entry, Filter, Identity, NewEntry, Page, Receipt, Remember, SearchResult, Stats

EVERYTHING = Filter()


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class LocalGallery:
    """A gallery in one folder of this machine: synchronous, thread-safe, one process at a time.

    Every method may be called from any thread and raises GalleryClosed after close(), StoreFull, StoreUnavailable or
    CorruptStore when the disk fails.
    """

    @classmethod
    def open(cls, folder: Path, *, space_id: str, dim: int, clock: Callable[[], datetime] = utc_now) -> LocalGallery:
        """Opens the gallery in folder, making it when there is none; every entry is checked and indexed.

        Raises:
            ModelMismatch, DimensionMismatch: the folder holds embeddings of another space or size.
            GalleryLocked: another process has it open. CorruptStore: a damaged row or file; NewerSchema.
        """
        raise NotImplementedError

    @classmethod
    def reopen(cls, folder: Path, *, clock: Callable[[], datetime] = utc_now) -> LocalGallery:
        """Opens a gallery that exists, taking its space and dimension from its store; raises GalleryMissing."""
        raise NotImplementedError

    @property
    def space_id(self) -> str:
        """The embedding space this gallery is tied to."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """D, the length of its embeddings."""
        raise NotImplementedError

    def enroll(self, entries: Sequence[NewEntry], *, space_id: str, remember: Remember | None = None) -> list[Enrolled]:
        """Enrolls all entries in one durable transaction, or none; answers in the order given.

        An entry whose content_hash stands under its pid, or whose client_key stands with the same pid and content, is not
        enrolled again: its Enrolled names the standing entry, duplicate=True. With `remember`, a key that stands with the
        same fingerprint enrolls nothing and returns the first call's list; recall(key, fingerprint) then gives the answer
        to send, whichever of two simultaneous repeats made it.

        Raises:
            ModelMismatch, DimensionMismatch, NotUnitLength, InvalidRequest: nothing was enrolled.
            DuplicateKey: a client_key or the remembered key stands for other content. AnswerErased: see recall.
        """
        raise NotImplementedError

    def recall(self, key: str, fingerprint: str) -> bytes | None:
        """The answer remembered under an Idempotency-Key, or None when the key is new.

        Raises:
            DuplicateKey: the key was used with another fingerprint.
            AnswerErased: the answer named an identity that has been erased since.
        """
        raise NotImplementedError

    def search(
        self,
        query: NDArray[np.float32],
        *,
        k: int,
        where: Filter = EVERYTHING,
        group_by: Literal["identity", "entry"] = "identity",
        pool: Literal["max", "mean"] = "max",
    ) -> SearchResult:
        """The k closest entries or identities that `where` admits, by falling cosine; k come back whenever k exist.

        Args: query: float32 [D], unit length. pool: how an identity's entries make one cosine; unused by entry.
        Equal cosines are ordered by pid (identities) or entry_id (entries).
        Raises: DimensionMismatch, NotUnitLength, InvalidRequest (k < 1, a naive time).
        """
        raise NotImplementedError

    def embedding(self, entry_id: int) -> NDArray[np.float32]:
        """The entry's embedding, float32 [D], bit for bit as enrolled; raises EntryNotFound."""
        raise NotImplementedError

    def entry(self, entry_id: int) -> Entry:
        """The entry of that id; raises EntryNotFound."""
        raise NotImplementedError

    def crop(self, entry_id: int) -> bytes | None:
        """The entry's stored JPEG, None when none was kept; raises EntryNotFound."""
        raise NotImplementedError

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
        raise NotImplementedError

    def identities(self, *, prefix: str = "", limit: int = 100, cursor: str | None = None) -> Page[Identity]:
        """Identities in the order of their pids' UTF-8 bytes; raises like entries()."""
        raise NotImplementedError

    def identity(self, pid: str) -> Identity:
        """The identity of that pid; raises IdentityNotFound."""
        raise NotImplementedError

    def delete_entry(self, entry_id: int) -> None:
        """Deletes one entry with its vector and crop, durably; raises EntryNotFound.

        When it was its identity's last, remembered answers naming that identity are erased as delete_identity does.
        """
        raise NotImplementedError

    def delete_identity(self, pid: str) -> Receipt:
        """Erases an identity: afterwards no file of the gallery holds its pid, vectors or crops.

        Remembered answers that name it are erased too; their keys stay spent (AnswerErased), so that a late repeat of an
        old request cannot enroll the identity again. Raises IdentityNotFound.
        """
        raise NotImplementedError

    def stats(self) -> Stats:
        """The gallery in numbers."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the files and frees the folder; harmless when repeated."""
        raise NotImplementedError

    def __enter__(self) -> LocalGallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
