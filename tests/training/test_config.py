"""One frozen dataclass: flags, recipes, refusals, JSON."""

import argparse
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from training.config import RECIPES, TrainConfig, add_flags, from_flags, from_json, strong_baseline, synthetic, to_json


def parse(*argv, recipe="strong_baseline"):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    return argparse.Namespace(recipe=recipe, **vars(parser.parse_args(argv)))


def test_there_is_one_flag_for_every_field():
    assert set(vars(parse())) == {item.name for item in fields(TrainConfig)} | {"recipe"}


def test_every_flag_shows_its_default_and_where_it_comes_from():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    shown = " ".join(parser.format_help().split())
    for item in fields(TrainConfig):
        default = " ".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
        assert f"({default}, {item.metadata['source']})" in shown


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_without_flags_the_recipe_stands(recipe):
    assert from_flags(parse(recipe=recipe)) == RECIPES[recipe]()


def test_a_flag_replaces_one_value_of_the_recipe():
    config = from_flags(parse("--epochs", "7", "--lr", "0.01", "--backbone", "resnet50", recipe="synthetic"))
    assert config == replace(synthetic(), epochs=7, lr=0.01, backbone="resnet50")


@pytest.mark.parametrize(("given", "wanted"), [(["20", "30"], (20, 30)), (["5"], (5,)), ([], ())])
def test_the_decay_epochs_are_a_list_of_any_length(given, wanted):
    assert from_flags(parse("--decay-epochs", *given)).decay_epochs == wanted


@pytest.mark.parametrize("argv", [["--backbone", "vgg"], ["--epochs", "2.5"], ["--lr", "fast"], ["--precision", "fp16"]])
def test_a_flag_of_another_type_is_a_usage_error(argv):
    with pytest.raises(argparse.ArgumentError):
        parse(*argv)


def test_the_strong_baseline_is_the_papers():
    config = strong_baseline()
    assert (config.backbone, config.last_stride, config.height, config.width) == ("resnet50", 1, 256, 128)
    assert (config.ids_per_batch, config.crops_per_id, config.epochs, config.decay_epochs) == (16, 4, 120, (40, 70))
    assert (config.lr, config.weight_decay, config.margin, config.label_smoothing) == (3.5e-4, 5e-4, 0.3, 0.1)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 3


NUMBERS = sorted(item.name for item in fields(TrainConfig) if isinstance(item.default, int | float))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "3", None])
def test_a_number_below_zero_or_not_finite_or_no_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}: got '?{value}'?, wanted (whole numbers|a finite number) not below zero"):
        replace(TrainConfig(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("backbone", "resnet101", "backbone: got 'resnet101', wanted one of resnet18, resnet50"),
        ("backbone", None, "backbone: got None, wanted one of"),
        ("precision", "fp16", "precision: got 'fp16', wanted one of fp32, bf16"),
        ("last_stride", 0, "last_stride: got 0, wanted 1 or 2"),
        ("last_stride", 3, "last_stride: got 3, wanted 1 or 2"),
        ("frozen_stages", 6, r"frozen_stages: got 6, wanted 0 \(nothing\) to 5"),
        ("ids_per_batch", 1, "got 1 x 4, wanted at least 2 x 2"),
        ("crops_per_id", 1, "got 16 x 1, wanted at least 2 x 2"),
        ("height", 31, "input size: got 31 x 128, wanted at least 32 x 32"),
        ("width", 0, "input size: got 256 x 0, wanted at least 32 x 32"),
        ("height", 256.5, "height: got 256.5, wanted whole numbers"),
        ("epochs", 0, "got 0 and 0.00035, wanted both above zero"),
        ("lr", 0.0, "got 120 and 0, wanted both above zero"),
        ("decay_epochs", (70, 40), r"decay_epochs: got \(70, 40\), wanted rising epochs"),
        ("decay_epochs", (40, 40), r"decay_epochs: got \(40, 40\), wanted rising epochs"),
        ("decay_epochs", (-1, 40), r"decay_epochs: got \(-1, 40\), wanted whole numbers not below zero"),
        ("decay_epochs", (1.5,), r"decay_epochs: got \(1.5,\), wanted whole numbers"),
        ("decay_epochs", 40, "decay_epochs: got 40, wanted whole numbers"),
        ("label_smoothing", 1.1, "label_smoothing: got 1.1, wanted 0 to 1"),
        ("flip_prob", 1.5, "flip_prob: got 1.5, wanted 0 to 1"),
        ("warmup_factor", 2.0, "warmup_factor: got 2.0, wanted 0 to 1"),
        ("decay_factor", 10.0, "decay_factor: got 10.0, wanted 0 to 1"),
    ],
)
def test_a_value_that_cannot_train_is_refused_with_what_was_wanted(name, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(TrainConfig(), **{name: value})


def test_a_bad_flag_is_refused_when_the_configuration_is_built():
    with pytest.raises(ValueError, match="flip_prob: got 2.0, wanted 0 to 1"):
        from_flags(parse("--flip-prob", "2"))


@pytest.mark.parametrize("config", [strong_baseline(), synthetic(), replace(TrainConfig(), decay_epochs=(), lr=1)])
def test_json_gives_the_configuration_back(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown fields \['colour_jitter'\]: it was written by another version"):
        from_json({**to_json(TrainConfig()), "colour_jitter": 0.2})
