"""manifest.json: everything a service must know about model.onnx, and the hashes that tie galleries to it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporter.export import OPSET
from exporter.graph import INPUT, OUTPUT
from exporter.parity import Parity
from training import transforms
from training.checkpoint import Facts, write_whole
from training.config import to_json

SCHEMA_VERSION = 1
FEATURE = "f_i"
DEFAULT_FALSE_ACCEPT_RATE = "0.001"


@dataclass(frozen=True)
class Manifest:
    """The description of one artefact; field by field what manifest.json holds.

    model_id is the SHA-256 of model.onnx; space_id that of checkpoint, feature and preprocessing, so that artefacts of one
    checkpoint in several precisions share an embedding space and a gallery. `metrics` and `thresholds` are null when nothing
    was evaluated; `calibration` but for int8; `quantization` and `cosine` for fp32; `cost` for fp32 and when nobody measured it.
    Of a file that undo_int8 made, `quantization` has its origin and what was not measured, `cosine` and `cost` stand beside int8.
    """

    schema_version: int
    model_id: str
    space_id: str
    architecture: str
    feature: str
    embedding_dim: int
    input: dict[str, Any]
    output: dict[str, Any]
    preprocessing: dict[str, Any]
    precision: str
    opset: int
    model_bytes: int
    training: dict[str, Any]
    training_config: dict[str, Any]
    metrics: dict[str, Any] | None
    thresholds: dict[str, Any] | None
    parity: dict[str, Any]
    calibration: dict[str, Any] | None
    quantization: dict[str, Any] | None
    cosine: dict[str, Any] | None
    cost: dict[str, Any] | None
    licence_note: str
    created_at: str


@dataclass(frozen=True)
class Findings:
    """What an export measured, as the manifest has it, field by field."""

    metrics: dict[str, Any] | None = None
    thresholds: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    cosine: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def preprocessing_of(facts: Facts) -> dict[str, Any]:
    """Returns what happens to a decoded image before the network; resizing is the service's part, the rest is in the graph."""
    size = {"height": facts.config.height, "width": facts.config.width}
    return {"resize": "bilinear", "antialias": True, **size, "mean": transforms.MEAN, "std": transforms.STD}


def space_id_of(weights: Path, facts: Facts) -> str:
    """Returns the id of the embedding space: SHA-256 over the checkpoint's bytes, the feature and the preprocessing."""
    parts = {"checkpoint": sha256_of(weights), "feature": FEATURE, "preprocessing": preprocessing_of(facts)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def thresholds_of(metrics: dict[str, Any] | None, source: str) -> dict[str, Any] | None:
    """Returns the thresholds that an evaluation measured, or null without one."""
    if metrics is None:
        return None
    far = metrics["far"]  # a small test set cannot measure the smallest rates: then what no impostor reached
    default = far[DEFAULT_FALSE_ACCEPT_RATE] if DEFAULT_FALSE_ACCEPT_RATE in far else metrics["unreached"]
    if default is None:
        return None
    return {
        "default": default,
        "margin": metrics["margin"],
        "far": far,
        "source": source,
    }


def describe(
    model: Path,
    weights: Path,
    facts: Facts,
    *,
    precision: str,
    embedding_dim: int,
    parity: Parity,
    findings: Findings,
    licence_note: str,
    created_at: str,
) -> Manifest:
    """Builds the manifest of `model`, exported from the checkpoint `weights`."""
    size = {"height": facts.config.height, "width": facts.config.width}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model_id=sha256_of(model),
        space_id=space_id_of(weights, facts),
        architecture=f"{facts.config.backbone}-bnneck",
        feature=FEATURE,
        embedding_dim=embedding_dim,
        input={"name": INPUT, **size, "dtype": "uint8", "layout": "NHWC", "channels": "RGB"},
        output={"name": OUTPUT},
        preprocessing=preprocessing_of(facts),
        precision=precision,
        opset=OPSET,
        model_bytes=model.stat().st_size,
        training={"trained_on": facts.trained_on, "started_from": facts.started_from, "epochs": facts.epoch},
        training_config=to_json(facts.config),
        parity=asdict(parity),
        licence_note=licence_note,
        created_at=created_at,
        **vars(findings),
    )


def write(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json into an artefact folder, whole."""
    write_whole({folder / "manifest.json": lambda path: path.write_text(json.dumps(asdict(manifest), indent=2) + "\n")})
