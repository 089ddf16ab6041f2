"""Times as the gallery keeps them: integer microseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gallery.errors import CorruptStore, InvalidRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970 in UTC; raises InvalidRequest for a time without offset, or outside years 1 to 9999 in UTC."""
    if time.utcoffset() is None:
        raise InvalidRequest(f"got the time {time.isoformat()} without an offset, wanted one with; say which zone it is in")
    microseconds = (time - EPOCH) // MICROSECOND
    if not FIRST <= microseconds <= LAST:  # the offset can carry it beyond what a datetime in UTC can say
        raise InvalidRequest(f"got the time {time.isoformat()}, wanted one of the years 1 to 9999 in UTC")
    return microseconds


def from_microseconds(microseconds: int) -> datetime:
    """The aware UTC time of so many microseconds since 1970; raises CorruptStore for a number that is no time."""
    try:
        return EPOCH + microseconds * MICROSECOND
    except (OverflowError, TypeError) as error:
        raise CorruptStore(
            f"got {microseconds!r} for a stored time, wanted microseconds of the years 1 to 9999; restore a snapshot"
        ) from error


def optional_time(microseconds: int | None) -> datetime | None:
    """from_microseconds, or None for None."""
    return None if microseconds is None else from_microseconds(microseconds)
