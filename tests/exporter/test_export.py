"""The exported file against torch, row by row."""

import numpy as np
import onnx
import pytest

from exporter.export import OPSET
from exporter.parity import runtime_embedder
from training.evaluate import torch_embedder


@pytest.fixture(scope="module", name="exported")
def exported_fixture(artefact):
    return runtime_embedder(artefact / "model.onnx")


@pytest.fixture(scope="module", name="loaded")
def loaded_fixture(artefact):
    return onnx.load(artefact / "model.onnx", load_external_data=False)


def shape_of(value):
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_every_row_of_every_batch_agrees_with_torch(exported, model, crops, size):
    batch = crops[-size:]
    np.testing.assert_allclose(exported(batch), torch_embedder(model)(batch), atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(exported, crops):
    together = exported(crops[:32])
    apart = np.concatenate([exported(crops[row : row + 1]) for row in range(32)])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_rows_have_unit_length(exported, crops):
    np.testing.assert_allclose(np.linalg.norm(exported(crops), axis=1), 1, atol=1e-5)


def test_different_crops_give_different_rows(exported, crops):
    cosines = exported(crops) @ exported(crops).T
    np.fill_diagonal(cosines, -1)
    assert cosines.max() < 0.99


def test_the_input_is_not_modified(exported, crops):
    given = crops[:3].copy()
    exported(given)
    assert np.array_equal(given, crops[:3])


@pytest.mark.parametrize("value", [0, 255])
def test_a_crop_of_one_colour_has_a_finite_embedding(exported, value):
    rows = exported(np.full((2, 64, 32, 3), value, np.uint8))
    assert np.isfinite(rows).all()


def test_the_file_is_whole_by_itself(loaded):
    places = {tensor.data_location for tensor in loaded.graph.initializer}
    assert places == {onnx.TensorProto.DEFAULT}


def test_input_and_output_have_their_names_types_and_a_free_batch(loaded):
    (crops,), (rows,) = loaded.graph.input, loaded.graph.output
    assert (crops.name, crops.type.tensor_type.elem_type, shape_of(crops)) == (
        "crops",
        onnx.TensorProto.UINT8,
        ["batch", 64, 32, 3],
    )
    assert (rows.name, rows.type.tensor_type.elem_type, shape_of(rows)) == ("embeddings", onnx.TensorProto.FLOAT, ["batch", 512])


def test_the_opset_is_the_stated_one_and_no_other_domain_is_needed(loaded):
    assert {node.domain for node in loaded.graph.node} == {""}
    assert {one.domain: one.version for one in loaded.opset_import}[""] == OPSET


def test_the_graph_is_a_plain_chain_of_layers(loaded):
    kinds = {node.op_type for node in loaded.graph.node}
    assert not kinds & {"Gather", "GatherND", "Range", "Loop", "If", "ScatterND"}
    assert not kinds & {"Shape", "Concat", "Expand"}  # computed on the CPU: every batch would wait for it on a GPU
    assert [node.op_type for node in loaded.graph.node].count("Transpose") == 1


def test_pixels_are_scaled_by_whole_rows(loaded):
    constants = {tensor.name: list(tensor.dims) for tensor in loaded.graph.initializer}
    scaling = [node for node in loaded.graph.node if node.op_type in ("Sub", "Div")][:2]
    assert [constants[node.input[1]] for node in scaling] == [[3 * 32], [3 * 32]]
