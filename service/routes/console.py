"""The page at /: static files, no build step, nothing from other hosts."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent.parent / "console"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """Send the page; what it shows it asks from the API, with the caller's key."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=HEADERS)


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Send nothing: the page carries its own picture."""
    return Response(status_code=204)


class Revalidated(StaticFiles):
    """Files that a browser asks for again each time (304 when unchanged): modules of two versions do not fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Add the header to whatever is sent, 304 included."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def static_files() -> StaticFiles:
    """Serve the page's scripts, style and sample people."""
    return Revalidated(directory=FOLDER)
