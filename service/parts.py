"""What a running service is made of, opened in order and handed to every handler."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from gallery.errors import GalleryLocked, StoreUnavailable
from gallery.local import LocalGallery
from service.access import Access, read_access
from service.calibration import Calibration, InUse
from service.embedder import Embedder, Embeds, granted_cores
from service.errors import DeadlineExceeded
from service.health import Marks, check_room, marks_of
from service.intake import Limits
from service.manifest import ModelInfo
from service.pipeline import Pipeline, within
from service.settings import Settings
from service.telemetry import Telemetry

P = ParamSpec("P")
T = TypeVar("T")

GALLERY_THREADS = 32  # for calls that wait for the disk; enrolments that wait together share one fsync
LOOK_S = 2.0  # how long the disk, or memory that is being changed, is waited for by whoever only wants to know
PROGRESS_S = 2.0  # seconds between two lines of a gallery that takes long to open


@dataclass(frozen=True)
class Parts:
    """The opened parts; handlers get them as an argument."""

    settings: Settings
    access: Access
    limits: Limits
    embedder: Embeds
    gallery: LocalGallery
    telemetry: Telemetry
    pipeline: Pipeline
    calibration: InUse
    gallery_threads: ThreadPoolExecutor
    search_threads: ThreadPoolExecutor
    artefact: Marks  # of the model's files as they were loaded

    @property
    def model(self) -> ModelInfo:
        """The model in use."""
        return self.embedder.model

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the gallery from a worker thread, within the deadline."""
        return await within(self.settings.deadline_s, self.write(call, *args, **kwargs))

    async def search(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what touches the gallery's memory alone, within the deadline; no call that waits for the disk is before it."""
        return await within(self.settings.deadline_s, self._call(self.search_threads, call, *args, **kwargs))

    async def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the gallery from a worker thread; a change that has begun is never given up half-way."""
        return await self._call(self.gallery_threads, call, *args, **kwargs)

    async def compute(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what takes the processor and waits for no other helper, within the deadline."""
        helpers, loop = self.pipeline.helpers, asyncio.get_running_loop()
        return await within(self.settings.deadline_s, loop.run_in_executor(helpers, partial(call, *args, **kwargs)))

    async def _call(self, threads: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.telemetry.traces.step(f"gallery.{call.__name__}"):
            return await asyncio.get_running_loop().run_in_executor(threads, partial(call, *args, **kwargs))

    async def look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what should answer at once, in a thread that neither the gallery nor searches keep busy: a disk may hang.

        Raises:
            StoreUnavailable: there was no answer.
        """
        try:
            return await within(LOOK_S, asyncio.to_thread(call, *args, **kwargs))
        except DeadlineExceeded:
            raise StoreUnavailable(
                f"the gallery's disk gave no answer within {LOOK_S:g} s, wanted one at once; check whether it hangs"
            ) from None

    async def check_room(self) -> None:
        """Raise StoreFull when the gallery's disk has too little room for anything new, StoreUnavailable when it is gone."""
        await self.look(check_room, self.settings.gallery, self.settings.min_free_bytes)


def open_embedder(settings: Settings) -> Embedder:
    """Load the model that the settings name."""
    return Embedder.open(settings.model, provider=settings.provider, threads=settings.threads, batch_max=settings.batch_max)


def open_gallery(settings: Settings, model: ModelInfo) -> LocalGallery:
    """Open the gallery folder for this model's embedding space."""
    try:
        return LocalGallery.open(
            settings.gallery, space_id=model.space_id, dim=model.dim, index=settings.index, progress=progress_line()
        )
    except GalleryLocked as error:
        raise GalleryLocked(f"{error}; a gallery has one process: no --workers, one service a folder") from None


def progress_line(clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """Log how far the reading of a gallery has come, every PROGRESS_S seconds."""
    last = clock()

    def log(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if now - last >= PROGRESS_S:
            last = now
            logging.getLogger("service").info("opening the gallery", extra={"fields": {"read": done, "entries": total}})

    return log


def assemble(
    settings: Settings, *, embedder: Embeds, gallery: LocalGallery, telemetry: Telemetry, calibration: Calibration | None
) -> Parts:
    """Put opened parts together; needs a running event loop."""
    telemetry.describe_model(embedder.model, embedder.provider)
    pipeline = Pipeline(
        embedder,
        telemetry,
        batch_max=embedder.batch_max,
        queue_max=settings.queue_max,
        max_wait_s=settings.batch_wait_ms / 1000,
        max_pixels=settings.max_pixels,
        deadline_s=settings.deadline_s,
        decode_threads=max(2, settings.threads or granted_cores()),
    )
    return Parts(
        settings=settings,
        access=read_access(settings),
        limits=Limits(body_bytes=settings.max_body_bytes, crops=settings.max_crops),
        embedder=embedder,
        gallery=gallery,
        telemetry=telemetry,
        pipeline=pipeline,
        calibration=InUse(embedder.model, calibration),
        gallery_threads=ThreadPoolExecutor(GALLERY_THREADS, thread_name_prefix="gallery"),
        search_threads=ThreadPoolExecutor(max(2, granted_cores()), thread_name_prefix="search"),
        artefact=marks_of(settings.model),
    )
