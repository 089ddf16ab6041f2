"""The command: export, check, write, or leave nothing behind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporter import run
from exporter.manifest import Findings
from exporter.parity import runtime_embedder
from exporter.run import checkpoint_findings, main
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


def test_an_artefact_is_two_files_in_one_new_folder(artefact, fp16_artefact, int8_artefact):
    for folder in (artefact, fp16_artefact, int8_artefact):
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


def test_a_test_that_cannot_be_read_is_refused_and_leaves_nothing_behind(trained, tmp_path):
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
        ["--precision", "fp16", "--keep-fp32", "1"],
        ["--precision", "int8", "--calibrate", "people", "--keep-fp32", "-1"],
        ["--precision", "bf16"],
        ["--max-map-drop", "1", "--precision", "fp16"],
        ["--cost-identities", "5", "--data", "people"],
        ["--max-map-drop", "-1", "--precision", "fp16", "--data", "people"],
        ["--max-map-drop", "nan", "--precision", "fp16", "--data", "people"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(more, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "out", *more])
    assert stop.value.code == 2
    assert "usage: python -m exporter.run" in capsys.readouterr().err


def test_the_default_licence_note_names_what_the_weights_inherit():
    assert "terms of the data" in run.parse(["run", "out"]).licence_note


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_without_data_the_checkpoint_gives_every_precision_its_thresholds_and_fp32_its_figures(trained, precision):
    facts = load_facts(trained)
    found = checkpoint_findings(facts, precision=precision)
    assert found.thresholds["far"] == facts.metrics["far"]
    assert found.thresholds["source"] == "impostor pairs of people, the checkpoint in fp32"
    assert found.metrics == ({"measured_on": "the checkpoint in fp32", **facts.metrics} if precision == "fp32" else None)
    assert found.cost is None


@pytest.mark.parametrize("tested", [{"feature": "f_t"}, {"metric": "euclidean"}, {"flip": True}])
def test_figures_of_another_feature_or_metric_do_not_stand_for_the_artefact(trained, tested):
    facts = load_facts(trained)
    assert checkpoint_findings(replace(facts, metrics=facts.metrics | tested), precision="fp32") == Findings()


def test_a_checkpoint_that_was_never_tested_gives_nothing(trained):
    assert checkpoint_findings(replace(load_facts(trained), metrics=None), precision="fp32") == Findings()


def test_a_file_whose_embeddings_do_not_mix_with_fp32_is_refused(artefact, trained, drawn, tmp_path):
    turned = onnx.load(artefact / "model.onnx")
    (neck,) = (tensor for tensor in turned.graph.initializer if tensor.name == "neck.weight")
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), 512)
    neck.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(neck) * signs, neck.name))  # its own cosines stay
    onnx.save(turned, tmp_path / run.MODEL)
    shutil.copy(artefact / "model.onnx", tmp_path / run.REFERENCE)
    args = run.parse(["run", "out", "--precision", "fp16", "--data", str(drawn)])
    with pytest.raises(ValueError, match=r"fp32.* where fp32 has \d+\.\d\d, \d+\.\d\d points less, wanted at most 0\.3"):
        run.measure(args, load_facts(trained), read_dataset(drawn), tmp_path)


def test_a_sample_larger_than_the_test_is_refused_before_anything_is_exported(trained, drawn, tmp_path):
    more = ["--precision", "fp16", "--data", drawn, "--cost-identities", "6"]
    assert "--cost-identities: got 6, wanted 1 to 5" in refusal_of(trained, tmp_path / "out", *more)
    assert list(tmp_path.iterdir()) == []
