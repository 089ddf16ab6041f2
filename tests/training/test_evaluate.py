"""From embeddings to figures, and the command that prints them."""

import json
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from training import metrics
from training.checkpoint import load, load_facts
from training.dataset import read_dataset
from training.evaluate import CHUNK, batches, embed_samples, evaluate, main, score, table, torch_embedder

SIZE = {"height": 64, "width": 32}


def colours(crops):
    """A double of a model: the mean colour of four bands, scaled to unit length."""
    bands = crops.reshape(len(crops), 4, -1, 3).mean(axis=2).reshape(len(crops), 12).astype(np.float32)
    return bands / np.linalg.norm(bands, axis=1, keepdims=True)


def one_hot(samples, *, num_ids=50):
    return np.eye(num_ids, dtype=np.float32)[[sample.pid for sample in samples]]


def random_rows(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_ids(count, seed):
    rng = np.random.default_rng(seed)
    return list(zip(rng.integers(1, 50, count).tolist(), rng.integers(1, 4, count).tolist(), strict=True))


def refusal_of(argv):
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in argv])
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
    (folder / "manifest.json").write_text(json.dumps({"input": {"name": "pixels", **SIZE}}))
    return folder


def test_perfect_embeddings_give_perfect_figures(people):
    data = people(query=[(1, 1), (2, 1)], gallery=[(1, 1), (1, 2), (2, 2), (0, 3), (2, 3)])
    result = score(one_hot(data.query), one_hot(data.gallery), data)
    assert (result.mAP, result.mINP, result.rank1, result.cmc) == (1, 1, 1, (1.0,) * 50)
    assert set(result.tpr.values()) == {1.0}
    assert result.margin == 0


def test_the_figures_are_means_over_valid_queries(people):
    data = people(query=[(1, 1), (2, 1), (3, 1)], gallery=[(1, 2), (2, 2), (0, 3), (3, 1)])
    query = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    gallery = np.array([[0.6, 0.8], [0, 1], [1, 0], [1, 0]], np.float32)  # query 1: the distractor first, then right
    result = score(query, gallery, data)
    # query 2 (pid 3) has only junk; query 0 ranks gallery 2, 3, 0: its match is third
    assert (result.num_queries, result.num_valid_queries, result.num_gallery) == (3, 2, 4)
    assert result.mAP == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert result.mINP == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert result.cmc[:3] == (0.5, 0.5, 1.0)
    assert result.margin == pytest.approx(0.4)
    assert result.data == "people"


def test_chunks_do_not_change_the_figures(people):
    count = 2 * CHUNK + 50
    data = people(query=random_ids(count, 1), gallery=random_ids(300, 2))
    query, gallery = random_rows(count, 3), random_rows(300, 4)
    result = score(query, gallery, data)
    ids = [
        metrics.Ids(*(np.array(column) for column in zip(*random_ids(number, seed), strict=True)))
        for number, seed in ((count, 1), (300, 2))
    ]
    whole = metrics.score_queries(query @ gallery.T, *ids)
    impostor = metrics.pair_histogram(query @ gallery.T, *ids)[1]
    assert result.num_valid_queries == whole.is_valid.sum()
    assert result.mAP == pytest.approx(whole.ap[whole.is_valid].mean(), abs=1e-6)
    assert result.mINP == pytest.approx(whole.inp[whole.is_valid].mean(), abs=1e-6)
    assert result.cmc == pytest.approx(metrics.cmc(whole), abs=1e-6)
    assert result.far == {f"{rate:g}": metrics.threshold_at(impostor, rate) for rate in metrics.FALSE_ACCEPT_RATES}


