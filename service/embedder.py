"""manifest.json + model.onnx -> embed(crops): synchronous, no asyncio, no torch."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ArtefactRefused, InferenceFailed, one_line
from service.ladder import CPU_LADDER, batch_of, ladder_of
from service.manifest import MODEL_NAME, ModelInfo, read_manifest
from service.providers import Choice, start_best
from service.session import Runner, open_runner, read_model

UNIT_TOLERANCE = 1e-3

NOT_FINITE = "got an embedding that is not finite, wanted numbers; the picture may be unlike any that the model was made for"

Embedding = npt.NDArray[np.float32]


class RowsNotFinite(InferenceFailed):
    """Some rows of a batch are not finite; `rows` float32 [B, D] has all of them."""

    def __init__(self, rows: Embedding) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        super().__init__(f"got values that are not finite in rows {bad[:8].tolist()} of {len(rows)}, wanted finite ones")
        self.rows = rows


class Embeds(Protocol):
    """Whatever turns crops into embeddings: the Embedder, or a test's double."""

    @property
    def model(self) -> ModelInfo:
        """The manifest's facts."""

    @property
    def provider(self) -> str:
        """What computes, for people: a provider name."""

    @property
    def batch_max(self) -> int:
        """Most crops that should come at once."""

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map uint8 [B, H, W, 3] RGB to float32 [B, D], rows of unit length; called from two threads at once."""


def embed_each(embedder: Embeds, crops: Sequence[npt.NDArray[np.uint8]]) -> list[Embedding | InferenceFailed]:
    """Map uint8 [H, W, 3] crops to float32 [D] rows; a row that is not finite fails its own crop.

    Raises:
        InferenceFailed: for all of them, as when no row is finite: then it is the model or the device.
    """
    try:
        return list(embedder.embed(np.stack(crops)))
    except RowsNotFinite as error:
        if not np.isfinite(error.rows).all(axis=1).any():
            raise
        return [row if np.isfinite(row).all() else InferenceFailed(NOT_FINITE) for row in error.rows]


class Embedder:
    """One artefact, loaded and checked; `embed` may be called from several threads at once."""

    def __init__(self, model: ModelInfo, run: Runner, provider: str, batch_max: int = CPU_LADDER[-1]) -> None:
        self.model, self.provider, self._run = model, provider, run
        self.batch_max = batch_max

    @classmethod
    def open(cls, folder: Path, *, provider: str = "auto", threads: int = 0, batch_max: int = 0) -> "Embedder":
        """Load an artefact, refusing one whose bytes, graph or output are not what its manifest says.

        Args:
            provider: auto, cpu, openvino, cuda or tensorrt.
            threads: of the runtime on a CPU; 0 takes the cores granted to the process.
            batch_max: most crops that will ever come at once, which a GPU prepares for; 0 takes what suits the device.

        Raises:
            ArtefactRefused: naming the file, what was got and what was wanted.
            SettingRefused: when the provider asked for is not to be had.
        """
        model = read_manifest(folder)
        path = folder / MODEL_NAME
        content = read_model(path, model)

        def start(choice: Choice) -> Runner:
            ladder = ladder_of(is_gpu=choice.is_gpu, batch_max=batch_max)
            return open_runner(path, content, model, choice, threads=threads or granted_cores(), ladder=ladder)

        choice, run = start_best(provider, start, precision=model.precision)
        suits = batch_of(is_gpu=choice.is_gpu, threads=threads or granted_cores())
        embedder = cls(model, run, choice.engine, batch_max or suits)
        check_output(path, embedder)
        return embedder

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map uint8 [B, H, W, 3] RGB to float32 [B, D], rows of unit length.

        Raises:
            InferenceFailed: when the runtime returns another shape. RowsNotFinite: of any row; it has the others.
        """
        rows = self._run(crops)
        if rows.shape != (len(crops), self.model.dim):
            raise InferenceFailed(f"got {rows.dtype} {rows.shape}, wanted {(len(crops), self.model.dim)}")
        if not np.isfinite(rows).all():
            raise RowsNotFinite(rows)
        return np.asarray(rows, dtype=np.float32)


def check_output(path: Path, embedder: Embedder) -> None:
    """Run two crops once: the first pass is slow, and a wrong output is better found now."""
    model = embedder.model
    ramp = np.linspace(0, 255, num=2 * model.height * model.width * 3).astype(np.uint8)
    try:
        rows = embedder.embed(ramp.reshape(2, model.height, model.width, 3))
    except Exception as error:  # ONNX Runtime's own classes again
        raise ArtefactRefused(f"{path}: got {one_line(error)} on two test crops; export the model again") from None
    lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
        raise ArtefactRefused(f"{path}: got rows of length {lengths.tolist()}, wanted 1; export the model again")


def granted_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the cores this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()  # "max 100000" or "150000 100000"
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return max(1, cores)
