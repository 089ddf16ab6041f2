"""The network: feature map, neck, frozen parts, and weights from elsewhere."""

import copy
import functools
import pickle
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from training import loop
from training.config import NECKS, TrainConfig
from training.model import BNNeck, freeze, load_backbone, read_weights, set_training, stages


@pytest.fixture(scope="module", name="published")
def published_fixture():
    """A state dict as torchvision publishes one for ResNet-18."""
    generator = torch.Generator().manual_seed(5)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value for key, value in state.items()
    }


def drawn(count=4):
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def step(model, *, num_frozen=0):
    """One step of every loss on noise."""
    freeze(model, num_frozen)
    set_training(model, num_frozen)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.01, weight_decay=0.1)
    output = model(drawn())
    (output.f_t_BC.square().mean() + output.logits_BI.square().mean()).backward()
    optimizer.step()


@functools.cache
def shaped(neck="bnneck", backbone="resnet18"):
    """A model that has shapes but no numbers, built once."""
    with torch.device("meta"):
        return BNNeck(backbone=backbone, num_ids=4, last_stride=1, neck=neck)


def is_same(model, key, value):
    return torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("last_stride", "size"), [(1, (16, 8)), (2, (8, 4))])
def test_the_last_stride_sets_the_feature_map(backbone, last_stride, size):
    with torch.device("meta"):
        model = BNNeck(backbone=backbone, num_ids=10, last_stride=last_stride).eval()
        maps = []
        model.backbone.layer4.register_forward_hook(lambda module, given, result: maps.append(result.shape[2:]))
        model.backbone(torch.empty(1, 3, 256, 128))
    assert maps == [size]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_last_stride_costs_no_parameter(backbone):
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in BNNeck(backbone=backbone, num_ids=10, last_stride=stride).state_dict().items()}
            for stride in (1, 2)
        ]
        published = getattr(torchvision.models, backbone)(weights=None).state_dict()
    assert shapes[0] == shapes[1]
    inside = {key.removeprefix("backbone."): shape for key, shape in shapes[0].items() if key.startswith("backbone.")}
    assert inside == {key: value.shape for key, value in published.items() if not key.startswith("fc.")}


def test_the_output_has_the_same_form_in_training_and_evaluation(tiny):
    model = tiny()
    for mode in (True, False):
        output = model.train(mode)(drawn())
        assert [tuple(part.shape) for part in output] == [(4, 512), (4, 512), (4, 4)]


def test_the_head_stays_in_float32_where_the_backbone_does_not(tiny):
    model = tiny().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(drawn())
    assert [part.dtype for part in output] == [torch.float32] * 3
    assert torch.equal(output.f_t_BC, output.f_t_BC.bfloat16().float())  # the backbone did round
    torch.testing.assert_close(output.logits_BI, output.f_i_BC @ model.classifier.weight.T, rtol=1e-5, atol=1e-6)


def test_f_i_is_the_batch_norm_of_f_t_without_shift(tiny):
    model = tiny().train()
    with torch.no_grad():
        model.neck.weight.uniform_(0.5, 2)
        f_t, f_i, logits = model(drawn())
    normal = (f_t - f_t.mean(0)) / (f_t.var(0, unbiased=False) + model.neck.eps).sqrt()
    torch.testing.assert_close(f_i, normal * model.neck.weight)
    torch.testing.assert_close(logits, f_i @ model.classifier.weight.T)


# The seven necks.

WITH_BN = [neck for neck in NECKS if neck.startswith("bnneck")]
WITHOUT_BN = [neck for neck in NECKS if neck not in WITH_BN]


@pytest.fixture(scope="module", name="plain")
def plain_fixture():
    """A model of 200 identities without BN."""
    return BNNeck(backbone="resnet18", num_ids=200, last_stride=1, neck="neck3")


@pytest.mark.parametrize("neck", WITH_BN)
def test_a_neck_with_bn_learns_its_scale_but_no_shift(neck):
    model = shaped(neck)
    assert isinstance(model.neck, torch.nn.BatchNorm1d)
    assert (model.neck.weight.requires_grad, model.neck.bias.requires_grad) == (True, False)
    assert model.classifier.bias is None


@pytest.mark.parametrize("neck", WITHOUT_BN)
def test_a_neck_without_bn_has_nothing_but_a_classifier_with_a_bias(neck):
    model = shaped(neck)
    assert model.classifier.bias.shape == (4,)
    assert not any(key.startswith("neck.") for key in model.state_dict())


def test_without_bn_f_i_is_f_t(plain):
    with torch.no_grad():
        output = plain.eval()(drawn())
    assert output.f_i_BC is output.f_t_BC
    assert [tuple(part.shape) for part in output] == [(4, 512), (4, 512), (4, 200)]


