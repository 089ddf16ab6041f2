"""A whole training on drawn people: what it writes, how it resumes, what it refuses."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from training import config, dataset, run
from training.checkpoint import FACTS, RESUME, WEIGHTS, load, load_facts
from training.config import TrainConfig
from training.dataset import Sample
from training.run import epoch_loader, main, prepare, train_epoch, train_step


@pytest.fixture(scope="module", name="one_epoch")
def one_epoch_fixture(tmp_path_factory, flags):
    """The run folder of one epoch, begun with --resume though there was nothing; a test that goes on from it works on a copy."""
    out = tmp_path_factory.mktemp("one") / "run"
    main(flags(out, "--epochs", 1, "--resume"))
    return out


@pytest.fixture(scope="module", name="resumed")
def resumed_fixture(tmp_path_factory, flags, one_epoch):
    """That run, resumed for its second epoch and not evaluated."""
    out = shutil.copytree(one_epoch, tmp_path_factory.mktemp("resumed") / "run")
    main(flags(out, "--resume", "--no-evaluation"))
    return out


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "crops_per_s"} for line in lines]


def refusal_of(argv):
    """The one line that a refused command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert isinstance(stop.value.code, str)  # printed to stderr, status 1
    assert stop.value.code.startswith("training.run: ")
    assert "\n" not in stop.value.code
    return stop.value.code


def settings_and_data(flags, out, *more):
    args = run.parse(flags(out, *more))
    data = dataset.read_dataset(args.data)
    return args, config.from_flags(args), data.train, dataset.class_labels(data.train)


def test_a_run_writes_checkpoint_log_and_metrics(trained):
    assert sorted(path.name for path in trained.iterdir()) == [FACTS, WEIGHTS, "log.jsonl", RESUME]
    facts = load_facts(trained)
    assert (facts.epoch, facts.num_ids, facts.trained_on, facts.started_from) == (2, 4, "people", "none")
    assert facts.metrics["num_valid_queries"] == 3
    assert 0 < facts.metrics["mAP"] <= 1


def test_the_log_has_one_line_for_each_epoch(trained):
    assert [(line["epoch"], line["lr"]) for line in log_of(trained)] == [(1, 0.001), (2, pytest.approx(0.0001))]
    assert all(math.isfinite(line[name]) for line in log_of(trained) for name in ("id_loss", "triplet_loss", "accuracy"))


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(trained, resumed):
    assert (resumed / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert log_of(resumed) == log_of(trained)
    mine, wanted = (torch.load(folder / RESUME, weights_only=True)["optimizer"]["state"] for folder in (resumed, trained))
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[number][name]) for number, one in mine.items() for name, value in one.items())


def test_a_resumed_run_drops_the_figures_of_the_earlier_epoch(one_epoch, resumed):
    assert (load_facts(one_epoch).epoch, load_facts(one_epoch).metrics is None) == (1, False)
    assert (load_facts(resumed).epoch, load_facts(resumed).metrics) == (2, None)


def test_a_finished_run_resumed_is_evaluated_and_not_trained(trained, resumed, flags, tmp_path):
    again = shutil.copytree(resumed, tmp_path / "run")
    main(flags(again, "--resume"))
    assert (again / WEIGHTS).read_bytes() == (resumed / WEIGHTS).read_bytes()
    assert log_of(again) == log_of(resumed)
    assert (again / FACTS).read_text() == (trained / FACTS).read_text()


def test_a_folder_that_holds_a_checkpoint_is_refused_without_resume(one_epoch, flags):
    before = {path.name: path.stat().st_mtime_ns for path in one_epoch.iterdir()}
    assert "already holds a checkpoint; add --resume to go on, or name another folder" in refusal_of(flags(one_epoch))
    assert {path.name: path.stat().st_mtime_ns for path in one_epoch.iterdir()} == before


@pytest.mark.parametrize("change", [["--lr", "0.5"], ["--last-stride", "2"]])
def test_another_configuration_is_refused_on_resume(one_epoch, flags, change):
    assert "was begun with another configuration or dataset; use the same flags" in refusal_of(
        flags(one_epoch, "--resume", *change)
    )


def test_a_dataset_of_other_identities_is_refused_on_resume(one_epoch, flags, drawn, tmp_path):
    fewer = shutil.copytree(drawn, tmp_path / "people")
    for path in (fewer / "bounding_box_train").glob("0011_*"):
        path.unlink()
    assert "another configuration or dataset" in refusal_of(flags(one_epoch, "--resume", "--data", fewer))


def test_a_run_stopped_while_saving_is_refused_on_resume(one_epoch, resumed, flags, tmp_path):
    mixed = shutil.copytree(one_epoch, tmp_path / "run")
    shutil.copy(resumed / RESUME, mixed / RESUME)
    assert "got the state of epoch 2, wanted 1" in refusal_of(flags(mixed, "--resume"))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--data", "no/such/folder"], "got no such folder, wanted a Market-1501 layout"),
        (["--ids-per-batch", "9"], "got 4 identities, wanted at least 9; lower --ids-per-batch"),
        (["--flip-prob", "1.5"], "flip_prob: got 1.5, wanted 0 to 1"),
        (["--epochs", "0"], "wanted both above zero"),
        (["--backbone-weights", "no/such/weights.pth"], "--backbone-weights: got 'no/such/weights.pth', wanted"),
    ],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(flags, tmp_path, more, complaint):
    assert complaint in refusal_of(flags(tmp_path / "run", *more))
    assert not (tmp_path / "run" / FACTS).exists()


