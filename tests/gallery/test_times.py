from datetime import UTC, datetime, timedelta, timezone

import pytest

from gallery.errors import CorruptStore, InvalidRequest
from gallery.times import from_microseconds, optional_time, to_microseconds


@pytest.mark.parametrize(
    "time",
    [
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 11, 22, 12, 0, 0, 123457, tzinfo=timezone(timedelta(hours=-7))),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
)
def test_times_come_back_to_the_microsecond(time):
    assert from_microseconds(to_microseconds(time)) == time


def test_time_without_offset_is_refused():
    with pytest.raises(InvalidRequest, match="without an offset"):
        to_microseconds(datetime(2026, 11, 22))


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_its_offset_carries_beyond_the_years_of_utc_is_refused(text):
    with pytest.raises(InvalidRequest, match="wanted one of the years 1 to 9999 in UTC"):
        to_microseconds(datetime.fromisoformat(text))


@pytest.mark.parametrize("stored", [2**62, -(2**62), 10**30])
def test_a_stored_number_that_is_no_time_is_damage(stored):
    with pytest.raises(CorruptStore, match="for a stored time"):
        from_microseconds(stored)


def test_unknown_time_stays_unknown():
    assert optional_time(None) is None
    assert optional_time(0) == datetime(1970, 1, 1, tzinfo=UTC)
