"""GET /search and POST /search: a query in, ranked matches and a decision out."""

import time
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from gallery.entry import Filter, Match, SearchResult
from gallery.errors import EntryNotFound
from gallery.online import Rerank, check_rerank
from service.answers import json_answer
from service.decisions import Choice, choose_threshold, decide
from service.errors import InvalidRequest, error_item
from service.intake import read_intake, require_crops
from service.parts import Parts
from service.pipeline import Embedded
from service.routes.bodies import crop_body
from service.routes.common import all_failed, failures, model_header, reads, unless_gone
from service.routes.documents import EMBEDDING, MODEL_HEADER, SEARCHING, VECTORS, link, refusals, success
from service.routes.embed import refuse_fields
from service.routes.examples import FOUND
from service.schemas import SearchAnswer
from service.search_query import SearchByQuery, SearchQuery
from service.vectors import from_text, pooled

router = APIRouter(tags=["search"])
GOOD = success(
    200,
    "The ranked matches, and whether the first may be believed.",
    example=FOUND,
    headers=MODEL_HEADER,
    links={
        "match": link("show_entry", "The first match's entry.", entry_id="$response.body#/matches/0/entry_id"),
        "identity": link("show_identity", "The first match's identity.", pid="$response.body#/matches/0/pid"),
    },
)
BY_DOCS = refusals(*SEARCHING, *VECTORS, EntryNotFound) | GOOD
CROP_DOCS = refusals(*SEARCHING, *EMBEDDING) | GOOD
Embedding = npt.NDArray[np.float32]


@router.get("/search", response_model=SearchAnswer, responses=BY_DOCS)
async def search_by(query: Annotated[SearchByQuery, Query()], parts: Annotated[Parts, reads(SearchByQuery)]) -> Response:
    """Search by an enrolled entry (itself excluded) or by an embedding (base64url of D float32 or float16 values)."""
    if (query.entry_id is None) == (query.embedding is None):
        raise InvalidRequest("got both or neither of entry_id and embedding, wanted one; crops go to POST /search")
    if query.entry_id is not None:
        row = await parts.search(parts.gallery.embedding, query.entry_id)
        exclude = frozenset({query.entry_id})
    else:
        row = from_text(query.embedding or "", dim=parts.model.dim)
        exclude = frozenset()
    answer = await answer_search(parts, row, query, exclude=exclude, embed_ms=None)
    return json_answer(answer, headers=model_header(parts))


@router.post(
    "/search",
    response_model=SearchAnswer,
    responses=CROP_DOCS,
    openapi_extra=crop_body(),
)
async def search_crops(
    request: Request, query: Annotated[SearchQuery, Query()], parts: Annotated[Parts, reads(SearchQuery)]
) -> Response:
    """Search by a crop, or by several crops of one person: their embeddings are averaged."""
    check_threshold(parts, query)
    rerank_of(query)
    parts.pipeline.check_room()
    intake = await read_intake(request, parts.limits, parts.pipeline.helpers)
    require_crops(intake)
    refuse_fields(intake.fields)
    started = time.perf_counter()
    with parts.pipeline.admit(len(intake.crops)) as room:
        outcomes = await unless_gone(request, parts.pipeline.embed(intake.crops, room, waited_s=request.state.waited_s))
    embed_ms = ms_since(started)
    rejected = [
        {"index": index, "error": error_item(outcome)}
        for index, outcome in enumerate(outcomes)
        if not isinstance(outcome, Embedded)
    ]
    errors = failures(outcomes)
    if len(errors) == len(outcomes):
        return all_failed(request, parts, errors, {"rejected": rejected})
    row = pooled([outcome.embedding for outcome in outcomes if isinstance(outcome, Embedded)])
    answer = await answer_search(parts, row, query, exclude=frozenset(), embed_ms=embed_ms)
    return json_answer({**answer, "rejected": rejected}, headers=model_header(parts))


