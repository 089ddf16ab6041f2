"""The learning rate of every epoch."""

import doctest
from dataclasses import replace

import pytest

from training import schedule
from training.config import TrainConfig
from training.schedule import learning_rate

# The released code under the PyTorch of its time: (1-based epoch, rate).
RELEASED = [
    *((1, 3.5e-6), (2, 3.5e-4 * 0.109), (10, 3.5e-4 * 0.901), (11, 3.5e-4), (40, 3.5e-4)),  # 3.82e-5 and 3.15e-4, rounded
    *((41, 3.5e-5), (70, 3.5e-5), (71, 3.5e-6), (100, 3.5e-6), (120, 3.5e-6)),
]


@pytest.mark.parametrize(("epoch", "rate"), RELEASED)
def test_the_strong_baseline_follows_the_released_code(epoch, rate):
    assert learning_rate(TrainConfig(), epoch) == pytest.approx(rate, rel=1e-12)


def test_the_warm_up_rises_in_equal_steps():
    rates = [learning_rate(TrainConfig(), epoch) for epoch in range(1, 12)]
    assert [after - before for before, after in zip(rates, rates[1:], strict=False)] == pytest.approx([3.5e-4 * 0.099] * 10)


def test_without_warm_up_the_first_epoch_has_the_full_rate():
    assert learning_rate(replace(TrainConfig(), warmup_epochs=0), 1) == 3.5e-4


def test_a_decay_within_the_warm_up_applies_to_it():
    config = replace(TrainConfig(), decay_epochs=(2,))
    assert learning_rate(config, 3) == pytest.approx(0.1 * learning_rate(TrainConfig(), 3))


def test_the_rate_does_not_depend_on_the_number_of_epochs():
    longer = replace(TrainConfig(), epochs=500)
    assert [learning_rate(longer, epoch) for epoch in range(1, 121)] == [learning_rate(TrainConfig(), e) for e in range(1, 121)]


@pytest.mark.parametrize("epoch", [0, -3])
def test_an_epoch_below_one_is_refused(epoch):
    with pytest.raises(ValueError, match=f"epoch: got {epoch}, wanted 1 or more"):
        learning_rate(TrainConfig(), epoch)


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(schedule)
    assert (results.failed, results.attempted > 0) == (0, True)
