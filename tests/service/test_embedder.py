"""Loading artefacts and running them."""

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from service.embedder import Embedder, RowsNotFinite, check_output, embed_each, granted_cores
from service.errors import ArtefactRefused, InferenceFailed, SettingRefused
from service.manifest import read_manifest
from service.session import SessionRunner

CROPS = np.random.default_rng(3).integers(0, 256, size=(33, 32, 16, 3), dtype=np.uint8)


@pytest.fixture(name="embedder")
def embedder_fixture(tiny):
    return Embedder.open(tiny, provider="cpu", threads=1)


def test_rows_have_unit_length(embedder):
    rows = embedder.embed(CROPS)
    assert rows.shape == (33, 16) and rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_crop_alone_and_in_a_batch_gives_the_same_row(embedder):
    together = embedder.embed(CROPS)
    alone = np.concatenate([embedder.embed(crop[None]) for crop in CROPS])
    assert np.abs(together - alone).max() < 1e-5


def test_the_provider_in_use_is_named(embedder):
    assert embedder.provider == "CPUExecutionProvider"


def flipped(model: bytes) -> bytes:
    middle = len(model) // 2
    return model[:middle] + bytes([model[middle] ^ 1]) + model[middle + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda model: model[:-1], lambda model: model + b"\0", lambda model: b""])
def test_a_model_whose_bytes_are_not_the_manifests_is_refused(artefact, tmp_path, damage):
    folder = artefact(tmp_path)
    model = folder / "model.onnx"
    model.write_bytes(damage(model.read_bytes()))
    with pytest.raises(ArtefactRefused, match=r"model\.onnx: got sha256 [0-9a-f]{64}, wanted model_id [0-9a-f]{64}"):
        Embedder.open(folder)


def test_a_missing_model_is_refused(artefact, tmp_path):
    (artefact(tmp_path) / "model.onnx").unlink()
    with pytest.raises(ArtefactRefused, match=r"model\.onnx: got No such file"):
        Embedder.open(tmp_path)


def test_bytes_that_are_no_onnx_are_refused_in_one_line(artefact, tmp_path):
    with pytest.raises(ArtefactRefused, match="wanted one self-contained ONNX file") as refusal:
        Embedder.open(artefact(tmp_path, model=b"nonsense"))
    assert "\n" not in str(refusal.value)


def test_a_model_in_the_runtimes_own_format_is_refused(tiny, artefact, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tiny / "model.onnx", options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "model.ort").read_bytes()
    with pytest.raises(ArtefactRefused, match="got an ORT-format file, wanted one self-contained ONNX file"):
        Embedder.open(artefact(tmp_path / "ort", model=content))


@pytest.mark.parametrize("place", ["outside.bin", "{folder}/outside.bin", "../weights/outside.bin"])
def test_weights_outside_the_file_are_refused(artefact, graph, tmp_path, place):
    model, tmp_path = graph(), tmp_path / "weights"
    tmp_path.mkdir()
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "weights"]
    (tmp_path / "outside.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    location = weights.external_data.add()
    location.key, location.value = "location", place.format(folder=tmp_path)
    with pytest.raises(ArtefactRefused, match="wanted one self-contained ONNX file"):
        Embedder.open(artefact(tmp_path, model=model.SerializeToString()))


def test_a_graph_of_another_size_than_the_manifests_is_refused(artefact, graph, tmp_path):
    model = graph(dim=8).SerializeToString()
    with pytest.raises(ArtefactRefused, match=r"output: got .*8.*wanted embeddings tensor\(float\) \[None, 16\]"):
        Embedder.open(artefact(tmp_path, model=model))


def test_a_graph_with_other_names_than_the_manifests_is_refused(artefact, tmp_path):
    with pytest.raises(ArtefactRefused, match=r"output: got .*wanted vectors"):
        Embedder.open(artefact(tmp_path, output={"name": "vectors"}))


def test_a_graph_with_a_fixed_batch_is_refused(artefact, graph, tmp_path):
    model = graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ArtefactRefused, match="input: got"):
        Embedder.open(artefact(tmp_path, model=model.SerializeToString()))


