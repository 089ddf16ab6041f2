"""manifest.json: complete, with hashes that tie file, checkpoint and space together."""

import hashlib
import json
import shutil
from dataclasses import asdict, fields, replace

import pytest

from exporter import manifest
from exporter.manifest import Manifest, sha256_of, space_id_of, thresholds_of
from service.embedder import Embedder
from training import transforms
from training.checkpoint import FACTS, WEIGHTS, load_facts


@pytest.fixture(scope="module", name="written")
def written_fixture(artefact):
    return json.loads((artefact / "manifest.json").read_text())


def test_the_file_has_every_field_and_no_other(written):
    assert list(written) == [item.name for item in fields(Manifest)]


def test_the_model_id_is_the_hash_of_the_file(artefact, written):
    content = (artefact / "model.onnx").read_bytes()
    assert written["model_id"] == hashlib.sha256(content).hexdigest() == sha256_of(artefact / "model.onnx")
    assert written["model_bytes"] == len(content)


def test_the_manifest_says_what_the_model_is(written):
    assert (written["schema_version"], written["architecture"], written["feature"]) == (1, "resnet18-bnneck", "f_i")
    assert (written["embedding_dim"], written["precision"], written["opset"]) == (512, "fp32", 20)
    size = {"height": 64, "width": 32}
    assert written["input"] == {"name": "crops", **size, "dtype": "uint8", "layout": "NHWC", "channels": "RGB"}
    assert written["output"] == {"name": "embeddings"}
    wanted = {"resize": "bilinear", "antialias": True, **size, "mean": list(transforms.MEAN), "std": list(transforms.STD)}
    assert written["preprocessing"] == wanted


def test_the_manifest_says_where_the_model_comes_from(written, trained):
    facts = json.loads((trained / FACTS).read_text())
    assert written["training"] == {"trained_on": "people", "started_from": "none", "epochs": 7}
    assert written["training_config"] == facts["config"]
    assert written["metrics"] == {"measured_on": "the checkpoint in fp32", **facts["metrics"]}
    assert written["licence_note"] == "drawn by the tests"
    assert written["created_at"].endswith("+00:00")


def test_the_manifest_says_how_well_the_file_agrees_with_torch(written):
    assert written["parity"]["batch_sizes"] == [1, 2, 7, 32]
    assert written["parity"]["num_crops"] == 42
    assert 0.9999 <= written["parity"]["worst_cosine"] <= written["parity"]["mean_cosine"] <= 1.0001


def test_thresholds_are_those_that_the_evaluation_measured(written):
    far = written["metrics"]["far"]
    assert written["thresholds"]["far"] == far
    # 150 impostor pairs cannot measure 1 in 1,000: what none of them reached
    assert written["thresholds"]["default"] == written["metrics"]["unreached"] > far["0.01"]
    assert written["thresholds"]["source"] == "impostor pairs of people, the checkpoint in fp32"


def test_without_an_evaluation_there_are_no_thresholds():
    assert thresholds_of(None, "") is None


def test_the_default_threshold_is_that_of_one_false_accept_in_a_thousand(written):
    far = {"0.01": 0.4, "0.001": 0.5, "0.0001": 0.6}
    assert thresholds_of(written["metrics"] | {"far": far}, "many crops")["default"] == 0.5


def test_of_a_test_too_small_for_that_rate_the_default_is_what_no_impostor_reached(written):
    for far in ({"0.1": 0.3, "0.01": 0.5}, {}):
        found = thresholds_of(written["metrics"] | {"far": far, "unreached": 0.7}, "a few crops")
        assert (found["default"], found["far"]) == (0.7, far)


def test_of_a_test_without_impostors_there_are_no_thresholds(written):
    assert thresholds_of(written["metrics"] | {"far": {}, "unreached": None}, "one identity") is None


@pytest.fixture(scope="module", name="others")
def others_fixture(int8_artefact, fp16_artefact):
    """The manifests of the reduced precisions."""
    folders = {"int8": int8_artefact, "fp16": fp16_artefact}
    return {name: json.loads((folder / "manifest.json").read_text()) for name, folder in folders.items()}