def test_a_broken_crop_ends_the_run_with_its_name(flags, drawn, tmp_path):
    broken = shutil.copytree(drawn, tmp_path / "people")
    path = sorted((broken / "bounding_box_train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:300])
    crops = 16  # all of them in one epoch
    assert path.name in refusal_of(flags(tmp_path / "run", "--data", broken, "--ids-per-batch", 4, "--crops-per-id", crops // 4))


@pytest.mark.parametrize("argv", [[], ["--data", "x"], ["--data", "x", "--synthetic", "--out", "y"], ["--synthetic"]])
def test_a_wrong_command_line_is_a_usage_error(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: python -m training.run" in capsys.readouterr().err


def test_the_recipe_follows_the_data_unless_it_is_named():
    drawn = run.parse(["--synthetic", "--out", "x"])
    assert (drawn.recipe, drawn.backbone_weights) == ("synthetic", "none")
    market = run.parse(["--data", "x", "--out", "x"])
    assert (market.recipe, market.backbone_weights) == ("strong_baseline", "IMAGENET1K_V1")
    assert run.parse(["--synthetic", "--out", "x", "--recipe", "strong_baseline"]).recipe == "strong_baseline"


def test_training_on_drawn_people_reduces_the_loss(flags, tmp_path):
    args, settings, samples, labels = settings_and_data(flags, tmp_path / "run", "--ids-per-batch", 4, "--lr", "0.0003")
    torch.manual_seed(0)
    model, optimizer, _ = prepare(args, settings, 4, "people")
    steps = [
        train_epoch(model, epoch_loader(samples, labels, settings, epoch=epoch), optimizer, settings, title="")
        for epoch in range(1, 5)
    ]
    assert steps[-1]["id_loss"] < steps[0]["id_loss"]
    assert steps[-1]["triplet_loss"] < 0.6 * steps[0]["triplet_loss"]


def test_augmentation_is_a_function_of_seed_epoch_and_place(flags, tmp_path):
    _, settings, samples, labels = settings_and_data(flags, tmp_path)

    def crop(epoch, index):
        return run.TrainingCrops(samples, labels, settings, epoch=epoch)[index][0].numpy()

    assert np.array_equal(crop(1, 0), crop(1, 0))
    assert any(not np.array_equal(crop(1, index), crop(2, index)) for index in range(4))


def test_a_batch_holds_crops_and_the_labels_that_belong_to_them(flags, tmp_path):
    _, settings, samples, labels = settings_and_data(flags, tmp_path, "--pad", 0, "--flip-prob", 0)
    seen = run.TrainingCrops(samples, labels, settings, epoch=3)
    known = {seen[index][0].numpy().tobytes(): int(labels[index]) for index in range(len(samples))}
    for crops, batch_labels in epoch_loader(samples, labels, settings, epoch=3):
        assert (crops.shape, crops.dtype) == ((4, 64, 32, 3), torch.uint8)
        assert [known[crop.numpy().tobytes()] for crop in crops] == batch_labels.tolist()


def test_bf16_trains_with_weights_and_losses_in_fp32(flags, tmp_path):
    args, settings, *_ = settings_and_data(flags, tmp_path / "run", "--precision", "bf16")
    model, optimizer, _ = prepare(args, settings, 4, "people")
    crops = torch.randint(0, 256, (4, 64, 32, 3), dtype=torch.uint8)
    scalars = train_step(model, crops, torch.tensor([0, 0, 1, 1]), optimizer, settings)
    assert all(math.isfinite(value) for value in scalars.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(flags, tmp_path):
    args, settings, *_ = settings_and_data(flags, tmp_path / "run")
    model, optimizer, _ = prepare(args, settings, 4, "people")
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    with pytest.raises(ValueError, match="loss: got nan .* lower --lr or use fp32"):
        train_step(model, torch.zeros(4, 64, 32, 3, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), optimizer, settings)


def test_a_run_can_begin_from_the_weights_of_another(one_epoch, flags, tmp_path):
    main(
        flags(tmp_path / "run", "--epochs", 1, "--no-evaluation", "--backbone-weights", one_epoch / WEIGHTS, "--frozen-stages", 5)
    )
    before, after = load(one_epoch)[0].state_dict(), load(tmp_path / "run")[0].state_dict()
    assert load_facts(tmp_path / "run").started_from == WEIGHTS  # the name alone: a path says who trained it
    assert all(torch.equal(value, after[key]) for key, value in before.items() if key.startswith("backbone."))


def test_a_crop_drawn_twice_is_augmented_twice(tmp_path):
    path = tmp_path / "0001_c1s1_000000_00.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)).save(path)
    settings = TrainConfig(height=64, width=32, pad=8, ids_per_batch=2, crops_per_id=4, workers=0)
    samples = [Sample(path, pid, 1) for pid in (1, 2)]
    crops, labels = next(iter(run.epoch_loader(samples, np.array([0, 1]), settings, epoch=1)))
    of_one = crops[labels == 0].numpy()
    assert len(np.unique(of_one.reshape(4, -1), axis=0)) == 4
