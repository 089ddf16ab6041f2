"""One frozen dataclass: flags, refusals, JSON."""

import argparse
import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from training.config import NECKS, NeckName, NeckParts, TrainConfig, add_flags, from_json, override, to_json

FIELDS = {item.name: item for item in fields(TrainConfig)}
HINTS = get_type_hints(TrainConfig)


def parser(**more):
    made = argparse.ArgumentParser(exit_on_error=False, **more)
    add_flags(made)
    return made


def overridden(*argv, config=None):
    return override(config or TrainConfig(), parser().parse_args(argv))


# Flags.


def test_there_is_one_flag_for_every_field():
    assert set(vars(parser().parse_args([]))) == set(FIELDS)


def test_every_flag_shows_its_default_and_where_it_comes_from():
    shown = " ".join(parser().format_help().split())
    for item in FIELDS.values():
        default = " ".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
        assert f"{item.metadata['help']} ({'off' if default is False else default}, {item.metadata['source']})" in shown


def test_every_field_says_its_group_its_help_and_its_source():
    said = {name: item.metadata for name, item in FIELDS.items()}
    assert {one["group"] for one in said.values()} == {"network", "crops", "losses", "optimiser", "test", "machine"}
    assert {one["source"] for one in said.values()} == {"paper", "code", "ours"}
    assert [name for name, one in said.items() if not one["help"].strip()] == []


def test_fields_of_one_group_stand_together():
    groups = [item.metadata["group"] for item in FIELDS.values()]
    assert [one for one, before in zip(groups, [None, *groups], strict=False) if one != before] == list(dict.fromkeys(groups))


def test_no_flag_takes_more_than_two_lines_of_the_help():
    wide = parser(formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=38, width=120))  # as in run.py
    lines = [line for line in wide.format_help().partition("network:")[2].splitlines() if line.startswith("  ")]
    starts = [place for place, line in enumerate(lines) if line.startswith("  --")] + [len(lines)]
    assert len(starts) == len(FIELDS) + 1
    assert max(after - start for start, after in zip(starts, starts[1:], strict=False)) <= 2


def test_without_flags_the_configuration_stands():
    config = replace(TrainConfig(), backbone="resnet18", decay_epochs=(3,), flip_test=True)
    assert overridden(config=config) == config


def test_given_flags_replace_their_values_and_no_other():
    config = replace(TrainConfig(), backbone="resnet18", height=128)
    changed = overridden("--epochs", "7", "--lr", "0.01", "--neck", "neck2", "--compile", config=config)
    assert changed == replace(config, epochs=7, lr=0.01, neck="neck2", compile=True)


def test_a_flag_can_set_zero_and_switch_off():
    config = replace(TrainConfig(), flip_test=True)
    changed = overridden("--no-flip-test", "--center-weight", "0", "--warmup-epochs", "0", config=config)
    assert (changed.flip_test, changed.center_weight, changed.warmup_epochs) == (False, 0.0, 0)


@pytest.mark.parametrize(("given", "wanted"), [(["20", "30"], (20, 30)), (["5"], (5,)), ([], ())])
def test_the_decay_epochs_are_a_list_of_any_length(given, wanted):
    assert overridden("--decay-epochs", *given).decay_epochs == wanted


CHOICES = {name: get_args(hint) for name, hint in HINTS.items() if get_origin(hint) is Literal}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_can_be_given_as_a_flag(name):
    given = [getattr(overridden(f"--{name.replace('_', '-')}", choice), name) for choice in CHOICES[name]]
    assert tuple(given) == CHOICES[name]


@pytest.mark.parametrize(
    "argv", [["--backbone", "vgg"], ["--epochs", "2.5"], ["--lr", "fast"], ["--precision", "fp8"], ["--neck", "bnneck4"]]
)
def test_a_flag_of_another_type_is_a_usage_error(argv):
    with pytest.raises(argparse.ArgumentError):
        parser().parse_args(argv)


def test_a_bad_flag_is_refused_when_the_configuration_is_built():
    with pytest.raises(ValueError, match="flip_prob: got 2.0, wanted 0 to 1"):
        overridden("--flip-prob", "2")


# Refusals.


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 3


def refused(name, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(TrainConfig(), **{name: value})


NUMBERS = sorted(name for name, hint in HINTS.items() if hint in (int, float))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "3", None, True, False])
def test_a_number_below_zero_or_not_finite_or_no_number_is_refused(value):
    for name in NUMBERS:
        refused(name, value, rf"^{name}: got '?{value}'?, wanted (whole numbers|a finite number) not below zero")


