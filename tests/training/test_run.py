"""A whole training on drawn people: what it writes, how it resumes, what it refuses."""

import json
import math
import os
import resource
import shutil
import signal
import threading
import time

import pytest
import torch

from training import run
from training.checkpoint import FACTS, RESUME, WEIGHTS, load, load_facts
from training.run import AGAIN_S, Stop, main


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
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if "lr" in line]
    return [{name: value for name, value in line.items() if name != "crops_per_s"} for line in lines]


def refusal_of(argv):
    """What a refused command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert isinstance(stop.value.code, str)  # printed to stderr, status 1
    assert stop.value.code.startswith("training.run: ")
    return stop.value.code


def test_a_run_writes_checkpoint_log_and_metrics(trained):
    written = [FACTS, WEIGHTS, "log.jsonl", "metrics.json", RESUME, "run.json", "steps.csv"]
    assert sorted(path.name for path in trained.iterdir()) == written
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
    refusal = refusal_of(flags(one_epoch, "--resume", *change))
    assert f"was begun otherwise: {change[0][2:].replace('-', '_')} was " in refusal
    assert "use the same flags and dataset" in refusal


def test_a_dataset_of_other_identities_is_refused_on_resume(one_epoch, flags, drawn, tmp_path):
    fewer = shutil.copytree(drawn, tmp_path / "people")
    for path in (fewer / "bounding_box_train").glob("0011_*"):
        path.unlink()
    assert "the training list is another; use the same flags and dataset" in refusal_of(
        flags(one_epoch, "--resume", "--data", fewer)
    )


def test_files_of_two_saves_are_refused_on_resume(one_epoch, resumed, flags, tmp_path):
    mixed = shutil.copytree(one_epoch, tmp_path / "run")
    shutil.copy(resumed / RESUME, mixed / RESUME)
    assert "got epoch 2 and 0 batches, wanted epoch 1 and 0 batches: the files are of two saves" in refusal_of(
        flags(mixed, "--resume")
    )


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--data", "no/such/folder"], "no/such/folder: got no such folder, wanted a Market-1501 layout"),
        (["--recipe", "table12_x"], "--recipe: got 'table12_x', wanted one of --list-recipes"),
        (["--rerank"], "--rerank: got 11 test crops, wanted more than 20"),
        (["--device", "cuda"], "--device cuda: got no GPU that torch can use"),
        (["--ids-per-batch", "9"], "got 4 identities, wanted at least 9; lower --ids-per-batch"),
        (["--flip-prob", "1.5"], "flip_prob: got 1.5, wanted 0 to 1"),
        (["--epochs", "0"], "wanted both above zero"),
        (["--backbone-weights", "no/such/weights.pth"], "--backbone-weights: got 'no/such/weights.pth', wanted"),
    ],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(flags, tmp_path, more, complaint):
    assert complaint in refusal_of(flags(tmp_path / "run", *more))
    assert not (tmp_path / "run" / FACTS).exists()


def test_a_broken_crop_is_named_and_too_many_are_refused(flags, drawn, tmp_path):
    broken = shutil.copytree(drawn, tmp_path / "people")
    path = sorted((broken / "bounding_box_train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:300])
    refusal = refusal_of(flags(tmp_path / "run", "--data", broken))
    assert "got 1 unreadable files of 16, wanted at most 0" in refusal
    assert path.name in refusal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_and_the_resumed_run_equals_an_unbroken_one(trained, flags, tmp_path, capsys, number):
    out = tmp_path / "run"

    def end_when_it_trains():
        while not (out / "run.json").exists():  # written right before the first epoch
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    asker = threading.Thread(target=end_when_it_trains)
    asker.start()
    with pytest.raises(SystemExit) as stop:
        main(flags(out))
    asker.join()
    assert stop.value.code == 128 + number
    facts = load_facts(out)
    assert (facts.epoch, facts.num_batches) in {(0, 1), (0, 2), (0, 3)}
    said = f"stopped in epoch 1 after {facts.num_batches} batches; saved in {out}: go on with --resume"
    assert said in capsys.readouterr().out
    main(flags(out, "--resume"))
    assert (out / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert log_of(out) == log_of(trained)
    assert (out / "steps.csv").read_bytes() == (trained / "steps.csv").read_bytes()


def test_a_later_ctrl_c_ends_at_once_and_so_does_the_first_when_nothing_is_unsaved():
    stop = Stop()
    with pytest.raises(SystemExit):
        stop.ask(signal.SIGINT)
    stop.is_saved = False
    stop.ask(signal.SIGINT)
    stop.ask(signal.SIGINT)  # the same stop, delivered twice
    assert stop.is_asked
    stop.asked_at -= 2 * AGAIN_S
    stop.ask(signal.SIGTERM)
    with pytest.raises(SystemExit):
        stop.ask(signal.SIGINT)


def test_resuming_where_nothing_is_saved_says_that_it_starts_anew(flags, tmp_path, capsys):
    main(flags(tmp_path / "run", "--resume", "--epochs", 1, "--no-evaluation"))
    assert f"--resume: nothing is saved in {tmp_path / 'run'} yet; training from the start" in capsys.readouterr().out


def test_a_resume_state_without_its_checkpoint_is_not_written_over(one_epoch, flags, tmp_path):
    out = shutil.copytree(one_epoch, tmp_path / "run")
    (out / FACTS).unlink()
    before = (out / RESUME).read_bytes()
    assert f"holds {RESUME} without {FACTS}" in refusal_of(flags(out, "--resume"))
    assert (out / RESUME).read_bytes() == before


def test_a_run_killed_between_two_checkpoints_trains_those_epochs_again(trained, one_epoch, flags, tmp_path):
    out = shutil.copytree(one_epoch, tmp_path / "run")
    for name in ("log.jsonl", "steps.csv"):
        shutil.copy(trained / name, out / name)  # the second epoch was logged, not saved
    main(flags(out, "--resume", "--no-evaluation"))
    assert log_of(out) == log_of(trained)
    assert (out / "steps.csv").read_bytes() == (trained / "steps.csv").read_bytes()


def test_a_log_that_was_torn_by_a_full_disk_does_not_hinder_resuming(trained, one_epoch, flags, tmp_path):
    out = shutil.copytree(one_epoch, tmp_path / "run")
    for name, half in (("log.jsonl", '{"epoch": 2, "l'), ("steps.csv", "2,5,0.")):
        with (out / name).open("a") as file:
            file.write(half)
    main(flags(out, "--resume", "--no-evaluation"))
    assert log_of(out) == log_of(trained)
    assert (out / "steps.csv").read_bytes() == (trained / "steps.csv").read_bytes()


def test_fewer_epochs_than_were_trained_are_refused(trained, flags):
    assert "has 2 epochs, more than the 1 wanted: raise --epochs" in refusal_of(flags(trained, "--resume", "--epochs", 1))


def test_what_only_tests_may_change_on_resume(trained, flags, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    main(flags(out, "--resume", "--test-feature", "f_t", "--test-metric", "euclidean", "--flip-test"))
    metrics = load_facts(out).metrics
    assert (metrics["feature"], metrics["metric"], metrics["flip"]) == ("f_t", "euclidean", True)
    assert (out / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


def test_an_unreadable_test_crop_is_named_before_the_training(flags, drawn, tmp_path):
    broken = shutil.copytree(drawn, tmp_path / "people")
    path = sorted((broken / "query").iterdir())[0]
    path.write_bytes(path.read_bytes()[:300])
    refusal = refusal_of(flags(tmp_path / "run", "--data", broken))
    assert "test lists: got 1 unreadable files of 11, wanted none" in refusal
    assert path.name in refusal
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_while_saving_leaves_the_previous_checkpoint(one_epoch, flags, tmp_path):
    out = shutil.copytree(one_epoch, tmp_path / "run")
    before = {name: (out / name).read_bytes() for name in (FACTS, WEIGHTS, RESUME)}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))  # a file of more than 1 MB cannot be written
    try:
        refusal = refusal_of(flags(out, "--resume", "--no-evaluation"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "cannot be saved" in refusal
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob(".*"))


def test_recipes_are_listed_with_their_published_figures(capsys):
    main(["--list-recipes"])
    listed = capsys.readouterr().out
    assert "table3_neck2            f_t euclidean     91.0 / 80.9  82.5 / 69.4" in listed
    assert len(listed.splitlines()) == 1 + 3 + 44


def test_help_fits_a_screen_and_a_half(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--data", "x"],
        ["--data", "x", "--synthetic", "--out", "y"],
        ["--synthetic"],
        ["--synthetic", "--out", "y", "--save-every", "0"],
        ["--synthetic", "--out", "y", "--no-evaluation", "--eval-every", "2"],
    ],
)
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


def test_a_run_can_begin_from_the_weights_of_another(one_epoch, flags, tmp_path):
    main(
        flags(tmp_path / "run", "--epochs", 1, "--no-evaluation", "--backbone-weights", one_epoch / WEIGHTS, "--frozen-stages", 5)
    )
    before, after = load(one_epoch)[0].state_dict(), load(tmp_path / "run")[0].state_dict()
    assert load_facts(tmp_path / "run").started_from == WEIGHTS  # the name alone: a path says who trained it
    assert all(torch.equal(value, after[key]) for key, value in before.items() if key.startswith("backbone."))
