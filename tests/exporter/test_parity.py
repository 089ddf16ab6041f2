"""The gate: what passes, and that every kind of fault is refused with its worst row."""

import numpy as np
import pytest

from exporter import parity
from exporter.parity import BATCH_SIZES, Parity, check, drawn_crops

COUNT, DIM = sum(BATCH_SIZES), 16


@pytest.fixture(name="numbered")
def numbered_fixture():
    """uint8 [42, 4, 4, 3] of noise; the first pixel carries the row's number."""
    crops = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    crops[:, 0, 0, 0] = np.arange(COUNT)
    return crops


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reference(crops):
    weights = np.random.default_rng(1).normal(size=(45, DIM))
    return unit((crops.reshape(len(crops), -1)[:, 3:] - 127.5) @ weights)


def spoiled(row, change):
    """The reference, but for one row."""

    def embed(crops):
        rows = reference(crops)
        for place in np.flatnonzero(crops[:, 0, 0, 0] == row):
            rows[place] = change(rows[place])
        return rows

    return embed


def test_an_equal_embedder_passes(numbered):
    assert check(reference, reference, numbered, precision="fp32") == Parity(1.0, 1.0, COUNT, BATCH_SIZES)


def test_the_exported_embedder_meets_every_batch_size(numbered):
    sizes = []

    def counted(crops):
        sizes.append(len(crops))
        return reference(crops)

    check(reference, counted, numbered, precision="fp32")
    assert set(BATCH_SIZES) <= set(sizes)


@pytest.mark.parametrize("row", [0, 1, 9, 41])
def test_a_wrong_row_is_refused_by_its_number(numbered, row):
    with pytest.raises(ValueError, match=rf"got cosine -1\.000000 to torch at row {row}, wanted at least 0\.9999"):
        check(reference, spoiled(row, np.negative), numbered, precision="fp32")


def test_rows_in_another_order_are_refused(numbered):
    with pytest.raises(ValueError, match="to torch at row"):
        check(reference, lambda crops: reference(crops)[::-1], numbered, precision="fp32")


@pytest.mark.parametrize(("factor", "length"), [(1.01, "1.010000"), (0.5, "0.500000"), (np.nan, "nan")])
def test_a_row_of_another_length_is_refused_by_its_number(numbered, factor, length):
    with pytest.raises(ValueError, match=f"got an embedding of length {length} at row 23, wanted 1"):
        check(reference, spoiled(23, lambda row: row * np.float32(factor)), numbered, precision="fp32")


def test_an_output_that_depends_on_its_batch_is_refused_with_the_row(numbered):
    def drifting(crops):
        rows = reference(crops)
        rows[crops[:, 0, 0, 0] == 5, 0] += 1e-4 * len(crops)
        return unit(rows)

    with pytest.raises(ValueError, match=r"changes by 0\.00\d+ with its batch at row 5, wanted 0\.0001"):
        check(reference, drifting, numbered, precision="fp32")


def test_other_neighbours_are_refused_though_every_row_is_close(numbered):
    def crowded(seed):
        """Almost the same embedding for every crop: who is nearest hangs on the last digits."""

        def embed(crops):
            noise = np.random.default_rng(seed).normal(size=(256, DIM))[crops[:, 0, 0, 0]]
            return unit(np.eye(DIM)[0] + 1e-3 * noise)

        return embed

    with pytest.raises(ValueError, match="got other nearest neighbours than torch among 42 crops"):
        check(crowded(0), crowded(1), numbered, precision="fp32")


def test_int8_may_be_farther_from_torch_than_fp32_but_not_far(numbered):
    def leaning(by):
        return lambda crops: unit(reference(crops) + by * np.eye(DIM)[0])

    result = check(reference, leaning(0.3), numbered, precision="int8")
    assert 0.90 <= result.worst_cosine < result.mean_cosine < 0.9999
    with pytest.raises(ValueError, match=r"wanted at least 0\.9999"):
        check(reference, leaning(0.3), numbered, precision="fp32")
    with pytest.raises(ValueError, match=r"wanted at least 0\.9$"):
        check(reference, leaning(1.0), numbered, precision="int8")


def test_too_few_crops_are_refused(numbered):
    with pytest.raises(ValueError, match=r"got 41 crops, wanted at least 42 to fill batches of \(1, 2, 7, 32\)"):
        check(reference, reference, numbered[:-1], precision="int8")


def test_drawn_crops_are_the_same_each_time_and_all_different():
    crops = drawn_crops(6, height=64, width=32)
    assert (crops.shape, crops.dtype) == ((6, 64, 32, 3), np.uint8)
    assert np.array_equal(crops, drawn_crops(6, height=64, width=32))
    assert len({crop.tobytes() for crop in crops}) == 6


def test_the_runtime_embeds_what_the_file_says(artefact, crops):
    rows = parity.runtime_embedder(artefact / "model.onnx")(crops[:2])
    assert (rows.shape, rows.dtype) == ((2, 512), np.float32)
