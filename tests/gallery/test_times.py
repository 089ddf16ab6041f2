from datetime import UTC, datetime, timedelta, timezone

import pytest

from gallery.errors import InvalidRequest
from gallery.times import from_microseconds, optional_time, to_microseconds


@pytest.mark.parametrize(
    "time",
    [
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 11, 22, 12, 0, 0, 123457, tzinfo=timezone(timedelta(hours=-7))),
        datetime.max.replace(tzinfo=UTC),
    ],
)
def test_times_come_back_to_the_microsecond(time):
    assert from_microseconds(to_microseconds(time)) == time


def test_time_without_offset_is_refused():
    with pytest.raises(InvalidRequest, match="without an offset"):
        to_microseconds(datetime(2026, 11, 22))


def test_unknown_time_stays_unknown():
    assert optional_time(None) is None
    assert optional_time(0) == datetime(1970, 1, 1, tzinfo=UTC)
