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
    assert written["thresholds"]["default"] == far["0.001"]
    assert written["thresholds"]["source"] == "impostor pairs of people, the checkpoint in fp32"


def test_without_an_evaluation_there_are_no_thresholds():
    assert thresholds_of(None, "") is None


def test_precisions_of_one_checkpoint_share_a_space_and_not_a_model_id(written, int8_artefact):
    other = json.loads((int8_artefact / "manifest.json").read_text())
    assert other["precision"] == "int8"
    assert other["space_id"] == written["space_id"]
    assert other["model_id"] != written["model_id"]
    assert other["model_id"] == sha256_of(int8_artefact / "model.onnx")


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_service_opens_what_is_exported(artefact, int8_artefact, crops, written, precision):
    embedder = Embedder.open({"fp32": artefact, "int8": int8_artefact}[precision], provider="cpu", threads=1)
    assert (embedder.model.space_id, embedder.model.dim) == (written["space_id"], 512)
    assert embedder.model.thresholds is not None
    assert embedder.embed(crops[:3]).shape == (3, 512)
