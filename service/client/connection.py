"""What both clients share: where the service is, who asks, and the job that an enrolment makes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client.answers import Enrolled
from service.client.calls import Call
from service.client.crops import Crops, content_of, listed
from service.client.jobs import Job, embed_job, enroll_crops_job, enroll_entries_job, labels_of

CONNECT_S = 10.0  # the longest that a connection may take, whatever an answer may
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Connection:
    """Where the service is and how long to wait for it; the key is never shown.

    Raises:
        ValueError: a URL that is none, or a key that no header can carry.
    """

    url: str
    key: str | None = field(repr=False)
    timeout_s: float

    def __post_init__(self) -> None:
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url: got {self.url!r} ({error}), wanted one like {DEFAULT_URL}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(f"url: got {self.url!r}, wanted one like {DEFAULT_URL}")
        if self.key is not None:
            check_header("key", self.key, "one of REID_API_KEYS")

    def options(self) -> dict[str, Any]:
        """Give httpx's clients what both take."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        timeout = httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, CONNECT_S))
        # Certificates take 0.1 s to read, and http has no use of them: redirects, to https or elsewhere, are not followed.
        verify = httpx.URL(self.url).scheme == "https"
        return {"base_url": self.url, "headers": headers, "timeout": timeout, "verify": verify, "follow_redirects": False}


def check_header(name: str, text: str, wanted: str) -> None:
    """Refuse what no header can carry, without showing it."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{name}: got an empty one or one with blanks or other than ASCII, wanted {wanted}")


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    """Build a call's request."""
    return http.build_request(
        call.method,
        call.path,
        params=dict(call.params),
        headers=dict(call.headers),
        content=call.content,
        files=None if call.files is None else list(call.files),
        data=None if call.form is None else dict(call.form),
    )


def search_contents(crops: Crops | None) -> list[bytes] | None:
    """Read a search's crops; raises OSError for a file that cannot be read, ValueError for none."""
    return None if crops is None else [content_of(crop) for crop in some(listed(crops))]


def some(items: Sequence[Any]) -> list[Any]:
    """Refuse an empty list."""
    if not len(items):
        raise ValueError("got no crops, wanted at least one")
    return list(items)


def job_of_embed(crops: Crops, per_request: int) -> Job[NDArray[np.float32]]:
    """Make the job of an embed."""
    return embed_job(some(listed(crops)), per_request)


def job_of_enroll(
    crops: Crops | None,
    embeddings: NDArray[np.floating] | None,
    labels: Mapping[str, Any],
    *,
    key: str | None,
    per_request: int,
) -> Job[Enrolled]:
    """Make the job of an enrolment; raises ValueError for what contradicts itself."""
    if (crops is None) == (embeddings is None):
        raise ValueError("got both or neither of crops and embeddings, wanted one of them")
    key = uuid.uuid4().hex if key is None else key
    check_header("idempotency_key", key, "a name of this enrolment in printable ASCII")
    if crops is not None:
        if labels.get("client_key") is not None:
            raise ValueError("got client_keys with crops, wanted them with embeddings: crops are known by their bytes")
        found = some(listed(crops))
        return enroll_crops_job(found, labels_of(len(found), {**labels, "client_key": None}), key=key, per_request=per_request)
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or not len(rows) or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"got {rows.dtype} embeddings {rows.shape}, wanted floats [N, D] with N of at least 1")
    return enroll_entries_job(rows, labels_of(len(rows), labels), key=key)
