"""How values are written for the wire: parameters, paths, times, embeddings, crops."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray


def query(given: Mapping[str, Any]) -> dict[str, Any]:
    """Write parameters as a URL has them; None is left out."""
    return {name.rstrip("_"): written(value) for name, value in given.items() if value is not None}


def written(value: Any) -> Any:
    """Write one value: times as RFC 3339, objects as JSON."""
    if isinstance(value, datetime):
        return moment(value)
    return orjson.dumps(value).decode() if isinstance(value, Mapping) else value


def moment(value: datetime) -> str:
    """Write a time; raises ValueError for one without an offset, which could mean any hour."""
    if value.utcoffset() is None:
        raise ValueError(f"got the time {value} without an offset, wanted one: datetime(..., tzinfo=UTC)")
    return value.isoformat()


def json_body(content: object) -> dict[str, Any]:
    """Say that a JSON body is sent."""
    return {"content": orjson.dumps(content), "headers": {"Content-Type": "application/json"}}


def crop_files(contents: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Put crops into a form; the service looks at bytes, not at names."""
    return [("crops", (str(number), content, "application/octet-stream")) for number, content in enumerate(contents)]


def base64_of(row: NDArray[np.floating]) -> str:
    """Write an embedding as base64url: float16 as it is, anything else as float32."""
    width = "<f2" if row.dtype == np.float16 else "<f4"
    return base64.urlsafe_b64encode(np.ascontiguousarray(row, dtype=width).tobytes()).decode().rstrip("=")


def identity_path(pid: str) -> str:
    """Write a pid into a path; its dots too, or ".." would climb out of it."""
    return f"/gallery/identities/{quote(pid, safe='').replace('.', '%2E')}"
