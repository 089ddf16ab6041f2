"""From a dataset to figures, and the command that prints them."""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from training import checkpoint
from training.checkpoint import Facts, load, load_facts
from training.config import TrainConfig
from training.dataset import read_dataset
from training.embedders import Embedder
from training.evaluate import evaluate, figures, main, measure, torch_embedder

SIZE = {"height": 64, "width": 32}


def colours(crops):
    """A double of a model: the mean colour of four bands, scaled to unit length."""
    bands = crops.reshape(len(crops), 4, -1, 3).mean(axis=2).reshape(len(crops), 12).astype(np.float32)
    return bands / np.linalg.norm(bands, axis=1, keepdims=True)


def run_main(*argv):
    main([str(one) for one in argv])


def refusal_of(*argv):
    with pytest.raises(SystemExit) as stop:
        run_main(*argv)
    assert isinstance(stop.value.code, str)
    assert stop.value.code.startswith("training.evaluate: ")
    return stop.value.code


@pytest.fixture(name="artefact")
def artefact_fixture(tmp_path):
    """An artefact folder whose model embeds a crop as its first row of pixels."""
    start, end = (helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("start", 0), ("end", 1)))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "start", "end", "end"], ["row"]),
        helper.make_node("Flatten", ["row"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["rows"], axis=1, p=2),
    ]
    crops = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 64, 32, 3])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 96])
    graph = helper.make_graph(nodes, "first_row", [crops], [rows], [start, end])
    folder = tmp_path / "artefact"
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    model_id = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"model_id": model_id, "input": {"name": "pixels", **SIZE}}))
    return folder


def first_row(crops):
    """What that artefact computes."""
    flat = crops[:, 0].reshape(len(crops), -1).astype(np.float32)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(name="saved")
def saved_fixture(tmp_path, tiny):
    """saved(**values): a checkpoint of random weights whose configuration has these values."""

    def save(**values):
        config = replace(TrainConfig(), backbone="resnet18", **SIZE, **values)
        facts = Facts(config, num_ids=4, epoch=1, trained_on="people", started_from="none", metrics=None)
        model = tiny()
        checkpoint.save(tmp_path / "run", model, facts, torch.optim.Adam(model.parameters()).state_dict())
        return tmp_path / "run"

    return save


def figures_of(folder, data, file, *flags):
    """The figures that the command writes."""
    run_main(folder, "--data", data, "--device", "cpu", "--json", file, *flags)
    return json.loads(file.read_text())


def test_the_batch_size_does_not_change_the_figures(drawn):
    data = read_dataset(drawn)
    assert evaluate(colours, data, batch_size=2, **SIZE) == evaluate(colours, data, batch_size=32, **SIZE)


def test_a_dataset_that_cannot_be_tested_is_refused_before_anything_is_embedded(people):
    data = people(query=[(1, 1)], gallery=[(1, 1)])
    with pytest.raises(ValueError, match="--no-cameras"):
        measure(colours, data, **SIZE)  # its files do not exist


def test_the_evidence_is_what_the_figures_were_made_of(people):
    data = people(query=[(1, 1), (2, 1), (3, 1)], gallery=[(1, 2), (2, 2), (0, 3), (3, 1)])
    rows = np.eye(4, dtype=np.float32)
    result, evidence = figures(rows[[1, 2, 3]], rows, data)
    assert (evidence.is_valid.tolist(), evidence.first_hit.tolist()) == ([True, True, False], [2, 3, 0])
    assert evidence.ap[evidence.is_valid].mean() == pytest.approx(result.mAP, abs=1e-6)
    assert evidence.top_QK[:, :4].tolist() == [[1, 0, 2, 3], [2, 0, 1, 3], [0, 1, 2, -1]]
    assert (evidence.genuine_B.sum(), evidence.impostor_B.sum(), len(evidence.edges)) == (2, 9, len(evidence.genuine_B) + 1)
    assert evidence.norms == {}


def test_an_embedder_leaves_its_names_and_the_gallerys_norms(drawn):
    data = read_dataset(drawn)
    embed = Embedder(lambda crops: {"f_i": 3 * colours(crops), "f_t": 5 * colours(crops)}, feature="f_t", flip=True)
    embed(np.ones((7, 64, 32, 3), np.uint8))  # what was embedded before must not be counted
    result, evidence = measure(embed, data, **SIZE)
    assert (result.feature, result.flip, result.metric) == ("f_t", True, "cosine")
    assert {name: len(norms) for name, norms in evidence.norms.items()} == {"f_i": len(data.gallery), "f_t": len(data.gallery)}
    assert evidence.norms["f_t"] / evidence.norms["f_i"] == pytest.approx(np.full(len(data.gallery), 5 / 3))


def test_the_command_scores_a_checkpoint_as_its_training_did(trained, drawn, tmp_path, capsys):
    assert figures_of(trained, drawn, tmp_path / "figures.json") == load_facts(trained).metrics
    assert "people: rank-1" in capsys.readouterr().out


def test_a_loaded_checkpoint_embeds_as_the_command_says(saved, drawn, tmp_path):
    folder = saved()
    model, facts = load(folder)
    result = evaluate(torch_embedder(model), read_dataset(drawn), height=facts.config.height, width=facts.config.width)
    assert figures_of(folder, drawn, tmp_path / "figures.json") == json.loads(json.dumps(asdict(result)))


