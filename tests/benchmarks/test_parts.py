"""A checkpoint in parts: the way there and back, and every way in which parts can be wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import parts
from training import checkpoint
from training.checkpoint import FACTS, WEIGHTS, Facts
from training.config import TrainConfig
from training.model import BNNeck, load_backbone


@pytest.fixture(scope="module", name="strong")
def strong_fixture(tmp_path_factory):
    """A run folder with a ResNet-18 that was never trained; tests only read it."""
    folder = tmp_path_factory.mktemp("strong")
    config = TrainConfig(backbone="resnet18", height=64, width=32)
    checkpoint.save(folder, checkpoint.build(config, 4), Facts(config, 4, 120, "people", "none", {"mAP": 0.5}), {})
    return folder


@pytest.fixture(scope="module", name="cut_up")
def cut_up_fixture(strong, tmp_path_factory):
    """Its parts, of at most 8 MiB; tests only read them."""
    folder = tmp_path_factory.mktemp("parts")
    parts.cut(strong, folder, about={"training": "strong"}, part_bytes=8 * 2**20)
    return folder


@pytest.fixture(name="copied")
def copied_fixture(cut_up, tmp_path):
    """copied: a folder of links to the parts, one of which a test may replace."""
    for path in cut_up.iterdir():
        (tmp_path / "copied").mkdir(exist_ok=True)
        (tmp_path / "copied" / path.name).symlink_to(path)
    return tmp_path / "copied"


def test_parts_are_small_and_half_as_large_as_the_weights(cut_up, strong):
    sizes = [path.stat().st_size for path in cut_up.glob("weights.part*")]
    assert max(sizes) == 8 * 2**20
    assert sum(sizes) == pytest.approx((strong / WEIGHTS).stat().st_size / 2, rel=0.01)


def test_joined_parts_are_the_checkpoint_to_half_precision(cut_up, strong, tmp_path):
    parts.join(cut_up, tmp_path / "run")
    mine, wanted = load_file(tmp_path / "run" / WEIGHTS), load_file(strong / WEIGHTS)
    assert mine.keys() == wanted.keys()
    assert all(mine[name].dtype == tensor.dtype for name, tensor in wanted.items())
    assert all(torch.allclose(mine[name], tensor, rtol=1e-3, atol=1e-7) for name, tensor in wanted.items())
    assert (tmp_path / "run" / FACTS).read_bytes() == (strong / FACTS).read_bytes()
    assert checkpoint.load(tmp_path / "run")[1].epoch == 120


def test_a_join_never_overwrites_a_checkpoint(cut_up, strong):
    with pytest.raises(ValueError, match="already holds a checkpoint"):
        parts.join(cut_up, strong)


def test_a_missing_part_is_named(copied, tmp_path):
    (copied / "weights.part01").unlink()
    with pytest.raises(ValueError, match="weights.part01: got no such file"):
        parts.join(copied, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda part: part[:-1], "bytes, wanted"), (lambda part: bytes([part[0] ^ 1]) + part[1:], "SHA-256")],
    ids=["cut short", "one bit"],
)
def test_a_corrupt_part_is_named(copied, tmp_path, change, reason):
    part = (copied / "weights.part00").read_bytes()
    (copied / "weights.part00").unlink()
    (copied / "weights.part00").write_bytes(change(part))
    with pytest.raises(ValueError, match=f"weights.part00: got .*{reason}"):
        parts.join(copied, tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"schema_version": 1, "whole": {}, "about": {}, "files": {"checkpoint.json": {}, "../weights": {}}}',
        '{"schema_version": 9, "whole": {}, "about": {}, "files": {"checkpoint.json": {}}}',
    ],
    ids=["empty", "no index", "a path that leaves the folder", "another version"],
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / parts.PARTS).write_text(text)
    with pytest.raises(ValueError, match="got no index of parts"):
        parts.join(tmp_path, tmp_path / "run")


def test_a_folder_without_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="parts.json: got no such file"):
        parts.join(tmp_path, tmp_path / "run")


def test_parts_of_an_earlier_larger_checkpoint_go(strong, tmp_path):
    (tmp_path / "weights.part07").write_bytes(b"old")
    parts.cut(strong, tmp_path, about={})
    listed = json.loads((tmp_path / parts.PARTS).read_text())["files"]
    assert {path.name for path in tmp_path.iterdir()} == {parts.PARTS, *listed}


def test_a_broken_run_leaves_earlier_parts_alone(strong, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "weights.part07").write_bytes(b"old")
    (tmp_path / FACTS).write_bytes((strong / FACTS).read_bytes())
    with pytest.raises(ValueError, match="got no such file, wanted the weights"):
        parts.cut(tmp_path, tmp_path / "kept", about={})
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["weights.part07"]


def test_packed_weights_load_as_the_original_does(tmp_path):
    source = BNNeck(backbone="resnet18", num_ids=2, last_stride=1)
    state = {f"module.pre.{name}": value for name, value in source.backbone.state_dict().items()}
    torch.save({"state_dict": state | {"module.fc.weight": torch.zeros(3, 512)}}, tmp_path / "ssl.pth")
    num_bytes = parts.pack_weights(str(tmp_path / "ssl.pth"), tmp_path / "ssl.safetensors", backbone="resnet18")
    assert num_bytes == pytest.approx((tmp_path / "ssl.pth").stat().st_size / 2, rel=0.02)
    loaded = BNNeck(backbone="resnet18", num_ids=2, last_stride=1)
    load_backbone(loaded, str(tmp_path / "ssl.safetensors"), backbone="resnet18")
    wanted = source.backbone.state_dict()
    assert all(torch.allclose(value, wanted[name], rtol=1e-3, atol=1e-7) for name, value in loaded.backbone.state_dict().items())


def test_weights_beyond_half_precision_are_refused(tmp_path):
    model = BNNeck(backbone="resnet18", num_ids=2, last_stride=1)
    with torch.no_grad():
        model.backbone.conv1.weight[0, 0, 0, 0] = 1e6
    save_file(model.backbone.state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(ValueError, match="conv1.weight: got values that are not finite as fp16"):
        parts.pack_weights(str(tmp_path / "large.safetensors"), tmp_path / "out.safetensors", backbone="resnet18")
