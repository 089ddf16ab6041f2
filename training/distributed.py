"""Several processes as one: the batch is cut by rank, batch norm sees it whole, and losses over pairs see every feature.

With W processes of B / W crops each the gradients are those of one process with B crops: DDP averages over ranks, so a loss
whose gradient flows through the own rows alone (`gather`) is multiplied by W, and a mean over own rows is left as it is.
"""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def is_on() -> bool:
    """Returns whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_on() else 1


def rank() -> int:
    return dist.get_rank() if is_on() else 0


def start(device: torch.device) -> None:
    """Joins the group that torchrun describes in the environment, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_on():
        is_cuda = device.type == "cuda"
        patience = timedelta(hours=2)  # ranks wait while the first one evaluates
        dist.init_process_group("nccl" if is_cuda else "gloo", timeout=patience, device_id=device if is_cuda else None)


def stop() -> None:
    if is_on():
        dist.destroy_process_group()


def wait() -> None:
    """Returns when every rank has come here."""
    if is_on():
        dist.barrier()


def local_device(device: torch.device) -> torch.device:
    """Returns this process's own GPU where several share a machine."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def own_part(size: int) -> slice:
    """Returns this rank's rows of a batch. Raises ValueError when the batch cannot be cut evenly."""
    if size % world_size():
        raise ValueError(f"batch: got {size} crops for {world_size()} processes, wanted a multiple; change --ids-per-batch")
    share = size // world_size()
    return slice(rank() * share, (rank() + 1) * share)


def gather(rows: Tensor) -> Tensor:
    """Returns every rank's rows [B, ...] in order; gradients flow through the own ones alone."""
    if not is_on():
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[rank()] = rows
    return torch.cat(parts)


def mean(values: Tensor) -> Tensor:
    """Returns the mean over ranks, without gradient."""
    if is_on():
        values = values.detach().clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Returns whether any rank says so: all must leave the loop at the same step."""
    return bool(mean(torch.tensor(float(flag), device=device)) > 0) if is_on() else flag


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """Returns the model wrapped for training: itself alone, or with synchronised batch norm and averaged gradients."""
    if not is_on():
        return model
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(synced, device_ids=[device])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SyncedOnCpu  # type: ignore[assignment]  # the same parameters and buffers under another forward
    return DistributedDataParallel(model)


class Summed(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum over ranks of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncedOnCpu(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all ranks' rows, for CPU processes: PyTorch's own SyncBatchNorm runs on GPUs only."""

    def _check_input_dim(self, _: Tensor) -> None:
        """Any shape [B, C, ...] will do."""

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        given, rows = rows.dtype, rows.float()  # under autocast too, statistics are fp32
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        axes = [axis for axis in range(rows.ndim) if axis != 1]
        shape = [1, -1] + [1] * (rows.ndim - 2)
        count = rows.numel() / rows.shape[1] * world_size()
        mean_C = Summed.apply(rows.sum(axes)) / count
        centered = rows - mean_C.view(shape)
        var_C = Summed.apply(centered.pow(2).sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
            self.running_mean.lerp_(mean_C, momentum)
            self.running_var.lerp_(var_C * count / (count - 1), momentum)
        normed: Tensor = centered * (var_C + self.eps).rsqrt().view(shape)
        return (normed * self.weight.view(shape) + self.bias.view(shape)).to(given)
