"""The learning rate of every epoch."""

import doctest
from dataclasses import replace

import pytest

from training import schedule
from training.config import TrainConfig
from training.schedule import learning_rate, remarks

AFTER = [3.5e-4] * 30 + [3.5e-5] * 30 + [3.5e-6] * 50  # epochs 11..40, 41..70, 71..120, in either form
# The released code under the PyTorch of its time: from 1 % of the rate in equal steps; the full rate comes in epoch 11.
RELEASED = [3.5e-4 * (0.01 + 0.099 * past) for past in range(10)] + AFTER
PRINTED = [3.5e-5 * epoch for epoch in range(1, 11)] + AFTER  # eq. 1


def rates(config, epochs=120):
    return [learning_rate(config, epoch) for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize(("warmup", "wanted"), [("code", RELEASED), ("paper", PRINTED)])
def test_every_epoch_of_the_strong_baseline_has_its_rate(warmup, wanted):
    assert rates(TrainConfig(warmup=warmup)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "released", "printed"),  # three digits
    [
        (1, 3.50e-6, 3.50e-5),
        (2, 3.82e-5, 7.00e-5),
        (10, 3.15e-4, 3.50e-4),
        (11, 3.50e-4, 3.50e-4),
        (40, 3.50e-4, 3.50e-4),  # on PyTorch from 1.1 on the released code decays one epoch early, here and at 70
        (41, 3.50e-5, 3.50e-5),
        (70, 3.50e-5, 3.50e-5),
        (71, 3.50e-6, 3.50e-6),
        (120, 3.50e-6, 3.50e-6),
    ],
)
def test_the_rates_around_each_change_are_the_documented_ones(epoch, released, printed):
    assert learning_rate(TrainConfig(), epoch) == pytest.approx(released, rel=2e-3)
    assert learning_rate(TrainConfig(warmup="paper"), epoch) == pytest.approx(printed, rel=2e-3)


@pytest.mark.parametrize("warmup", ["code", "paper"])
def test_without_warm_up_the_first_epoch_has_the_full_rate(warmup):
    assert rates(TrainConfig(warmup=warmup, warmup_epochs=0), 40) == [3.5e-4] * 40


def test_the_warm_up_starts_where_its_factor_says():
    assert rates(TrainConfig(warmup_epochs=4, warmup_factor=0.2, lr=1.0), 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates(TrainConfig(warmup_epochs=4, warmup_factor=0.2, lr=1.0, warmup="paper"), 5) == [0.25, 0.5, 0.75, 1, 1]


def test_a_decay_within_the_warm_up_applies_to_it():
    config = replace(TrainConfig(), decay_epochs=(2,))
    assert learning_rate(config, 3) == pytest.approx(0.1 * learning_rate(TrainConfig(), 3))


def test_decays_come_after_their_epochs_by_their_factor():
    config = TrainConfig(warmup_epochs=0, lr=1.0, decay_epochs=(1, 3), decay_factor=0.5)
    assert rates(config, 5) == [1, 0.5, 0.5, 0.25, 0.25]


def test_the_rate_does_not_depend_on_the_number_of_epochs():
    assert rates(TrainConfig(epochs=500)) == rates(TrainConfig())


@pytest.mark.parametrize("epoch", [0, -3])
def test_an_epoch_below_one_is_refused(epoch):
    with pytest.raises(ValueError, match=f"epoch: got {epoch}, wanted 1 or more"):
        learning_rate(TrainConfig(), epoch)


def test_the_examples_in_the_documentation_hold():
    results = doctest.testmod(schedule)
    assert (results.failed, results.attempted > 0) == (0, True)


def test_a_run_that_ends_within_its_warm_up_is_told_so():
    (remark,) = remarks(TrainConfig(epochs=3))
    assert remark == "3 epochs end within the warm-up of 10, at a rate of 7.3e-05; try --warmup-epochs 1 --decay-epochs 2"


def test_a_run_that_ends_before_its_first_decay_is_told_so():
    (remark,) = remarks(TrainConfig(epochs=40))
    assert remark.startswith("40 epochs end before the rate decays (after epochs 40 70); try --decay-epochs 13 24")


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(epochs=41),
        TrainConfig(epochs=1),
        TrainConfig(epochs=3, warmup_epochs=1, decay_epochs=(2,)),
        TrainConfig(epochs=20, decay_epochs=()),
    ],
)
def test_a_schedule_that_runs_its_course_gets_no_remark(config):
    assert remarks(config) == []