async def answer_search(
    parts: Parts, row: Embedding, query: SearchQuery, *, exclude: frozenset[int], embed_ms: float | None
) -> dict[str, Any]:
    """Search and decide.

    Args:
        row: float32 [D], unit length.
        exclude: entries that may not match.
        embed_ms: what the embedding took, None when the query came as one.
    """
    chosen = check_threshold(parts, query)
    rerank = rerank_of(query)
    started = time.perf_counter()
    result, best = await parts.search(search_and_compare, parts, row, query, rerank, exclude)
    rerank_ms = None if result.rerank_s is None else round(result.rerank_s * 1000, 3)
    search_ms = round(ms_since(started) - (rerank_ms or 0), 3)
    parts.telemetry.search_seconds.observe(search_ms / 1000)
    return {
        "model_id": parts.model.model_id,
        "decision": decide(best, threshold=chosen.threshold, margin=chosen.margin),
        "threshold": chosen.threshold,
        "threshold_source": chosen.source,
        "matches": [match_out(rank, match) for rank, match in enumerate(result.matches[: query.k], start=1)],
        "searched": {"entries": result.entries, "identities": result.identities},
        "took_ms": {"embed": embed_ms, "search": search_ms, "rerank": rerank_ms},
    }


def search_and_compare(
    parts: Parts, row: Embedding, query: SearchQuery, rerank: Rerank | None, exclude: frozenset[int]
) -> tuple[SearchResult, tuple[Match, ...]]:
    """Search for the matches, and once more for the two closest identities where the matches need not show them.

    Returns:
        The matches, and what the decision is made from: the first of them, then the other identities by falling cosine. So
        a re-ranked first match is believed by its own cosine, and ambiguous beside one of a higher cosine that may be believed.
    """
    where = filter_of(query, exclude)
    if query.group_by == "identity":
        k, pool, best_of = max(2, query.k), query.pool, query.best_of
        result = parts.gallery.search(row, k=k, where=where, pool=pool, best_of=best_of, rerank=rerank)
        closest = result.by_cosine or result.matches
    else:
        result = parts.gallery.search(row, k=query.k, where=where, group_by="entry", rerank=rerank)
        closest = parts.gallery.search(row, k=2, where=where).matches
    first = result.matches[:1]
    shown = {match.pid for match in first}  # none, where somebody was enrolled between two searches of an empty gallery
    return result, first + tuple(match for match in closest if match.pid not in shown)


def rerank_of(query: SearchQuery) -> Rerank | None:
    """Turn the parameters into the gallery's, refusing a contradiction before any work is done; None without `rerank`."""
    if not query.rerank:
        return None
    rerank = Rerank(k1=query.k1, k2=query.k2, blend=query.blend, shortlist=query.shortlist)
    check_rerank(rerank)
    return rerank


def filter_of(query: SearchQuery, exclude: frozenset[int]) -> Filter:
    """Turn the parameters into the gallery's filter."""
    return Filter(
        pids=frozenset(query.pid),
        camids=frozenset(query.camid),
        exclude_camids=frozenset(query.exclude_camid),
        since=query.since,
        until=query.until,
        exclude_entry_ids=exclude,
        attributes={} if query.attributes is None else orjson.loads(query.attributes),
    )


def check_threshold(parts: Parts, query: SearchQuery) -> Choice:
    """Settle the threshold, refusing a contradiction before any work is done."""
    return choose_threshold(*parts.calibration.terms, threshold=query.threshold, far=query.far)


def match_out(rank: int, match: Match) -> dict[str, Any]:
    """Show one match; float32 rounding may leave a cosine a hair outside -1..1."""
    return {"rank": rank, **asdict(match), "cosine": min(1.0, max(-1.0, match.cosine))}


def ms_since(started: float) -> float:
    """Milliseconds since a perf_counter reading, to the microsecond."""
    return round((time.perf_counter() - started) * 1000, 3)
