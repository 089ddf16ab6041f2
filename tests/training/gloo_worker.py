"""One step of some configurations as one of WORLD_SIZE processes, rank 0 saving what it gave: gloo_worker.py OUT."""

import sys
from typing import Any

import torch

from training import distributed, loop
from training.checkpoint import build
from training.config import TrainConfig

CPU = torch.device("cpu")


def main(out: str) -> None:
    distributed.start(CPU)
    saved = {case: one_step(*case.split("-")) for case in ("bnneck-fp32", "bnneck3-fp32", "bnneck-bf16")}
    if distributed.rank() == 0:
        torch.save(saved, out)
    distributed.stop()


def one_step(neck: str, precision: str) -> dict[str, Any]:
    size = {"height": 64, "width": 32, "ids_per_batch": 4, "crops_per_id": 2}
    config = TrainConfig(backbone="resnet18", **size, neck=neck, center_weight=0.01, precision=precision)
    torch.manual_seed(0)
    learner = loop.make_learner(build(config, 4), config, CPU)
    learner.model.train()
    images = torch.randn(8, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4).repeat_interleave(2)
    own = distributed.own_part(8)
    scalars = distributed.mean(loop.step(learner, images[own], labels[own], config))
    grads = {name: one.grad for name, one in learner.model.named_parameters() if one.grad is not None}
    statistics = {name: value for name, value in learner.model.named_buffers() if value.is_floating_point()}
    return {"grads": grads, "statistics": statistics, "centers": learner.centers.detach(), "scalars": scalars}


if __name__ == "__main__":
    main(*sys.argv[1:])
