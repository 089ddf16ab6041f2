"""The model, the probes and the metrics."""

import asyncio
import logging
import math
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import onnxruntime
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from gallery.errors import GalleryError, StoreFull, StoreUnavailable
from gallery.local import LocalGallery
from service.answers import error_answer, json_answer
from service.errors import ModelNotReady, status_and_code
from service.health import free_bytes, replaced
from service.parts import Parts
from service.routes.common import anyone, model_header, reads
from service.routes.documents import EVERYWHERE, MODEL_HEADER, OPEN, READING, meaning, refusal, refusals, success
from service.routes.examples import ALIVE, MODEL, READY
from service.schemas import LiveAnswer, ModelAnswer, NoQuery, ReadyAnswer

T = TypeVar("T")

router = APIRouter(tags=["service"])
METRICS_TEXT = {"text/plain": {"schema": {"type": "string"}}}
MODEL_DOCS = refusals(*READING) | success(200, "The model, and what runs it.", example=MODEL, headers=MODEL_HEADER)
LIVE_DOCS = refusals(*OPEN) | success(200, "The process answers.", example=ALIVE)
UNREADY = {  # by the code of the first part that is not ready; `parts` beside the error has what each of them says
    "model_not_ready": meaning(ModelNotReady),
    "gallery_not_ready": "The gallery is closed, or its files were removed or replaced.",
    "store_full": meaning(StoreFull),
    "store_unavailable": meaning(StoreUnavailable),
}
READY_DOCS = (
    refusals(*OPEN) | {503: refusal(503, {**UNREADY, **EVERYWHERE[503]})} | success(200, "Every part is ready.", example=READY)
)
METRICS_DOCS = refusals(*READING) | success(200, "Prometheus text.", content=METRICS_TEXT)

MODEL_REPLACED = "ready; on the disk {} changed since: the loaded model goes on, restart the service to use another"
GALLERY_NOT_READY = (
    "closed, its index could not be rebuilt, or its files were removed or replaced; put them back or restore a snapshot, "
    "then restart the service"
)
# Whoever asks may be a stranger, so these name no folder; the log does.
DISK_FULL = "too little room for anything new, so nothing is enrolled; free some space"
DISK_GONE = "the gallery's folder was removed or replaced, or its disk does not answer; put it back"

log = logging.getLogger("service")


@router.get("/model", response_model=ModelAnswer, responses=MODEL_DOCS)
async def show_model(parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show which model answers, what it was measured at, and what runs it."""
    return json_answer(model_out(parts), headers=model_header(parts))


def model_out(parts: Parts) -> dict[str, Any]:
    """Join the manifest, the thresholds in use and the runtime."""
    model = parts.model
    runtime = {"name": "onnxruntime", "version": onnxruntime.__version__, "provider": parts.embedder.provider}
    return {
        **model.manifest,
        **parts.calibration.shown,
        "model_id": model.model_id,
        "space_id": model.space_id,
        "dim": model.dim,
        "runtime": runtime,
    }


@router.get("/livez", dependencies=[anyone(NoQuery)], response_model=LiveAnswer, responses=LIVE_DOCS)
async def livez() -> Response:
    """Answer while the process does."""
    return json_answer({"alive": True})


@router.get("/readyz", response_model=ReadyAnswer, responses=READY_DOCS)
async def readyz(request: Request, parts: Annotated[Parts, anyone(NoQuery)]) -> Response:
    """Answer 200 while crops can be embedded, found and enrolled, else 503 naming the part that cannot."""
    await parts.pipeline.recover()
    states, faults = await part_states(parts)
    if not faults:
        return json_answer({"ready": True, "parts": states})
    message = "; ".join(f"{part}: {states[part]}" for part in faults)
    return error_answer(request, status=503, code=next(iter(faults.values())), message=message, extra={"parts": states})


async def part_states(parts: Parts) -> tuple[dict[str, str], dict[str, str]]:
    """Ask every part.

    Returns:
        What each says of itself, and the error codes of those that are not ready, the model's first.
    """
    states, faults = {"model": "ready", "gallery": "ready", "disk": "ready"}, {}
    try:
        parts.pipeline.check_ready()
    except ModelNotReady as error:
        states["model"], faults["model"] = str(error), "model_not_ready"
    try:
        changed, is_ready = await parts.look(files_of, parts)
        if changed and not faults:
            states["model"] = MODEL_REPLACED.format(" and ".join(changed))
        if not is_ready:
            states["gallery"], faults["gallery"] = GALLERY_NOT_READY, "gallery_not_ready"
        await parts.check_room()
    except (StoreFull, StoreUnavailable) as error:
        log.warning("nothing can be enrolled", extra={"fields": {"got": str(error)}})
        states["disk"] = DISK_FULL if isinstance(error, StoreFull) else DISK_GONE
        faults["disk"] = status_and_code(type(error))[1]
    return states, faults


def files_of(parts: Parts) -> tuple[list[str], bool]:
    """Name the model's files that were replaced, and tell whether the gallery has its own."""
    return replaced(parts.settings.model, parts.artefact), parts.gallery.is_ready


@router.get("/metrics", response_class=Response, responses=METRICS_DOCS)
async def metrics(parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show the metrics in Prometheus' text form; what the gallery cannot tell at once is NaN."""
    telemetry = parts.telemetry
    (entries, identities), free = await asyncio.gather(
        unless_silent(parts.look(num_enrolled, parts.gallery), (math.nan, math.nan)),
        unless_silent(parts.look(free_bytes, parts.settings.gallery), math.nan),
    )
    telemetry.gallery_entries.set(entries)
    telemetry.gallery_identities.set(identities)
    telemetry.free_bytes.set(free)
    telemetry.waiting.set(parts.pipeline.waiting)
    return Response(telemetry.text(), media_type=CONTENT_TYPE_LATEST)


async def unless_silent(work: Awaitable[T], otherwise: T) -> T:
    """Await what the gallery tells, or take the other when it cannot."""
    try:
        return await work
    except GalleryError:
        return otherwise


def num_enrolled(gallery: LocalGallery) -> tuple[int, int]:
    """Count entries and identities in memory: unlike stats(), without waiting for an erasure that rewrites the file."""
    with gallery._mirror.reading() as memory:
        return len(memory), len(memory.columns.pids)