def test_precisions_of_one_checkpoint_share_a_space_and_not_a_model_id(written, others):
    assert {name: other["precision"] for name, other in others.items()} == {"int8": "int8", "fp16": "fp16"}
    assert {other["space_id"] for other in others.values()} == {written["space_id"]}
    assert len({written["model_id"], *(other["model_id"] for other in others.values())}) == 3


def test_an_fp32_file_has_no_cost_and_nothing_was_calibrated(written):
    assert [written[name] for name in ("calibration", "quantization", "cosine", "cost")] == [None] * 4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_reduced_precision_tells_its_cost_beside_fp32(others, precision):
    cost = others[precision]["cost"]
    assert list(cost) == ["measured_on", "own", "reference", "mixed", "map_drop", "rank1_drop", "reference_precision"]
    assert cost["reference_precision"] == "fp32"
    assert list(cost["mixed"]) == ["queries_in_fp32_gallery", "fp32_queries_in_gallery"]
    for figures in (cost["own"], cost["reference"], *cost["mixed"].values()):
        assert list(figures) == ["rank1", "mAP", "mINP"]
    assert cost["map_drop"] == pytest.approx(100 * (cost["reference"]["mAP"] - cost["own"]["mAP"]), abs=1e-3)
    assert list(others[precision]["cosine"]) == ["measured_on", "mean", "worst", "num_crops"]
    assert others[precision]["cosine"]["measured_on"] == cost["measured_on"]


def test_the_cost_says_what_it_was_measured_on(others):
    assert others["int8"]["cost"]["measured_on"] == "people, 10 queries, 18 gallery crops"
    assert others["fp16"]["cost"]["measured_on"] == "people, 2 identities drawn with seed 0: 4 queries, 7 gallery crops"
    assert others["fp16"]["metrics"]["num_queries"] == 10  # this file's own figures are those of the whole test


def test_the_reference_of_a_cost_is_the_checkpoint_in_fp32(others, written):
    reference = others["int8"]["cost"]["reference"]
    assert reference["mAP"] == pytest.approx(written["metrics"]["mAP"], abs=1e-3)


def test_int8_tells_its_calibration_and_its_scheme(others):
    wanted = {"data": "training list of people", "num_crops": 36, "num_held": 9, "seed": 0}
    assert others["int8"]["calibration"] == wanted
    assert others["int8"]["quantization"]["left_in_fp32"] == []


def test_fp16_tells_how_near_its_activations_come_to_overflow(others):
    found = others["fp16"]["quantization"]["largest_activation"]
    assert 1 < found["largest"] < found["most"] == 65504 / 2
    assert found["num_crops"] == 42 and found["tensor"]
    assert others["fp16"]["calibration"] is None


def test_another_checkpoint_is_another_space(trained, tmp_path, written):
    shutil.copy(trained / WEIGHTS, tmp_path / WEIGHTS)
    facts = load_facts(trained)
    assert space_id_of(tmp_path / WEIGHTS, facts) == written["space_id"]
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert space_id_of(tmp_path / WEIGHTS, facts) != written["space_id"]


def test_another_input_size_is_another_space(trained, written):
    facts = load_facts(trained)
    wider = replace(facts, config=replace(facts.config, width=64))
    assert space_id_of(trained / WEIGHTS, wider) != written["space_id"]


def test_figures_of_a_checkpoint_do_not_change_its_space(trained, written):
    assert space_id_of(trained / WEIGHTS, replace(load_facts(trained), metrics=None)) == written["space_id"]


def test_a_manifest_comes_back_as_it_was_written(written, tmp_path):
    manifest.write(tmp_path, Manifest(**written))
    assert json.loads((tmp_path / "manifest.json").read_text()) == written
    assert asdict(Manifest(**written)) == written


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_service_opens_what_is_exported(artefact, fp16_artefact, int8_artefact, crops, written, precision):
    folders = {"fp32": artefact, "fp16": fp16_artefact, "int8": int8_artefact}
    embedder = Embedder.open(folders[precision], provider="cpu", threads=1)
    assert (embedder.model.space_id, embedder.model.dim) == (written["space_id"], 512)
    assert embedder.model.thresholds is not None
    assert embedder.embed(crops[:3]).shape == (3, 512)
