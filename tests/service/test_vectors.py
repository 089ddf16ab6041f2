"""Embeddings that callers send."""

import base64

import numpy as np
import pytest

from gallery.errors import DimensionMismatch, NotUnitLength
from service.errors import InvalidRequest
from service.vectors import from_list, from_text, pooled


def unit(seed, dim=64):
    row = np.random.default_rng(seed).normal(size=dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


def test_a_unit_row_is_kept_bit_for_bit():
    row = unit(1)
    assert np.array_equal(from_text(base64.b64encode(row.tobytes()).decode(), dim=64), row)
    assert np.array_equal(from_list(row.tolist(), dim=64), row)


def test_rounded_decimals_are_scaled_to_unit_length():
    rounded = [round(float(value), 3) for value in unit(2)]
    assert abs(np.linalg.norm(from_list(rounded, dim=64)) - 1) < 1e-6


def test_float16_is_scaled_to_unit_length():
    row = from_text(base64.b64encode(unit(3).astype("<f2").tobytes()).decode(), dim=64)
    assert row.dtype == np.float32 and abs(np.linalg.norm(row) - 1) < 1e-6


def test_a_length_outside_the_tolerance_is_refused():
    with pytest.raises(NotUnitLength, match="wanted 1 within 0.001"):
        from_list((unit(4) * 1.002).tolist(), dim=64)


def test_a_wrong_size_is_refused():
    with pytest.raises(DimensionMismatch, match="got 63 values, wanted 64"):
        from_list(unit(4).tolist()[:-1], dim=64)


@pytest.mark.parametrize("values", [[True] * 64, [None] * 64, [[1.0]] * 64, ["1"] * 64])
def test_a_list_of_other_things_is_refused(values):
    with pytest.raises(InvalidRequest, match="more than numbers"):
        from_list(values, dim=64)


def test_a_number_beyond_any_float_is_refused():
    with pytest.raises(InvalidRequest, match="beyond any float"):
        from_list([10**400] * 64, dim=64)


def test_one_row_pools_to_itself_bit_for_bit():
    assert np.array_equal(pooled([unit(5)]), unit(5))


def test_rows_pool_to_their_mean_of_unit_length():
    rows = [unit(seed) for seed in range(3)]
    mean = np.mean(rows, axis=0)
    assert np.allclose(pooled(rows), mean / np.linalg.norm(mean), atol=1e-7)


def test_rows_that_cancel_out_are_refused():
    with pytest.raises(InvalidRequest, match="whose mean is zero"):
        pooled([unit(6), -unit(6)])
