"""From an artefact and labelled crops to calibration.json and its picture."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from training import calibrate
from training.calibrate import choose, main, measure, table
from training.dataset import read_dataset
from training.samples import Dataset, Sample

PEOPLE, CAMERAS = 12, 3


@pytest.fixture(name="artefact", scope="module")
def artefact_fixture(tmp_path_factory):
    """An artefact folder whose model embeds a crop as its middle row of pixels."""
    start, end = (helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("start", 32), ("end", 33)))
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "start", "end", "axis"], ["row"]),
        helper.make_node("Flatten", ["row"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["rows"], axis=1, p=2),
    ]
    crops = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 64, 32, 3])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 96])
    graph = helper.make_graph(nodes, "middle_row", [crops], [rows], [start, end, axis])
    folder = tmp_path_factory.mktemp("artefact")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    model_id = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    manifest = {"input": {"height": 64, "width": 32}, "model_id": model_id, "training": {"trained_on": "elsewhere"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(name="crops", scope="module")
def crops_fixture(tmp_path_factory):
    """A folder per identity, three cameras each, without a split; a person is a colour, and cameras add noise."""
    folder = tmp_path_factory.mktemp("crops") / "gate"
    rng = np.random.default_rng(0)
    for pid in range(1, PEOPLE + 1):
        (folder / f"{pid:03}").mkdir(parents=True)
        colour = rng.integers(40, 216, 3)
        for camera in range(1, CAMERAS + 1):
            pixels = np.clip(colour + rng.normal(0, 12, (64, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{pid:03}" / f"c{camera}.png")
    return folder


def run_main(*argv: object) -> None:
    main([str(one) for one in argv])


def refusal_of(*argv: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run_main(*argv)
    assert isinstance(stop.value.code, str)
    assert stop.value.code.startswith("training.calibrate: ")
    return stop.value.code


def test_the_command_writes_a_calibration_of_everybody_tied_to_the_model(artefact, crops, tmp_path, capsys):
    out = tmp_path / "calibration.json"
    run_main(artefact, "--data", crops, "--out", out)
    found = json.loads(out.read_text())
    assert found["model_id"] == json.loads((artefact / "manifest.json").read_text())["model_id"]
    assert (found["identities"], found["crops"]) == (PEOPLE, PEOPLE * CAMERAS)
    assert found["genuine_pairs"] == PEOPLE * 3
    assert {tuple(pair["cameras"]) for pair in found["cameras"]} == {(a, b) for a in "123" for b in "123" if a <= b}
    assert [rate["far"] for rate in found["rates"]] == [0.1, 0.01]
    with Image.open(tmp_path / "calibration.png") as picture:
        assert picture.width > 800
    printed = capsys.readouterr().out
    assert "gate (all of it): 36 crops of 12 identities" in printed
    assert "warning: false-accept rates 0.001, 0.0001: not measurable with 594 pairs of two people" in printed
    assert "held out to test with" not in printed


def test_crops_of_one_camera_are_refused_unless_cameras_are_left_out(artefact, crops, tmp_path):
    listed = tmp_path / "one_camera.csv"
    lines = [f"{crops}/{pid:03}/c{shot}.png,{pid},7" for pid in range(1, PEOPLE + 1) for shot in (1, 2)]
    listed.write_text("\n".join(["path,pid,camid", *lines]))
    refusal = refusal_of(artefact, "--data", listed, "--out", tmp_path / "calibration.json")
    assert "got 12 identities, 0 of them that two cameras saw" in refusal
    assert refusal.endswith("or leave cameras out")
    assert not choose(read_dataset(listed, cameras=False), trained_on="").has_cameras


def test_a_calibration_that_fails_leaves_the_one_that_stands(artefact, crops, tmp_path):
    out = tmp_path / "calibration.json"
    out.write_text("the old one")
    few = tmp_path / "few.csv"
    few.write_text("path,pid\n" + "".join(f"{crops}/{pid:03}/c{camera}.png,{pid}\n" for pid in range(1, 5) for camera in (1, 2)))
    assert "got 4 identities, 4 of them with two crops, wanted at least 5" in refusal_of(
        artefact, "--data", few, "--no-cameras", "--out", out
    )
    assert out.read_text() == "the old one"
    assert not (tmp_path / "calibration.png").exists()


def test_a_model_that_is_not_the_manifests_is_refused(artefact, crops, tmp_path):
    for name in ("model.onnx", "manifest.json"):
        (tmp_path / name).write_bytes((artefact / name).read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"model_id": "another"}))
    assert "its manifest says another" in refusal_of(tmp_path, "--data", crops)
    assert "no whole artefact" in refusal_of(tmp_path / "nowhere", "--data", crops)


def test_people_the_model_was_trained_on_are_left_out(crops):
    data = read_dataset(crops)
    assert len(choose(data, trained_on="elsewhere").samples) == len(data.train) + len(data.query) + len(data.gallery)
    known = choose(data, trained_on="elsewhere+gate")
    assert set(known.samples) == {*data.query, *data.gallery}
    assert known.source == "gate (query and gallery lists)"


def test_of_a_dataset_with_a_split_the_test_lists_are_used_without_distractors_and_each_file_once():
    train, query, far, nobody = (Sample(Path(f"{name}.jpg"), pid, 1) for name, pid in (("t", 1), ("q", 2), ("g", 2), ("d", 0)))
    data = Dataset(Path("market"), (train,), (query,), (far, query, nobody), 0)
    chosen = choose(data, trained_on="")
    assert chosen.samples == (query, far)
    assert chosen.source == "market (query and gallery lists, 1 distractors left out)"


def test_an_embedding_that_is_no_number_is_refused():
    rows = np.ones((12, 3))
    rows[7, 1] = np.nan
    with pytest.raises(ValueError, match="not finite, of crop 7"):
        measure(rows, np.arange(12) // 2, None)


def test_the_table_says_each_rate_with_its_interval_and_both_kinds_of_acceptance():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(40, 12)), 3, axis=0) + 0.3 * rng.normal(size=(120, 12))
    figures = measure(rows, np.repeat(np.arange(40), 3), np.tile([1, 2, 3], 40))
    lines = table(figures, source="drawn").splitlines()
    rate = figures.rates[1]
    row = next(line for line in lines if line.startswith("    0.01  "))
    assert f"{rate.threshold:.3f} ({rate.threshold_interval[0]:.3f}-{rate.threshold_interval[1]:.3f})" in row
    assert f"10: {100 * rate.strangers['10']:.3g} %, 39: " in row
    assert any("default threshold" in line and "at FAR 0.001" in line for line in lines)
    assert sum(line.startswith("  cameras ") for line in lines) == calibrate.SHOWN_CAMERAS
