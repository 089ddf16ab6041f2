"""The embedding benchmark on a network small enough to count by hand, and its whole table once."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import embed, peak

SIZE = (16, 8)


def network() -> onnx.ModelProto:
    """uint8 [N, 16, 8, 3] -> 3 x 3 convolution to 4 channels, stride 2 -> pooled -> product to 5 -> unit rows."""
    random = np.random.default_rng(0)
    constants = {"k": random.normal(size=(4, 3, 3, 3)), "w": random.normal(size=(4, 5))}
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "k"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["rows"]),
        helper.make_node("LpNormalization", ["rows"], ["embeddings"], axis=1, p=2),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", *SIZE, 3])
    rows = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 5])
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", [crops], [rows], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(name="artefact")
def artefact_fixture(tmp_path):
    content = network().SerializeToString()
    height, width = SIZE
    pixels = {"name": "crops", "height": height, "width": width, "dtype": "uint8", "layout": "NHWC", "channels": "RGB"}
    names = {"model_id": hashlib.sha256(content).hexdigest(), "space_id": "5" * 64, "precision": "fp32", "opset": 17}
    served = {"resize": "bilinear", "antialias": True, "height": height, "width": width}
    rest = {"embedding_dim": 5, "feature": "f_i", "input": pixels, "output": {"name": "embeddings"}, "preprocessing": served}
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, **names, **rest}))
    return folder


def test_multiply_adds_are_those_of_convolutions_and_products(artefact):
    assert peak.count_macs(artefact / "model.onnx") == 4 * 8 * 4 * 27 + 4 * 5


@pytest.mark.parametrize("name", ["fp32_peaks", "int8_peaks"])
def test_every_candidate_for_the_peak_runs_and_tells_its_work(candidates, name):
    for work in candidates[name].values():
        assert work() > 0


@pytest.fixture(name="candidates", scope="module")
def peaks_fixture():
    return {"fp32_peaks": peak.fp32_peaks(threads=1, size=peak.SMALL), "int8_peaks": peak.int8_peaks(threads=1, size=peak.SMALL)}


def test_the_whole_table_on_one_artefact(artefact, tmp_path, capsys):
    told = tmp_path / "embed.json"
    embed.main([*f"--artefact {artefact} --quick --rounds 1 --threads 1 --json {told}".split()])
    printed, report = capsys.readouterr().out, json.loads(told.read_text())
    assert list(report["figures"]) == ["batch 1", "batch 8", "matrix unit"]
    (ours, *others) = report["figures"]["batch 8"]
    assert ours["name"] == "ours, fp32, small" and ours["ratio"] == 1
    assert {one["name"].split()[0] for one in others} == {"OpenVINO", "ours,", "torchreid"}
    assert report["against_peak"][0]["macs_per_crop"] == 4 * 8 * 4 * 27 + 4 * 5
    assert "multiply-adds a crop" in printed


def test_a_folder_that_is_no_artefact_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="wanted a folder with model.onnx"):
        embed.main(["--artefact", str(tmp_path), "--quick"])
