"""One step and one epoch: what each trick changes, and what follows from (seed, epoch, batch) alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from training import loop, transforms
from training.checkpoint import build
from training.config import NECKS, TrainConfig
from training.crops import Decoded
from training.loop import SCALARS, augmented, batch_losses, make_learner, step, train_epoch
from training.model import BNNeckOutput

CPU = torch.device("cpu")
CONFIG = TrainConfig(backbone="resnet18", height=64, width=32, pad=4, ids_per_batch=2, crops_per_id=2, epochs=2, workers=0)
LABELS = torch.tensor([0, 0, 1, 1])
NO_ROWS = np.zeros((0, len(SCALARS)), np.float32)


def learner_of(config, seed=0):
    torch.manual_seed(seed)
    return make_learner(build(config, 6), config, CPU)


def images(seed=0):
    return torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(seed))


def output_of(f_t, f_i=None, num_ids=2):
    f_i = f_t if f_i is None else f_i
    return BNNeckOutput(f_t, f_i, f_i[:, :num_ids])


def store_and_labels(num_crops=12):
    crops = torch.randint(0, 256, (num_crops, 64, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Decoded(crops, CPU), np.repeat(np.arange(num_crops // 2), 2)


def epoch_of(config, learner, *, before=NO_ROWS, must_stop=lambda: False, epoch=1):
    store, labels = store_and_labels()
    return train_epoch(learner, store, labels, config, epoch=epoch, before=before, must_stop=must_stop)


@pytest.mark.parametrize("weight", [0.0005, 0.5])
def test_a_step_moves_the_centers_of_its_identities_by_k_over_b_whatever_the_weight(weight):
    # mean over the batch, gradient 2 K / B (c - mean of the K), SGD at 0.5: K / B of the way, a sixteenth at 16 x 4 (trap 4)
    config = replace(CONFIG, center_weight=weight)
    learner = learner_of(config)
    before = learner.centers.detach().clone()
    with torch.no_grad():
        f_t = learner.model.train()(images()).f_t_BC
    learner = learner_of(config)
    step(learner, images(), LABELS, config)
    means = torch.stack([f_t[:2].mean(dim=0), f_t[2:].mean(dim=0)])
    assert torch.allclose(learner.centers[:2], before[:2] + 0.5 * (means - before[:2]), atol=1e-4)  # K / B = 2 / 4
    assert torch.equal(learner.centers[2:], before[2:])


@pytest.mark.parametrize("neck", NECKS)
def test_every_neck_trains_what_its_losses_reach(neck):
    config = replace(CONFIG, neck=neck, center_weight=0.0)
    learner = learner_of(config)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    scalars = dict(zip(SCALARS, step(learner, images(), LABELS, config).tolist(), strict=True))
    parts, after = NECKS[neck], learner.model.state_dict()
    assert (scalars["id_loss"] > 0) == parts.has_id_loss
    assert (scalars["triplet_loss"] > 0) == (parts.triplet_feature is not None)
    assert torch.equal(after["classifier.weight"], before["classifier.weight"]) != parts.has_id_loss
    assert not torch.equal(after["backbone.conv1.weight"], before["backbone.conv1.weight"])
    assert not parts.has_bn or torch.all(after["neck.bias"] == 0)  # no shift, also after steps with weight decay


def test_weight_decay_reaches_biases_and_batch_norms():
    config = replace(CONFIG, neck="neck3", center_weight=0.0)
    learner = learner_of(config)
    decayed = {id(one) for group in learner.optimizer.param_groups for one in group["params"] if group["weight_decay"] == 5e-4}
    names = {name for name, one in learner.model.named_parameters() if id(one) in decayed}
    assert {"classifier.bias", "backbone.bn1.weight", "backbone.bn1.bias"} <= names


@pytest.mark.parametrize("feature", ["f_t", "f_i"])
def test_the_triplet_loss_sees_the_feature_of_its_neck(feature):
    far, near = torch.eye(4) * 10, torch.ones(4, 4) + 0.01 * torch.eye(4)
    config = replace(CONFIG, neck="bnneck" if feature == "f_t" else "bnneck3", center_weight=0.0, label_smoothing=0.0)
    _, of_far = batch_losses(output_of(far, near) if feature == "f_t" else output_of(near, far), LABELS, None, config)
    assert of_far[1].item() == pytest.approx(0.3, abs=1e-4)  # all at one distance: the margin is left
    _, of_near = batch_losses(output_of(near, far) if feature == "f_t" else output_of(far, near), LABELS, None, config)
    assert of_near[1].item() == pytest.approx(0.3, abs=1e-2)
    spread = torch.tensor([[0.0, 0], [5, 0], [0, 1], [5, 1]])
    _, scalars = batch_losses(output_of(spread, -spread), LABELS, None, config)
    assert scalars[1].item() == pytest.approx(0.3 + 5 - 1, abs=1e-4)


def test_averaged_weights_follow_slowly_and_are_kept():
    config = replace(CONFIG, ema_decay=0.9, center_weight=0.0)
    learner = learner_of(config)
    first = learner.model.classifier.weight.detach().clone()
    step(learner, images(), LABELS, config)
    second = learner.model.classifier.weight.detach().clone()
    assert torch.equal(learner.kept_model().classifier.weight, second)  # the first update copies
    step(learner, images(1), LABELS, config)
    wanted = 0.9 * second + 0.1 * learner.model.classifier.weight
    assert torch.allclose(learner.kept_model().classifier.weight, wanted, atol=1e-7)
    assert not torch.equal(first, second)


def test_clipping_bounds_the_whole_gradient():
    config = replace(CONFIG, clip_norm=1e-3, center_weight=0.0)
    learner = learner_of(config)
    step(learner, images(), LABELS, config)
    grads = [one.grad for one in learner.model.parameters() if one.grad is not None]
    assert torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in grads])).item() <= 1.001e-3


def test_bf16_trains_with_weights_and_losses_in_fp32():
    config = replace(CONFIG, precision="bf16")
    learner = learner_of(config)
    scalars = step(learner, images(), LABELS, config)
    assert scalars.dtype == torch.float32
    assert all(math.isfinite(value) for value in scalars.tolist())
    assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_epoch():
    learner = learner_of(CONFIG)
    torch.nn.init.constant_(learner.model.classifier.weight, float("nan"))
    with pytest.raises(ValueError, match=r"loss: got \{'id_loss': nan.* in fp32; lower --lr, set --clip-norm"):
        epoch_of(CONFIG, learner)


def test_an_epoch_stopped_and_gone_on_with_equals_an_unbroken_one():
    whole = learner_of(CONFIG)
    unbroken = epoch_of(CONFIG, whole)
    parted = learner_of(CONFIG)
    calls = iter([False, True])
    first = epoch_of(CONFIG, parted, must_stop=lambda: next(calls))
    assert (len(first.rows), first.is_whole) == (2, False)
    fresh = learner_of(CONFIG, seed=5)
    loop.load_state(fresh, loop.state(parted))
    rest = epoch_of(CONFIG, fresh, before=first.rows)
    assert rest.is_whole
    assert np.array_equal(rest.rows, unbroken.rows)
    assert all(torch.equal(value, fresh.model.state_dict()[name]) for name, value in whole.model.state_dict().items())
    assert torch.equal(whole.centers, fresh.centers)


def test_augmentation_is_a_function_of_seed_epoch_and_batch():
    crops = torch.randint(0, 256, (4, 64, 32, 3), dtype=torch.uint8)
    config = replace(CONFIG, erasing_prob=1.0)

    def batch(**at):
        return augmented(crops, at.pop("config", config), own=slice(0, 4), **at)

    assert torch.equal(batch(epoch=1, place=0), batch(epoch=1, place=0))
    others = [batch(epoch=2, place=0), batch(epoch=1, place=1), batch(epoch=1, place=0, config=replace(config, seed=1))]
    assert all(not torch.equal(batch(epoch=1, place=0), other) for other in others)


def test_a_rank_augments_its_rows_as_one_process_would():
    crops = torch.randint(0, 256, (4, 64, 32, 3), dtype=torch.uint8)
    whole = augmented(crops, CONFIG, epoch=1, place=0, own=slice(0, 4))
    part = augmented(crops[2:], CONFIG, epoch=1, place=0, own=slice(2, 4))
    assert torch.equal(whole[2:], part)


def test_training_reduces_the_loss():
    config = replace(CONFIG, erasing_prob=0.0, pad=0, lr=1e-3, center_weight=0.0)
    learner = learner_of(config)
    crops, labels = store_and_labels()
    chosen = transforms.normalize(crops.crops[:4])
    rows = [step(learner, chosen, torch.from_numpy(labels[:4]), config)[:2].sum().item() for _ in range(12)]
    assert rows[-1] < 0.7 * rows[0]