@pytest.mark.parametrize("neck", NECKS)
def test_the_classifier_is_frozen_where_there_is_no_id_loss(neck):
    trains = {one.requires_grad for one in shaped(neck).classifier.parameters()}
    assert trains == {neck not in ("neck2", "bnneck2")}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_embedding_is_as_wide_as_the_last_stage(backbone):
    model = shaped(backbone=backbone)
    assert model.embedding_dim == (512 if backbone in ("resnet18", "resnet34") else 2048)
    assert model.neck.num_features == model.classifier.in_features == model.embedding_dim


def test_the_classifier_after_bn_starts_small(tiny):
    weight = tiny(num_ids=200).classifier.weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert abs(weight.mean().item()) < 1e-4


def test_the_classifier_without_bn_is_pytorchs_ordinary_one(plain):
    bound = 512**-0.5  # uniform
    assert plain.classifier.weight.abs().max().item() <= bound
    assert plain.classifier.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert plain.classifier.bias.abs().max().item() > 0


def test_bn_starts_with_scale_1_and_shift_0(tiny):
    neck = tiny().neck
    assert torch.all(neck.weight == 1) and torch.all(neck.bias == 0)


def test_the_stem_keeps_its_relu(tiny):
    model = tiny().eval()
    stem = []
    model.backbone.maxpool.register_forward_hook(lambda module, given, result: stem.append(given[0]))
    with torch.no_grad():
        model(drawn())
    assert stem[0].min() == 0


# Steps and frozen parts.


def test_the_bias_of_the_neck_stays_zero_while_its_scale_learns(tiny):
    model = tiny()
    step(model)
    assert torch.all(model.neck.bias == 0)
    assert torch.any(model.neck.weight != 1)


def test_weight_decay_reaches_biases_and_scales_of_everything_that_trains(tiny):
    settings = TrainConfig(frozen_stages=1, weight_decay=0.1)
    learner = loop.make_learner(tiny(), settings, torch.device("cpu"))
    norms = {key: value for key, value in learner.model.named_parameters() if value.ndim == 1}  # of batch norms: scale and bias
    for parameter in learner.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with torch.no_grad():
        for value in norms.values():
            value.fill_(1)
    learner.optimizer.step()
    kept = {key for key, value in norms.items() if torch.all(value == 1)}
    assert kept == {"backbone.bn1.weight", "backbone.bn1.bias", "neck.bias"}


@pytest.mark.parametrize("num_frozen", [0, 2, 5])
def test_frozen_stages_stay_as_loaded_while_the_rest_moves(tiny, num_frozen):
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    step(model, num_frozen=num_frozen)
    groups = {f"stage {number}": part for number, part in enumerate(stages(model))} | {"neck": [model.neck]}
    moved = {}
    for name, part in groups.items():
        keys = [key for key, value in model.state_dict().items() if any(same(value, own) for own in tensors(part))]
        assert keys
        moved[name] = {
            kind: any(not is_same(model, key, before[key]) for key in keys if kind in key) for kind in ("weight", "running")
        }
    still = {f"stage {number}" for number in range(num_frozen)}
    assert moved == {name: dict.fromkeys(("weight", "running"), name not in still) for name in groups}
    assert all(one.grad is None for part in stages(model)[:num_frozen] for module in part for one in module.parameters())


def tensors(part):
    return [value for module in part for value in module.state_dict().values()]


def same(one, other):
    return one.data_ptr() == other.data_ptr()


def test_every_part_of_the_backbone_belongs_to_one_stage(tiny):
    model = tiny()
    counted = [one for part in stages(model) for module in part for one in module.parameters()]
    assert len(counted) == len(list(model.backbone.parameters()))


# Weights from elsewhere.


