"""A small gallery and the entries to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gallery.entry import NewEntry
from gallery.local import LocalGallery

Unit = Callable[..., NDArray[np.float32]]


@pytest.fixture
def unit() -> Unit:
    """unit(): one unit row float32 [8]; unit(n): n of them; dim: another length. The same ones in every test."""
    rng = np.random.default_rng(7)

    def make(num: int | None = None, dim: int = 8) -> NDArray[np.float32]:
        rows = rng.normal(size=(num or 1, dim))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return rows[0] if num is None else rows

    return make


@pytest.fixture
def new(unit: Unit) -> Callable[..., NewEntry]:
    """new(): an entry of "ann" with an embedding of its own; any field can be given."""

    def make(pid: str = "ann", **fields: object) -> NewEntry:
        return NewEntry(**{"pid": pid, "embedding": unit(), "model_id": "model-1"} | fields)

    return make


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[..., LocalGallery]:
    """Opens the test's gallery; a test that calls it closes what it opened."""

    def make(**changes: object) -> LocalGallery:
        return LocalGallery.open(tmp_path / "gallery", **{"space_id": "space-1", "dim": 8} | changes)

    return make


@pytest.fixture
def gallery(reopen: Callable[..., LocalGallery]) -> Iterator[LocalGallery]:
    with reopen() as opened:
        yield opened


@pytest.fixture
def enroll(gallery: LocalGallery) -> Callable[..., list[int]]:
    """Enrolls entries and returns their ids."""

    def make(*entries: NewEntry) -> list[int]:
        return [one.entry_id for one in gallery.enroll(entries, space_id="space-1")]

    return make
