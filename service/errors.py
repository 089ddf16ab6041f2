"""What can go wrong in the service, and the one table that gives each error its status.

ServiceError
  InvalidRequest         422   a field, parameter or body that is not what the contract asks for
  UndecodableImage       422   bytes that no allowed picture format explains
  ImageTooLarge          413   more pixels than the limit
  BodyTooLarge           413   more bytes than the limit
  TooManyCrops           413   more crops than the limit
  ReceiveTimeout         408   a body that comes too slowly
  UnsupportedMedia       415   a content type that carries no crops
  MissingKey             401   no API key, or an unknown one
  ReadOnlyKey            403   a read-only key on a write
  ForbiddenOrigin        403   a page of another site, or a name that is not this machine's, where no keys are set
  CropNotKept            404   the entry stands, its picture was not kept
  SnapshotNotFound       404   no snapshot of that name
  SnapshotUnderWay       409   one is made at a time
  NotCalibrated          404   no calibration stands beside the model or the gallery
  CalibrationUnderWay    409   one is made at a time
  TooFewPeople           422   too few identities are enrolled to calibrate on
  RangeNotSatisfiable    416   a part of a file that it does not have
  Overloaded             503   no room; carries the seconds after which to try again
  ModelNotReady          503   the last forward pass failed, or none has ended for too long
  DeadlineExceeded       504   the request took longer than it may
  ClientGone             499   the caller hung up; nobody reads this answer
  InferenceFailed        500   the runtime raised, or returned a wrong number of rows
  StartupError           500   the process cannot start; never answered over HTTP
    ArtefactRefused      500   the model folder is not what its manifest says
    SettingRefused       500   a setting, or two settings together, make no sense
"""

from collections.abc import Mapping
from typing import TypeVar

from gallery import errors as gallery

E = TypeVar("E", bound=Exception)


class ServiceError(Exception):
    """Base of every error the service raises on purpose; its text is meant for the caller."""


class InvalidRequest(ServiceError):
    """A field, parameter or body is not what the contract asks for."""


class UndecodableImage(ServiceError):
    """The bytes are no picture of an allowed format, or a broken one."""


class ImageTooLarge(ServiceError):
    """A picture has more pixels than the limit."""


class BodyTooLarge(ServiceError):
    """A body has more bytes than the limit."""


class TooManyCrops(ServiceError):
    """A request has more crops than the limit."""


class ReceiveTimeout(ServiceError):
    """A body came too slowly."""


class UnsupportedMedia(ServiceError):
    """The content type carries no crops."""


class MissingKey(ServiceError):
    """No API key was sent, or an unknown one."""


class ReadOnlyKey(ServiceError):
    """A read-only key was sent with a write."""


class ForbiddenOrigin(ServiceError):
    """No keys are set, and the request comes from another site's page, or by a name that is not this machine's."""


class CropNotKept(ServiceError):
    """The entry stands, but its picture was not kept."""


class SnapshotNotFound(ServiceError):
    """No snapshot has that name."""


class SnapshotUnderWay(ServiceError):
    """Another snapshot is being made."""


class NotCalibrated(ServiceError):
    """No calibration is in use; the manifest's thresholds are."""


class CalibrationUnderWay(ServiceError):
    """Another calibration is being made."""


class TooFewPeople(ServiceError):
    """Too few identities that two cameras saw are enrolled."""


class RangeNotSatisfiable(ServiceError):
    """A part of a file was asked for that it does not have."""


