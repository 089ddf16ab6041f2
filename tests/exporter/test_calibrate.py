"""The crops of a calibration, and what is seen in a network's tensors."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from exporter import calibrate
from exporter.calibrate import BATCH_SIZE, draw, observe, run_batches


@pytest.fixture(scope="module", name="drawn_set")
def drawn_set_fixture(drawn):
    return draw(drawn, height=64, width=32)


@pytest.fixture(name="tiny")
def tiny_fixture():
    """A network that scales uint8 crops [N, H, W, 3] to [N, 3, H, W] and subtracts one half."""
    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "half"], ["shifted"]),
        helper.make_node("Flatten", ["shifted"], ["embeddings"]),
    ]
    shapes = {"crops": (TensorProto.UINT8, ["n", 4, 2, 3]), "embeddings": (TensorProto.FLOAT, ["n", 24])}
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in shapes.items()]
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], [half])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(name="noise")
def noise_fixture():
    """uint8 [19, 4, 2, 3]: two whole batches and a part of one."""
    assert 2 * BATCH_SIZE < 19 < 3 * BATCH_SIZE
    return np.random.default_rng(0).integers(0, 200, (19, 4, 2, 3), dtype=np.uint8)


def test_training_crops_are_drawn_once_each_and_a_fifth_is_held_apart(drawn_set):
    assert (drawn_set.crops.shape, drawn_set.held.shape) == ((36, 64, 32, 3), (9, 64, 32, 3))
    assert len({crop.tobytes() for crop in drawn_set.all()}) == 45


def test_the_same_crops_are_drawn_each_time(drawn_set, drawn):
    assert np.array_equal(draw(drawn, height=64, width=32).all(), drawn_set.all())


def test_the_description_names_data_counts_and_seed(drawn_set):
    wanted = {"data": "training list of people", "num_crops": 36, "num_held": 9, "seed": 0}
    assert drawn_set.description() == wanted


def test_a_list_without_training_crops_cannot_calibrate(drawn, tmp_path):
    query, gallery = sorted((drawn / "query").iterdir())[0], sorted((drawn / "bounding_box_test").iterdir())[-1]
    lines = ["path,pid,camid,split", f"{query},1,1,query", f"{gallery},1,2,gallery"]
    (tmp_path / "crops.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"crops\.csv: got 0 training crops, wanted 42 or more, better 320"):
        draw(tmp_path / "crops.csv", height=64, width=32)


def test_what_a_tensor_held_is_its_extremes_and_the_mean_of_each_channel(tiny, noise):
    planes = noise.transpose(0, 3, 1, 2).astype(np.float64)
    found = observe(tiny, ["planes", "shifted"], noise)
    assert (found["planes"].low, found["planes"].high) == (planes.min(), planes.max())
    assert (found["shifted"].low, found["shifted"].high) == (planes.min() - 0.5, planes.max() - 0.5)
    np.testing.assert_allclose(found["planes"].mean, planes.mean(axis=(0, 2, 3)), rtol=1e-6)  # the short batch weighs less


def test_watching_leaves_the_network_as_it_was(tiny, noise):
    before = tiny.SerializeToString()
    observe(tiny, ["planes"], noise)
    assert tiny.SerializeToString() == before


def test_crops_are_run_once_each_in_batches(tiny, noise):
    found = [rows for (rows,) in run_batches(tiny, ["embeddings"], noise)]
    assert [len(rows) for rows in found] == [BATCH_SIZE, BATCH_SIZE, 19 - 2 * BATCH_SIZE]
    assert np.array_equal(calibrate.embed(tiny, noise), np.concatenate(found))