def test_a_list_without_a_valid_query_is_refused(people):
    data = people(query=[(1, 1), (2, 1)], gallery=[(1, 1), (3, 2)])
    with pytest.raises(ValueError, match="people: none of 2 queries has its identity in the gallery under another camera"):
        score(one_hot(data.query), one_hot(data.gallery), data)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_hold_every_crop_once_and_in_order(drawn, size):
    samples = read_dataset(drawn).train[:5]
    single = np.concatenate(list(batches(samples, size=1, **SIZE)))
    several = list(batches(samples, size=size, **SIZE))
    assert np.array_equal(np.concatenate(several), single)
    assert [len(batch) for batch in several] == [min(size, 5 - start) for start in range(0, 5, size)]


def test_a_crop_that_cannot_be_read_ends_the_evaluation_with_its_name(drawn, tmp_path):
    samples = read_dataset(drawn).train[:2]
    (tmp_path / "0002_c1.jpg").write_bytes(b"")
    broken = type(samples[0])(tmp_path / "0002_c1.jpg", 2, 1)
    with pytest.raises(ValueError, match=r"0002_c1\.jpg: got a file that cannot be read"):
        embed_samples(colours, [*samples, broken], name="", batch_size=1, **SIZE)


def test_the_batch_size_does_not_change_the_figures(drawn):
    data = read_dataset(drawn)
    assert evaluate(colours, data, batch_size=2, **SIZE) == evaluate(colours, data, batch_size=32, **SIZE)


def test_the_reference_embeds_unit_rows_of_f_i(tiny):
    model = tiny().eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    rows = torch_embedder(model)(crops)
    assert rows.shape == (3, 512)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-6)


def test_the_table_is_in_percent(people):
    data = people(query=[(1, 1)], gallery=[(2, 2), (1, 2)])
    text = table(score(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32), data))
    assert "rank-1 0.0  rank-5 100.0  rank-10 100.0  mAP 50.0  mINP 50.0" in text
    assert "1 valid of 1 queries against 2 gallery crops" in text


def test_the_command_scores_a_checkpoint_as_its_training_did(trained, drawn, tmp_path, capsys):
    main([str(trained), "--data", str(drawn), "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == load_facts(trained).metrics
    assert "people: rank-1" in capsys.readouterr().out


def test_the_command_scores_an_artefact(artefact, drawn, tmp_path):
    main([str(artefact), "--data", str(drawn), "--json", str(tmp_path / "figures.json")])

    def first_row(crops):
        flat = crops[:, 0].reshape(len(crops), -1).astype(np.float32)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["mAP"] == pytest.approx(evaluate(first_row, read_dataset(drawn), **SIZE).mAP)
    assert figures.keys() == asdict(evaluate(colours, read_dataset(drawn), **SIZE)).keys()


def test_the_command_refuses_a_folder_that_is_neither(drawn, tmp_path):
    assert "wanted a checkpoint folder made by training.run" in refusal_of([tmp_path / "typo", "--data", drawn])


def test_the_command_refuses_a_missing_dataset(trained):
    assert "no/such/data/bounding_box_train: got no such folder" in refusal_of([trained, "--data", "no/such/data"])


@pytest.mark.parametrize(
    ("name", "content"), [("manifest.json", b"{"), ("manifest.json", b"{}"), ("model.onnx", b"no model"), ("model.onnx", None)]
)
def test_the_command_refuses_a_broken_artefact(artefact, drawn, name, content):
    (artefact / name).unlink()
    if content is not None:
        (artefact / name).write_bytes(content)
    assert "got no whole artefact" in refusal_of([artefact, "--data", drawn])


def test_the_command_says_when_its_figures_cannot_be_written(artefact, drawn, tmp_path):
    assert "No such file or directory" in refusal_of([artefact, "--data", drawn, "--json", tmp_path / "no" / "figures.json"])


def test_a_loaded_checkpoint_embeds_as_the_command_says(trained, drawn):
    model, facts = load(trained)
    result = evaluate(torch_embedder(model), read_dataset(drawn), height=facts.config.height, width=facts.config.width)
    assert json.loads(json.dumps(asdict(result))) == facts.metrics
