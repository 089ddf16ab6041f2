"""The command: export, check, write, or leave nothing behind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from exporter import run
from exporter.parity import runtime_embedder
from exporter.run import calibration_crops, main
from training import evaluate
from training.checkpoint import FACTS, WEIGHTS, load_facts
from training.dataset import read_dataset


def refusal_of(*argv):
    """What a refused command ends with."""
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in argv])
    assert isinstance(stop.value.code, str)  # printed to stderr, status 1
    assert stop.value.code.startswith("exporter.run: ")
    return stop.value.code


def test_an_artefact_is_two_files_in_one_new_folder(artefact, int8_artefact):
    for folder in (artefact, int8_artefact):
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
        assert [path.name for path in folder.parent.iterdir()] == ["artefact"]


def test_with_data_the_exported_file_itself_is_measured(int8_artefact, drawn):
    written = json.loads((int8_artefact / "manifest.json").read_text())
    assert written["metrics"]["measured_on"] == "this exported file"
    assert written["thresholds"]["source"] == "impostor pairs of people, this exported file"
    result = evaluate.evaluate(runtime_embedder(int8_artefact / "model.onnx"), read_dataset(drawn), height=64, width=32)
    assert written["metrics"]["mAP"] == result.mAP
    assert written["metrics"]["far"] == result.far


def test_the_evaluation_of_an_artefact_agrees_with_its_checkpoint(artefact, trained, drawn, tmp_path):
    evaluate.main([str(artefact), "--data", str(drawn), "--json", str(tmp_path / "figures.json")])
    got, wanted = json.loads((tmp_path / "figures.json").read_text()), load_facts(trained).metrics
    assert (got["num_valid_queries"], got["num_gallery"]) == (wanted["num_valid_queries"], wanted["num_gallery"]) == (10, 18)
    for name in ("mAP", "mINP", "cmc"):
        assert got[name] == pytest.approx(wanted[name], abs=1e-3)
    assert got["far"] == pytest.approx(wanted["far"], abs=1e-3)


def test_a_folder_that_exists_is_refused_and_left_alone(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert "exists already; name a new folder or remove it first" in refusal_of(trained, tmp_path / "out")
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("mine.txt", "kept")]


def test_an_export_that_fails_at_its_end_leaves_nothing_behind(trained, tmp_path):
    assert "no/such/data: got no such folder" in refusal_of(trained, tmp_path / "out", "--data", "no/such/data")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_checkpoint_is_refused_and_leaves_nothing_behind(trained, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(trained / FACTS, broken)
    (broken / WEIGHTS).write_bytes((trained / WEIGHTS).read_bytes()[:1000])
    assert "got weights that do not fit" in refusal_of(broken, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [broken]


def test_a_missing_checkpoint_is_refused_by_name(tmp_path):
    assert "no/such/run/checkpoint.json: got no such file" in refusal_of("no/such/run", tmp_path / "out")


@pytest.mark.parametrize(
    "more",
    [
        ["--precision", "int8"],
        ["--calibrate", "people"],
        ["--precision", "fp32", "--calibrate", "people"],
        ["--precision", "fp16"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(more, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "out", *more])
    assert stop.value.code == 2
    assert "usage: python -m exporter.run" in capsys.readouterr().err


def test_calibration_draws_training_crops_once_each(drawn, trained):
    crops = calibration_crops(drawn, load_facts(trained))
    assert (crops.shape, crops.dtype) == ((45, 64, 32, 3), np.uint8)
    assert len({crop.tobytes() for crop in crops}) == 45


def test_calibration_draws_the_same_crops_each_time(drawn, trained):
    facts = load_facts(trained)
    assert np.array_equal(calibration_crops(drawn, facts), calibration_crops(drawn, facts))


def test_the_default_licence_note_names_what_the_weights_inherit():
    assert "terms of the data" in run.parse(["run", "out"]).licence_note


def test_figures_of_the_checkpoint_stand_for_fp32_and_not_for_int8(trained):
    facts = load_facts(trained)
    assert run.measure(run.parse(["run", "out"]), facts, None)[0] == facts.metrics
    assert run.measure(run.parse(["run", "out", "--precision", "int8", "--calibrate", "people"]), facts, None)[0] is None


@pytest.mark.parametrize("tested", [{"feature": "f_t"}, {"metric": "euclidean"}, {"flip": True}])
def test_figures_of_another_feature_or_metric_do_not_stand_for_the_artefact(trained, tested):
    facts = load_facts(trained)
    assert run.measure(run.parse(["run", "out"]), replace(facts, metrics=facts.metrics | tested), None)[0] is None
