"""From received crops to embeddings: admission, decoding in threads, batching, under one deadline."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from service import crops
from service.batcher import Batcher, Room
from service.decoding import Decoding
from service.embedder import Embeds, embed_each
from service.entrance import Entrance
from service.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InferenceFailed,
    ModelNotReady,
    ServiceError,
    UndecodableImage,
    one_line,
    without_frames,
)
from service.intake import RawCrop
from service.passes import BatchReport
from service.telemetry import Telemetry

T = TypeVar("T")
SHORTEST_CLOSE_S = 1.0
STALE_S = 10.0  # what a pass longer ago tells of the runtime is not believed
SERVED_SHARE = 0.8  # of the deadline; the rest is for decoding, for answering, and for having guessed too little

log = logging.getLogger("service")
Pixels = npt.NDArray[np.uint8]
Embedding = npt.NDArray[np.float32]
CropRoom = Room[Pixels, Embedding | InferenceFailed]


@dataclass(frozen=True, eq=False)
class Prepared:
    """One decoded crop: the model's input uint8 [H, W, 3], the upload's sha256, and the JPEG to keep if one is kept."""

    pixels: Pixels
    content_hash: str
    jpeg: bytes | None


@dataclass(frozen=True, eq=False)
class Embedded:
    """One embedded crop: float32 [D] of unit length, the upload's sha256, and the JPEG to keep if one is kept."""

    embedding: Embedding
    content_hash: str
    jpeg: bytes | None


