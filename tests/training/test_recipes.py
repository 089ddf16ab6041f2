"""The recipes: the paper's settings, one row for each of its figures, and nothing changed but what a row names."""

import json
import re
from dataclasses import asdict, replace

import pytest

from training.config import TrainConfig, from_json, to_json
from training.recipes import by_name, cumulative, listing, standard_baseline, strong_baseline, synthetic

ROWS = {"table1": 7, "table3": 8, "table4": 5, "table5": 10, "table10": 10, "table11": 4}
RECIPES = by_name()
TRICKS = {  # the rows of Table I and the fields that each adds to its predecessor
    "table1_warmup": {"warmup_epochs": 10},
    "table1_rea": {"erasing_prob": 0.5},
    "table1_ls": {"label_smoothing": 0.1},
    "table1_stride": {"last_stride": 1},
    "table1_bnneck": {"neck": "bnneck", "test_feature": "f_i", "test_metric": "cosine"},
    "table1_center": {"center_weight": 0.0005},
}


def made(name):
    return RECIPES[name].make()


def rows_of(table):
    return {name: recipe for name, recipe in RECIPES.items() if name.startswith(f"{table}_")}


def feature_and_metric(config):
    return config.test_feature, config.test_metric


# What there is.


def test_there_are_44_rows_and_each_name_starts_with_its_table():
    assert {table: len(rows_of(table)) for table in ROWS} == ROWS
    assert sum(ROWS.values()) == 44
    others = [name for name in RECIPES if not name.startswith(tuple(f"{table}_" for table in ROWS))]
    assert others == ["strong_baseline", "standard_baseline", "synthetic"]


def test_the_names_can_be_typed():
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_whole_configuration_that_json_keeps(name):
    config = made(name)
    assert isinstance(config, TrainConfig)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config == made(name)


# The baselines.


def test_the_strong_baseline_is_the_papers():
    config = strong_baseline()
    assert (config.backbone, config.last_stride, config.neck) == ("resnet50", 1, "bnneck")
    assert (config.height, config.width, config.pad, config.flip_prob) == (256, 128, 10, 0.5)
    assert (config.ids_per_batch, config.crops_per_id) == (16, 4)
    assert (config.epochs, config.lr, config.decay_epochs, config.decay_factor) == (120, 3.5e-4, (40, 70), 0.1)
    assert (config.warmup_epochs, config.erasing_prob, config.label_smoothing) == (10, 0.5, 0.1)
    assert (config.margin, config.center_weight) == (0.3, 0.0005)
    assert feature_and_metric(config) == ("f_i", "cosine")


def test_where_the_paper_is_silent_or_differs_the_strong_baseline_is_the_released_codes():
    config = strong_baseline()
    assert (config.warmup, config.warmup_factor, config.erasing_fill) == ("code", 0.01, "code")
    assert (config.weight_decay, config.center_lr) == (5e-4, 0.5)


def test_what_is_ours_is_off_in_the_strong_baseline():
    config = strong_baseline()
    assert (config.clip_norm, config.ema_decay, config.flip_test, config.frozen_stages) == (0, 0, False, 0)
    assert (config.precision, config.compile, config.deterministic) == ("fp32", False, False)


def test_the_standard_baseline_has_no_trick_and_is_tested_with_euclidean():
    config = standard_baseline()
    assert (config.warmup_epochs, config.erasing_prob, config.label_smoothing, config.center_weight) == (0, 0, 0, 0)
    assert (config.last_stride, config.neck) == (2, "neck3")
    assert feature_and_metric(config) == ("f_t", "euclidean")


def test_the_synthetic_recipe_is_small():
    config = synthetic()
    assert (config.backbone, config.height, config.width, config.epochs) == ("resnet18", 128, 64, 3)


# Table I.


def test_table_1_leads_from_the_standard_to_the_strong_baseline():
    assert made("table1_baseline") == standard_baseline()
    assert made("table1_center") == strong_baseline()
    assert list(rows_of("table1")) == ["table1_baseline", *TRICKS]


@pytest.mark.parametrize(("before", "name"), list(zip(["table1_baseline", *TRICKS], TRICKS, strict=False)))
def test_a_row_of_table_1_adds_its_trick_and_nothing_else(before, name):
    old, new = asdict(made(before)), asdict(made(name))
    assert {field: value for field, value in new.items() if value != old[field]} == TRICKS[name]


def test_the_steps_of_table_1_can_be_counted():
    assert [cumulative(step) for step in range(7)] == [recipe.make() for recipe in rows_of("table1").values()]


# The other tables.


@pytest.mark.parametrize("name", rows_of("table3") | rows_of("table4") | rows_of("table5"))
def test_tables_3_to_5_change_only_the_neck_the_test_and_the_center_loss(name):
    config, strong = made(name), strong_baseline()
    free = ("neck", "test_feature", "test_metric", "center_weight")
    assert replace(config, **{field: getattr(strong, field) for field in free}) == strong


@pytest.mark.parametrize("name", rows_of("table3") | rows_of("table4") | rows_of("table10") | rows_of("table11"))
def test_only_tables_1_and_5_have_the_center_loss(name):
    assert made(name).center_weight == 0


