"""Identities: list, show, rename, erase."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from gallery.entry import Identity
from gallery.errors import IdentityExists, IdentityNotFound
from service.answers import json_answer
from service.errors import UnsupportedMedia
from service.intake import parse_object, read_body
from service.parts import Parts
from service.routes.bodies import rename_body
from service.routes.common import reads, writes
from service.routes.documents import BODIES, CHANGING, LISTING, link, refusals, success
from service.routes.entries import entry_out
from service.routes.examples import IDENTITIES, IDENTITY_PAGE, RECEIPT, RENAMED
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

router = APIRouter(tags=["gallery"])
# A pid is opaque and may hold slashes, so the rest of the path is all pid.
Pid = Annotated[str, Path(min_length=1, max_length=128)]
FIRST = {"identity": link("show_identity", "The first identity.", pid="$response.body#/identities/0/pid")}
NEW = {"identity": link("show_identity", "The identity under its new pid.", pid="$response.body#/identity/pid")}
LIST_DOCS = refusals(*LISTING) | success(200, "One page of identities.", example=IDENTITIES, links=FIRST)
SHOW_DOCS = refusals(*LISTING, IdentityNotFound) | success(200, "The identity and a page of entries.", example=IDENTITY_PAGE)
RENAME_DOCS = refusals(*CHANGING, *BODIES, IdentityNotFound, IdentityExists) | success(
    200, "The identity under its new pid.", example=RENAMED, links=NEW
)
ERASE_DOCS = refusals(*CHANGING, IdentityNotFound) | success(200, "What went, counted per place.", example=RECEIPT)


def identity_out(identity: Identity) -> dict[str, Any]:
    """Show one identity."""
    return asdict(identity)


@router.get("/gallery/identities", response_model=IdentitiesAnswer, responses=LIST_DOCS)
async def list_identities(
    query: Annotated[IdentitiesQuery, Query()], parts: Annotated[Parts, reads(IdentitiesQuery)]
) -> Response:
    """List identities by pid."""
    page = await parts.read(parts.gallery.identities, prefix=query.prefix, limit=query.limit, cursor=query.cursor)
    return json_answer({"identities": [identity_out(one) for one in page.items], "next_cursor": page.next_cursor})


@router.get("/gallery/identities/{pid:path}", response_model=IdentityAnswer, responses=SHOW_DOCS)
async def show_identity(pid: Pid, query: Annotated[PageQuery, Query()], parts: Annotated[Parts, reads(PageQuery)]) -> Response:
    """Show one identity and its entries, newest first."""
    identity = await parts.read(parts.gallery.identity, pid)
    page = await parts.read(parts.gallery.entries, pid=pid, limit=query.limit, cursor=query.cursor)
    entries = [entry_out(entry) for entry in page.items]
    return json_answer({"identity": identity_out(identity), "entries": entries, "next_cursor": page.next_cursor})


@router.patch(
    "/gallery/identities/{pid:path}",
    response_model=RenamedAnswer,
    responses=RENAME_DOCS,
    openapi_extra=rename_body(),
)
async def rename_identity(request: Request, pid: Pid, parts: Annotated[Parts, writes(NoQuery)]) -> Response:
    """Rename an identity; onto one that stands only with `merge`, which makes one identity of both."""
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia(f"got content type {media or 'none'!r}, wanted application/json")
    wanted = parse_fields(parse_object(await read_body(request, parts.limits)), RenameIn)
    renamed = await parts.write(parts.gallery.rename, pid, wanted.pid, merge=wanted.merge)
    return json_answer(asdict(renamed))


@router.delete("/gallery/identities/{pid:path}", response_model=ReceiptAnswer, responses=ERASE_DOCS)
async def erase_identity(pid: Pid, parts: Annotated[Parts, writes(NoQuery)]) -> Response:
    """Erase an identity everywhere, and say what went."""
    return json_answer(asdict(await parts.write(parts.gallery.delete_identity, pid)))
