"""Snapshots: make one of the running gallery, list them, download one."""

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from gallery.entry import Snapshot
from gallery.errors import CorruptArchive, OutputExists
from service import snapshots
from service.answers import json_answer
from service.errors import DeadlineExceeded, RangeNotSatisfiable, SnapshotNotFound, SnapshotUnderWay
from service.parts import Parts
from service.routes.common import reads, writes
from service.routes.documents import CHANGING, LISTING, STORED, WRITING, link, refusals, success
from service.routes.examples import SNAPSHOT, SNAPSHOTS
from service.schemas import NoQuery, SnapshotOut, SnapshotsAnswer

router = APIRouter(tags=["gallery"])

TAR = "application/x-tar"
FILE = {TAR: {"schema": {"type": "string", "format": "binary"}}}
TEXT = {"schema": {"type": "string"}}
DIGESTS = {
    "ETag": {"description": "The file's sha256 in hex, in quotes.", **TEXT},
    "Repr-Digest": {"description": "The same in base64: sha-256=:...:, as RFC 9530 has it.", **TEXT},
}
MADE = {"download": link("download_snapshot", "Download it.", name="$response.body#/name")}
MAKE_DOCS = refusals(*CHANGING, SnapshotUnderWay, OutputExists) | success(
    201,
    "The snapshot, whole and on the disk.",
    example=SNAPSHOT,
    headers={"Location": {"description": "Its path.", **TEXT}},
    links=MADE,
)
LIST_DOCS = refusals(*LISTING, CorruptArchive) | success(
    200,
    "Every snapshot, newest first.",
    example=SNAPSHOTS,
    links={"download": link("download_snapshot", "Download the newest.", name="$response.body#/snapshots/0/name")},
)
DOWNLOAD_DOCS = (
    refusals(*WRITING, *STORED, CorruptArchive, SnapshotNotFound, RangeNotSatisfiable, DeadlineExceeded)
    | success(200, "The whole file, for `python -m gallery restore`.", content=FILE, headers=DIGESTS)
    | success(206, "The part that `Range` asked for.", content=FILE, headers=DIGESTS)
)
RANGE_HEADER = {
    "name": "Range",
    "in": "header",
    "required": False,
    "description": "`bytes=N-`: from byte N on.",
    "schema": {"type": "string", "pattern": r"^bytes=\d{1,18}-\d{0,18}$"},
}
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")  # the one form that resuming needs


def snapshot_out(snapshot: Snapshot) -> dict[str, Any]:
    """Show one snapshot, by its name alone: where it stands on the disk is nobody's business."""
    return {
        "name": snapshot.path.name,
        "size": snapshot.bytes,
        "sha256": snapshot.sha256,
        "entries": snapshot.entries,
        "created_at": snapshot.created_at,
    }


@router.post(
    "/gallery/snapshots",
    status_code=201,
    response_model=SnapshotOut,
    responses=MAKE_DOCS,
)
async def make_snapshot(parts: Annotated[Parts, writes(NoQuery)]) -> Response:
    """Make a snapshot of the whole gallery as it stands, durable when answered; searches go on, changes wait."""
    settings = parts.settings
    made = await parts.write(
        snapshots.make, parts.gallery, settings.snapshots, datetime.now(UTC), spare_bytes=settings.min_free_bytes
    )
    return json_answer(snapshot_out(made), status=201, headers={"Location": f"/gallery/snapshots/{made.path.name}"})


@router.get("/gallery/snapshots", response_model=SnapshotsAnswer, responses=LIST_DOCS)
async def list_snapshots(parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """List snapshots, newest first."""
    found = await parts.read(snapshots.listed, parts.settings.snapshots)
    return json_answer({"snapshots": [snapshot_out(one) for one in found]})


# A snapshot is everybody at once: vectors, pids and pictures. So a key that may only read does not take one away.
@router.get(
    "/gallery/snapshots/{name}",
    response_class=FileResponse,
    responses=DOWNLOAD_DOCS,
    openapi_extra={"parameters": [RANGE_HEADER]},
)
async def download_snapshot(request: Request, name: str, parts: Annotated[Parts, writes(NoQuery)]) -> Response:
    """Download a snapshot, or with `Range: bytes=N-` the rest of one; `python -m gallery restore` makes a gallery of it."""
    snapshot = await parts.read(snapshots.find, parts.settings.snapshots, name)
    check_range(request.headers.get("range"), snapshot.bytes)
    digest = base64.b64encode(bytes.fromhex(snapshot.sha256)).decode()
    headers = {"ETag": f'"{snapshot.sha256}"', "Repr-Digest": f"sha-256=:{digest}:", "Cache-Control": "no-store"}
    return FileResponse(snapshot.path, media_type=TAR, filename=name, headers=headers)


def check_range(wanted: str | None, size: int) -> None:
    """Refuse a part that is not there, and forms of Range that resuming does not need.

    Raises:
        RangeNotSatisfiable: what was got and what was wanted.
    """
    found = RANGE.fullmatch(wanted) if wanted is not None else None
    if wanted is None or (found and int(found[1]) < size and (not found[2] or int(found[1]) <= int(found[2]))):
        return
    raise RangeNotSatisfiable(f"got Range {wanted!r}, wanted bytes=N- or bytes=N-M within {size} bytes")
