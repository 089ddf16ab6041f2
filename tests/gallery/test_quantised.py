"""The first pass: its codes, and how far it is believed."""

import faiss
import numpy as np
import pytest

from gallery.quantised import SAMPLE, FirstPass, reach


@pytest.mark.parametrize("dim", [64, 13, 1])
def test_codes_are_byte_for_byte_those_of_faiss(unit, dim):
    rows = unit(300, dim=dim).astype(np.float16)
    first_pass = FirstPass(rows)
    theirs = faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT)
    theirs.train(first_pass._rotated(rows))
    theirs.add(first_pass._rotated(rows))
    ours = faiss.vector_to_array(first_pass._index.codes).reshape(300, -1)
    signs = (dim + 7) // 8
    codes = faiss.vector_to_array(theirs.codes).reshape(300, -1)
    assert ours.shape == codes.shape
    assert np.array_equal(ours[:, :signs], codes[:, :signs])
    factors, expected = (np.ascontiguousarray(one[:, signs:]).view(np.float32) for one in (ours, codes))
    assert factors == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rotation_keeps_inner_products_and_spreads_a_lone_dimension(unit):
    first_pass = FirstPass(unit(10, dim=64).astype(np.float16))
    rows = unit(5, dim=64)
    assert first_pass._rotated(rows) @ first_pass._rotated(rows).T == pytest.approx(rows @ rows.T, abs=1e-6)
    assert np.count_nonzero(np.abs(first_pass._rotated(np.eye(64, dtype=np.float32)[:1])) > 1e-4) > 50


def test_candidates_are_the_rows_that_look_closest(unit):
    rows = unit(2 * SAMPLE, dim=64).astype(np.float16)
    first_pass, query = FirstPass(rows), rows[4711].astype(np.float32)
    positions, estimates = first_pass.candidates(query, 100, None)
    assert positions[0] == 4711 and (np.diff(estimates) <= 0).all()
    assert np.mean(rows[positions].astype(np.float32) @ query) > 0.2


def test_added_rows_are_coded_like_the_first_ones_and_removed_ones_close_up(unit):
    rows = unit(1000, dim=64).astype(np.float16)
    first_pass = FirstPass(rows[:600])
    first_pass.add(rows[600:])
    first_pass.remove(faiss.IDSelectorRange(100, 200))
    kept = np.delete(rows, np.s_[100:200], axis=0)
    assert len(first_pass) == 900
    assert not first_pass.differing(np.arange(900), kept).any()
    kept[5] = -kept[5]
    assert np.flatnonzero(first_pass.differing(np.arange(900), kept)).tolist() == [5]


def test_reach_lies_beyond_the_last_estimate_by_what_estimates_err():
    estimates = np.linspace(0.9, 0.5, 100, dtype=np.float32)
    assert reach(estimates, estimates) == pytest.approx(0.5, abs=1e-6)
    error = np.where(np.arange(100) % 2, 0.01, -0.01).astype(np.float32)
    assert reach(estimates, 0.5 * estimates + error) == pytest.approx(0.25 + 4 * 0.01, abs=1e-3)


def test_estimates_that_say_nothing_reach_as_far_as_the_cosines_vary():
    cosines = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    assert reach(np.full(4, 0.5, np.float32), cosines) == pytest.approx(0.25 + 4 * cosines.std(), abs=1e-6)
    assert reach(cosines[::-1], cosines) >= 0.25
