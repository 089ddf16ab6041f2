"""The calibration in use, and a new one from the enrolled identities."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from service import calibration
from service.answers import json_answer
from service.calibration import Calibration
from service.calibration_schemas import CalibratedAnswer, CalibrationAnswer, CalibrationQuery
from service.errors import CalibrationUnderWay, NotCalibrated, TooFewPeople
from service.parts import Parts
from service.routes.common import model_header, reads, writes
from service.routes.documents import CHANGING, MODEL_HEADER, READING, refusals, success
from service.routes.examples import CALIBRATED, CALIBRATION
from service.schemas import NoQuery

router = APIRouter(tags=["search"])
SHOW_DOCS = refusals(*READING, NotCalibrated) | success(
    200, "The calibration that thresholds come from.", example=CALIBRATION, headers=MODEL_HEADER
)
MAKE_DOCS = refusals(*CHANGING, CalibrationUnderWay, TooFewPeople) | success(
    200, "What the enrolled identities say.", example=CALIBRATED, headers=MODEL_HEADER
)


@router.get("/calibration", response_model=CalibrationAnswer, responses=SHOW_DOCS)
async def show_calibration(parts: Annotated[Parts, reads(NoQuery)]) -> Response:
    """Show the calibration that thresholds come from; 404 where the manifest's are used."""
    return json_answer(parts.calibration.content, headers=model_header(parts))


@router.post(
    "/calibration",
    response_model=CalibratedAnswer,
    responses=MAKE_DOCS,
)
async def make_calibration(
    query: Annotated[CalibrationQuery, Query()], parts: Annotated[Parts, writes(CalibrationQuery)]
) -> Response:
    """Calibrate on the enrolled identities that two cameras saw, 20 at least; nothing changes without `apply=true`.

    It takes some seconds, for 1,000 identities half a minute, and searches are slower meanwhile.
    """
    made = await parts.write(calibrate, parts, apply=query.apply)
    return json_answer({"applied": query.apply, **made.content}, headers=model_header(parts))


def calibrate(parts: Parts, *, apply: bool) -> Calibration:
    """Make a calibration and, with `apply`, keep and use it; not used unless it is on the disk."""
    with parts.calibration.making():
        made = calibration.from_gallery(parts.gallery, parts.model, now=datetime.now(UTC))
        if apply:
            calibration.keep(made, parts.settings.own_calibration)
            parts.calibration.calibration = made
        return made
