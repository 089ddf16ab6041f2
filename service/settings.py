"""Settings: every knob of the service, read from the environment (prefix REID_) or a .env file."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from gallery.index import IndexChoice
from service.errors import SettingRefused

PREFIX = "REID_"
CLIENTS_URL = "REID_URL"  # which python -m service.client reads
ENV_FILE = Path(".env")
MEGABYTE = 1_000_000
BUNDLED_MODEL = Path(__file__).parent / "model"


class Settings(BaseSettings):
    """Every knob; built once by `python -m service` or by a test, and passed down as an argument."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on; beyond loopback only with keys.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    model: Path = Field(default=BUNDLED_MODEL, description="Artefact folder holding model.onnx and manifest.json.")
    gallery: Path = Field(default=Path("var/gallery"), description="Gallery folder; made when it is not there.")
    snapshots: Path = Field(
        default=Path("var/snapshots"),
        validate_default=True,
        description="Folder of the snapshots that POST /gallery/snapshots makes; never in the gallery's.",
    )
    calibration: Path | None = Field(
        default=None,
        description="File that goes before the artefact's calibration and that POST /calibration writes; none: "
        "the gallery's path with .calibration.json behind it.",
    )
    index: IndexChoice = Field(
        default="auto",
        description="How the gallery is searched: exact, quantised (a first pass over one-bit codes), gpu, or auto, by size.",
    )
    api_keys: SecretStr = Field(default=SecretStr(""), description="Comma-separated keys that may read and write.")
    read_only_keys: SecretStr = Field(default=SecretStr(""), description="Comma-separated keys that may only read.")
    api_keys_file: Path | None = Field(default=None, description="File of more such keys, one a line; # begins a remark.")
    read_only_keys_file: Path | None = Field(default=None, description="File of more keys that may only read.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain in PEM form; with REID_TLS_KEY, HTTPS is served.")
    tls_key: Path | None = Field(default=None, validate_default=True, description="Private key of REID_TLS_CERT in PEM form.")
    allow_anonymous: bool = Field(
        default=False, description="Without keys too, listen beyond loopback and be called by any name (Host)."
    )
    max_body_mb: float = Field(default=32.0, gt=0, description="Largest request body, in megabytes of 1,000,000 bytes.")
    max_bodies_mb: float = Field(
        default=256.0,
        gt=0,
        validate_default=True,
        description="Most megabytes of bodies held at once, a quarter for those under 1 MB; beyond it, 503.",
    )
    receive_s: float = Field(
        default=30.0,
        gt=0,
        description="Longest time for a TLS handshake, a head, and any rest of a body slower than 50,000 bytes a second.",
    )
    max_crops: int = Field(default=256, ge=1, description="Most crops in one request.")
    max_pixels: int = Field(default=16_000_000, ge=1, description="Most pixels in one crop, checked before decoding.")
    batch_max: int = Field(
        default=0,
        ge=0,
        description="Most crops in one forward pass; 0 takes what suits the device: 8 a core, "
        "64 on a GPU. Fewer than 2 a core are slower.",
    )
    batch_wait_ms: float = Field(
        default=0.0, ge=0, le=1000, description="Wait for a fuller batch; 0 forms a batch whenever the runtime is free."
    )
    queue_max: int = Field(default=512, ge=1, description="Most crops waiting for the runtime; beyond it, 503 at once.")
    deadline_s: float = Field(
        default=30.0,
        gt=0,
        description="Longest time from a read body to its answer, in seconds, less what was waited before.",
    )
    min_free_mb: float = Field(
        default=100.0, ge=0, description="Least megabytes free on the gallery's disk; below it, enrolling answers 507."
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        default="auto",
        description="Execution provider; auto takes CUDA or else the CPU; openvino is for CPUs with AMX.",
    )
    threads: int = Field(default=0, ge=0, description="Threads of the runtime; 0 takes the cores granted to the process.")
    keep_crops: bool = Field(default=True, description="Keep a small JPEG of every enrolled crop, for people to look at.")
    traces: bool = Field(default=False, description="Send OpenTelemetry traces, as OTEL_* variables say; wants the extra [otel].")
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the log lines on standard error: text or json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged: debug, info, warning or error."
    )

    @field_validator("gallery", mode="before")
    @classmethod
    def check_gallery(cls, gallery: object) -> object:
        """Refuse a URL, which would name a folder of that strange name."""
        if "://" in str(gallery):
            raise ValueError("is a URL, wanted a folder: this version knows no other engine")
        return gallery

    @field_validator("snapshots")
    @classmethod
    def check_snapshots(cls, snapshots: Path, info: ValidationInfo) -> Path:
        """Refuse a folder in the gallery's own, where an erasure would not reach what it holds."""
        gallery = info.data.get("gallery")
        if gallery is not None and snapshots.resolve().is_relative_to(gallery.resolve()):
            raise ValueError(f"is in the gallery's folder {gallery}, wanted another place")
        return snapshots

    @field_validator("calibration")
    @classmethod
    def check_calibration(cls, calibration: Path | None, info: ValidationInfo) -> Path | None:
        """Refuse a file in the gallery's folder, which holds what a gallery holds and nothing else."""
        gallery = info.data.get("gallery")
        if calibration is not None and gallery is not None and calibration.resolve().is_relative_to(gallery.resolve()):
            raise ValueError(f"is in the gallery's folder {gallery}, wanted another place")
        return calibration

    @field_validator("max_bodies_mb")
    @classmethod
    def check_bodies(cls, max_bodies_mb: float, info: ValidationInfo) -> float:
        """Refuse a limit that a single allowed body would exceed."""
        one = info.data.get("max_body_mb", 0.0)
        if max_bodies_mb < one:
            raise ValueError(f"is less than REID_MAX_BODY_MB={one:g}, wanted at least that")
        return max_bodies_mb

    @field_validator("tls_key")
    @classmethod
    def check_tls(cls, tls_key: Path | None, info: ValidationInfo) -> Path | None:
        """Refuse half of what TLS needs: the other half would be ignored, and everything sent in clear."""
        if "tls_cert" in info.data and (tls_key is None) != (info.data["tls_cert"] is None):
            raise ValueError("wanted REID_TLS_CERT and REID_TLS_KEY, both or neither")
        return tls_key

    @property
    def own_calibration(self) -> Path:
        """Where this service's own calibration stands, if anywhere."""
        return self.calibration or self.gallery.with_name(self.gallery.name + ".calibration.json")

    @property
    def max_body_bytes(self) -> int:
        """The body limit in bytes."""
        return int(self.max_body_mb * MEGABYTE)

    @property
    def max_bodies_bytes(self) -> int:
        """The limit of all bodies together in bytes."""
        return int(self.max_bodies_mb * MEGABYTE)

    @property
    def min_free_bytes(self) -> int:
        """The least room on the gallery's disk in bytes."""
        return int(self.min_free_mb * MEGABYTE)


