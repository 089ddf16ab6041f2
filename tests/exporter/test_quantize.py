"""int8: small, fused by the runtime, exact after the pooling, and right number by number on single layers."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from exporter import calibrate, quantize
from exporter.calibrate import Observed, observe
from exporter.parity import LEAST_COSINE, runtime_embedder
from exporter.quantize import Grid, grid_of, grids_of, groups_of, integer_weights, quantized, tensors_of
from training.evaluate import torch_embedder


@pytest.fixture(scope="module", name="loaded")
def loaded_fixture(int8_artefact):
    return onnx.load(int8_artefact / "model.onnx", load_external_data=False)


@pytest.fixture(scope="module", name="fp32")
def fp32_fixture(artefact):
    return onnx.load(artefact / "model.onnx", load_external_data=False)


@pytest.fixture(scope="module", name="observed")
def observed_fixture(fp32, crops):
    return observe(fp32, tensors_of(fp32), crops)


def test_the_file_is_about_a_quarter_of_fp32(artefact, int8_artefact):
    sizes = [(folder / "model.onnx").stat().st_size for folder in (artefact, int8_artefact)]
    assert 0.24 < sizes[1] / sizes[0] < 0.27


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_every_row_of_every_batch_stays_close_to_torch(int8_artefact, model, crops, size):
    batch = crops[-size:]
    cosines = np.sum(runtime_embedder(int8_artefact / "model.onnx")(batch) * torch_embedder(model)(batch), axis=1)
    assert LEAST_COSINE["int8"] < cosines.min() < 0.9999  # it is quantised


@pytest.mark.parametrize("size", [1, 3, 32])
def test_a_row_does_not_depend_on_its_batch(int8_artefact, crops, size):
    embed = runtime_embedder(int8_artefact / "model.onnx")
    np.testing.assert_allclose(embed(crops[:size])[-1], embed(crops[size - 1 : size])[0], atol=1e-5)


def test_the_runtime_computes_every_layer_in_integers_and_rounds_once_before_and_never_between(int8_artefact, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this machine alone
    onnxruntime.InferenceSession(int8_artefact / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (20, 8)  # every convolution and every sum of ResNet-18
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 1)
    assert not kinds.keys() & {"Conv", "Add", "Relu", "MaxPool"}


def test_weights_are_signed_and_activations_unsigned(loaded):
    constants = {tensor.name: tensor for tensor in loaded.graph.initializer}
    assert {constants[node.input[2]].data_type for node in loaded.graph.node if node.op_type == "QuantizeLinear"} == {2}  # uint8
    signed = [tensor for tensor in constants.values() if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4]
    assert len(signed) == 20
    assert min(numpy_helper.to_array(tensor).min() for tensor in signed) == -127  # symmetric: never -128


def test_scales_of_weights_are_per_channel(loaded):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    assert constants["backbone.layer4.1.conv2.weight_scale"].shape == (512,)


def test_nothing_after_the_pooling_is_quantised(loaded):
    kinds = [node.op_type for node in loaded.graph.node]
    after = kinds[kinds.index("ReduceMean") :]
    assert "BatchNormalization" in after
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(after)


def test_groups_are_the_stem_and_the_residual_blocks_in_order(fp32):
    groups = groups_of(fp32)
    assert list(groups) == ["stem", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]
    assert [node.op_type for node in groups["stem"]] == ["Conv", "MaxPool"]
    assert [node.op_type for node in groups["layer2.0"]] == ["Conv", "Conv", "Conv", "Add"]  # one is the shortcut's


def test_only_the_chosen_groups_change(fp32, observed):
    constants = {tensor.name: tensor for tensor in quantized(fp32, observed, ["stem", "layer3.1"]).graph.initializer}
    integers = {name for name, tensor in constants.items() if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4}
    assert integers == {f"backbone.{name}.weight_quantized" for name in ("conv1", "layer3.1.conv1", "layer3.1.conv2")}
    assert "backbone.layer1.0.conv1.weight" in constants


def test_no_chosen_group_is_the_fp32_network(fp32, observed, crops):
    assert np.array_equal(calibrate.embed(quantized(fp32, observed, []), crops[:4]), calibrate.embed(fp32, crops[:4]))


def test_fewer_groups_are_nearer_to_fp32_and_the_model_given_is_left_alone(fp32, observed, crops):
    before, exact = fp32.SerializeToString(), calibrate.embed(fp32, crops[:8])
    errors = [
        1 - np.sum(calibrate.embed(quantized(fp32, observed, groups), crops[:8]) * exact, axis=1).mean()
        for groups in (["layer4.1"], list(groups_of(fp32)))
    ]
    assert 0 < errors[0] < errors[1]
    assert fp32.SerializeToString() == before


def test_a_convolution_is_rounded_after_its_relu_alone(fp32, observed):
    names = {node.input[0] for node in quantized(fp32, observed, ["layer1.0"]).graph.node if node.op_type == "QuantizeLinear"}
    relus = {node.output[0] for node in fp32.graph.node if node.op_type == "Relu"}
    assert len(names) == 4  # the pooled stem, the two convolutions, the sum
    assert len(names & relus) == 2  # the pooled stem and the second convolution have none behind them


def test_the_pooled_stem_keeps_the_grid_it_was_pooled_from(fp32, observed):
    conv, pool = groups_of(fp32)["stem"]
    grids = grids_of(fp32, [conv, pool], observed)
    assert grids[pool.output[0]] is grids[pool.input[0]]


@pytest.mark.parametrize(
    ("low", "high", "grid"),
    [(0, 2.55, Grid(0.01, 0)), (-2.55, 0, Grid(0.01, 255)), (-1, 1.55, Grid(0.01, 100)), (0.5, 2.55, Grid(0.01, 0))],
)
def test_a_grid_covers_the_range_and_holds_zero_exactly(low, high, grid):
    found = grid_of(Observed(low, high, np.zeros(1)))
    assert found.scale == pytest.approx(grid.scale)
    assert found.zero == grid.zero


def test_a_tensor_that_is_always_zero_has_a_grid():
    assert grid_of(Observed(0, 0, np.zeros(1))) == Grid(np.float32(1e-8), np.uint8(0))


def values_of(kernel, bias, mean, scale=0.01):
    """The kernel and bias that the integers stand for."""
    tensors = [numpy_helper.from_array(np.array(array, np.float32), name) for array, name in ((kernel, "w"), (bias, "b"))]
    parts = integer_weights(*tensors, Grid(np.float32(scale), np.uint8(0)), np.array(mean))
    found = {part.name: numpy_helper.to_array(part).astype(np.float64) for part in parts}
    return [(found[f"{name}_quantized"].T * found[f"{name}_scale"]).T for name in ("w", "b")]


def test_the_largest_weight_of_a_channel_is_kept_exactly():
    kernel = np.random.default_rng(0).normal(size=(3, 4, 3, 3)) * np.array([1, 100, 0.01])[:, None, None, None]
    found = values_of(kernel, np.zeros(3), np.zeros(4))[0]
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    np.testing.assert_allclose(np.abs(found).max(axis=(1, 2, 3)), largest, rtol=1e-6)
    assert (np.abs(found - kernel).max(axis=(1, 2, 3)) <= 0.5001 * largest / 127).all()


def test_the_bias_takes_back_the_mean_error_of_rounded_weights():
    rng = np.random.default_rng(0)
    kernel, bias, mean = rng.normal(size=(3, 4, 3, 3)), rng.normal(size=3), rng.uniform(1, 2, 4)
    weights, offsets = values_of(kernel, bias, mean)
    exact = kernel.sum(axis=(2, 3)) @ mean + bias
    np.testing.assert_allclose(weights.sum(axis=(2, 3)) @ mean + offsets, exact, atol=1e-3)
    assert np.abs(weights.sum(axis=(2, 3)) @ mean + bias - exact).max() > 1e-2  # what it would be else


@pytest.mark.parametrize("kernel", [0.0, 1e-12])
def test_a_channel_of_no_weight_keeps_its_bias(kernel):
    offsets = values_of(np.full((1, 1, 1, 1), kernel), [3.0], [1.0])[1]
    assert offsets == pytest.approx([3.0])


def test_a_network_with_more_or_fewer_tensors_watched_is_refused_by_name(fp32, observed):
    with pytest.raises(KeyError, match=groups_of(fp32)["stem"][0].input[0]):
        quantized(fp32, {name: one for name, one in observed.items() if not name.startswith("permute")}, ["stem"])


def test_every_tensor_that_is_rounded_was_watched(fp32, observed):
    model = quantized(fp32, observed, list(groups_of(fp32)))
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert rounded == set(quantize.tensors_of(fp32))