def test_table_3_has_every_neck_with_the_feature_it_is_feature_and_metric():
    shown = {name.removeprefix("table3_"): (made(name).neck, *feature_and_metric(made(name))) for name in rows_of("table3")}
    assert shown == {
        "neck1": ("neck1", "f_t", "euclidean"),
        "neck2": ("neck2", "f_t", "euclidean"),
        "neck3": ("neck3", "f_t", "euclidean"),
        "bnneck1": ("bnneck1", "f_i", "cosine"),
        "bnneck2": ("bnneck2", "f_i", "cosine"),
        "bnneck3": ("bnneck3", "f_i", "cosine"),
        "bnneck_ft": ("bnneck", "f_t", "euclidean"),
        "bnneck_fi": ("bnneck", "f_i", "cosine"),
    }


def test_table_4_has_the_features_and_metrics_of_its_names():
    assert {name: (made(name).neck, *feature_and_metric(made(name))) for name in rows_of("table4")} == {
        "table4_f_euclidean": ("neck3", "f_t", "euclidean"),
        "table4_ft_euclidean": ("bnneck", "f_t", "euclidean"),
        "table4_ft_cosine": ("bnneck", "f_t", "cosine"),
        "table4_fi_euclidean": ("bnneck", "f_i", "euclidean"),
        "table4_fi_cosine": ("bnneck", "f_i", "cosine"),
    }


def test_table_5_has_five_weights_for_each_feature():
    weights = [made(name).center_weight for name in rows_of("table5")]
    assert weights == [0, 0.0005, 0.005, 0.05, 0.5] * 2
    assert [feature_and_metric(made(name)) for name in rows_of("table5")] == [("f_t", "euclidean")] * 5 + [("f_i", "cosine")] * 5
    assert made("table5_ft_beta_0_005") == replace(
        strong_baseline(), center_weight=0.005, test_feature="f_t", test_metric="euclidean"
    )


@pytest.mark.parametrize("name", rows_of("table10"))
def test_a_row_of_table_10_changes_only_its_batch_and_is_tested_with_f_i_and_euclidean(name):
    ids, crops = map(int, re.fullmatch(r"table10_p(\d+)_k(\d+)", name).groups())
    assert made(name) == replace(
        strong_baseline(), center_weight=0.0, test_feature="f_i", test_metric="euclidean", ids_per_batch=ids, crops_per_id=crops
    )


def test_table_10_has_the_papers_batches():
    assert set(rows_of("table10")) == {f"table10_p{p}_k{k}" for p in (8, 16, 32) for k in (3, 4, 6, 8) if p * k <= 128}


@pytest.mark.parametrize("name", rows_of("table11"))
def test_a_row_of_table_11_changes_only_its_size_and_is_tested_with_f_i_and_euclidean(name):
    height, width = map(int, re.fullmatch(r"table11_(\d+)x(\d+)", name).groups())
    assert made(name) == replace(
        strong_baseline(), center_weight=0.0, test_feature="f_i", test_metric="euclidean", height=height, width=width
    )


def test_table_11_has_the_papers_sizes():
    assert set(rows_of("table11")) == {f"table11_{size}" for size in ("256x128", "224x224", "384x128", "384x192")}


# Published figures.


@pytest.mark.parametrize(
    ("name", "market", "duke", "ratio"),
    [
        ("strong_baseline", (94.5, 85.9), (86.4, 76.4), None),
        ("standard_baseline", (87.7, 74.0), (79.7, 63.7), None),
        ("synthetic", None, None, None),
        ("table1_rea", (91.3, 79.3), (81.5, 68.3), None),
        ("table1_bnneck", (94.1, 85.7), (86.2, 75.9), None),
        ("table3_neck2", (91.0, 80.9), (82.5, 69.4), None),
        ("table3_bnneck2", (90.3, 79.1), (82.5, 67.9), None),
        ("table4_ft_cosine", (94.2, 85.7), (85.5, 74.6), None),
        ("table5_ft_beta_0_5", (92.6, 81.1), (85.5, 72.2), (0.311, 0.363)),
        ("table5_fi_beta_0_05", (94.3, 85.7), (86.7, 76.5), (0.592, 0.560)),
        ("table10_p8_k4", (92.9, 80.0), (84.7, 69.4), None),
        ("table10_p32_k3", (94.5, 84.1), (86.0, 71.4), None),
        ("table11_384x192", (93.8, 83.1), (87.1, 72.9), None),
    ],
)
def test_published_figures_stand_beside_their_recipe(name, market, duke, ratio):
    recipe = RECIPES[name]
    assert (recipe.market, recipe.duke, recipe.ratio) == (market, duke, ratio)


def test_rows_of_one_configuration_have_the_same_published_figures():
    figures = {}
    for recipe in RECIPES.values():
        figures.setdefault(recipe.make(), []).append((recipe.market, recipe.duke))
    repeated = [scores for scores in figures.values() if len(scores) > 1]
    assert len(repeated) >= 6  # the tables share rows: the paper prints them digit for digit alike
    assert all(len(set(scores)) == 1 for scores in repeated)


def test_only_table_5_has_a_ratio():
    assert {name for name, recipe in RECIPES.items() if recipe.ratio} == set(rows_of("table5"))


def test_the_listing_has_a_line_for_each_recipe():
    head, *lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert "Market-1501" in head
    assert max(map(len, [head, *lines])) <= 120


def test_a_line_of_the_listing_has_what_is_tested_and_what_was_published():
    (line,) = [line for line in listing().splitlines() if line.startswith("table5_ft_beta_0_05 ")]
    assert " ".join(line.split()) == "table5_ft_beta_0_05 f_t euclidean 94.4 / 85.4 86.4 / 74.9 0.365, 0.403"
    (line,) = [line for line in listing().splitlines() if line.startswith("synthetic")]
    assert line.split() == ["synthetic", "f_i", "cosine", "-", "-"]