def test_a_graph_that_takes_floats_is_refused(artefact, graph, tmp_path):
    model = graph()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    with pytest.raises(ArtefactRefused, match=r"wanted crops tensor\(uint8\)"):
        Embedder.open(artefact(tmp_path, model=model.SerializeToString()))


def test_a_model_whose_rows_are_not_of_unit_length_is_refused(artefact, graph, tmp_path):
    with pytest.raises(ArtefactRefused, match="got rows of length"):
        Embedder.open(artefact(tmp_path, model=graph(normalise=False).SerializeToString()))


def test_a_runtime_that_returns_another_number_of_rows_fails_the_pass(embedder):
    short = Embedder(embedder.model, lambda crops: np.ones((1, 16), np.float32), "none")
    with pytest.raises(InferenceFailed, match=r"got float32 \(1, 16\), wanted \(33, 16\)"):
        short.embed(CROPS)


def test_rows_that_are_not_finite_fail_the_pass(embedder):
    broken = Embedder(embedder.model, lambda crops: np.full((len(crops), 16), np.nan, dtype=np.float32), "none")
    with pytest.raises(RowsNotFinite, match=r"not finite in rows \[0\] of 1"):
        broken.embed(CROPS[:1])
    with pytest.raises(RowsNotFinite, match=r"not finite in rows \[0, 1\] of 2"):  # of the model, not of a crop
        embed_each(broken, list(CROPS[:2]))
    with pytest.raises(ArtefactRefused, match="on two test crops"):
        check_output("model.onnx", broken)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_fails_its_own_crop_and_no_other(embedder, value):
    def run(crops):
        rows = embedder._run(crops)
        rows[1, 3] = value
        return rows

    broken = Embedder(embedder.model, run, "none")
    with pytest.raises(RowsNotFinite, match=r"rows \[1\] of 4"):
        broken.embed(CROPS[:4])
    first, bad, *others = embed_each(broken, list(CROPS[:4]))
    assert type(bad) is InferenceFailed and "not finite" in str(bad)
    assert np.array_equal(np.stack([first, *others]), embedder.embed(CROPS[:4])[[0, 2, 3]])


def test_the_manifest_of_another_model_is_refused(artefact, graph, tmp_path):
    ours, other = artefact(tmp_path / "ours"), artefact(tmp_path / "other", model=graph(dim=8).SerializeToString())
    (ours / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    with pytest.raises(ArtefactRefused, match=r"got sha256 [0-9a-f]{64}, wanted model_id [0-9a-f]{64}"):
        Embedder.open(ours)


def test_a_missing_manifest_is_refused(artefact, tmp_path):
    (artefact(tmp_path) / "manifest.json").unlink()
    with pytest.raises(ArtefactRefused, match=r"manifest\.json: got No such file"):
        Embedder.open(tmp_path)


@pytest.mark.parametrize("opset", [16, None])
def test_an_opset_other_than_the_manifests_is_refused(artefact, tmp_path, opset):
    with pytest.raises(ArtefactRefused, match=f"got opset 17, wanted {opset} by the manifest"):
        Embedder.open(artefact(tmp_path, opset=opset))


def test_an_opset_newer_than_the_runtime_reads_is_refused_with_its_number(artefact, graph, tmp_path):
    model = graph()
    model.opset_import[0].version = 99
    with pytest.raises(ArtefactRefused, match="99.*wanted one self-contained ONNX file this runtime can run"):
        Embedder.open(artefact(tmp_path, model=model.SerializeToString(), opset=99))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_to_be_had_is_refused(tiny, provider):
    with pytest.raises(SettingRefused, match=f"REID_PROVIDER={provider}: .*wanted"):
        Embedder.open(tiny, provider=provider)


def test_what_computes_is_logged_in_one_line(tiny, caplog):
    with caplog.at_level(logging.INFO, logger="service"):
        Embedder.open(tiny)
    (record,) = caplog.records
    assert record.getMessage() == "provider"
    assert record.fields["asked"] == "auto"


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2)])
def test_granted_cores_obey_the_containers_quota(tmp_path, quota, most):
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= granted_cores(tmp_path) <= most


