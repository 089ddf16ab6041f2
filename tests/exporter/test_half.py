"""fp16: half the size, close to torch, and exact before the convolutions and after the pooling."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.half import MOST, Room, halved, write_fp16
from exporter.parity import LEAST_COSINE, runtime_embedder
from training.evaluate import torch_embedder


@pytest.fixture(scope="module", name="loaded")
def loaded_fixture(fp16_artefact):
    return onnx.load(fp16_artefact / "model.onnx", load_external_data=False)


def test_the_file_is_half_of_fp32(artefact, fp16_artefact):
    sizes = [(folder / "model.onnx").stat().st_size for folder in (artefact, fp16_artefact)]
    assert 0.48 < sizes[1] / sizes[0] < 0.52


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_every_row_of_every_batch_stays_close_to_torch(fp16_artefact, model, crops, size):
    batch = crops[-size:]
    cosines = np.sum(runtime_embedder(fp16_artefact / "model.onnx")(batch) * torch_embedder(model)(batch), axis=1)
    assert cosines.min() > LEAST_COSINE["fp16"]


def test_rows_are_rounded_and_still_of_unit_length(fp16_artefact, artefact, crops):
    rows, exact = (runtime_embedder(folder / "model.onnx")(crops) for folder in (fp16_artefact, artefact))
    assert not np.array_equal(rows, exact)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_input_and_output_keep_their_types(loaded):
    (crops,), (rows,) = loaded.graph.input, loaded.graph.output
    assert (crops.type.tensor_type.elem_type, rows.type.tensor_type.elem_type) == (TensorProto.UINT8, TensorProto.FLOAT)


def test_every_weight_of_a_convolution_is_half_and_no_other(loaded):
    kinds = {tensor.name: tensor.data_type for tensor in loaded.graph.initializer}
    weights = [name for node in loaded.graph.node if node.op_type == "Conv" for name in node.input[1:]]
    assert len(weights) == 40  # kernel and bias of every convolution of ResNet-18
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16} == set(weights)


def test_the_network_is_entered_and_left_by_one_cast_each(loaded):
    kinds = [node.op_type for node in loaded.graph.node]
    targets = Counter(node.attribute[0].i for node in loaded.graph.node if node.op_type == "Cast")
    assert targets == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 2}  # pixels to float, to half, and back
    assert kinds.index("Conv") - 1 == [node.attribute[0].i if node.op_type == "Cast" else 0 for node in loaded.graph.node].index(
        10
    )
    assert kinds[kinds.index("ReduceMean") - 1] == "Cast"


def written(path, weight):
    """Two convolutions of one colour plane over the same pixels, and what is done with their results in fp32."""
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Conv", ["x", "w"], ["b"], name="second"),
        helper.make_node("Mul", ["a", "b"], ["y"], name="after"),
        helper.make_node("Sub", ["y", "a"], ["embeddings"], name="last"),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 2, 2, 1])
    rows = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 1, 2, 2])
    weights = [numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "w")]
    graph = helper.make_graph(nodes, "g", [crops], [rows], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


WHITE = np.full((3, 2, 2, 1), 255, np.uint8)


def test_a_tensor_read_on_both_sides_is_cast_once(tmp_path):
    written(tmp_path / "fp32.onnx", 0.1)
    write_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", WHITE)
    casts = [list(node.input) for node in onnx.load(tmp_path / "fp16.onnx").graph.node if node.op_type == "Cast"]
    assert casts == [["crops"], ["x"], ["a"], ["b"]]


def test_the_largest_activation_is_told(tmp_path):
    written(tmp_path / "fp32.onnx", -128.0)
    room = write_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", WHITE)
    assert room == Room(largest=255 * 128, tensor="a", most=MOST, num_crops=3)


@pytest.mark.parametrize("weight", [129.0, -129.0, np.inf, np.nan])
def test_an_activation_that_may_overflow_on_a_gpu_is_refused_by_name_though_a_cpu_would_not_see_it(tmp_path, weight):
    written(tmp_path / "fp32.onnx", weight)
    with pytest.raises(ValueError, match=r"got an activation of \S+ in a, Conv of w, wanted at most 32752"):
        write_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", WHITE)
    assert not (tmp_path / "fp16.onnx").exists()


def test_a_weight_beyond_half_precision_is_refused_by_name():
    with pytest.raises(ValueError, match="got a weight of 70000 in w, wanted at most 65504"):
        halved(numpy_helper.from_array(np.array([1, -70000], np.float32), "w"))
