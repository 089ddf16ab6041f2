"""manifest.json: what an artefact says about itself, read strictly."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.errors import ArtefactRefused, InvalidRequest

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_SIDE = 4096  # pixels; beyond it no crop of a person
LARGEST_DIM = 65_536
COSINE_TOLERANCE = 1e-3  # what rounding may add to a cosine of 1


@dataclass(frozen=True)
class Thresholds:
    """What the model's calibration says: default cosine, margin between identities, cosines at false-accept rates."""

    default: float
    margin: float
    far: tuple[tuple[float, float], ...]  # (rate, cosine), by rising rate
    source: str

    def at_far(self, rate: float) -> float:
        """Give the cosine at a false-accept rate; between two calibrated rates, linear in the rate's logarithm.

        Raises:
            InvalidRequest: when the rate lies outside the calibrated ones.
        """
        rates = [known for known, _ in self.far]
        if not rates or not rates[0] <= rate <= rates[-1]:
            wanted = f"from {rates[0]:g} to {rates[-1]:g}" if rates else "none: the model has none calibrated"
            raise InvalidRequest(f"far: got {rate:g}, wanted a false-accept rate {wanted}; or give a threshold")
        for (low, low_cosine), (high, high_cosine) in zip(self.far, self.far[1:], strict=False):
            if low <= rate <= high:
                share = (math.log(rate) - math.log(low)) / (math.log(high) - math.log(low))
                return low_cosine + share * (high_cosine - low_cosine)
        return self.far[0][1]


@dataclass(frozen=True)
class ModelInfo:
    """What the service needs of a manifest; `manifest` is the whole of it, for GET /model."""

    model_id: str
    space_id: str
    dim: int
    height: int
    width: int
    input_name: str
    output_name: str
    thresholds: Thresholds | None
    manifest: Mapping[str, Any]

    @property
    def precision(self) -> str:
        """fp32, fp16 or int8."""
        return str(self.manifest.get("precision", "fp32"))


def read_manifest(folder: Path) -> ModelInfo:
    """Read and check `folder/manifest.json`.

    Raises:
        ArtefactRefused: when it is missing, is no JSON, has another schema version, or lacks or mistypes a field.
    """
    path = folder / MANIFEST_NAME
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ArtefactRefused(f"{path}: got {error.strerror}, wanted an artefact folder; export one, or set REID_MODEL") from None
    except orjson.JSONDecodeError as error:
        raise ArtefactRefused(f"{path}: got broken JSON ({error}), wanted a manifest; export the model again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtefactRefused(
            f"{path}: got schema_version {version!r}, wanted {SCHEMA_VERSION}; export the model with this version"
        )
    return parse_manifest(content, path)


def parse_manifest(content: dict[str, Any], path: Path) -> ModelInfo:
    """Check a manifest's fields one by one; `path` names it in refusals."""
    crops = field(content, "input", dict, path)
    expected = {"dtype": "uint8", "layout": "NHWC", "channels": "RGB"}
    got = {name: crops.get(name) for name in expected}
    if got != expected:
        raise ArtefactRefused(f"{path}: input: got {got}, wanted {expected}; export the model again")
    height, width = (positive(crops, side, path, most=LARGEST_SIDE) for side in ("height", "width"))
    preprocessing = field(content, "preprocessing", dict, path)
    for name, wanted in {"resize": "bilinear", "antialias": True, "height": height, "width": width}.items():
        one_of(preprocessing, name, (wanted,), path)
    one_of(content, "precision", PRECISIONS, path)
    one_of(content, "feature", ("f_i",), path)
    return ModelInfo(
        model_id=sha256(content, "model_id", path),
        space_id=sha256(content, "space_id", path),
        dim=positive(content, "embedding_dim", path, most=LARGEST_DIM),
        height=height,
        width=width,
        input_name=field(crops, "name", str, path),
        output_name=field(field(content, "output", dict, path), "name", str, path),
        thresholds=parse_thresholds(content.get("thresholds"), path),
        manifest=content,
    )


def field(content: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    """Take one field of the wanted type."""
    value = content.get(name)
    if not isinstance(value, kind):
        raise ArtefactRefused(f"{path}: {name}: got {value!r}, wanted {kind.__name__}; export the model again")
    return value


def positive(content: Mapping[str, Any], name: str, path: Path, *, most: int) -> int:
    """Take one positive whole number."""
    value = field(content, name, int, path)
    if isinstance(value, bool) or not 1 <= value <= most:
        raise ArtefactRefused(f"{path}: {name}: got {value!r}, wanted a number from 1 to {most}; export the model again")
    return int(value)


def one_of(content: Mapping[str, Any], name: str, wanted: Sequence[object], path: Path) -> None:
    """Check that a field has one of the values that are served; True is no 1."""
    value = content.get(name)
    if not any(type(value) is type(one) and value == one for one in wanted):
        choices = " or ".join(map(repr, wanted))
        raise ArtefactRefused(f"{path}: {name}: got {value!r}, wanted {choices}, all that is served; export the model again")


def sha256(content: Mapping[str, Any], name: str, path: Path) -> str:
    """Take one SHA-256 in hexadecimal."""
    value = field(content, name, str, path)
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ArtefactRefused(f"{path}: {name}: got {value!r}, wanted 64 hexadecimal digits; export the model again")
    return str(value)


def parse_thresholds(content: object, path: Path) -> Thresholds | None:
    """Check the calibration, None where the model has none."""
    if content is None:
        return None
    try:
        if not isinstance(content, dict):
            raise TypeError
        far = sorted((float(rate), float(cosine)) for rate, cosine in content["far"].items())
        values = [float(content["default"]), float(content["margin"]), *(number for pair in far for number in pair)]
        cosines = [values[0], *(cosine for _, cosine in far)]
        if not all(math.isfinite(value) for value in values) or not all(0 < rate <= 1 for rate, _ in far):
            raise ValueError
        if not 0 <= values[1] <= 2 or any(abs(cosine) > 1 + COSINE_TOLERANCE for cosine in cosines):
            raise ValueError
        return Thresholds(values[0], values[1], tuple(far), str(content.get("source", "")))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ArtefactRefused(
            f"{path}: thresholds: got {content!r}, wanted default (a cosine), margin (0 to 2) and far {{rate to 1: cosine}}; "
            "calibrate again"
        ) from None
