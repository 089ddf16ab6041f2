"""The GPU programme: order, time, failures, what it waits for, and one rehearsal with real trainings on drawn people."""

import json
import shutil

import pytest

from benchmarks import ledger, reproduce_gpu
from training import checkpoint, evaluate
from training.dataset import GALLERY, QUERY, TRAIN
from training.model import BNNeck

STRONG = ("--only", "strong_baseline_seed0")


def kinds(commands):
    return [command.split()[0] for command in commands]


def test_the_plan_runs_nothing_and_says_what_it_needs(call, pretender, drawn, tmp_path):
    told = call("--plan")
    assert pretender.commands == []
    assert not (tmp_path / "state.json").exists()
    assert "needs training images (30 MB): there" in told
    assert "strong_baseline_seed2 train" in told
    assert "left: 23 trainings" in told


def test_a_call_works_in_the_order_of_the_plan(call, pretender, entries):
    call("--minutes", 1000, "--seeds", 0)
    assert pretender.commands[0].startswith("benchmarks.train_speed")
    assert kinds(pretender.commands[1:4]) == ["training.run", "training.evaluate", "training.evaluate"]
    begun = [command.split("--recipe ")[1].split()[0] for command in pretender.commands if "--recipe" in command]
    assert begun[:3] == ["strong_baseline", "table1_baseline", "table1_warmup"]
    assert {entry["status"] for entry in entries().values()} == {"done"}


def test_a_training_without_time_saves_itself_and_the_next_call_goes_on(call, pretender, entries):
    told = call(*STRONG, "--minutes", 3)
    assert "saved after 1 epochs and 1 batches" in told
    assert entries()["strong_baseline_seed0 train"]["status"] == "stopped"
    assert pretender.now <= 180
    call(*STRONG)
    done = entries()["strong_baseline_seed0 train"]
    assert (done["status"], done["figures"]["epochs"], done["figures"]["batches"]) == ("done", 2, 10)
    assert done["wall_s"] == pytest.approx(180 - 10 - 25 + 100)  # what both calls spent on it
    assert done["figures"]["seconds_per_epoch"] == pytest.approx(5 * 4 / 200)


def test_nothing_is_begun_that_has_no_time(call, pretender):
    told = call(*STRONG, "--minutes", 1)
    assert pretender.commands == []
    assert "not begun, 50 s are left of this call" in told


def test_rows_that_share_a_training_are_tested_from_one_run(call, pretender):
    told = call("--only", "table4", "--minutes", 100)
    assert kinds(pretender.commands).count("training.run") == 2  # with and without BNNeck
    assert kinds(pretender.commands).count("training.evaluate") == 5
    assert all(f"table4_{row} " in told for row in ("f_euclidean", "ft_euclidean", "ft_cosine", "fi_euclidean", "fi_cosine"))


def test_a_finished_step_is_not_run_again(call, pretender):
    call(*STRONG)
    before = len(pretender.commands)
    call(*STRONG)
    assert len(pretender.commands) == before


def test_a_run_folder_that_went_after_its_tests_is_not_missed(call, pretender, tmp_path):
    call(*STRONG)
    shutil.rmtree(tmp_path / "work")
    before = len(pretender.commands)
    call(*STRONG)
    assert len(pretender.commands) == before


def test_a_run_folder_that_went_before_its_tests_is_trained_again(call, pretender, entries, tmp_path):
    pretender.broken = {"training.evaluate"}
    call(*STRONG)
    shutil.rmtree(tmp_path / "work")
    assert "to do again" in call(*STRONG, "--plan")
    pretender.broken = set()
    call(*STRONG)
    assert kinds(pretender.commands).count("training.run") == 2
    assert entries()["strong_baseline_seed0 f_i cosine"]["status"] == "done"


def test_a_failure_is_told_and_stops_nothing(call, pretender, entries):
    pretender.broken = {"table1_baseline"}
    told = call("--only", "table1_baseline", "table1_warmup")
    assert "failed, exit status 1, attempt 1:\nout of memory" in told
    assert entries()["table1_baseline_seed0 train"]["output"] == "out of memory"
    assert entries()["table1_warmup_seed0 f_t euclidean"]["status"] == "done"


def test_a_step_that_failed_twice_is_skipped_until_it_is_named(call, pretender, entries):
    pretender.broken = {"training.run", "benchmarks.train_speed"}
    call("--minutes", 1000, "--seeds", 0)
    call("--minutes", 1000, "--seeds", 0)
    assert {entry["status"] for entry in entries().values()} == {"skipped"}
    before = len(pretender.commands)
    call("--minutes", 1000, "--seeds", 0)
    assert len(pretender.commands) == before
    pretender.broken = set()
    call(*STRONG, "--seeds", 0)
    assert entries()["strong_baseline_seed0 train"]["status"] == "done"


