"""The plan: which trainings, shared by which rows, and that their commands say what the plan says."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import programme
from benchmarks.programme import Options
from training import recipes, run, start

OPTIONS = Options(Path("Market-1501"), Path("ssl.safetensors"), None, Path("work"))


def test_every_row_of_the_tables_is_tested_once_by_seed_0():
    rows = [
        row
        for step in programme.steps(OPTIONS)
        if step.evaluation and step.training.config.seed == 0
        for row in step.evaluation.recipes
    ]
    assert sorted(rows) == sorted([name for name in recipes.by_name() if name.startswith("table")] + ["strong_baseline"])


def test_no_two_trainings_differ_in_their_test_alone():
    trained = [replace(one.config, test_feature="f_i", test_metric="cosine") for one in programme.trainings(OPTIONS)]
    assert len(trained) == len(set(trained)) == 29  # 27 of the tables, and two more seeds


def test_every_row_is_tested_as_its_recipe_says():
    for step in programme.steps(OPTIONS):
        for name in step.evaluation.recipes if step.evaluation else ():
            recipe = recipes.by_name()[name].make()
            assert (step.evaluation.feature, step.evaluation.metric) == (recipe.test_feature, recipe.test_metric)


def test_torchvisions_weights_come_after_ours_and_before_the_tables():
    names = [one.name for one in programme.trainings(replace(OPTIONS, v1_weights=Path("v1.pth")))]
    assert names[:3] == [f"strong_baseline_seed{seed}" for seed in range(3)]
    assert names[3:6] == [f"strong_baseline_v1_seed{seed}" for seed in range(3)]
    assert names[6] == "table1_baseline_seed0"


@pytest.mark.parametrize(
    "options", [OPTIONS, replace(OPTIONS, smoke=True, compile=True, precision="fp32")], ids=["whole", "smoke"]
)
def test_a_training_command_makes_the_configuration_of_the_plan(options):
    for step in programme.steps(options):
        if step.kind == "train":
            args = run.parse(programme.command(options, step)[3:])
            assert start.settings_of(args) == step.training.config
            assert (args.out, args.backbone_weights) == (Path("work/runs") / step.training.name, "ssl.safetensors")


def test_the_strong_baseline_alone_is_re_ranked():
    reranked = [step.name for step in programme.steps(OPTIONS) if "--rerank" in programme.command(OPTIONS, step)]
    assert reranked == [f"strong_baseline_seed{seed} f_i cosine" for seed in range(3)]


def test_a_table_is_chosen_with_the_trainings_that_it_shares():
    names = [step.name for step in programme.chosen(programme.steps(OPTIONS), ["table5_fi_beta_0_0005"])]
    assert names == ["strong_baseline_seed0 train", "strong_baseline_seed0 f_i cosine"]
