"""Cutting batches into the sizes that the runtime is given."""

import pytest

from service.ladder import cut, ladder_of

LADDER = (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("count", "pieces"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (7, [4, 2, 1]), (8, [8]), (9, [8, 1]), (21, [8, 8, 4, 1])],
)
def test_without_padding_a_batch_is_cut_into_sizes_of_the_ladder(count, pieces):
    assert list(cut(count, LADDER, most_padding=0)) == [(size, size) for size in pieces]


@pytest.mark.parametrize(
    ("count", "pieces"),
    [(3, [(3, 4)]), (5, [(4, 4), (1, 1)]), (6, [(6, 8)]), (7, [(7, 8)]), (15, [(8, 8), (7, 8)]), (17, [(8, 8), (8, 8), (1, 1)])],
)
def test_a_piece_is_padded_up_to_the_share_that_is_allowed(count, pieces):
    assert list(cut(count, LADDER, most_padding=0.25)) == pieces


@pytest.mark.parametrize("most_padding", [0, 0.25, 1])
def test_every_row_is_in_one_piece_and_fits_it(most_padding):
    for count in range(1, 40):
        pieces = list(cut(count, LADDER, most_padding=most_padding))
        assert sum(rows for rows, _ in pieces) == count
        assert all(size in LADDER and size * (1 - most_padding) <= rows <= size for rows, size in pieces)


def test_no_rows_make_no_pieces():
    assert list(cut(0, LADDER, most_padding=0)) == []


@pytest.mark.parametrize(
    ("batch_max", "ladder"),
    [(0, (1, 2, 4, 8, 16, 32, 64)), (1, (1,)), (2, (1, 2)), (16, (1, 2, 4, 8, 16)), (24, (1, 2, 4, 8, 16, 24)), (256, 256)],
)
def test_a_gpu_prepares_for_the_largest_batch_that_will_come_and_no_larger(batch_max, ladder):
    found = ladder_of(is_gpu=True, batch_max=batch_max)
    assert found == ladder if isinstance(ladder, tuple) else found[-1] == ladder
    assert list(found) == sorted(set(found)) and found[0] == 1


@pytest.mark.parametrize("batch_max", [0, 4, 64])
def test_a_cpu_runs_no_more_than_eight_at_once_whatever_comes(batch_max):
    assert ladder_of(is_gpu=False, batch_max=batch_max) == (1, 2, 4, 8)
