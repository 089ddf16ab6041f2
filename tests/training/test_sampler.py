"""P x K batches, held against the plain rules of the released code."""

import doctest
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import sampler
from training.sampler import epoch_batches

P_IDS, K_CROPS = 3, 4


def draw(labels, *, ids_per_batch=P_IDS, crops_per_id=K_CROPS, seed=0):
    rng = np.random.default_rng(seed)
    return epoch_batches(labels, ids_per_batch=ids_per_batch, crops_per_id=crops_per_id, rng=rng)


def labels_of(counts):
    """Identity i has counts[i] crops, mixed."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(9).permutation(labels)


many_counts = st.lists(st.integers(1, 14), min_size=P_IDS, max_size=9)


@settings(deadline=None, max_examples=50)
@given(many_counts, st.integers(0, 99))
def test_every_batch_holds_p_identities_with_k_crops_each(counts, seed):
    labels = labels_of(counts)
    for batch in draw(labels, seed=seed):
        assert sorted(Counter(labels[batch].tolist()).values()) == [K_CROPS] * P_IDS


@settings(deadline=None, max_examples=50)
@given(many_counts, st.integers(0, 99))
def test_an_epoch_shows_no_crop_twice_except_of_small_identities(counts, seed):
    labels = labels_of(counts)
    shown = Counter(index for batch in draw(labels, seed=seed) for index in batch)
    assert all(counts[labels[index]] < K_CROPS for index, times in shown.items() if times > 1)


@settings(deadline=None, max_examples=50)
@given(many_counts, st.integers(0, 99))
def test_no_identity_is_drawn_more_often_than_its_crops_allow(counts, seed):
    labels = labels_of(counts)
    drawn = Counter(int(label) for batch in draw(labels, seed=seed) for label in labels[batch][::K_CROPS])
    assert all(times <= max(counts[pid] // K_CROPS, 1) for pid, times in drawn.items())


@settings(deadline=None, max_examples=50)
@given(many_counts, st.integers(0, 99))
def test_an_epoch_ends_when_fewer_than_p_identities_are_left(counts, seed):
    labels = labels_of(counts)
    left = Counter({pid: max(count // K_CROPS, 1) for pid, count in enumerate(counts)})
    for batch in draw(labels, seed=seed):
        left.subtract(labels[batch][::K_CROPS].tolist())
    assert sum(chunks > 0 for chunks in left.values()) < P_IDS


def test_an_epoch_of_16_x_4_on_as_many_identities_as_market_1501_has():
    counts = np.random.default_rng(2).integers(2, 33, 751)  # 2 to 3 are small; about 17 each, as there
    labels = labels_of(counts.tolist())
    batches = draw(labels, ids_per_batch=16, crops_per_id=4)
    assert all(Counter(Counter(labels[batch].tolist()).values()) == {4: 16} for batch in batches)
    shown = Counter(index for batch in batches for index in batch)
    assert {int(counts[labels[index]]) for index, times in shown.items() if times > 1} <= {2, 3}
    assert len(batches) > 0.9 * np.maximum(counts // 4, 1).sum() / 16  # little is left over when the epoch ends


def test_a_small_identity_shows_only_its_own_crops_and_any_of_them():
    labels = [0, 0, 0, *[1] * 4, *[2] * 4]
    shown = [[index for index in batch if labels[index] == 0] for seed in range(30) for batch in draw(labels, seed=seed)]
    assert {len(crops) for crops in shown} == {K_CROPS}
    assert {index for crops in shown for index in crops} == {0, 1, 2}
    assert sum(len(set(crops)) for crops in shown) / len(shown) > 1.9  # 2.4 is expected of four draws with replacement


def test_a_small_identity_is_filled_from_its_own_crops():
    labels = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    (batch,) = draw(labels)
    assert len([index for index in batch if labels[index] == 0]) == K_CROPS


def test_the_remainder_of_an_identity_sits_out_the_epoch():
    batches = draw(labels_of([7, 7, 7]))
    assert len(batches) == 1
    assert len(set(batches[0])) == 12


def test_every_crop_has_its_turn_over_the_epochs():
    labels = labels_of([7, 7, 7])
    shown = {index for seed in range(20) for batch in draw(labels, seed=seed) for index in batch}
    assert shown == set(range(21))


def test_crops_of_one_identity_stand_side_by_side():
    labels = labels_of([4, 8, 8, 4])
    for batch in draw(labels):
        assert all(len(set(labels[batch[start : start + K_CROPS]].tolist())) == 1 for start in range(0, len(batch), K_CROPS))


def test_the_same_generator_draws_the_same_epoch_and_another_another():
    labels = labels_of([9] * 8)
    assert draw(labels, seed=4) == draw(labels, seed=4)
    assert draw(labels, seed=4) != draw(labels, seed=5)


def test_labels_may_be_a_list_and_need_not_be_dense():
    assert draw([70, 70, 9, 9, 500, 500], crops_per_id=2) == draw(np.array([70, 70, 9, 9, 500, 500]), crops_per_id=2)


def test_too_few_identities_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="got 2 identities, wanted at least 3; lower --ids-per-batch or add identities"):
        draw(labels_of([9, 9]))


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(sampler)
    assert (results.failed, results.attempted > 0) == (0, True)
