"""The model, the probes and the metrics."""

from typing import Any

import onnxruntime
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.answers import error_answer, json_answer
from service.errors import ModelNotReady
from service.parts import Parts
from service.routes.common import READS, PartsDep, model_header, only
from service.routes.documents import LISTING, MODEL_HEADER, OPEN, READING, refusals, success
from service.routes.examples import ALIVE, MODEL, READY
from service.schemas import LiveAnswer, ModelAnswer, NoQuery, ReadyAnswer

router = APIRouter(tags=["service"])
METRICS_TEXT = {"text/plain": {"schema": {"type": "string"}}}
MODEL_DOCS = refusals(*READING) | success(200, "The model, and what runs it.", example=MODEL, headers=MODEL_HEADER)
LIVE_DOCS = refusals(*OPEN) | success(200, "The process answers.", example=ALIVE)
READY_DOCS = refusals(*OPEN, ModelNotReady) | success(200, "Every part is ready.", example=READY)
METRICS_DOCS = refusals(*LISTING) | success(200, "Prometheus text.", content=METRICS_TEXT)

GALLERY_NOT_READY = (
    "closed, its index could not be rebuilt, or its files were removed or replaced; put them back or restore a snapshot, "
    "then restart the service"
)


@router.get("/model", dependencies=[READS, only(NoQuery)], response_model=ModelAnswer, responses=MODEL_DOCS)
async def show_model(parts: PartsDep) -> Response:
    """Show which model answers, what it was measured at, and what runs it."""
    return json_answer(model_out(parts), headers=model_header(parts))


def model_out(parts: Parts) -> dict[str, Any]:
    """Join the manifest and the runtime."""
    model = parts.model
    runtime = {"name": "onnxruntime", "version": onnxruntime.__version__, "provider": parts.embedder.provider}
    return {
        **model.manifest,
        "model_id": model.model_id,
        "space_id": model.space_id,
        "dim": model.dim,
        "runtime": runtime,
    }


@router.get("/livez", dependencies=[only(NoQuery)], response_model=LiveAnswer, responses=LIVE_DOCS)
async def livez() -> Response:
    """Answer while the process does."""
    return json_answer({"alive": True})


@router.get("/readyz", dependencies=[only(NoQuery)], response_model=ReadyAnswer, responses=READY_DOCS)
async def readyz(request: Request, parts: PartsDep) -> Response:
    """Answer 200 while crops can be embedded and the gallery searched, else 503 naming the part that cannot."""
    await parts.pipeline.recover()
    states, code = {"model": "ready", "gallery": "ready"}, None
    if not parts.gallery.is_ready:
        states["gallery"], code = GALLERY_NOT_READY, "gallery_not_ready"
    try:
        parts.pipeline.check_ready()
    except ModelNotReady as error:
        states["model"], code = str(error), "model_not_ready"
    if code is None:
        return json_answer({"ready": True, "parts": states})
    message = "; ".join(f"{part}: {state}" for part, state in states.items() if state != "ready")
    return error_answer(request, status=503, code=code, message=message, extra={"parts": states})


@router.get("/metrics", dependencies=[READS, only(NoQuery)], response_class=Response, responses=METRICS_DOCS)
async def metrics(parts: PartsDep) -> Response:
    """Show the metrics in Prometheus' text form."""
    stats = await parts.read(parts.gallery.stats)
    parts.telemetry.gallery_entries.set(stats.entries)
    parts.telemetry.gallery_identities.set(stats.identities)
    parts.telemetry.waiting.set(parts.pipeline.batcher.waiting)
    return Response(parts.telemetry.text(), media_type=CONTENT_TYPE_LATEST)
