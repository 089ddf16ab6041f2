from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gallery.columns import MIN_CAPACITY, NO_CAMID, Codes, Columns
from gallery.entry import Filter
from gallery.times import to_microseconds

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def columns():
    """Ids 1, 2, 4, 8; ann twice, bob, cyd; cameras north, south, none, north; noon, one, two o'clock, unknown."""
    made = Columns()
    hours = [to_microseconds(NOON + timedelta(hours=hour)) for hour in range(3)]
    made.add([1, 2, 4, 8], ["ann", "ann", "bob", "cyd"], ["north", "south", None, "north"], [*hours, None])
    return made


def admitted(columns, **where):
    return columns.entry_ids[columns.admitted(Filter(**where))].tolist()


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({}, [1, 2, 4, 8]),
        ({"pids": frozenset({"ann", "cyd", "nobody"})}, [1, 2, 8]),
        ({"pids": frozenset({"nobody"})}, []),
        ({"camids": frozenset({"north"})}, [1, 8]),
        ({"exclude_camids": frozenset({"north", "nowhere"})}, [2, 4]),
        ({"exclude_entry_ids": frozenset({1, 3, 8, -1, 10**30})}, [2, 4]),
        ({"since": NOON + timedelta(hours=1)}, [2, 4]),
        ({"until": NOON + timedelta(hours=1)}, [1]),
        ({"since": NOON, "until": NOON + timedelta(hours=1)}, [1]),
        ({"pids": frozenset({"ann"}), "camids": frozenset({"south"})}, [2]),
    ],
)
def test_filter_admits(columns, where, ids):
    assert admitted(columns, **where) == ids


def test_columns_grow_beyond_their_first_capacity():
    columns, num = Columns(), 3 * MIN_CAPACITY
    columns.add(range(num), ["ann"] * num, [None] * num, [None] * num)
    columns.add([num], ["bob"], [None], [None])
    assert len(columns) == num + 1
    assert columns.entry_ids.tolist() == list(range(num + 1))


def test_removed_names_are_forgotten_and_their_codes_used_again(columns):
    columns.remove(np.array([1, 8]))
    assert (len(columns.pids), len(columns.camids)) == (2, 1)
    assert admitted(columns, pids=frozenset({"cyd"})) == []
    columns.add([9], ["dan"], ["east"], [None])
    assert [columns.pids.name(code) for code in columns.pid_codes] == ["ann", "bob", "dan"]
    assert columns.camid_codes[1] == NO_CAMID
    assert admitted(columns, pids=frozenset({"dan"})) == [9]


def test_membership_is_by_id_and_survives_absurd_ids(columns):
    assert 4 in columns
    for absent in (0, 3, 9, -1, 2**63, 10**30):
        assert absent not in columns


def test_codes_are_stable_while_in_use():
    codes = Codes()
    assert [codes.code(name) for name in ("a", "b", "a")] == [0, 1, 0]
    codes.forget(0)
    assert codes.known(["a", "b"]) == [1]
    assert codes.code("c") == 0
    assert codes.name(0) == "c"
