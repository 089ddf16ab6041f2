"""int8: small, close to torch, and exact after the pooling."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporter.parity import LEAST_COSINE, runtime_embedder
from exporter.quantize import CALIBRATION_BATCH, _CropReader
from training.evaluate import torch_embedder


@pytest.fixture(scope="module", name="loaded")
def loaded_fixture(int8_artefact):
    return onnx.load(int8_artefact / "model.onnx", load_external_data=False)


def test_the_file_is_about_a_quarter_of_fp32(artefact, int8_artefact):
    sizes = [(folder / "model.onnx").stat().st_size for folder in (artefact, int8_artefact)]
    assert 0.2 < sizes[1] / sizes[0] < 0.3


def test_embeddings_stay_close_to_torch(int8_artefact, model, crops):
    cosines = np.sum(runtime_embedder(int8_artefact / "model.onnx")(crops) * torch_embedder(model)(crops), axis=1)
    assert cosines.min() > LEAST_COSINE["int8"]
    assert cosines.min() < 0.9999  # it is quantised


@pytest.mark.parametrize("size", [1, 3, 32])
def test_a_row_does_not_depend_on_its_batch(int8_artefact, crops, size):
    embed = runtime_embedder(int8_artefact / "model.onnx")
    np.testing.assert_allclose(embed(crops[:size])[-1], embed(crops[size - 1 : size])[0], atol=1e-5)


def test_weights_are_signed_and_activations_unsigned(loaded):
    constants = {tensor.name: tensor.data_type for tensor in loaded.graph.initializer}
    types = {constants[node.input[2]] for node in loaded.graph.node if node.op_type == "QuantizeLinear"}
    assert types == {onnx.TensorProto.UINT8}
    signed = [
        tensor for tensor in loaded.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(signed) == 20  # every convolution of ResNet-18


def test_scales_of_weights_are_per_channel(loaded):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    assert constants["backbone.layer4.1.conv2.weight_scale"].shape == (512,)


def test_nothing_after_the_pooling_is_quantised(loaded):
    kinds = [node.op_type for node in loaded.graph.node]
    after = kinds[kinds.index("ReduceMean") :]
    assert "BatchNormalization" in after
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(after)


def test_calibration_feeds_every_crop_once(crops):
    reader, fed = _CropReader(crops[:19]), []
    while (feed := reader.get_next()) is not None:
        fed.append(feed["crops"])
    assert max(map(len, fed)) == CALIBRATION_BATCH
    assert np.array_equal(np.concatenate(fed), crops[:19])
