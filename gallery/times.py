"""Times as the gallery keeps them: integer microseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gallery.errors import InvalidRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970 in UTC; raises InvalidRequest for a time without offset."""
    if time.utcoffset() is None:
        raise InvalidRequest(f"got the time {time.isoformat()} without an offset, wanted one with; say which zone it is in")
    return (time - EPOCH) // MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The aware UTC time of so many microseconds since 1970."""
    return EPOCH + microseconds * MICROSECOND


def optional_time(microseconds: int | None) -> datetime | None:
    """from_microseconds, or None for None."""
    return None if microseconds is None else from_microseconds(microseconds)
