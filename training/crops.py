"""Where training crops wait: decoded in the device's memory, decoded in the host's, or as files that worker processes read.

Each store yields the same uint8 [B, H, W, 3] batches on the training device. Market-1501 at 256 x 128 is 1.3 GB decoded.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from training import distributed, transforms
from training.dataset import Sample
from training.progress import progress

Where = Literal["auto", "device", "host", "files"]
MAX_UNREADABLE = 0.01  # share of a training list that may be left out; more is a broken copy, not a bad file
SHOWN = 20  # unreadable files that a message names
MEMORY_SHARE = {"device": 0.25, "host": 0.5}  # of the free memory that decoded crops may take; the network needs the rest


@dataclass(frozen=True)
class Decoded:
    """Crops uint8 [N, H, W, 3], decoded once, in the memory of the device or of the host."""

    crops: Tensor
    device: torch.device

    def batches(self, order: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yields the crops of each batch of indices; from the host the next batch is gathered while this one trains."""
        if not order:
            return
        if self.crops.device.type == self.device.type:  # "cuda" and the "cuda:0" it becomes are not equal
            for chosen in order:
                yield self.crops[torch.as_tensor(chosen).to(self.crops.device, non_blocking=True)]
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._send, order[0])
            for chosen in order[1:]:
                ready, waiting = waiting, pool.submit(self._send, chosen)
                yield ready.result()
            yield waiting.result()

    def _send(self, chosen: Sequence[int]) -> Tensor:
        with torch.cuda.device(self.device):
            return self.crops[torch.as_tensor(chosen)].pin_memory().to(self.device, non_blocking=True)

    def told(self) -> str:
        """Returns where the crops are, as people read it."""
        return f"{len(self.crops):,} crops decoded in the memory of {self.crops.device}: {self.crops.nbytes / 1e9:.2f} GB"


@dataclass(frozen=True)
class Files:
    """Crops that stay files; `workers` processes decode them, batch by batch (0: the training process itself does)."""

    samples: tuple[Sample, ...]
    height: int
    width: int
    workers: int
    device: torch.device

    def batches(self, order: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yields the crops of each batch of indices. Raises ValueError naming a file that became unreadable."""
        loader = DataLoader(
            BatchFiles(self, order), batch_size=None, num_workers=self.workers, pin_memory=self.device.type == "cuda"
        )
        for crops in loader:
            yield crops.to(self.device, non_blocking=True)

    def told(self) -> str:
        """Returns where the crops are, as people read it."""
        return f"{len(self.samples):,} crops stay files, decoded by {self.workers} processes as they are needed"


class BatchFiles(TorchDataset[Tensor]):
    """One item is one batch, so that a worker hands over whole batches."""

    def __init__(self, files: Files, order: Sequence[Sequence[int]]) -> None:
        self.files, self.order = files, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> Tensor:
        size = {"height": self.files.height, "width": self.files.width}
        crops = [transforms.load_crop(self.files.samples[index].path, **size) for index in self.order[batch]]
        return torch.from_numpy(np.stack(crops))


Store = Decoded | Files


def open_store(
    samples: Sequence[Sample], *, height: int, width: int, where: Where, workers: int, device: torch.device
) -> tuple[Store, tuple[Sample, ...]]:
    """Decodes every crop once and returns the store with the samples that could be read, in the same order.

    Prints the names of those that could not; raises ValueError when they are more than MAX_UNREADABLE of the list.
    """
    place = choose(where, len(samples) * height * width * 3, device)
    decoded, bad = decode_all(samples, height=height, width=width, keep=place != "files")
    readable = tuple(sample for index, sample in enumerate(samples) if index not in bad)
    report_unreadable(list(bad.values()), len(samples))
    if decoded is None:
        return Files(readable, height, width, workers, device), readable
    crops = torch.from_numpy(np.delete(decoded, list(bad), axis=0) if bad else decoded)
    if place == "device":
        crops = crops.to(device)
    return Decoded(crops, device), readable


def choose(where: Where, num_bytes: int, device: torch.device) -> Where:
    """Returns where decoded crops fit: the device's memory, else the host's, else nowhere (files)."""
    if where != "auto":
        return where
    if device.type == "cuda" and num_bytes < MEMORY_SHARE["device"] * torch.cuda.mem_get_info(device)[0]:
        return "device"
    if num_bytes * distributed.world_size() < MEMORY_SHARE["host"] * available_memory():
        return "device" if device.type == "cpu" else "host"
    return "files"


def available_memory() -> int:
    """Returns the bytes that this process may still take: the machine's, or its container's if that is less."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(told["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


def check_readable(samples: Sequence[Sample], *, height: int, width: int) -> None:
    """Decodes the test lists once; raises ValueError naming files that cannot be read: figures of fewer crops would be others."""
    bad = decode_all(samples, height=height, width=width, keep=False)[1]
    if bad:
        first = first_of(list(bad.values()))
        raise ValueError(
            f"test lists: got {len(bad)} unreadable files of {len(samples)}, wanted none; replace or remove them:\n  {first}"
        )


def first_of(errors: Sequence[str]) -> str:
    """Returns the first errors, a line each."""
    return "\n  ".join([*errors[:SHOWN], *([f"... and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else [])])


def decode_all(samples: Sequence[Sample], *, height: int, width: int, keep: bool) -> tuple[np.ndarray | None, dict[int, str]]:
    """Decodes every file in threads: uint8 [N, height, width, 3] (None unless `keep`), and the error of each bad index."""
    decoded = np.zeros((len(samples), height, width, 3), np.uint8) if keep else None
    bad: dict[int, str] = {}

    def load(index: int) -> None:
        try:
            crop = transforms.load_crop(samples[index].path, height=height, width=width)
        except ValueError as error:
            bad[index] = str(error)
            return
        if decoded is not None:
            decoded[index] = crop

    num_threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with ThreadPoolExecutor(num_threads) as pool, progress(len(samples), name="decode", unit="crop") as bar:
        for _ in pool.map(load, range(len(samples))):
            bar.update()
    return decoded, dict(sorted(bad.items()))


def report_unreadable(errors: Sequence[str], total: int) -> None:
    """Prints the first unreadable files; raises ValueError when they are more than MAX_UNREADABLE of `total`."""
    if not errors:
        return
    if len(errors) > MAX_UNREADABLE * total:
        limit = int(MAX_UNREADABLE * total)
        raise ValueError(
            f"training list: got {len(errors)} unreadable files of {total}, wanted at most {limit}:\n  {first_of(errors)}"
        )
    if distributed.rank() == 0:
        tqdm.write(f"left out {len(errors)} unreadable files of {total}:\n  {first_of(errors)}", file=sys.stderr)