class Overloaded(ServiceError):
    """There is no room; `retry_after_s` estimates when there will be, and is the least that makes sense where nothing tells."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelNotReady(ServiceError):
    """The last forward pass failed, or none has ended for too long."""


class DeadlineExceeded(ServiceError):
    """The request took longer than it may."""


class ClientGone(ServiceError):
    """The caller hung up before the answer was ready."""


class InferenceFailed(ServiceError):
    """The runtime raised, or returned a wrong number of rows."""


class StartupError(ServiceError):
    """The process cannot start."""


class ArtefactRefused(StartupError):
    """The model folder is not what its manifest says."""


class SettingRefused(StartupError):
    """A setting, or two settings together, make no sense."""


# Error class -> (status, code). Subclasses inherit the row of their nearest ancestor.
ERROR_TABLE: Mapping[type[Exception], tuple[int, str]] = {
    InvalidRequest: (422, "invalid_request"),
    UndecodableImage: (422, "undecodable_image"),
    ImageTooLarge: (413, "image_too_large"),
    BodyTooLarge: (413, "body_too_large"),
    TooManyCrops: (413, "too_many_crops"),
    ReceiveTimeout: (408, "receive_timeout"),
    UnsupportedMedia: (415, "unsupported_media"),
    MissingKey: (401, "missing_key"),
    ReadOnlyKey: (403, "read_only_key"),
    ForbiddenOrigin: (403, "forbidden_origin"),
    CropNotKept: (404, "crop_not_kept"),
    SnapshotNotFound: (404, "snapshot_not_found"),
    SnapshotUnderWay: (409, "snapshot_under_way"),
    NotCalibrated: (404, "not_calibrated"),
    CalibrationUnderWay: (409, "calibration_under_way"),
    TooFewPeople: (422, "too_few_people"),
    RangeNotSatisfiable: (416, "range_not_satisfiable"),
    Overloaded: (503, "overloaded"),
    ModelNotReady: (503, "model_not_ready"),
    DeadlineExceeded: (504, "deadline_exceeded"),
    ClientGone: (499, "client_gone"),  # the number nginx gave to a caller who hung up
    InferenceFailed: (500, "inference_failed"),
    StartupError: (500, "startup_error"),
    gallery.InvalidRequest: (422, "invalid_request"),
    gallery.EntryNotFound: (404, "entry_not_found"),
    gallery.IdentityNotFound: (404, "identity_not_found"),
    gallery.IdentityExists: (409, "identity_exists"),
    gallery.DuplicateKey: (409, "duplicate_key"),
    gallery.AnswerErased: (410, "answer_erased"),
    gallery.ModelMismatch: (409, "model_mismatch"),
    gallery.DimensionMismatch: (422, "dimension_mismatch"),
    gallery.NotUnitLength: (422, "not_unit_length"),
    gallery.StoreError: (500, "store_error"),
    gallery.CorruptStore: (500, "corrupt_store"),
    gallery.StoreFull: (507, "store_full"),
    gallery.StoreUnavailable: (503, "store_unavailable"),
    gallery.CorruptArchive: (500, "corrupt_archive"),
    gallery.OutputExists: (409, "output_exists"),
    gallery.GpuFailed: (503, "gpu_failed"),
    gallery.GalleryClosed: (503, "gallery_closed"),
}

DOMAIN_ERRORS: tuple[type[Exception], ...] = (ServiceError, gallery.GalleryError)


def status_and_code(error: type[Exception]) -> tuple[int, str]:
    """Look an error class up in the table by its nearest listed ancestor.

    Raises:
        KeyError: when neither the class nor an ancestor of it is listed.
    """
    for ancestor in error.__mro__:
        if ancestor in ERROR_TABLE:
            return ERROR_TABLE[ancestor]
    raise KeyError(f"{error.__name__} has no row in ERROR_TABLE")


def error_item(error: Exception) -> dict[str, str]:
    """Describe one crop's error, as it stands in `results`."""
    return {"code": status_and_code(type(error))[1], "message": str(error)}


def without_frames(error: E) -> E:
    """Let an error that is handed on, not raised, forget where it came from.

    Its traceback holds the frames that it passed, they hold what was worked on, and one of them holds the error: a picture, or a
    whole batch, would stay until the next collection.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def one_line(error: Exception) -> str:
    """Give an error's text without its line breaks."""
    return " ".join(str(error).split())[:600]