class Pipeline:
    """Turns crops of many requests into embeddings, each answered or refused within the deadline."""

    def __init__(
        self,
        embedder: Embeds,
        telemetry: Telemetry,
        *,
        batch_max: int,
        queue_max: int,
        max_wait_s: float,
        max_pixels: int,
        deadline_s: float,
        decode_threads: int,
    ) -> None:
        self._embedder, self._telemetry = embedder, telemetry
        self._max_pixels, self._deadline_s = max_pixels, deadline_s
        self._decoding: Decoding[RawCrop, Prepared | ServiceError] = Decoding(threads=decode_threads)
        # For long bodies of JSON and the like, which crops need not wait for.
        self.helpers = ThreadPoolExecutor(max_workers=decode_threads, thread_name_prefix="helper")
        self._not_ready: str | None = "the first forward pass has not run yet"
        self._passed_at = 0.0
        self._trial: asyncio.Task[None] | None = None
        self.batcher: Batcher[Pixels, Embedding | InferenceFailed] = Batcher(
            self._forward,
            batch_max=batch_max,
            queue_max=queue_max,
            max_wait_s=max_wait_s,
            longest_s=SERVED_SHARE * deadline_s,
            on_batch=self._observe,
            on_room=lambda: self.entrance.go_on(),
        )
        self.entrance = Entrance(self.batcher.has_enough, patience_s=SERVED_SHARE * deadline_s)

    def _forward(self, batch: list[Pixels]) -> list[Embedding | InferenceFailed]:
        return embed_each(self._embedder, batch)

    def _observe(self, report: BatchReport) -> None:
        """Remember how the last forward pass went."""
        self._passed_at, self._not_ready = time.monotonic(), None
        if report.error is not None:  # strangers may ask for readiness, and the runtime's words may name folders
            self._not_ready = "the last forward pass failed; the log says why"
            log.error("a forward pass failed", extra={"fields": {"crops": report.size, "got": one_line(report.error)}})
        self._telemetry.observe_batch(report)

    async def start(self) -> None:
        """Start the batcher and run one crop through it; until a pass works, the pipeline is not ready."""
        self.batcher.start()
        await self.recover()

    async def _try(self) -> None:
        """Run a blank crop through the batcher; how it went is observed there, and a full queue tells nothing."""
        model = self._embedder.model
        with contextlib.suppress(ServiceError), self.batcher.admit(1) as room:
            await room.submit([np.zeros((model.height, model.width, 3), dtype=np.uint8)])

    async def recover(self) -> None:
        """Run a pass after a failed one or a long rest, one at a time: a service without crops would never know how it is."""
        if not self.batcher.is_alive:
            return
        if self._trial is None or self._trial.done():
            if self._not_ready is None and not self._is_rested:
                return
            self._trial = asyncio.get_running_loop().create_task(self._try(), name="trial")
        await asyncio.wait({self._trial}, timeout=self._deadline_s)

    @property
    def waiting(self) -> int:
        """Crops that wait for the runtime, one counted for each request that was let in and not begun."""
        return self.batcher.waiting + len(self.entrance)

    @property
    def _is_rested(self) -> bool:
        """Whether nothing is to be done, and nothing has been for long."""
        is_idle = not self.waiting and not self.batcher.stalled_s()
        return is_idle and time.monotonic() - self._passed_at > STALE_S

    def revive(self) -> bool:
        """Replace what died under the batcher, not being ready until a pass has worked; tells whether anything had."""
        if not self.batcher.revive():
            return False
        self._not_ready = "an inference thread died; another one has to run a pass first"
        return True

    async def close(self) -> None:
        """Finish what is queued, then stop the threads; a pass that hangs is given up."""
        await self.batcher.close(limit_s=max(SHORTEST_CLOSE_S, self._deadline_s - self.batcher.stalled_s()))
        self._decoding.close()
        self.helpers.shutdown(cancel_futures=True)

    def check_room(self, *, ahead: int = 0) -> None:
        """Refuse when not even one crop would be served, so that no body is read in vain.

        Args:
            ahead: crops that others are about to bring.

        Raises:
            Overloaded: the queue is full. ModelNotReady: the runtime hangs, and the queue would not be served in time.
        """
        self.batcher.check_room(1, ahead=ahead)
        self._check_moving()

    def check_ready(self) -> None:
        """Raise ModelNotReady when nothing computes, the last forward pass failed, or the next takes longer than a deadline."""
        if not self.batcher.is_alive:
            raise ModelNotReady("an inference thread died, wanted it alive; it is replaced within seconds")
        if self._not_ready:
            raise ModelNotReady(self._not_ready)
        self._check_moving()

    def _check_moving(self) -> None:
        stalled_s = self.batcher.stalled_s()
        if stalled_s > self._deadline_s:
            raise ModelNotReady(
                f"a forward pass has been running or due for {stalled_s:.0f} s, wanted {self._deadline_s:g} s; "
                "if it never ends, restart the service"
            )

    def admit(self, count: int) -> CropRoom:
        """Hold places for the crops of one request, to be used in a `with` block.

        A single crop whose request awaits nothing since `check_room` finds the room that was seen there; reading a body awaits.

        Raises:
            Overloaded, TooManyCrops: at once, nothing decoded.
        """
        return self.batcher.admit(count)

    async def embed(
        self, raw: Sequence[RawCrop], room: CropRoom, *, keep: bool = False, waited_s: float = 0.0
    ) -> list[Embedded | ServiceError]:
        """Embed the crops of one request; a crop that cannot be gives its error in its place.

        Args:
            room: as many places as there are crops.
            keep: also make the JPEG that is kept beside an enrolled entry.
            waited_s: how much of the deadline is over.

        Raises:
            DeadlineExceeded, InferenceFailed: for the whole request.
        """
        return await within(self._deadline_s, self._embed(raw, room, keep=keep), waited_s=waited_s)

    async def _embed(self, raw: Sequence[RawCrop], room: CropRoom, *, keep: bool) -> list[Embedded | ServiceError]:
        with self._telemetry.traces.step("decode"):
            prepared = await self._decoding.map(partial(self._prepare, keep=keep), raw)
        good = [crop for crop in prepared if isinstance(crop, Prepared)]
        with self._telemetry.traces.step("infer"):  # the wait for the runtime included
            rows = iter(await room.submit([crop.pixels for crop in good]))
        outcomes = [embedded(crop, next(rows)) if isinstance(crop, Prepared) else crop for crop in prepared]
        count = sum(isinstance(outcome, Embedded) for outcome in outcomes)
        self._telemetry.count_crops(embedded=count, refused=len(raw) - count)
        return outcomes

    def _prepare(self, raw: RawCrop, keep: bool) -> Prepared | ServiceError:
        """Decode one crop; runs in a decoding thread."""
        if isinstance(raw, UndecodableImage):
            return raw
        started = time.perf_counter()
        try:
            image = crops.decode(raw, max_pixels=self._max_pixels)
        except (UndecodableImage, ImageTooLarge) as error:
            return without_frames(error)
        model = self._embedder.model
        prepared = Prepared(
            crops.resize(image, height=model.height, width=model.width),
            content_hash(raw),
            crops.kept_jpeg(image) if keep else None,
        )
        self._telemetry.decode_seconds.observe(time.perf_counter() - started)
        return prepared


def embedded(crop: Prepared, row: Embedding | InferenceFailed) -> Embedded | InferenceFailed:
    """Join a crop and what the model gave for it."""
    return row if isinstance(row, InferenceFailed) else Embedded(row, crop.content_hash, crop.jpeg)


def content_hash(raw: bytes | Pixels) -> str:
    """Name an upload by its sha256; pixels count with their shape, so that two shapes of equal bytes differ."""
    if isinstance(raw, bytes):
        return hashlib.sha256(raw).hexdigest()
    return hashlib.sha256(repr(raw.shape).encode() + raw.tobytes()).hexdigest()


async def within(deadline_s: float, work: Awaitable[T], *, waited_s: float = 0.0) -> T:
    """Await `work` for what is left of deadline_s; what it had queued is dropped when it takes longer."""
    try:
        async with asyncio.timeout(max(0.0, deadline_s - waited_s)):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(f"not done within {deadline_s:g} s; try again, or send fewer crops") from None
    finally:
        del work  # a future that failed holds its error, the error this frame
