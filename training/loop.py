"""The training loop: what learns (`Learner`), one step, one epoch.

Every batch and every augmentation follows from (seed, epoch, batch) alone, so there is no random state to save: a run that
goes on from batch b of epoch e draws what an uninterrupted one would have drawn.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import distributed, losses, sampler, transforms
from training.config import TrainConfig
from training.crops import Store
from training.model import BNNeck, BNNeckOutput, freeze, set_training
from training.progress import progress

SCALARS = ("id_loss", "triplet_loss", "center_loss", "accuracy")
READ_EVERY = 20  # batches, on a GPU
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Learner:
    """Everything that changes while training: the model, its wrapped form, optimisers, centers [I, C], averaged weights."""

    model: BNNeck
    network: Callable[[Tensor], BNNeckOutput]
    optimizer: torch.optim.Optimizer
    centers: Tensor | None
    center_optimizer: torch.optim.Optimizer | None
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    device: torch.device

    def parts(self) -> dict[str, Any]:
        """Returns what has a state to save, by name."""
        named = {"optimizer": self.optimizer, "center_optimizer": self.center_optimizer, "scaler": self.scaler}
        return {name: part for name, part in (named | {"averaged": self.averaged}).items() if part is not None}

    def kept_model(self) -> nn.Module:
        """Returns the weights that are tested and exported: the averaged ones where they are averaged."""
        return self.model if self.averaged is None else self.averaged.module


def make_learner(model: BNNeck, config: TrainConfig, device: torch.device) -> Learner:
    """Puts the model on the device and builds what trains it: Adam for the network, SGD for the centers."""
    freeze(model, config.frozen_stages)
    model.to(device).to(memory_format=torch.channels_last)
    network = distributed.spread(model, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay, fused=device.type == "cuda")
    centers = center_optimizer = None
    if config.center_weight:
        shape = (model.classifier.out_features, model.embedding_dim)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(config.seed))  # N(0, 1), released code
        centers = drawn.to(device).requires_grad_()
        center_optimizer = torch.optim.SGD([centers], lr=config.center_lr)
    averaged = None
    if config.ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return Learner(
        model=model,
        network=torch.compile(network) if config.compile else network,
        optimizer=optimizer,
        centers=centers,
        center_optimizer=center_optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        averaged=averaged,
        device=device,
    )


def state(learner: Learner) -> dict[str, Any]:
    """Returns the tensors that a resumed run needs, the raw weights among them."""
    saved = {name: part.state_dict() for name, part in learner.parts().items()}
    return saved | {"model": learner.model.state_dict(), "centers": None if learner.centers is None else learner.centers.detach()}


def load_state(learner: Learner, saved: dict[str, Any]) -> None:
    """Restores what `state` returned."""
    learner.model.load_state_dict(saved["model"])
    for group in saved["optimizer"]["param_groups"]:
        group["fused"] = learner.device.type == "cuda"  # as this machine trains, not as that one did
    for name, part in learner.parts().items():
        part.load_state_dict(saved[name])
    if learner.centers is not None:
        with torch.no_grad():
            learner.centers.copy_(saved["centers"])


def batch_losses(output: BNNeckOutput, labels_B: Tensor, centers_IC: Tensor | None, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Returns the loss to descend and its parts in the order of SCALARS, float32 [4] without gradient.

    Losses over pairs see the features of every process: see distributed.py for the factor.
    """
    parts, everyone = config.parts, distributed.gather(labels_B)
    logits_BI = output.logits_BI.float()
    id_loss = triplet = center = logits_BI.new_zeros(())
    if parts.has_id_loss:
        id_loss = losses.smoothed_cross_entropy(logits_BI, labels_B, epsilon=config.label_smoothing)
    f_t_BC = distributed.gather(output.f_t_BC.float())
    if parts.triplet_feature:
        mined_BC = f_t_BC if parts.triplet_feature == "f_t" else distributed.gather(output.f_i_BC.float())
        triplet = losses.batch_hard_triplet(mined_BC, everyone, margin=config.margin)
    if centers_IC is not None:
        center = losses.center_loss(f_t_BC, everyone, centers_IC)
    total = id_loss + distributed.world_size() * (triplet + config.center_weight * center)
    accuracy = (logits_BI.argmax(dim=1) == labels_B).float().mean()
    return total, torch.stack([id_loss, triplet, center, accuracy]).detach()


