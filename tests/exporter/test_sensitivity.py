"""Which groups stay in fp32: none if int8 is near enough, else the most harmful ones first, and never more than half."""

import json

import numpy as np
import pytest

from exporter.sensitivity import LEAST_MEAN, LEAST_WORST, Agreement, agreement, choose

DAMAGE = {"stem": 0.001, "layer1.0": 0.03, "layer2.0": 0.0, "layer3.0": 0.02, "layer4.0": 0.002}


def summed(groups):
    """As if the damages added up, and the worst crop suffered four times as much."""
    total = sum(DAMAGE[name] for name in groups)
    return Agreement(1 - total, 1 - 4 * total, 64)


def test_all_groups_are_quantised_where_the_whole_reaches_the_floor():
    choice = choose(DAMAGE, lambda groups: Agreement(LEAST_MEAN, LEAST_WORST, 64))
    assert (choice.left_in_fp32, choice.held) == ((), Agreement(LEAST_MEAN, LEAST_WORST, 64))


def test_the_most_harmful_groups_are_left_in_fp32_until_the_floor_is_reached():
    choice = choose(DAMAGE, summed)
    assert choice.left_in_fp32 == ("layer1.0", "layer3.0")
    assert choice.held.mean == pytest.approx(0.997)


@pytest.mark.parametrize(("keep", "left"), [(1, ("layer1.0",)), (2, ("layer1.0", "layer3.0"))])
def test_as_many_groups_as_asked_for_stay_in_fp32_though_the_floor_is_reached_without(keep, left):
    choice = choose(DAMAGE, lambda groups: Agreement(1.0, 1.0, 64), keep=keep)
    assert choice.left_in_fp32 == left


def test_more_than_half_of_the_groups_cannot_be_kept():
    with pytest.raises(ValueError, match="--keep-fp32: got 3, wanted at most 2 of the 5 groups"):
        choose(DAMAGE, lambda groups: Agreement(1.0, 1.0, 64), keep=3)


def test_the_worst_crop_counts_as_well_as_the_mean():
    choice = choose(DAMAGE, lambda groups: Agreement(0.999, 0.5 if "layer1.0" in groups else 0.95, 64))
    assert choice.left_in_fp32 == ("layer1.0",)


def test_int8_is_refused_when_half_of_the_groups_do_not_suffice():
    asked = []

    def bad(groups):
        asked.append(len(groups))
        return Agreement(0.5, 0.2, 64)

    with pytest.raises(
        ValueError, match=r"cosine to fp32 of 0\.5000 \(worst 0\.2000\) over 64 held crops with 2 of 5 groups left"
    ):
        choose(DAMAGE, bad)
    assert asked == [5, 4, 3]


def test_agreement_is_the_cosine_row_by_row():
    rows, expected = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert agreement(rows, expected) == Agreement(0.9, 0.8, 2)


def test_the_table_has_the_most_harmful_group_first_and_marks_what_is_left():
    lines = choose(DAMAGE, summed).table().splitlines()
    assert lines[1].split() == ["layer1.0", "0.030000", "left", "in", "fp32"]
    assert lines[-1].split() == ["layer2.0", "0.000000"]


def test_an_int8_artefact_tells_the_damage_of_every_group(int8_artefact):
    written = json.loads((int8_artefact / "manifest.json").read_text())["quantization"]
    assert list(written["damage"]) == ["stem", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]
    assert all(0 <= damage < 0.1 for damage in written["damage"].values())
    assert written["floor"] == {"mean_cosine": LEAST_MEAN, "worst_cosine": LEAST_WORST}
    assert written["held"]["mean"] >= LEAST_MEAN
