import numpy as np
import pytest

from gallery.index import AUTO_FROM, CANDIDATES, LEAST, WORTH, Index
from gallery.quantised import FirstPass

NUM, DIM = 4500, 64


def unit_rows(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(params=["random", "clustered", "one identity", "equal", "few equal", "sparse", "crowded first"])
def rows(request):
    """float16 [NUM, DIM] of a shape that a first pass may find hard."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(NUM, DIM))
    centres = 8 * rng.normal(size=(NUM // 20, DIM))
    shapes = {
        "random": noise,
        "clustered": centres[rng.integers(0, len(centres), NUM)] + 3 * noise,
        "one identity": centres[0] + noise,
        "equal": np.tile(centres[0], (NUM, 1)),
        "few equal": centres[np.arange(NUM) % 3],
        "sparse": noise * (rng.random((NUM, DIM)) < 0.03) + 1e-3,
        "crowded first": np.where(np.arange(NUM)[:, np.newaxis] < 3500, centres[0] + noise, 8 * noise),
    }
    return unit_rows(shapes[request.param])


def assert_closest(index, rows, query, least, only=None):
    """Every list is the whole top of a slow, obvious ranking, and the last one is the ranking."""
    every = rows.astype(np.float64) @ query.astype(np.float64)
    admitted = np.arange(len(rows)) if only is None else only
    for positions, cosines in index.closest(query, least, only=only):
        assert len(set(positions.tolist())) == len(positions) and np.isin(positions, admitted).all()
        assert np.abs(cosines - every[positions]).max(initial=0) < 2e-6
        assert np.abs(cosines - np.sort(every[admitted])[::-1][: len(cosines)]).max(initial=0) < 2e-6
        assert np.lexsort((positions, -cosines)).tolist() == list(range(len(positions)))
    assert len(positions) == len(admitted)


def first_pass_of(rows):
    made = FirstPass(DIM)
    made.add(rows)
    return made


def first(index, query):
    return next(index.closest(query, 1))


@pytest.mark.parametrize("choice", ["exact", "quantised"])
def test_lists_are_the_top_of_a_slow_ranking(rows, choice):
    index = Index(DIM, choice)
    index.add(rows)
    rng = np.random.default_rng(4)
    queries = [rows[17].astype(np.float32), *unit_rows(rng.normal(size=(2, DIM))).astype(np.float32)]
    some, few = np.arange(0, NUM, 2) + 1, np.arange(5, NUM, 300)
    for query in queries:
        for least in (1, 60, NUM - 1, NUM):
            assert_closest(index, rows, query, least)
        for only in (some, few, np.setdiff1d(np.arange(NUM), few), np.array([], np.int64)):
            assert_closest(index, rows, query, 11, only)


@pytest.mark.parametrize("choice", ["exact", "quantised"])
def test_rows_come_back_bit_for_bit_after_additions_and_removals(unit, choice):
    rows = unit(NUM, dim=DIM).astype(np.float16)
    index = Index(DIM, choice)
    for part in np.split(rows, [1, 7, 4200]):
        index.add(part)
    gone = np.array([0, 3, 2047, 2048, NUM - 1])
    index.remove(gone)
    kept = np.delete(rows, gone, axis=0)
    assert len(index) == len(kept) and index.rows().tobytes() == kept.tobytes()
    assert not index.differing(np.arange(len(kept)), kept).any()
    for place in (0, 2045, len(kept) - 1):
        assert first(index, kept[place].astype(np.float32))[0][0] == place
    index.remove(np.arange(len(kept)))
    assert (len(index), index.rows().shape) == (0, (0, DIM))
    assert len(first(index, unit(dim=DIM))[0]) == 0


def test_a_few_candidates_settle_a_search_among_clusters(unit):
    centres = unit(NUM // 20, dim=DIM)
    rows = unit_rows(np.repeat(centres, 20, axis=0) + 0.3 * unit(NUM, dim=DIM))
    index = Index(DIM, "quantised")
    index.add(rows)
    lengths = [len(first(index, row.astype(np.float32))[0]) for row in rows[::100]]
    assert min(lengths) >= 11 and max(lengths) < LEAST  # a scan would give LEAST, a proof gives what it proves


def test_candidates_that_settle_nothing_are_followed_by_more_and_then_by_a_scan(unit):
    rows = unit(CANDIDATES[0] * WORTH * 2, dim=16).astype(np.float16)
    index = Index(16, "quantised")
    index.add(rows)
    lengths = [len(positions) for positions, _ in index.closest(rows[0].astype(np.float32), 1)]
    assert max(lengths[:4]) < LEAST <= lengths[-2] and lengths[-1] == len(rows)
    assert_closest(index, rows, rows[0].astype(np.float32), 1)


@pytest.mark.parametrize("shape", ["other rows", "one row"])
def test_a_first_pass_that_knows_nothing_is_not_believed(unit, shape):
    rows = unit(NUM, dim=DIM).astype(np.float16)
    index = Index(DIM, "quantised")
    index.add(rows)
    wrong = unit(NUM, dim=DIM) if shape == "other rows" else np.tile(unit(dim=DIM), (NUM, 1))
    index._first_pass = first_pass_of(wrong.astype(np.float16))
    for query in unit(5, dim=DIM):
        assert_closest(index, rows, query, 11)


def test_rows_or_codes_that_differ_are_found(unit):
    rows = unit(NUM, dim=DIM).astype(np.float16)
    index = Index(DIM, "quantised")
    index.add(rows)
    index._first_pass = first_pass_of(np.concatenate([rows[:9], -rows[9:10], rows[10:]]))
    index.rows()[7, 0] += np.float16(1)
    assert np.flatnonzero(index.differing(np.arange(NUM), rows)).tolist() == [7, 9]


def test_float32_rows_are_kept_in_half_precision(unit):
    index, rows = Index(8, "exact"), unit(50)
    index.add(rows)
    assert index.rows().tobytes() == rows.astype(np.float16).tobytes()


def test_auto_turns_from_exact_to_quantised_and_stays():
    index = Index(2, "auto")
    rows = np.ones((AUTO_FROM, 2), np.float16)
    index.add(rows[1:])
    assert index.kind == "exact"
    index.add(rows[:1])
    assert index.kind == "quantised"
    index.remove(np.arange(AUTO_FROM - 1))
    assert index.kind == "quantised"
    assert first(index, np.array([0.6, 0.8], np.float32))[1] == pytest.approx([1.4])


def test_a_forced_choice_holds_at_every_size():
    for choice in ("exact", "quantised"):
        index = Index(2, choice)
        assert index.kind == choice
        index.add(np.ones((AUTO_FROM, 2), np.float16))
        assert index.kind == choice


def test_reserved_room_changes_nothing(rows):
    index = Index(DIM, "exact")
    for num in (0, 2 * NUM, 3):
        index.reserve(num)
        index.add(rows[:100])
    assert np.array_equal(index.rows(), np.tile(rows[:100], (3, 1)))


@pytest.mark.parametrize("choice", ["exact", "quantised"])
def test_lists_say_how_many_are_proven_and_go_on_behind_them(choice):
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((9000, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = Index(64, choice)
    index.add(rows)
    true = np.sort(rows.astype(np.float16).astype(np.float32) @ rows[7])[::-1]
    for positions, cosines, num_proven in index.lists(rows[7], 200):
        assert len(positions) >= max(200, num_proven) and (np.diff(cosines) <= 0).all()
        assert cosines[:num_proven] == pytest.approx(true[:num_proven], abs=1e-5)
    assert num_proven == len(rows)
