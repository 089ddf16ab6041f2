"""POST /embed: crops in, embeddings out."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.answers import NPY, encoded, error_answer, json_answer, npy_answer, wants_npy
from service.errors import InvalidRequest, error_item
from service.intake import read_intake, require_crops
from service.parts import Parts
from service.pipeline import Embedded
from service.routes.bodies import crop_body
from service.routes.common import all_failed, failures, model_header, reads, unless_gone
from service.routes.documents import EMBEDDING, MODEL_HEADER, NPY_SCHEMA, READING, refusals, success
from service.routes.examples import EMBEDDED
from service.schemas import EmbedAnswer, EmbedQuery

router = APIRouter(tags=["embed"])
DOCS = refusals(*READING, *EMBEDDING) | success(
    200,
    "Embeddings in the order of the crops; a crop that failed has its error in its place.",
    example=EMBEDDED,
    content={NPY: {"schema": NPY_SCHEMA}},
    headers=MODEL_HEADER,
)


@router.post("/embed", response_model=EmbedAnswer, responses=DOCS, openapi_extra=crop_body())
async def embed_crops(
    request: Request, query: Annotated[EmbedQuery, Query()], parts: Annotated[Parts, reads(EmbedQuery)]
) -> Response:
    """Embed crops; `Accept: application/x-npy` gives float32 [N, D], all or nothing."""
    parts.pipeline.check_room()
    intake = await read_intake(request, parts.limits, parts.pipeline.helpers)
    require_crops(intake)
    refuse_fields(intake.fields)
    with parts.pipeline.admit(len(intake.crops)) as room:
        outcomes = await unless_gone(request, parts.pipeline.embed(intake.crops, room, waited_s=request.state.waited_s))
    results = [
        {"index": index, "embedding": encoded(outcome.embedding, query.encoding_format)}
        if isinstance(outcome, Embedded)
        else {"index": index, "error": error_item(outcome)}
        for index, outcome in enumerate(outcomes)
    ]
    errors = failures(outcomes)
    content = {"model_id": parts.model.model_id, "dim": parts.model.dim, "results": results}
    if len(errors) == len(outcomes):
        return all_failed(request, parts, errors, content)
    if not wants_npy(request.headers.get("accept", "")):
        return json_answer(content, headers=model_header(parts))
    if errors:
        bad = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Embedded)]
        message = f"crops {bad} failed, the first: {errors[0]}; npy is all or nothing, JSON gives the others"
        return error_answer(request, status=422, code="invalid_request", message=message, headers=model_header(parts))
    rows = np.stack([outcome.embedding for outcome in outcomes if isinstance(outcome, Embedded)])
    return npy_answer(rows, headers=model_header(parts))


def refuse_fields(fields: object) -> None:
    """Refuse fields beside the crops where none means anything."""
    if isinstance(fields, dict) and fields:
        raise InvalidRequest(f"got the fields {sorted(fields)} beside the crops, wanted none here")