def read_settings() -> Settings:
    """Build the settings from the environment and .env.

    Raises:
        SettingRefused: with the first setting that is wrong: what was got and what was wanted; or a .env that is no text.
    """
    try:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingRefused(
            f"{ENV_FILE}: got {error}, wanted a readable file of settings in UTF-8; mend it or remove it"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise SettingRefused(f"{name}: {first['msg']}, got {first['input']!r}; set it or unset it") from None


def given_names(env_file: Path = ENV_FILE) -> set[str]:
    """Name every variable that a setting could come from: those of the environment and those of the file."""
    in_file = DotEnvSettingsSource(Settings, env_file=env_file).env_vars  # names in lower case
    return {*os.environ, *map(str.upper, in_file)}


def unknown_settings(names: Iterable[str]) -> list[str]:
    """Complain about variables that carry our prefix and mean nothing, one sentence each."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    complaints = []
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in (*known, CLIENTS_URL):
            close = difflib.get_close_matches(name.upper(), known, n=1)
            advice = f"did you mean {close[0]}?" if close else "python -m service --help lists the settings"
            complaints.append(f"{name} is no setting and is ignored; {advice}")
    return complaints


def describe_settings() -> str:
    """List every setting with its default, for --help."""
    lines = []
    for field, details in Settings.model_fields.items():
        lines.append(f"  {PREFIX + field.upper():22} {details.description} [{shown_default(details.default)}]")
    return "\n".join(lines)


def shown_default(value: object) -> str:
    """Show a default the way one would type it."""
    if value is None or isinstance(value, SecretStr):
        return "none"
    if isinstance(value, Path) and value == BUNDLED_MODEL:
        return "the bundled model"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return os.fspath(value) if isinstance(value, Path) else str(value)
