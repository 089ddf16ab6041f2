"""create_app: wiring and lifespan only."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gallery.local import LocalGallery
from service.answers import install_error_handlers
from service.calibration import Calibration, find_calibration
from service.direct import Direct
from service.embedder import Embeds
from service.memory import keep_trimmed
from service.middleware import RequestTrail, SameOrigin
from service.parts import assemble, open_embedder, open_gallery
from service.receiving import Receiving, Reception
from service.routes import calibration as calibration_routes
from service.routes import console, embed, enroll, entries, identities, search, snapshots, status
from service.routes.documents import ABOUT, TAGS
from service.settings import Settings
from service.telemetry import Telemetry
from service.tracing import open_traces
from service.watchdog import Notify, Watchdog

ROUTERS = (
    embed.router,
    search.router,
    calibration_routes.router,
    enroll.router,
    entries.router,
    identities.router,
    snapshots.router,
    status.router,
    console.router,
)
DIRECT = (embed.router, search.router, enroll.router)


def create_app(
    settings: Settings,
    *,
    embed: Embeds | None = None,
    gallery: LocalGallery | None = None,
    calibration: Calibration | None = None,
    notify: Notify = lambda state: None,
) -> FastAPI:
    """Build the application; its lifespan opens the parts and, after the last answer, closes them.

    Args:
        settings: every knob.
        embed: an opened model, or a test's double, in place of the one that the settings name.
        gallery: an opened gallery in place of the one that the settings name; it is closed all the same.
        calibration: thresholds that were found already; otherwise they are looked for, beside the model only without `embed`.
        notify: tells the supervisor that the service is ready, and every second that it is well.
    """
    telemetry = Telemetry(open_traces(is_wanted=settings.traces))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        embedder = embed if embed is not None else await asyncio.to_thread(open_embedder, settings)
        found, beside = calibration, settings.model if embed is None else None
        if found is None:
            found = await asyncio.to_thread(find_calibration, settings.own_calibration, beside, embedder.model)
        opened = gallery if gallery is not None else await asyncio.to_thread(open_gallery, settings, embedder.model)
        parts = app.state.parts = assemble(settings, embedder=embedder, gallery=opened, telemetry=telemetry, calibration=found)
        try:
            await parts.pipeline.start()
            watchdog = Watchdog(parts.pipeline, telemetry, limit_s=settings.deadline_s, notify=notify)
            watching, trimming = (asyncio.create_task(work) for work in (watchdog.watch(), keep_trimmed()))
            yield
            watching.cancel()
            trimming.cancel()
        finally:
            await parts.pipeline.close()
            parts.search_threads.shutdown()
            parts.gallery_threads.shutdown()
            opened.close()
            await asyncio.to_thread(telemetry.traces.close)

    app = FastAPI(
        title="bnneck-reid",
        version="0.1.0",
        description=ABOUT,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours tell each request once
    )
    app.state.telemetry = telemetry  # for the server, which refuses before there is a request
    add_layers(app, settings, telemetry)
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/console", console.static_files())
    return app


def add_layers(app: FastAPI, settings: Settings, telemetry: Telemetry) -> None:
    """Put around the application what every request goes through, the innermost first."""
    reception = Reception(held_bytes=settings.max_bodies_bytes, patience_s=settings.receive_s)
    app.add_middleware(Direct, routers=DIRECT)
    app.add_middleware(Receiving, telemetry=telemetry, limits=reception)
    app.add_middleware(SameOrigin)
    app.add_middleware(RequestTrail, telemetry=telemetry)
