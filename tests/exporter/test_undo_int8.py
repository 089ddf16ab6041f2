"""An int8 artefact made fp16 for GPUs: the graph of fp32 again, one space, and a manifest that says where it is from."""

import json
import shutil
from dataclasses import fields

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from exporter import calibrate, quantize, undo_int8
from exporter.manifest import Manifest, sha256_of
from exporter.parity import LEAST_COSINE, runtime_embedder
from exporter.quantize import dequantized, quantized, tensors_of
from exporter.sensitivity import Agreement
from exporter.undo_int8 import check_near, main
from service.embedder import Embedder
from training.evaluate import torch_embedder


@pytest.fixture(scope="module", name="fp32")
def fp32_fixture(artefact):
    return onnx.load(artefact / "model.onnx", load_external_data=False)


@pytest.fixture(scope="module", name="int8")
def int8_fixture(int8_artefact):
    return onnx.load(int8_artefact / "model.onnx", load_external_data=False)


@pytest.fixture(scope="module", name="made")
def made_fixture(tmp_path_factory, int8_artefact):
    """The fp16 artefact that is made of the int8 one without any data, into a folder whose parent is not there yet."""
    out = tmp_path_factory.mktemp("undone") / "new" / "artefact"
    main([str(int8_artefact), str(out)])
    return out


@pytest.fixture(scope="module", name="measured")
def measured_fixture(tmp_path_factory, int8_artefact, drawn):
    """The same, measured on the drawn people."""
    out = tmp_path_factory.mktemp("measured") / "artefact"
    main([str(int8_artefact), str(out), "--data", str(drawn), "--cost-identities", "4", "--max-map-drop", "20"])  # 8 queries
    return out


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def weights_of(model):
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}


def refusal_of(*argv):
    """What a refused command ends with."""
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in argv])
    assert isinstance(stop.value.code, str) and stop.value.code.startswith("exporter.undo_int8: ")
    return stop.value.code


def test_the_graph_is_that_of_fp32_again_node_by_node(fp32, int8):
    assert list(dequantized(int8).graph.node) == list(fp32.graph.node)


def test_a_weight_is_within_half_a_step_of_what_it_was(fp32, int8):
    exact, found = weights_of(fp32), weights_of(dequantized(int8))
    assert found.keys() == exact.keys()
    kernels = [name for name, values in exact.items() if values.ndim == 4]
    assert len(kernels) == 20
    for name in kernels:
        steps = np.abs(exact[name]).max(axis=(1, 2, 3), keepdims=True) / quantize.LARGEST_WEIGHT
        assert (np.abs(found[name] - exact[name]) <= 0.5001 * steps).all()


def test_what_was_left_in_fp32_stays_bit_for_bit(fp32, crops):
    some = quantized(fp32, calibrate.observe(fp32, tensors_of(fp32), crops[:8]), ["layer3.1"])
    exact, found = weights_of(fp32), weights_of(dequantized(some))
    changed = {name for name in exact if not np.array_equal(exact[name], found[name])}
    assert {name.rsplit(".", 2)[0] for name in changed} == {"backbone.layer3.1"}


def test_the_model_given_is_left_alone(int8):
    before = int8.SerializeToString()
    dequantized(int8)
    assert int8.SerializeToString() == before


def test_a_float_model_has_no_rounding_to_undo(fp32):
    with pytest.raises(ValueError, match="got a model without rounded weights"):
        dequantized(fp32)


def test_the_file_is_fp16_from_uint8_pixels_to_fp32_rows(made, fp16_artefact):
    ours, usual = (onnx.load(folder / "model.onnx") for folder in (made, fp16_artefact))
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in usual.graph.node]
    assert list(ours.graph.input) == list(usual.graph.input) and list(ours.graph.output) == list(usual.graph.output)
    kinds = {weight.name: weight.data_type for weight in ours.graph.initializer}
    assert kinds == {weight.name: weight.data_type for weight in usual.graph.initializer}
    assert TensorProto.INT8 not in kinds.values()


def test_rows_are_those_of_the_int8_file_but_for_its_rounding_and_no_farther_from_torch(made, int8_artefact, model, crops):
    ours, int8, exact = (
        embed(crops)
        for embed in (*(runtime_embedder(one / "model.onnx") for one in (made, int8_artefact)), torch_embedder(model))
    )
    to_int8, to_torch = (np.sum(ours * rows, axis=1) for rows in (int8, exact))
    assert LEAST_COSINE["int8"] < to_int8.min() < 0.9999
    assert to_torch.mean() > np.sum(int8 * exact, axis=1).mean()


