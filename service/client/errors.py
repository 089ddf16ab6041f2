"""What a caller of the service can run into, as one family.

ReidError            every one below, and 500, 507 and answers that are none of the service's
  Unauthorised       401, 403   no key, a wrong one, or a read-only key on a write
  NotFound           404, 410   no such entry, identity or stored crop
  Conflict           409        the pid or the Idempotency-Key stands for something else
  Rejected           415, 422   a parameter or a crop that cannot be used
    TooLarge         413        more crops, bytes or pixels than the service takes
    AllFailed        422        every crop of an embed or enroll failed; `items` says why
  Overloaded         429, 503   no room, or not ready, now; `retry_after_s` where the service said when
  TimedOut           408, 504   not done in time, by the service's clock or the client's
  Unreachable        -          no answer
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import orjson

SHOWN = 200  # characters of an answer that is none of the service's


class ReidError(Exception):
    """What went wrong: `str()` of it says what was got, what was wanted and what to do.

    Args:
        code: the contract's word for it, such as "entry_not_found"; ours where no service answered.
        status: of the answer, None where there was none.
        request_id: finds the request in the service's log.
        retry_after_s: seconds after which the service wants to be asked again.
    """

    def __init__(
        self, message: str, *, code: str, status: int | None = None, request_id: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.status = message, code, status
        self.request_id, self.retry_after_s = request_id, retry_after_s


class Unauthorised(ReidError):
    """No key was sent, an unknown one, or one that may not write."""


class NotFound(ReidError):
    """There is no such entry, identity or stored crop."""


class Conflict(ReidError):
    """The pid or the Idempotency-Key stands for something else already."""


class Rejected(ReidError):
    """A parameter or a crop cannot be used."""


class TooLarge(Rejected):
    """A request brought more crops, bytes or pixels than the service takes."""


class AllFailed(Rejected):
    """Every crop failed; `items` holds an ItemError for each."""

    def __init__(self, items: Sequence[Any]) -> None:
        first = items[0]
        message = first.message if len(items) == 1 else f"all {len(items)} failed; the first: {first.message}"
        super().__init__(message, code=first.code, status=422)
        self.items = tuple(items)


class Overloaded(ReidError):
    """The service has no room, or is not ready, now."""


class TimedOut(ReidError):
    """It was not done in time."""


class Unreachable(ReidError):
    """There was no answer."""


BY_STATUS: Mapping[int, type[ReidError]] = {
    401: Unauthorised,
    403: Unauthorised,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    410: NotFound,
    413: TooLarge,
    415: Rejected,
    422: Rejected,
    429: Overloaded,
    503: Overloaded,
    504: TimedOut,
}


def error_of(response: httpx.Response) -> ReidError:
    """Make the error of an answer that is no success."""
    status = response.status_code
    said = json_object(response).get("error")
    if not isinstance(said, dict):
        return stranger(response)
    return BY_STATUS.get(status, ReidError)(
        str(said.get("message", "")),
        code=str(said.get("code", f"http_{status}")),
        status=status,
        request_id=str(said.get("request_id", "")),
        retry_after_s=retry_after_s(response),
    )


def stranger(response: httpx.Response) -> ReidError:
    """Make the error of an answer that the service did not write: a proxy's, or another program's."""
    status, place = response.status_code, f"{response.request.method} {response.request.url.path}"
    kind = response.headers.get("content-type", "no content type")
    message = (
        f"{place}: got {status} with {kind} ({response.text[:SHOWN]!r}), wanted an answer of the service; "
        "check the URL, what stands between, and that client and service are of one version"
    )
    error = BY_STATUS.get(status, ReidError)
    return error(message, code=f"http_{status}", status=status, retry_after_s=retry_after_s(response))


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Parse an answer's JSON object; empty when it is none."""
    try:
        content = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def retry_after_s(response: httpx.Response) -> float | None:
    """Read Retry-After in seconds; its other form, a date, is not used by the service and counts as none."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


@contextmanager
def transport_errors(url: str, timeout_s: float) -> Iterator[None]:
    """Turn httpx's errors into ours."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise unreachable(url, error) from error
    except httpx.TimeoutException as error:
        message = f"{url}: got no answer within {timeout_s:g} s; send fewer crops at a time, or wait longer (timeout_s)"
        raise TimedOut(message, code="timed_out") from error
    except httpx.RequestError as error:
        raise unreachable(url, error) from error
    except httpx.InvalidURL as error:
        raise Rejected(f"got parameters that no URL holds ({error}), wanted shorter ones", code="invalid_request") from error


def unreachable(url: str, error: Exception) -> Unreachable:
    """Word that nobody answered."""
    reason = str(error) or type(error).__name__
    return Unreachable(
        f"{url}: got no answer ({reason}), wanted a running service; start python -m service there, or give another URL",
        code="unreachable",
    )
