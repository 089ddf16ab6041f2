from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gallery.columns import MIN_CAPACITY, NO_CAMID, Codes, Columns
from gallery.entry import Filter
from gallery.store import Rows
from gallery.times import to_microseconds

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def rows(entry_ids, pids, camids=None, captured_us=None, attributes=None):
    num = len(entry_ids)
    none, empty = [None] * num, np.empty((num, 0), np.float16)
    return Rows(list(entry_ids), pids, camids or none, captured_us or none, attributes or ["{}"] * num, empty)


def four_entries():
    hours = [to_microseconds(NOON + timedelta(hours=hour)) for hour in range(3)]
    made = Columns()
    attributes = ['{"site": "x", "n": 1}', '{"site": "y"}', "{}", '{"site": "x"}']
    made.add(rows([1, 2, 4, 8], ["ann", "ann", "bob", "cyd"], ["north", "south", None, "north"], [*hours, None], attributes))
    return made


@pytest.fixture
def columns():
    """Ids 1, 2, 4, 8; ann twice, bob, cyd; cameras north, south, none, north; noon, one, two o'clock, unknown; sites."""
    return four_entries()


def admitted(columns, **where):
    return columns.entry_ids[columns.admitted(Filter(**where))].tolist()


def test_no_filter_admits_all_without_a_list(columns):
    assert columns.admitted(Filter()) is None


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"pids": frozenset({"ann", "cyd", "nobody"})}, [1, 2, 8]),
        ({"pids": frozenset({"nobody"})}, []),
        ({"camids": frozenset({"north"})}, [1, 8]),
        ({"exclude_camids": frozenset({"north", "nowhere"})}, [2, 4]),
        ({"exclude_entry_ids": frozenset({1, 3, 8, -1, 10**30})}, [2, 4]),
        ({"since": NOON + timedelta(hours=1)}, [2, 4]),
        ({"until": NOON + timedelta(hours=1)}, [1]),
        ({"since": NOON, "until": NOON + timedelta(hours=1)}, [1]),
        ({"pids": frozenset({"ann"}), "camids": frozenset({"south"})}, [2]),
        ({"attributes": {"site": "x"}}, [1, 8]),
        ({"attributes": {"site": "x", "n": 1}}, [1]),
        ({"attributes": {"site": "x"}, "exclude_entry_ids": frozenset({1})}, [8]),
        ({"attributes": {"site": "z"}}, []),
    ],
)
def test_filter_admits(columns, where, ids):
    assert admitted(columns, **where) == ids


def test_columns_grow_beyond_their_first_capacity():
    columns, num = Columns(), 3 * MIN_CAPACITY
    columns.add(rows(range(num), [f"p{number}" for number in range(num)]))
    columns.add(rows([num], ["bob"]))
    assert len(columns) == num + 1
    assert columns.entry_ids.tolist() == list(range(num + 1))
    assert columns.counts(None).tolist() == [1] * (num + 1)


def test_removed_names_are_forgotten_and_their_codes_used_again(columns):
    columns.remove(np.array([1, 8]))
    assert (len(columns.pids), len(columns.camids)) == (2, 1)
    assert admitted(columns, pids=frozenset({"cyd"})) == []
    assert admitted(columns, attributes={"site": "x"}) == []
    columns.add(rows([9], ["dan"], ["east"]))
    assert [columns.pids.name(code) for code in columns.pid_codes] == ["ann", "bob", "dan"]
    assert columns.camid_codes[1] == NO_CAMID
    assert admitted(columns, pids=frozenset({"dan"})) == [9]


def test_counts_are_of_admitted_entries_by_code(columns):
    assert columns.counts(None).tolist() == [2, 1, 1]
    assert columns.counts(np.array([1, 3])).tolist() == [1, 0, 1]
    columns.remove(np.array([2, 4]))
    assert columns.counts(None).tolist() == [1, 0, 1]


def test_a_renamed_identity_bears_the_new_name_alone(columns):
    columns.rename(np.array([1, 2]), "cyd")
    assert admitted(columns, pids=frozenset({"cyd"})) == [1, 2, 8]
    assert (columns.pids.known(["ann"]), len(columns.pids)) == ([], 2)
    columns.rename(np.array([4]), "eve")
    assert admitted(columns, pids=frozenset({"eve"})) == [4]


def test_columns_are_equal_by_what_they_say_not_by_their_codes(columns):
    other = Columns()
    other.add(rows([0], ["zoe"], ["west"]))
    other.add(rows([1], ["ann"], ["north"], [to_microseconds(NOON)], ['{"site": "x", "n": 1}']))
    other.remove(np.array([0]))
    columns.remove(np.array([2, 4, 8]))
    assert columns.equals(other)


@pytest.mark.parametrize("change", ["id", "pid", "camid", "time", "attributes"])
def test_columns_that_differ_in_one_thing_are_not_equal(columns, change):
    entry = {"id": 9, "pid": "eve", "camid": "north", "time": 5, "attributes": '{"a": 1}'}
    different = entry | {change: {"id": 10, "time": 6, "attributes": "{}"}.get(change, "other")}
    other = four_entries()
    for one, values in ((columns, entry), (other, different)):
        one.add(rows([values["id"]], [values["pid"]], [values["camid"]], [values["time"]], [values["attributes"]]))
    assert not columns.equals(other)


def test_membership_is_by_id_and_survives_absurd_ids(columns):
    assert 4 in columns
    for absent in (0, 3, 9, -1, 2**63, 10**30):
        assert absent not in columns


def test_codes_are_stable_while_in_use():
    codes = Codes()
    assert codes.take(["a", "b", "a"]).tolist() == [0, 1, 0]
    codes.release(np.array([0]))
    assert codes.known(["a", "b"]) == [0, 1]
    codes.release(np.array([0]))
    assert codes.known(["a", "b"]) == [1]
    assert codes.take(["c"]).tolist() == [0]
    assert (codes.name(0), codes.counts.tolist()) == ("c", [1, 1])