def test_the_service_opens_it_in_the_same_space_as_the_int8_file(made, int8_artefact):
    ours, int8 = (Embedder.open(folder, provider="cpu", threads=1).model for folder in (made, int8_artefact))
    assert (ours.precision, int8.precision) == ("fp16", "int8")
    assert ours.space_id == int8.space_id
    assert ours.model_id != int8.model_id


def test_the_manifest_says_what_the_file_was_made_from_and_what_nobody_measured(made, int8_artefact):
    ours, source = manifest_of(made), manifest_of(int8_artefact)
    assert list(ours) == [item.name for item in fields(Manifest)]
    assert ours["model_id"] == sha256_of(made / "model.onnx")
    assert ours["model_bytes"] == (made / "model.onnx").stat().st_size
    origin = ours["quantization"]["made_from"]
    assert (origin["model_id"], origin["precision"]) == (source["model_id"], "int8")
    assert "weights stay rounded to int8" in origin["lost"]
    said = " ".join(ours["quantization"]["not_measured"])
    assert all(what in said for what in ("checkpoint", "GPU", "accuracy"))
    assert (ours["metrics"], ours["cost"], ours["calibration"]) == (None, None, None)
    assert ours["cosine"]["measured_on"] == "drawn people, beside the int8 file it was made from"
    assert ours["parity"]["reference"] == undo_int8.FLOATS and ours["parity"]["worst_cosine"] > LEAST_COSINE["fp16"]
    kept = ("space_id", "architecture", "embedding_dim", "input", "preprocessing", "training", "training_config", "licence_note")
    assert [ours[name] for name in kept] == [source[name] for name in kept]


def test_unmeasured_it_has_the_thresholds_of_the_int8_file_and_says_whose_they_are(made, int8_artefact):
    ours, source = manifest_of(made)["thresholds"], manifest_of(int8_artefact)["thresholds"]
    assert ours == source | {"source": "impostor pairs of people, the int8 file this one was made from"}


def test_with_data_it_is_measured_itself_and_mixed_with_int8(measured):
    found = manifest_of(measured)
    assert found["metrics"]["measured_on"] == "this exported file"
    assert found["thresholds"]["source"] == "impostor pairs of people, 4 identities drawn with seed 0, this exported file"
    assert found["cost"]["reference_precision"] == "int8"
    assert set(found["cost"]["mixed"]) == {"queries_in_int8_gallery", "int8_queries_in_gallery"}
    assert found["cosine"]["measured_on"].startswith(
        "people, 4 identities drawn with seed 0, 8 queries, 14 gallery crops, beside"
    )
    assert found["metrics"]["data"] == "people, 4 identities drawn with seed 0"
    assert "accuracy" not in " ".join(found["quantization"]["not_measured"])


def test_another_precision_is_refused_by_name_and_leaves_nothing_behind(artefact, tmp_path):
    said = refusal_of(artefact, tmp_path / "out")
    assert "got an artefact in fp32, wanted int8; of a checkpoint use exporter.run --precision fp16" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_artefact_is_refused(trained, tmp_path):
    assert "got no whole artefact" in refusal_of(trained, tmp_path / "out")
    assert "got no whole artefact" in refusal_of("no/such/folder", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_another_version_is_refused(int8_artefact, tmp_path):
    shutil.copytree(int8_artefact, tmp_path / "other")
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest_of(int8_artefact) | {"colour": "blue"}))
    assert "got a manifest of another version" in refusal_of(tmp_path / "other", tmp_path / "out")


def test_a_folder_that_exists_is_refused_and_left_alone(int8_artefact, tmp_path):
    assert "exists already; name a new folder" in refusal_of(int8_artefact, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_without_a_test_is_refused_before_anything_is_made(int8_artefact, tmp_path):
    assert "no/such/data: got no such folder" in refusal_of(int8_artefact, tmp_path / "out", "--data", "no/such/data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mean", "worst"), [(0.97, 0.95), (0.99, 0.89)])
def test_a_file_that_would_not_share_a_gallery_is_refused(mean, worst):
    check_near(Agreement(0.98, 0.90, 42))
    with pytest.raises(ValueError, match=f"got a cosine to the int8 file of {mean} in the mean, {worst} at worst over 42 crops"):
        check_near(Agreement(mean, worst, 42))


@pytest.mark.parametrize(
    "more", [["--cost-identities", "5"], ["--max-map-drop", "1"], ["--data", "people", "--max-map-drop", "-1"]]
)
def test_a_wrong_command_line_is_a_usage_error(more, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["int8", "out", *more])
    assert stop.value.code == 2
    assert "usage: python -m exporter.undo_int8" in capsys.readouterr().err