def test_a_training_that_reaches_nothing_in_a_call_counts_as_failed(call, entries):
    call(*STRONG, run=lambda command, log, seconds: ledger.Ended(ledger.STOPPED, "stopped"))
    assert entries()["strong_baseline_seed0 train"]["status"] == "failed"


def test_training_does_not_need_the_test_images(call, drawn, tmp_path, entries):
    shutil.copytree(drawn / TRAIN, tmp_path / "people" / TRAIN)
    told = call(*STRONG, data=tmp_path / "people")
    assert entries().keys() == {"strong_baseline_seed0 train"}
    assert "f_i cosine: waits for test images (got 0 gallery crops" in told
    for later in (QUERY, GALLERY):
        shutil.copytree(drawn / later, tmp_path / "people" / later)
    call(*STRONG, data=tmp_path / "people")
    assert entries()["strong_baseline_seed0 f_i cosine"]["status"] == "done"


def test_speed_figures_do_not_need_the_weights(call, pretender, tmp_path, entries):
    (tmp_path / "resnet.safetensors").unlink()
    told = call("--seeds", 0)
    assert entries().keys() == {"speed"}
    assert "strong_baseline_seed0 train: waits for" in told
    assert "resnet.safetensors (not there)" in told


def test_half_of_market_is_not_market(drawn, tmp_path):
    options = reproduce_gpu.Options(drawn, tmp_path / "w", None, tmp_path)
    missing = reproduce_gpu.missing_inputs(options)
    assert missing["training images"] == "got 16 train crops, wanted the 12,936 of Market-1501"
    assert missing["test images"] == "got 24 gallery crops, wanted the 15,913 of Market-1501"


def test_other_weights_or_settings_need_another_state(call, tmp_path):
    call(*STRONG)
    (tmp_path / "resnet.safetensors").write_bytes(b"others")
    with pytest.raises(SystemExit, match="was begun with weights_sha256"):
        call(*STRONG)


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 2, "settings": {}, "steps": {}}'])
def test_a_broken_state_is_refused_and_left_alone(call, tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(SystemExit, match="no state of this programme"):
        call(*STRONG)
    assert (tmp_path / "state.json").read_text() == text


def test_a_name_that_chooses_nothing_is_refused(call):
    with pytest.raises(SystemExit, match="--only: got 'table2'"):
        call("--only", "table2")


def test_a_worse_strong_baseline_does_not_replace_a_better_one(call, pretender, tmp_path):
    state = {"steps": {}, "kept": {"training": "strong_baseline_seed1", "mAP": 0.9}}
    call(*STRONG)
    found = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(found | {"kept": state["kept"]}))
    told = call(*STRONG, "--keep", tmp_path / "kept")
    assert "strong_baseline_seed1 with mAP 90.0 was kept before and is better" in told
    assert not (tmp_path / "kept").exists()


def test_a_rehearsal_trains_stops_resumes_keeps_joins_and_evaluates(call, drawn, tmp_path, entries, run_here, run_briefly):
    model = BNNeck(backbone="resnet18", num_ids=2, last_stride=1)
    checkpoint.save_file(model.backbone.state_dict(), tmp_path / "resnet.pth.safetensors")
    names = (tmp_path / "resnet.pth.safetensors", tmp_path / "resnet.safetensors")
    reproduce_gpu.main(["--pack-weights", *map(str, names), "--backbone", "resnet18"])
    only = ("--only", "strong_baseline_seed0 train", "strong_baseline_seed0 f_i", "--precision", "fp32")
    assert "waits for strong_baseline_seed0 is not trained" in call(*only, run=run_briefly)
    stopped = entries()["strong_baseline_seed0 train"]
    assert (stopped["status"], stopped["epoch"], stopped["num_batches"] > 0) == ("stopped", 0, True)
    told = call(*only, "--keep", tmp_path / "kept", run=run_here)
    assert "strong_baseline_seed0 train: done" in told
    figures = entries()["strong_baseline_seed0 f_i cosine"]["figures"]
    reproduce_gpu.main(["--join", str(tmp_path / "kept"), "--out", str(tmp_path / "joined")])
    model, facts = checkpoint.load(tmp_path / "joined")
    assert (facts.epoch, facts.metrics["mAP"]) == (2, figures["mAP"])
    evaluate.main([str(tmp_path / "joined"), "--data", str(drawn), "--json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["mAP"] == pytest.approx(figures["mAP"], abs=0.05)