@pytest.mark.parametrize("name", sorted(name for name, hint in HINTS.items() if hint is int))
def test_a_fraction_is_refused_where_a_whole_number_is_wanted(name):
    refused(name, 2.5, f"{name}: got 2.5, wanted whole numbers")


@pytest.mark.parametrize("name", sorted(name for name, hint in HINTS.items() if hint is bool))
@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_switch_is_true_or_false(name, value):
    refused(name, value, f"{name}: got '?{value}'?, wanted true or false")


@pytest.mark.parametrize("value", ["unheard-of", "", None, 1, True])
def test_a_choice_that_is_not_known_is_refused_with_those_that_are(value):
    for name in CHOICES:
        refused(name, value, rf"{name}: got '?{value}'?, wanted one of {', '.join(CHOICES[name])}$")


SHARES = ("label_smoothing", "flip_prob", "erasing_prob", "warmup_factor", "decay_factor", "center_lr")


@pytest.mark.parametrize("name", SHARES)
def test_a_share_ends_at_one(name):
    assert getattr(replace(TrainConfig(), **{name: 1.0}), name) == 1
    refused(name, 1.01, f"{name}: got 1.01, wanted 0 to 1")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("last_stride", 0, "last_stride: got 0, wanted 1 or 2"),
        ("last_stride", 3, "last_stride: got 3, wanted 1 or 2"),
        ("frozen_stages", 6, r"frozen_stages: got 6, wanted 0 \(nothing\) to 5"),
        ("ids_per_batch", 1, "got 1 x 4, wanted at least 2 x 2"),
        ("crops_per_id", 1, "got 16 x 1, wanted at least 2 x 2"),
        ("height", 31, "input size: got 31 x 128, wanted at least 32 x 32"),
        ("width", 0, "input size: got 256 x 0, wanted at least 32 x 32"),
        ("epochs", 0, "got 0 and 0.00035, wanted both above zero"),
        ("lr", 0.0, "got 120 and 0, wanted both above zero"),
        ("ema_decay", 1.0, r"ema_decay: got 1.0, wanted 0 \(off\) or a share below 1"),
        ("decay_epochs", (70, 40), r"decay_epochs: got \(70, 40\), wanted rising epochs"),
        ("decay_epochs", (40, 40), r"decay_epochs: got \(40, 40\), wanted rising epochs"),
        ("decay_epochs", (-1, 40), r"decay_epochs: got \(-1, 40\), wanted whole numbers not below zero"),
        ("decay_epochs", (1.5,), r"decay_epochs: got \(1.5,\), wanted whole numbers"),
        ("decay_epochs", (True, 40), r"decay_epochs: got \(True, 40\), wanted whole numbers"),
        ("decay_epochs", [40, 70], r"decay_epochs: got \[40, 70\], wanted whole numbers"),
        ("decay_epochs", 40, "decay_epochs: got 40, wanted whole numbers"),
    ],
)
def test_a_value_that_cannot_train_is_refused_with_what_was_wanted(name, value, complaint):
    refused(name, value, complaint)


# Necks, JSON.


def test_the_seven_necks_are_those_of_figure_10():
    figure_10 = {  # BN, ID loss, feature of the triplet loss
        "neck1": NeckParts(False, True, None),
        "neck2": NeckParts(False, False, "f_t"),
        "neck3": NeckParts(False, True, "f_t"),
        "bnneck1": NeckParts(True, True, None),
        "bnneck2": NeckParts(True, False, "f_i"),
        "bnneck3": NeckParts(True, True, "f_i"),
        "bnneck": NeckParts(True, True, "f_t"),
    }
    assert figure_10 == NECKS
    assert tuple(NECKS) == get_args(NeckName)


@pytest.mark.parametrize("neck", get_args(NeckName))
def test_a_configuration_knows_the_parts_of_its_neck(neck):
    assert replace(TrainConfig(), neck=neck).parts == NECKS[neck]


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig(decay_epochs=(), lr=1, compile=True, neck="neck1")])
def test_json_gives_the_configuration_back(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match=r"fields \['colour_jitter'\] are missing or unknown: .* another version"):
        from_json({**to_json(TrainConfig()), "colour_jitter": 0.2})


def test_missing_fields_are_refused_by_name():
    values = to_json(TrainConfig())
    del values["neck"], values["epochs"]
    with pytest.raises(ValueError, match=r"fields \['epochs', 'neck'\] are missing or unknown"):
        from_json(values)


def test_a_value_that_cannot_train_is_refused_from_json_too():
    with pytest.raises(ValueError, match="epochs: got '120', wanted whole numbers"):
        from_json({**to_json(TrainConfig()), "epochs": "120"})
