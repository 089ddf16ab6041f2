"""One training step as one of WORLD_SIZE processes; rank 0 saves gradients, centers and statistics: gloo_worker.py OUT NECK."""

import sys

import torch

from training import distributed, loop
from training.checkpoint import build
from training.config import TrainConfig


def main(out: str, neck: str) -> None:
    cpu = torch.device("cpu")
    distributed.start(cpu)
    config = TrainConfig(backbone="resnet18", height=64, width=32, ids_per_batch=4, crops_per_id=2, neck=neck, center_weight=0.01)
    torch.manual_seed(0)
    learner = loop.make_learner(build(config, 4), config, cpu)
    learner.model.train()
    images = torch.randn(8, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4).repeat_interleave(2)
    own = distributed.own_part(8)
    scalars = distributed.mean(loop.step(learner, images[own], labels[own], config))
    if distributed.rank() == 0:
        grads = {name: one.grad for name, one in learner.model.named_parameters() if one.grad is not None}
        statistics = {name: value for name, value in learner.model.named_buffers() if value.is_floating_point()}
        torch.save({"grads": grads, "statistics": statistics, "centers": learner.centers.detach(), "scalars": scalars}, out)
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
