"""Request and answer of /calibration."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from service.schemas import Strict


class CalibrationQuery(Strict):
    """Parameters of POST /calibration."""

    apply: bool = Field(default=False, description="Keep the calibration and use it from now on; without, it is only shown.")


class CalibratedRate(BaseModel):
    """One false-accept rate of comparisons, and what happens at its threshold; shares are 0..1, intervals of 95 %."""

    far: float
    threshold: float
    threshold_interval: tuple[float, float] | None
    far_interval: tuple[float, float] | None
    tar: float = Field(description="Share of pairs of one person, under two cameras, that reach the threshold.")
    tar_interval: tuple[float, float] | None
    dir: float = Field(description="Share of searches by enrolled people whose first match is right and believed.")
    strangers: dict[str, float] = Field(description="Share of searches by strangers that are believed, by identities enrolled.")
    identity_pairs: int


class CalibratedCameras(BaseModel):
    """Two cameras, or twice one, at the default threshold."""

    cameras: tuple[str, str]
    genuine_pairs: int
    impostor_pairs: int
    far: float | None
    tar: float | None


class CalibrationAnswer(BaseModel):
    """A calibration, as calibration.json holds it."""

    schema_version: int
    model_id: str
    source: str
    created_at: datetime
    method: str
    default_far: float | None
    threshold: float
    margin: float
    rates: list[CalibratedRate]
    open_set: dict[str, dict[str, float]]
    roc: dict[str, list[float]]
    histogram: dict[str, Any]
    cameras: list[CalibratedCameras]
    warnings: list[str]
    identities: int
    crops: int
    genuine_pairs: int
    impostor_pairs: int


class CalibratedAnswer(CalibrationAnswer):
    """Answer of POST /calibration."""

    applied: bool
