"""Entries and the gallery as a whole: list, show, delete, stored crops, numbers."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from gallery.entry import Entry
from gallery.errors import EntryNotFound
from service.answers import json_answer
from service.errors import CropNotKept
from service.parts import Parts
from service.routes.common import reads, writes
from service.routes.documents import CHANGING, LISTING, link, refusals, success
from service.routes.examples import DELETED, ENTRIES, ENTRY, STATS
from service.schemas import DeletedAnswer, EntriesAnswer, EntriesQuery, EntryOut, NoQuery, StatsAnswer

router = APIRouter(tags=["gallery"])
JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
ENTRY_LINKS = {"entry": link("show_entry", "The first entry.", entry_id="$response.body#/entries/0/entry_id")}
LIST_DOCS = refusals(*LISTING) | success(200, "One page of entries.", example=ENTRIES, links=ENTRY_LINKS)
STATS_DOCS = refusals(*LISTING) | success(200, "The gallery in numbers.", example=STATS)
SHOW_DOCS = refusals(*LISTING, EntryNotFound) | success(200, "The entry, without its embedding.", example=ENTRY)
DELETE_DOCS = refusals(*CHANGING, EntryNotFound) | success(200, "It is gone, durably.", example=DELETED)
CROP_DOCS = refusals(*LISTING, EntryNotFound, CropNotKept) | success(200, "The picture, as it was kept.", content=JPEG)
EntryId = Annotated[int, Path(ge=1, lt=2**63)]


def entry_out(entry: Entry) -> dict[str, Any]:
    """Show one entry."""
    return asdict(entry)


@router.get("/gallery", response_model=EntriesAnswer, responses=LIST_DOCS)
async def list_entries(query: Annotated[EntriesQuery, Query()], parts: Annotated[Parts, reads(EntriesQuery)]) -> Response:
    """List entries, newest first."""
    page = await parts.read(
        parts.gallery.entries,
        pid=query.pid,
        camid=query.camid,
        since=query.since,
        until=query.until,
        limit=query.limit,
        cursor=query.cursor,
    )
    return json_answer({"entries": [entry_out(entry) for entry in page.items], "next_cursor": page.next_cursor})


@router.get("/gallery/stats", response_model=StatsAnswer, responses=STATS_DOCS)
async def show_stats(parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show the gallery in numbers."""
    return json_answer(asdict(await parts.read(parts.gallery.stats)))


@router.get("/gallery/entries/{entry_id}", response_model=EntryOut, responses=SHOW_DOCS)
async def show_entry(entry_id: EntryId, parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show one entry."""
    return json_answer(entry_out(await parts.read(parts.gallery.entry, entry_id)))


@router.delete("/gallery/entries/{entry_id}", response_model=DeletedAnswer, responses=DELETE_DOCS)
async def delete_entry(entry_id: EntryId, parts: Annotated[Parts, writes(NoQuery)]) -> Response:
    """Delete one entry, durably."""
    await parts.write(parts.gallery.delete_entry, entry_id)
    return json_answer({"entry_id": entry_id, "deleted": True})


@router.get(
    "/gallery/entries/{entry_id}/crop",
    response_class=Response,
    responses=CROP_DOCS,
)
async def show_crop(entry_id: EntryId, parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show the stored crop, where crops are kept."""
    jpeg = await parts.read(parts.gallery.crop, entry_id)
    if jpeg is None:
        raise CropNotKept(f"entry {entry_id} has no stored crop: it came as an embedding, or REID_KEEP_CROPS was off")
    # An erased person's picture must not live on in a cache; and no other site's page may show one.
    headers = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
    return Response(jpeg, media_type="image/jpeg", headers=headers)
