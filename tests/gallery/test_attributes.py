import json

import numpy as np
import pytest

from gallery.attributes import MIN_CAPACITY, Attributes
from gallery.errors import InvalidRequest

OBJECTS = [
    {"site": "north", "floor": 1, "staff": True},
    {"site": "north", "floor": 1.0, "staff": 1},
    {"site": "south", "floor": "1", "staff": False, "tags": ["a"], "box": {"x": 1}, "note": None},
    {},
    {"é\0": -0.0, "big": 10**30, "site": ""},
]


@pytest.fixture
def attributes():
    """Entries 1, 2, 4, 8, 16 with OBJECTS."""
    made = Attributes()
    made.add([1, 2, 4, 8, 16], [json.dumps(one) for one in OBJECTS])
    return made


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"site": "north"}, [1, 2]),
        ({"site": ""}, [16]),
        ({"site": "nor"}, []),
        ({"floor": 1}, [1, 2]),
        ({"floor": 1.0}, [1, 2]),
        ({"floor": "1"}, [4]),
        ({"floor": True}, []),
        ({"staff": True}, [1]),
        ({"staff": 1}, [2]),
        ({"staff": False}, [4]),
        ({"staff": 0}, []),
        ({"site": "north", "staff": True}, [1]),
        ({"site": "north", "staff": True, "floor": 2}, []),
        ({"é\0": 0}, [16]),
        ({"big": 10**30}, [16]),
        ({"big": 1e30}, []),
        ({"floor": float("nan")}, []),
        ({"lone \ud800": 1}, []),
        ({"tags": "a"}, []),
        ({"nothing": 1}, []),
    ],
)
def test_every_pair_must_stand_with_the_same_type(attributes, wanted, ids):
    assert attributes.bearing(wanted).tolist() == ids


@pytest.mark.parametrize("value", [None, ["a"], {"x": 1}])
def test_a_value_that_no_filter_can_ask_for_is_refused(attributes, value):
    with pytest.raises(InvalidRequest, match="a string, a number or a boolean"):
        attributes.bearing({"tags": value})


def test_removed_entries_leave_nothing_behind(attributes):
    attributes.remove(np.array([2, 16]))
    assert attributes.bearing({"site": "north"}).tolist() == [1]
    assert attributes.bearing({"big": 10**30}).tolist() == []
    once = Attributes()
    once.add([1, 4, 8], [json.dumps(OBJECTS[place]) for place in (0, 2, 3)])
    assert attributes.equals(once) and not attributes._rows[:, once._num :].any()


def test_attributes_grow_beyond_their_first_capacity(attributes):
    num = 2 * MIN_CAPACITY
    attributes.add(range(100, 100 + num), [json.dumps({"track": number, "site": "east"}) for number in range(num)])
    assert attributes.bearing({"track": num - 1}).tolist() == [99 + num]
    assert len(attributes.bearing({"site": "east"})) == num
    assert attributes.bearing({"site": "north"}).tolist() == [1, 2]


def test_attributes_differ_by_entry_and_by_value():
    def holding(entry_id, value):
        made = Attributes()
        made.add([entry_id], [json.dumps({"a": value})])
        return made

    assert holding(1, 2).equals(holding(1, 2))
    assert not holding(1, 2).equals(holding(3, 2))
    assert not holding(1, 2).equals(holding(1, "2"))
    assert not holding(1, 2).equals(Attributes())
