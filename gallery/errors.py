"""Everything a gallery refuses or reports.

GalleryError
  InvalidRequest        an argument no gallery could accept: pid, time, attributes, k, limit
    InvalidCursor       a cursor that no listing gave out
  EntryNotFound         no entry of that id
  IdentityNotFound      no identity of that pid
  IdentityExists        a renaming onto a pid that stands, without merge
  DuplicateKey          the key stands already, for other content
  AnswerErased          the key's remembered answer went with an erased identity
  ModelMismatch         an embedding space meets another one
  DimensionMismatch     an embedding of the wrong shape
  NotUnitLength         an embedding that is not of unit length, or not finite
  StoreError            the files on disk
    CorruptStore        damaged: a row, a page, a whole file
    StoreFull           no room to write
    StoreUnavailable    cannot be read or written: permissions, input/output errors
    GalleryMissing      there is no gallery in the folder
    GalleryLocked       another process has the folder open
    NewerSchema         written by a newer version of this package
    CorruptArchive      a snapshot or an export that is damaged, or none at all
    OutputExists        something stands where a new file or folder was to be made
    CannotReembed       entries without a crop that another model could embed
  GpuFailed             an index on a GPU that is not there, or fails
  GalleryClosed         used after close()

None knows a status code. Every message says what was got, what was wanted, and what to do.
"""


class GalleryError(Exception):
    """A gallery refused a request or could not serve it."""


class InvalidRequest(GalleryError):
    """An argument that no gallery could accept."""


class InvalidCursor(InvalidRequest):
    """A cursor that no listing gave out."""


class EntryNotFound(GalleryError):
    """No entry of that id."""


class IdentityNotFound(GalleryError):
    """No identity of that pid."""


class IdentityExists(GalleryError):
    """The new pid stands already, and merging was not asked for."""


class DuplicateKey(GalleryError):
    """The key stands already, for other content."""


class AnswerErased(GalleryError):
    """The answer remembered under this key named an identity that has since been erased."""


class ModelMismatch(GalleryError):
    """An embedding space meets another one."""


class DimensionMismatch(GalleryError):
    """An embedding of the wrong shape."""


class NotUnitLength(GalleryError):
    """An embedding that is not of unit length, or not finite."""


class StoreError(GalleryError):
    """The files on disk cannot serve."""


class CorruptStore(StoreError):
    """The files on disk are damaged."""


class StoreFull(StoreError):
    """There is no room to write."""


class StoreUnavailable(StoreError):
    """The files on disk cannot be read or written."""


class GalleryMissing(StoreError):
    """There is no gallery in the folder."""


class GalleryLocked(StoreError):
    """Another process has the folder open."""


class NewerSchema(StoreError):
    """The gallery was written by a newer version of this package."""


class CorruptArchive(StoreError):
    """A snapshot or an export is damaged, or none at all."""


class OutputExists(StoreError):
    """Something stands where a new file or folder was to be made."""


class CannotReembed(StoreError):
    """Entries have no crop that another model could embed."""


class GpuFailed(GalleryError):
    """An index on a GPU was asked for, and there is none, FAISS was built without it, or the device fails."""


class GalleryClosed(GalleryError):
    """The gallery was used after close()."""


def no_entry(entry_id: int) -> EntryNotFound:
    """The error for an entry id that nothing bears."""
    return EntryNotFound(f"got entry_id {entry_id}, which no entry bears; list the entries to see which there are")


def no_identity(pid: str) -> IdentityNotFound:
    """The error for a pid that nothing bears."""
    return IdentityNotFound(f"got pid {pid!r}, which no entry bears; list the identities to see which there are")


def gallery_closed() -> GalleryClosed:
    """The error for a call after close()."""
    return GalleryClosed("the gallery is closed; open it again")
