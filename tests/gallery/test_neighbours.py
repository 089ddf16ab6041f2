import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gallery import neighbours
from gallery.lists import _stable_order
from gallery.neighbours import find_neighbours, pair_cosines, sq_dist


def dense_neighbours(query, gallery, k):
    """The definition, with everything in memory: numbers of the k closest, itself first, and the largest distance."""
    both = np.concatenate([query, gallery])
    cosines = both @ both.T
    farthest = (2 - 2 * cosines).max(axis=1)
    np.fill_diagonal(cosines, np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k], farthest


def corners(rng, num):
    """Unit embeddings of four halves: their cosines are exact, most are equal, many crops are the same."""
    return rng.choice(np.array([-0.5, 0.5], np.float32), (num, 4))


@pytest.mark.parametrize("strip", [1, 4, 512])
@pytest.mark.parametrize("block_bytes", [1, 3000, 2**26])
@pytest.mark.parametrize(("num_query", "num_gallery", "k"), [(7, 60, 5), (1, 40, 41), (30, 1, 2), (1, 1, 1), (20, 300, 21)])
def test_neighbours_are_the_closest_with_ties_by_number(num_query, num_gallery, k, block_bytes, strip, monkeypatch):
    monkeypatch.setattr(neighbours, "STRIP", strip)
    rng = np.random.default_rng(num_gallery)
    query, gallery = corners(rng, num_query), corners(rng, num_gallery)
    found = find_neighbours(query, gallery, k=k, block_bytes=block_bytes)
    index, farthest = dense_neighbours(query, gallery, k)
    assert found.index.tolist() == index.tolist()
    assert found.farthest.tolist() == farthest.tolist()


def test_blocks_of_any_size_find_the_same_neighbours(unit_rows):
    query, gallery = unit_rows(30), unit_rows(400)
    index, farthest = dense_neighbours(query, gallery, 12)
    for block_bytes in (1, 10_000, 100_000, 2**26):
        found = find_neighbours(query, gallery, k=12, block_bytes=block_bytes)
        assert found.index.tolist() == index.tolist()
        assert found.farthest == pytest.approx(farthest, abs=1e-6)


@pytest.mark.parametrize("block_bytes", [1, 10_000, 2**26])
def test_cosines_of_queries_to_the_gallery_are_handed_over(unit_rows, block_bytes):
    query, gallery = unit_rows(30), unit_rows(400)
    cross = np.empty((30, 400), np.float32)
    find_neighbours(query, gallery, k=12, block_bytes=block_bytes, cross=cross)
    assert cross == pytest.approx(query @ gallery.T, abs=1e-6)


def test_rows_that_come_ever_closer_are_all_looked_at():
    # Each crop is closer to the next ones than to those before: everything offered may be listed.
    angles = np.cumsum(np.linspace(0.04, 0.004, 120))
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index, _ = dense_neighbours(rows[:20], rows[20:], 8)
    for block_bytes in (1, 10_000, 2**26):
        assert find_neighbours(rows[:20], rows[20:], k=8, block_bytes=block_bytes).index.tolist() == index.tolist()


def test_a_crop_leads_its_own_list_even_among_its_duplicates():
    same = np.tile(np.array([0.6, 0.8], np.float32), (10, 1))
    index = find_neighbours(same[:3], same[3:], k=4).index
    assert index[:, 0].tolist() == list(range(10))
    assert index[9].tolist() == [9, 0, 1, 2]


@pytest.mark.parametrize("block_bytes", [1, 2**26])
def test_cosines_of_pairs_are_right_whether_listed_or_not(unit_rows, block_bytes):
    query, gallery = unit_rows(5), unit_rows(20)
    both = np.concatenate([query, gallery])
    left, right = np.nonzero(~np.eye(25, dtype=bool))
    neighbours = find_neighbours(query, gallery, k=6)
    found = pair_cosines(query, gallery, neighbours, left, right, block_bytes=block_bytes)
    assert found == pytest.approx((both @ both.T)[left, right], abs=1e-6)


def test_every_crop_is_reported_as_done_once(unit_rows):
    done = []
    find_neighbours(unit_rows(30), unit_rows(70), k=3, block_bytes=4000, progress=done.append)
    assert sum(done) == 100
    assert len(done) > 5


def test_squared_distance_is_never_negative():
    assert sq_dist(np.array([1.0001, 1, 0, -1, np.inf], np.float32)).tolist() == [0, 0, 2, 4, 0]


@pytest.fixture
def unit_rows():
    rng = np.random.default_rng(3)

    def draw(num):
        rows = rng.standard_normal((num, 16)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return draw


@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)), max_size=40))
def test_the_order_of_keys_is_that_of_a_stable_sort(keys):
    numbers = np.array(keys, np.int64)
    assert _stable_order(numbers).tolist() == np.argsort(numbers, kind="stable").tolist()
