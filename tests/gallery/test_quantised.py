"""The first pass: its codes, and how far it is believed."""

import faiss
import numpy as np
import pytest

from gallery.quantised import FirstPass, reach


def coded(rows):
    made = FirstPass(rows.shape[1])
    made.add(rows.astype(np.float16))
    return made


@pytest.mark.parametrize("dim", [64, 13, 1])
def test_signs_that_differ_tell_the_angle(unit, dim):
    rows = unit(600, dim=dim)
    positions, differences = coded(rows).candidates(rows[0], 600, None)
    angles = np.arccos(np.clip(rows[positions] @ rows[0], -1, 1))
    assert (np.diff(differences) >= 0).all() and differences[0] == 0
    assert np.abs(differences / dim - angles / np.pi).mean() < 0.5 / np.sqrt(dim)


def test_rotation_keeps_inner_products_and_spreads_a_lone_dimension(unit):
    first_pass, rows = FirstPass(64), unit(5, dim=64)
    assert first_pass._rotated(rows) @ first_pass._rotated(rows).T == pytest.approx(rows @ rows.T, abs=1e-6)
    assert np.count_nonzero(np.abs(first_pass._rotated(np.eye(64, dtype=np.float32)[:1])) > 1e-4) > 50


def test_candidates_are_the_selected_rows_that_look_closest(unit):
    rows = unit(3000, dim=64)
    first_pass = coded(rows)
    positions, _ = first_pass.candidates(rows[2047], 100, None)
    assert positions[0] == 2047 and np.mean(rows[positions] @ rows[2047]) > 0.2
    positions, _ = first_pass.candidates(rows[2047], 100, faiss.IDSelectorRange(500, 700))
    assert len(positions) == 100 and ((positions >= 500) & (positions < 700)).all()


def test_removed_codes_close_up_and_a_wrong_one_is_found(unit):
    rows = unit(1000, dim=64).astype(np.float16)
    first_pass = coded(rows[:600])
    first_pass.add(rows[600:])
    first_pass.remove(faiss.IDSelectorRange(100, 200))
    kept = np.delete(rows, np.s_[100:200], axis=0)
    assert len(first_pass) == 900
    assert not first_pass.differing(np.arange(900), kept).any()
    kept[5] = -kept[5]
    assert np.flatnonzero(first_pass.differing(np.arange(900), kept)).tolist() == [5]


DIFFERENCES = np.arange(400, 500)  # of 1024 signs


def angle_cosines(differences, dim=1024):
    return np.cos(np.pi * differences / dim).astype(np.float32)


def test_reach_lies_three_deviations_of_the_signs_beyond_the_last_candidate():
    exact = angle_cosines(DIFFERENCES)
    deviation = np.sqrt(499 * (1024 - 499) / 1024)
    assert reach(DIFFERENCES, exact, 1024) == pytest.approx(np.cos(np.pi * (499 - 3 * deviation) / 1024), abs=1e-6)


def test_reach_lies_four_deviations_of_what_the_line_leaves_over():
    error = np.where(DIFFERENCES % 2, 0.05, -0.05).astype(np.float32)
    exact = angle_cosines(DIFFERENCES)
    assert reach(DIFFERENCES, exact + error, 1024) == pytest.approx(exact[-1] + 4 * 0.05, abs=5e-3)


def test_near_equal_rows_do_not_vouch_for_each_other():
    alike = np.full(100, 0.3, np.float32)
    assert reach(np.full(100, 410), alike, 1024) > 0.35  # whoever differs in 411 signs may well be as close as that


def test_differences_that_say_nothing_reach_as_far_as_the_cosines_vary():
    cosines = np.linspace(0.1, 0.9, 100, dtype=np.float32)
    for differences in (np.full(100, 500), DIFFERENCES):
        assert reach(differences, cosines, 1024) == pytest.approx(0.5 + 4 * cosines.std(), abs=1e-5)


def test_rows_without_a_differing_sign_reach_to_the_end():
    assert reach(np.zeros(5, np.int32), np.ones(5, np.float32), 1024) == 1