def step(learner: Learner, images: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Forward, losses, backward, update on normalised images [B, 3, H, W] and labels int64 [B]; returns SCALARS as [4]."""
    device = learner.device.type
    with torch.autocast(device, DTYPES[config.precision], enabled=config.precision != "fp32"):
        output = learner.network(images)
    loss, scalars = batch_losses(output, labels, learner.centers, config)
    optimizers = [one for one in (learner.optimizer, learner.center_optimizer) if one is not None]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        learner.scaler.unscale_(optimizer)
    if learner.centers is not None and learner.centers.grad is not None:
        grad = distributed.mean(learner.centers.grad)  # the same on every rank up to rounding, which must not add up
        learner.centers.grad = grad / (config.center_weight * distributed.world_size())  # the weight must not slow the centers
    if config.clip_norm:
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.clip_norm)
    for optimizer in optimizers:
        learner.scaler.step(optimizer)
    learner.scaler.update()
    if learner.averaged is not None:
        learner.averaged.update_parameters(learner.model)
    return scalars


class EpochRows(NamedTuple):
    """What an epoch gave: SCALARS of its batches, float [S, 4]; whether it was finished, and whether it was
    asked to stop; crops per second of this process."""

    rows: np.ndarray
    is_whole: bool
    is_stopped: bool
    crops_per_s: float


def train_epoch(
    learner: Learner,
    store: Store,
    labels: np.ndarray,
    config: TrainConfig,
    *,
    epoch: int,
    before: np.ndarray,
    must_stop: Callable[[], bool],
) -> EpochRows:
    """Runs what is left of one epoch: `before` float [b, 4] are the rows of the b batches already done.

    Raises ValueError on a loss that is not finite. On a GPU scalars are read every READ_EVERY batches: each reading waits.
    """
    set_training(learner.model, config.frozen_stages)
    order = sampler.epoch_batches(
        labels,
        ids_per_batch=config.ids_per_batch,
        crops_per_id=config.crops_per_id,
        rng=np.random.default_rng((config.seed, epoch)),
    )
    own = distributed.own_part(config.ids_per_batch * config.crops_per_id)
    kept = [before[: len(order)]]
    unread: list[Tensor] = []
    every = READ_EVERY if learner.device.type == "cuda" else 1
    started, done = time.perf_counter(), len(before)
    stopped = False
    with progress(len(order), name=f"epoch {epoch}/{config.epochs}", unit="batch", initial=done) as bar:
        for place, crops in enumerate(store.batches([batch[own] for batch in order[done:]]), start=done):
            images = augmented(crops, config, epoch=epoch, place=place, own=own)
            batch_labels = torch.from_numpy(labels[order[place][own]])
            unread.append(step(learner, images, batch_labels.to(learner.device, non_blocking=True), config))
            if len(unread) == every or place == len(order) - 1:
                stopped = distributed.any_rank(must_stop(), learner.device)
                kept.append(read(unread, config))
                unread = []
                rate = (place + 1 - done) * (own.stop - own.start) / (time.perf_counter() - started)
                bar.set_postfix(shown(np.concatenate(kept), rate))
            bar.update()
            if stopped:
                break
    rows = np.concatenate(kept)
    return EpochRows(rows, len(rows) == len(order), stopped, rate if done < len(order) else 0.0)


def augmented(crops: Tensor, config: TrainConfig, *, epoch: int, place: int, own: slice) -> Tensor:
    """Returns this rank's augmented batch; chances are drawn for the whole batch, so that ranks draw what one process would."""
    rng = np.random.default_rng((config.seed, epoch, 1 + place))  # a trailing 0 would repeat the sampler's stream
    draws = transforms.draw(config, config.ids_per_batch * config.crops_per_id, rng).rows(own)
    return transforms.augment(crops, draws, pad=config.pad, fill=config.erasing_fill)


def read(unread: Sequence[Tensor], config: TrainConfig) -> np.ndarray:
    """Fetches the scalars of the last batches, averaged over ranks; raises ValueError on one that is not finite."""
    rows = distributed.mean(torch.stack(list(unread))).cpu().numpy()
    if not np.isfinite(rows).all():
        worst = dict(zip(SCALARS, rows[~np.isfinite(rows).all(axis=1)][0].tolist(), strict=True))
        raise ValueError(f"loss: got {worst} in {config.precision}; lower --lr, set --clip-norm, or use another --precision")
    return rows


def shown(rows: np.ndarray, rate: float) -> dict[str, str]:
    """Returns the means so far as the progress bar shows them, short enough for 80 columns; the log has the center loss too."""
    identity, triplet, _, accuracy = rows.mean(axis=0)
    return {"crops/s": f"{rate:.0f}", "acc": f"{accuracy:.2f}", "id": f"{identity:.2f}", "tri": f"{triplet:.2f}"}