def test_a_checkpoint_is_tested_as_its_configuration_says(saved, drawn, tmp_path):
    folder = saved(test_feature="f_t", test_metric="euclidean", flip_test=True)
    found = figures_of(folder, drawn, tmp_path / "figures.json")
    embed = torch_embedder(load(folder)[0], feature="f_t", flip=True, normalize=False)
    assert (found["feature"], found["metric"], found["flip"], found["far"]) == ("f_t", "euclidean", True, {})
    assert found == json.loads(json.dumps(asdict(evaluate(embed, read_dataset(drawn), metric="euclidean", **SIZE))))


def test_flags_go_before_the_checkpoints_configuration(saved, drawn, tmp_path):
    folder = saved(test_feature="f_t", test_metric="euclidean", flip_test=True)
    again = ("--rerank", "--k1", 4, "--k2", 2, "--blend", 0.5)
    found = figures_of(folder, drawn, tmp_path / "figures.json", "--feature", "f_i", "--metric", "cosine", "--no-flip", *again)
    assert (found["feature"], found["metric"], found["flip"]) == ("f_i", "cosine", False)
    assert (found["rerank"]["k1"], found["rerank"]["k2"], found["rerank"]["blend"]) == (4, 2, 0.5)


def test_without_cameras_the_same_camera_may_match(artefact, drawn, tmp_path):
    data = read_dataset(drawn)
    without = figures_of(artefact, drawn, tmp_path / "figures.json", "--no-cameras")
    assert without["mINP"] == evaluate(first_row, read_dataset(drawn, cameras=False), **SIZE).mINP
    assert without["mINP"] != evaluate(first_row, data, **SIZE).mINP


def test_the_command_scores_an_artefact(artefact, drawn, tmp_path):
    found = figures_of(artefact, drawn, tmp_path / "figures.json")
    wanted = json.loads(json.dumps(asdict(evaluate(first_row, read_dataset(drawn), **SIZE))))
    ratio = found.pop("intra_inter")  # rounded to six places, of rows that differ in the last bit: the file's and first_row's
    assert ratio == pytest.approx(wanted.pop("intra_inter"), abs=2e-6)
    assert found == wanted


def test_an_artefact_is_flipped_by_mirroring_the_crops(artefact, drawn, tmp_path):
    def both(crops):
        rows = first_row(crops) + first_row(crops[:, :, ::-1])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    found = figures_of(artefact, drawn, tmp_path / "figures.json", "--flip")
    assert found["flip"] is True
    assert found["roc"] == evaluate(both, read_dataset(drawn), **SIZE).roc
    assert found["mAP"] == evaluate(both, read_dataset(drawn), **SIZE).mAP


def test_a_file_that_its_manifest_does_not_speak_of_is_refused(artefact, drawn):
    content = (artefact / "model.onnx").read_bytes()
    (artefact / "model.onnx").write_bytes(content + b"\0")
    assert "its manifest says" in refusal_of(artefact, "--data", drawn)


def test_an_artefact_has_no_f_t(artefact, drawn):
    assert "got f_t for the artefact" in refusal_of(artefact, "--data", drawn, "--feature", "f_t")


@pytest.mark.slow
def test_the_command_draws_pictures(artefact, drawn, tmp_path, capsys):
    run_main(artefact, "--data", drawn, "--pictures", tmp_path / "pictures")
    drawn_files = sorted((tmp_path / "pictures").glob("*.png"))
    assert drawn_files
    assert all(str(path) in capsys.readouterr().out for path in drawn_files[:1])


@pytest.mark.parametrize("flags", ["--k1 5", "--k2 0", "--blend 1.5", "--metric manhattan"])
def test_settings_that_cannot_be_are_refused_before_anything_is_read(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main("no/such/model", "--data", "no/such/data", *flags.split())
    assert stop.value.code == 2
    assert "usage: python -m training.evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": 999}, "got k1 999 for .* crops in all"),
        ({"k1": 5}, "got k2 6 with k1 5"),
        ({"k1": 9, "blend": -0.1}, "got blend -0.1"),
    ],
)
def test_a_re_ranking_that_cannot_be_is_refused_before_anything_is_embedded(drawn, settings, message):
    def embed(crops):
        raise AssertionError("embedded")

    with pytest.raises(ValueError, match=message):
        evaluate(embed, read_dataset(drawn), rerank=True, **SIZE, **settings)


def test_the_command_refuses_a_folder_that_is_neither(drawn, tmp_path):
    assert "wanted a checkpoint folder made by training.run" in refusal_of(tmp_path / "typo", "--data", drawn)


def test_the_command_refuses_a_missing_dataset(artefact):
    assert "no/such/data" in refusal_of(artefact, "--data", "no/such/data")


@pytest.mark.parametrize(
    ("name", "content"), [("manifest.json", b"{"), ("manifest.json", b"{}"), ("model.onnx", b"no model"), ("model.onnx", None)]
)
def test_the_command_refuses_a_broken_artefact(artefact, drawn, name, content):
    (artefact / name).unlink()
    if content is not None:
        (artefact / name).write_bytes(content)
    assert "got no whole artefact" in refusal_of(artefact, "--data", drawn)


def test_a_manifest_without_an_input_size_is_refused(artefact, drawn):
    (artefact / "manifest.json").write_text(json.dumps({"input": {"name": "pixels"}}))
    assert "got no whole artefact (its input has no height and width)" in refusal_of(artefact, "--data", drawn)


def test_the_command_says_when_its_figures_cannot_be_written(artefact, drawn, tmp_path):
    assert "No such file or directory" in refusal_of(artefact, "--data", drawn, "--json", tmp_path / "no" / "figures.json")
