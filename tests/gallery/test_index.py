import numpy as np
import pytest

from gallery.index import FlatIndex


@pytest.fixture
def index(unit):
    made = FlatIndex(8)
    made.add(np.array([3, 5, 900]), unit(3))
    return made


def test_search_finds_a_vector_under_its_own_id(index):
    for entry_id in (3, 5, 900):
        ids, cosines = index.search(index.vectors(np.array([entry_id]))[0], 1)
        assert ids.tolist() == [entry_id]
        assert cosines[0] == pytest.approx(1, abs=1e-6)


def test_search_returns_fewer_when_fewer_exist(index, unit):
    assert len(index.search(unit(), 10)[0]) == 3
    assert len(FlatIndex(8).search(unit(), 10)[0]) == 0


def test_search_stays_within_the_given_ids(index, unit):
    ids, _ = index.search(unit(), 3, only=np.array([5, 900]))
    assert sorted(ids.tolist()) == [5, 900]


def test_search_within_no_ids_finds_nothing(index, unit):
    assert len(index.search(unit(), 3, only=np.array([], np.int64))[0]) == 0


def test_removal_keeps_the_others_in_order(index, unit):
    kept = index.vectors(np.array([3, 900]))
    assert index.remove(np.array([5])) == 1
    assert index.ids().tolist() == [3, 900]
    assert np.array_equal(index.vectors(np.array([3, 900])), kept)
    assert len(index) == 2


def test_cosines_follow_the_order_of_ids(index, unit):
    query = unit()
    assert index.cosines(query) == pytest.approx(index.vectors(index.ids()) @ query, abs=1e-6)


def test_cosines_of_an_empty_index_are_none(unit):
    assert FlatIndex(8).cosines(unit()).shape == (0,)


def test_vectors_come_back_bit_for_bit(unit):
    index, rows = FlatIndex(8), unit(50)
    index.add(np.arange(50), rows)
    assert np.array_equal(index.vectors(np.arange(50)), rows)