def loaded_from(model, state, path: Path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    load_backbone(model, str(path), backbone="resnet18")
    return model


@pytest.mark.parametrize("prefix", ["", "module.pre."])
def test_weights_load_under_any_prefix(tiny, published, tmp_path, prefix):
    state = {prefix + key: value for key, value in published.items()}
    model = loaded_from(tiny(), state, tmp_path / "weights.pth")
    assert all(is_same(model.backbone, key, value) for key, value in published.items() if not key.startswith("fc."))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_load_from_either_kind_of_file(tiny, published, tmp_path, name):
    assert is_same(
        loaded_from(tiny(), published, tmp_path / name).backbone, "layer4.1.conv2.weight", published["layer4.1.conv2.weight"]
    )


def test_weights_load_from_inside_a_training_state(tiny, published, tmp_path):
    nested = {"epoch": 7, "arch": "resnet18", "state_dict": published | {"queue_ptr": 3}}
    assert is_same(loaded_from(tiny(), nested, tmp_path / "weights.pth").backbone, "conv1.weight", published["conv1.weight"])


def test_weights_older_than_the_batch_counters_load(tiny, published, tmp_path):
    state = {key: value for key, value in published.items() if not key.endswith("num_batches_tracked")}
    assert is_same(loaded_from(tiny(), state, tmp_path / "weights.pth").backbone, "bn1.running_var", published["bn1.running_var"])


def test_a_checkpoint_of_ours_brings_its_neck_but_not_its_classifier(tiny, tmp_path):
    source = tiny(num_ids=9)
    torch.nn.init.uniform_(source.neck.weight)
    source.neck.running_mean += 3
    model = loaded_from(tiny(), source.state_dict(), tmp_path / "checkpoint.safetensors")
    kept = [key for key in model.state_dict() if not key.startswith("classifier")]
    assert all(is_same(model, key, source.state_dict()[key]) for key in kept)
    assert model.classifier.weight.shape == (4, 512)


def test_a_neck_from_elsewhere_is_left_out_where_there_is_no_bn(tiny, published, tmp_path):
    model = tiny()
    model.neck = torch.nn.Identity()
    loaded_from(model, published | {"neck.weight": torch.ones(512)}, tmp_path / "weights.pth")
    assert is_same(model.backbone, "conv1.weight", published["conv1.weight"])


def test_none_leaves_the_model_as_it_is(tiny):
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    load_backbone(model, "none", backbone="resnet18")
    assert all(is_same(model, key, value) for key, value in before.items())


def test_weights_of_a_narrower_network_are_refused(published, tmp_path):
    torch.save(published, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"weights\.pth: got \d+ tensors that resnet50 does not have so, first .*; wanted a resnet50"
    ):
        load_backbone(shaped(backbone="resnet50"), str(tmp_path / "weights.pth"), backbone="resnet50")


def test_weights_of_a_deeper_network_are_refused(hollow, published, tmp_path):
    deeper = published | {"layer1.2.conv1.weight": published["layer1.1.conv1.weight"]}
    with pytest.raises(ValueError, match=r"got 1 tensors that resnet18 does not have so, first layer1\.2\.conv1\.weight"):
        loaded_from(hollow, deeper, tmp_path / "weights.pth")


@pytest.mark.parametrize("lost", ["bn1.running_mean", "layer3.0.downsample.0.weight"])
def test_weights_that_lack_a_part_are_refused(hollow, published, tmp_path, lost):
    with pytest.raises(ValueError, match=f"got 1 tensors .*first {lost}"):
        loaded_from(hollow, {key: value for key, value in published.items() if key != lost}, tmp_path / "weights.pth")


@pytest.mark.parametrize("state", [{}, {"fc.weight": torch.ones(3)}, {"layer1.0.conv1.weight": 3}])
def test_a_file_that_holds_no_network_is_refused(hollow, tmp_path, state):
    with pytest.raises(ValueError, match=r"without one 'layer1\.0\.conv1\.weight', wanted a torchvision ResNet"):
        loaded_from(hollow, state, tmp_path / "weights.pth")


@pytest.mark.parametrize("state", [[torch.ones(3)], torch.ones(3), {"state_dict": [1]}])
def test_a_file_that_holds_no_state_dict_is_refused(hollow, tmp_path, state):
    with pytest.raises(ValueError, match="got a (list|Tensor), wanted a state dict"):
        loaded_from(hollow, state, tmp_path / "weights.pth")


def test_two_networks_in_one_file_are_refused(hollow, published, tmp_path):
    both = {f"{name}.{key}": value for name in ("query", "key") for key, value in published.items()}
    with pytest.raises(ValueError, match=r"without one 'layer1\.0\.conv1\.weight'"):
        loaded_from(hollow, both, tmp_path / "weights.pth")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "IMAGENET1K_V2", "no/such/file.pth", ".", ""])
def test_weights_that_are_neither_known_nor_a_file_are_refused(hollow, weights):
    with pytest.raises(ValueError, match=f"--backbone-weights: got '{weights}', wanted IMAGENET1K_V1, none or a file"):
        load_backbone(hollow, weights, backbone="resnet18")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 20])
def test_a_file_of_garbage_is_refused(hollow, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: got a file that cannot be read as weights"):
        load_backbone(hollow, str(tmp_path / name), backbone="resnet18")


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))], ids=["torch", "pickle"])
def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(hollow, tmp_path, write):
    write({"layer1.0.conv1.weight": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_backbone(hollow, str(tmp_path / "weights.pth"), backbone="resnet18")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_cannot_be_downloaded_name_the_way_out(monkeypatch, tmp_path):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use, for every later test
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"IMAGENET1K_V1: got .*, wanted a download; fetch that file elsewhere and give its path"
    ):
        read_weights("IMAGENET1K_V1", "resnet18")
