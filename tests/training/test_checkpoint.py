"""Checkpoints: whole or not at all, and refused with a reason."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from training import checkpoint
from training.checkpoint import (
    FACTS,
    RESUME,
    VERSION_1,
    WEIGHTS,
    Facts,
    finish_save,
    load,
    load_resume,
    ready,
    save,
    save_facts,
    write_whole,
)
from training.config import TrainConfig

CONFIG = replace(TrainConfig(), backbone="resnet18", height=64, width=32, decay_epochs=(3, 9))
METRICS = {"mAP": 0.25, "far": {"0.1": 0.5}}


@pytest.fixture(name="facts")
def facts_fixture():
    return Facts(CONFIG, num_ids=4, epoch=3, trained_on="people", started_from="none", metrics=METRICS)


@pytest.fixture(scope="module", name="saved")
def saved_fixture(tmp_path_factory, tiny):
    """A checkpoint of epoch 3; a test that changes it works on a copy."""
    model = tiny()
    folder = tmp_path_factory.mktemp("saved")
    save(folder, model, Facts(CONFIG, 4, 3, "people", "none", METRICS), RESUMED)
    return folder


@pytest.fixture(name="copied")
def copied_fixture(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


RESUMED = {"model": {}, "optimizer": {"state": {}}}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_json(folder, **changes):
    values = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(values | changes))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, tiny, facts):
    model = tiny()
    save(tmp_path / "new" / "run", model, facts, RESUMED)
    loaded, back = load(tmp_path / "new" / "run")
    assert back == facts
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert not loaded.training


@pytest.mark.parametrize("name", [WEIGHTS, FACTS])
def test_either_file_names_the_checkpoint(saved, facts, name):
    assert load(saved / name)[1] == facts


def test_a_checkpoint_is_two_readable_files_and_the_resume_state(saved):
    assert sorted(contents(saved)) == [FACTS, WEIGHTS, RESUME]
    assert json.loads((saved / FACTS).read_text())["config"]["backbone"] == "resnet18"


def test_the_resume_state_comes_back_as_it_was_saved(saved, facts):
    back = load_resume(saved, facts)
    assert {name: back[name] for name in RESUMED} == RESUMED


def test_weights_saved_at_another_place_than_their_facts_are_refused(copied):
    change_json(copied, num_batches=7)
    with pytest.raises(ValueError, match="got epoch 3 and 0 batches, wanted epoch 3 and 7 batches: the files are of two saves"):
        load(copied)


def test_a_checkpoint_of_version_1_says_what_it_was_trained_without(copied):
    values = json.loads((copied / FACTS).read_text())
    old = {name: value for name, value in values["config"].items() if name not in VERSION_1}
    del values["num_batches"]
    (copied / FACTS).write_text(json.dumps(values | {"schema_version": 1, "config": old}))
    config = load(copied)[1].config
    assert (config.erasing_prob, config.center_weight, config.neck, config.height) == (0.0, 0.0, "bnneck", 64)


def test_facts_are_replaced_without_touching_the_weights(copied, facts):
    before = contents(copied)
    save_facts(copied, replace(facts, metrics=None))
    assert load(copied)[1].metrics is None
    assert contents(copied)[WEIGHTS] == before[WEIGHTS]


def test_a_save_that_fails_at_its_last_file_leaves_the_previous_checkpoint(copied, tiny, facts):
    before = contents(copied)
    model = tiny()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(copied, model, replace(facts, epoch=4, metrics={"mAP": object()}), RESUMED)
    assert contents(copied) == before


def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_whole({tmp_path / "other": lambda path: path.write_text("new"), tmp_path / "file": fail})
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("renamed", range(4))
def test_a_save_killed_between_its_renames_is_finished(copied, tiny, facts, renamed):
    """What stands on disk once all three files are ready and the first so many are in place."""
    before = contents(copied)
    save(copied, tiny(), replace(facts, epoch=4), RESUMED)
    after = contents(copied)
    for name in (RESUME, WEIGHTS, FACTS)[renamed:]:
        (copied / name).replace(ready(copied / name))
        (copied / name).write_bytes(before[name])
    finish_save(copied)
    assert contents(copied) == after
    assert load(copied)[1].epoch == 4


@pytest.mark.parametrize("made_ready", range(3))
def test_a_save_killed_before_all_its_files_were_ready_leaves_the_previous_checkpoint(copied, made_ready):
    before = contents(copied)
    for name in (RESUME, WEIGHTS, FACTS)[:made_ready]:
        ready(copied / name).write_bytes(b"new")
    finish_save(copied)
    assert contents(copied) == before


def test_a_reader_of_the_old_file_keeps_it_while_a_new_one_is_written(tmp_path):
    (tmp_path / "file").write_text("old")
    with (tmp_path / "file").open() as reader:
        write_whole({tmp_path / "file": lambda path: path.write_text("new")})
        assert reader.read() == "old"
    assert (tmp_path / "file").read_text() == "new"


def test_truncated_weights_are_refused(copied):
    os.truncate(copied / WEIGHTS, 1_000_000)
    with pytest.raises(
        ValueError, match=r"safetensors: got weights that do not fit, wanted a whole file .* copy the run folder again"
    ):
        load(copied)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_refused(copied, content):
    (copied / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="got weights that do not fit"):
        load(copied)


@pytest.mark.parametrize("changes", [{"num_ids": 5}, {"config": checkpoint.to_json(replace(CONFIG, backbone="resnet50"))}])
def test_weights_of_another_network_are_refused(copied, changes):
    change_json(copied, **changes)
    with pytest.raises(
        ValueError, match=r"got weights that do not fit, wanted a whole file for the resnet.*(size mismatch|Missing key)"
    ):
        load(copied)


@pytest.mark.parametrize("name", [WEIGHTS, FACTS])
def test_a_missing_file_is_refused_by_name(copied, name):
    (copied / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: got no such file, wanted"):
        load(copied)


def test_a_folder_inside_a_run_does_not_stand_for_the_run(saved):
    with pytest.raises(
        ValueError, match=r"typo/checkpoint\.json: got no such file, wanted a checkpoint folder made by training\.run"
    ):
        load(saved / "typo")


def test_another_schema_version_is_refused_with_what_to_do(copied):
    change_json(copied, schema_version=3)
    with pytest.raises(ValueError, match=r"checkpoint of this version \(got schema version 3, wanted 2\); train again"):
        load(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"schema_version": 2}', b"\xff\xfe"])
def test_facts_that_are_no_description_are_refused(copied, content):
    (copied / FACTS).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"checkpoint\.json: not a checkpoint of this version"):
        load(copied)


def test_a_configuration_that_cannot_train_is_refused(copied):
    change_json(copied, config=checkpoint.to_json(CONFIG) | {"last_stride": 7})
    with pytest.raises(ValueError, match="last_stride: got 7, wanted 1 or 2"):
        load(copied)


def test_the_resume_state_of_another_epoch_is_refused(saved, facts):
    with pytest.raises(ValueError, match="got epoch 3 and 0 batches, wanted epoch 4 and 0 batches: the files are of two saves"):
        load_resume(saved, replace(facts, epoch=4))


def test_the_resume_state_of_an_older_version_is_refused_with_what_to_do(copied, facts):
    torch.save({"epoch": 3, "optimizer": {}}, copied / RESUME)
    with pytest.raises(ValueError, match="got an older version's state, .* start anew with --backbone-weights"):
        load_resume(copied, facts)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_resume_state_that_cannot_be_read_is_refused(tmp_path, facts, content):
    if content is not None:
        (tmp_path / RESUME).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read .*; without it --resume is not possible"):
        load_resume(tmp_path, facts)