@pytest.mark.parametrize("quota", ["max 100000", "nonsense", None])
def test_without_a_quota_every_core_is_granted(tmp_path, quota):
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert granted_cores(tmp_path) == granted_cores(tmp_path / "nowhere") >= 1


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 7, 33])
def test_rows_come_back_in_order_however_many_cores_share_a_batch(tiny, embedder, threads, count):
    shared = Embedder.open(tiny, provider="cpu", threads=threads)
    assert np.abs(shared.embed(CROPS[:count]) - embedder.embed(CROPS[:count])).max() < 1e-6


def test_what_one_part_of_a_batch_raises_fails_the_batch_and_not_the_next(tiny):
    shared = Embedder.open(tiny, provider="cpu", threads=3)
    for wrong in (CROPS[:, :16], CROPS[:, :, :8]):
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            shared.embed(wrong)
    assert shared.embed(CROPS).shape == (33, 16)


def test_the_cores_share_a_batch_and_not_a_crop_alone(tiny):
    used = []

    class Recording:
        def __init__(self, name, both=lambda: None):
            self.name, self.both = name, both

        def run(self, outputs, feed):
            (crops,) = feed.values()
            self.both()
            used.append((self.name, len(crops), threading.current_thread().name))
            return [np.zeros((len(crops), 16), np.float32)]

    apart = Recording("apart", both=threading.Barrier(2, timeout=60).wait)  # neither goes on before the other has come
    run = SessionRunner(Recording("together"), read_manifest(tiny), apart=apart, cores=2)
    run(CROPS[:3])
    assert [one[:2] for one in used] == [("together", 2), ("together", 1)]
    used.clear()
    run(CROPS[:32])
    assert sorted(one[:2] for one in used) == 4 * [("apart", 8)]
    assert {name for _, _, name in used} == {"core 1", "core 2"}


def test_a_core_goes_on_with_the_next_batch_while_another_has_still_to_finish_this_one(tiny):
    began, entered, may = [], threading.Semaphore(0), threading.Semaphore(0)

    class Apart:
        def run(self, outputs, feed):
            (crops,) = feed.values()
            began.append(int(crops[0, 0, 0, 0]))
            entered.release()
            assert may.acquire(timeout=60)
            return [np.full((len(crops), 16), crops[0, 0, 0, 0], np.float32)]

    run = SessionRunner(None, read_manifest(tiny), apart=Apart(), cores=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, np.full((4, 32, 16, 3), 1, np.uint8))
        assert entered.acquire(timeout=60) and entered.acquire(timeout=60)
        second = pool.submit(run, np.full((4, 32, 16, 3), 2, np.uint8))
        may.release()
        assert entered.acquire(timeout=60)
        assert began == [1, 1, 2] and not first.done()
        may.release(3)
        assert (first.result(timeout=60) == 1).all() and (second.result(timeout=60) == 2).all()


def test_of_two_crops_alone_at_the_same_time_one_is_run_by_all_cores_together(tiny):
    used, both = [], threading.Barrier(2, timeout=60)

    class Recording:
        def __init__(self, name):
            self.name = name

        def run(self, outputs, feed):
            used.append(self.name)
            both.wait()
            return [np.zeros((1, 16), np.float32)]

    run = SessionRunner(Recording("together"), read_manifest(tiny), apart=Recording("apart"), cores=2)
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(run, (CROPS[:1], CROPS[:1])):
            assert rows.shape == (1, 16)
    assert sorted(used) == ["apart", "together"]


@pytest.mark.parametrize(("threads", "asked", "found"), [(1, 0, 8), (3, 0, 24), (3, 5, 5)])
def test_as_many_crops_suit_a_pass_as_its_cores_take_at_once(tiny, threads, asked, found):
    assert Embedder.open(tiny, provider="cpu", threads=threads, batch_max=asked).batch_max == found


def test_an_embedder_that_nobody_holds_ends_its_threads_at_once(tiny):
    gc.collect()
    before = set(threading.enumerate())
    gc.disable()
    try:
        embedder = Embedder.open(tiny, provider="cpu", threads=3)
        embedder.embed(CROPS[:24])
        lanes = set(threading.enumerate()) - before
        assert {lane.name for lane in lanes} == {"core 1", "core 2", "core 3"}
        del embedder
        for lane in lanes:
            lane.join(timeout=10)
        assert not any(lane.is_alive() for lane in lanes)
    finally:
        gc.enable()
