"""Identities: list, show, rename, erase."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from gallery.entry import Identity
from service.answers import json_answer
from service.errors import UnsupportedMedia
from service.intake import parse_object, read_body
from service.routes.common import ERRORS, READS, WRITES, PartsDep, only
from service.routes.entries import entry_out
from service.schemas import (
    IdentitiesAnswer,
    IdentitiesQuery,
    IdentityAnswer,
    NoQuery,
    PageQuery,
    ReceiptAnswer,
    RenamedAnswer,
    RenameIn,
    parse_fields,
)

router = APIRouter(tags=["gallery"], responses=ERRORS)
# A pid is opaque and may hold slashes, so the rest of the path is all pid.
Pid = Annotated[str, Path(min_length=1, max_length=128)]
RENAME_DOCS = {"requestBody": {"required": True, "content": {"application/json": {"schema": RenameIn.model_json_schema()}}}}


def identity_out(identity: Identity) -> dict[str, Any]:
    """Show one identity."""
    return asdict(identity)


@router.get("/gallery/identities", dependencies=[READS, only(IdentitiesQuery)], response_model=IdentitiesAnswer)
async def list_identities(query: Annotated[IdentitiesQuery, Query()], parts: PartsDep) -> Response:
    """List identities by pid."""
    page = await parts.read(parts.gallery.identities, prefix=query.prefix, limit=query.limit, cursor=query.cursor)
    return json_answer({"identities": [identity_out(one) for one in page.items], "next_cursor": page.next_cursor})


@router.get("/gallery/identities/{pid:path}", dependencies=[READS, only(PageQuery)], response_model=IdentityAnswer)
async def show_identity(pid: Pid, query: Annotated[PageQuery, Query()], parts: PartsDep) -> Response:
    """Show one identity and its entries, newest first."""
    identity = await parts.read(parts.gallery.identity, pid)
    page = await parts.read(parts.gallery.entries, pid=pid, limit=query.limit, cursor=query.cursor)
    entries = [entry_out(entry) for entry in page.items]
    return json_answer({"identity": identity_out(identity), "entries": entries, "next_cursor": page.next_cursor})


@router.patch(
    "/gallery/identities/{pid:path}",
    dependencies=[WRITES, only(NoQuery)],
    response_model=RenamedAnswer,
    openapi_extra=RENAME_DOCS,
)
async def rename_identity(request: Request, pid: Pid, parts: PartsDep) -> Response:
    """Rename an identity; onto one that stands only with `merge`, which makes one identity of both."""
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia(f"got content type {media or 'none'!r}, wanted application/json")
    wanted = parse_fields(parse_object(await read_body(request, parts.limits)), RenameIn)
    renamed = await parts.write(parts.gallery.rename, pid, wanted.pid, merge=wanted.merge)
    return json_answer(asdict(renamed))


@router.delete("/gallery/identities/{pid:path}", dependencies=[WRITES, only(NoQuery)], response_model=ReceiptAnswer)
async def erase_identity(pid: Pid, parts: PartsDep) -> Response:
    """Erase an identity everywhere, and say what went."""
    return json_answer(asdict(await parts.write(parts.gallery.delete_identity, pid)))
