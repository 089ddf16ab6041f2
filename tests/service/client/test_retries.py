"""What is tried again, how long after, and what never is."""

import httpx
import pytest

from service.client import Client, Overloaded, ReidError, Rejected, TimedOut, Unauthorised, Unreachable

URL = "http://127.0.0.1:8000"
STATS = {
    "entries": 3,
    "identities": 2,
    "cameras": 1,
    "bytes": 9,
    "dim": 16,
    "schema_version": 2,
    "index_type": "exact",
    "space_id": "5" * 64,
}
EMBEDDED = {"model_id": "m", "dim": 1, "results": [{"index": 0, "embedding": "AACAPw=="}]}
ENROLLED = {"model_id": "m", "results": [{"index": 0, "entry_id": 1, "pid": "anna", "duplicate": False}]}
FOUND = {
    "model_id": "m",
    "decision": "unknown",
    "threshold": None,
    "matches": [],
    "newer": "field",
    "searched": {"entries": 0, "identities": 0},
    "took_ms": {"embed": None, "search": 1.0, "rerank": None},
}


def refusal(status, *, retry_after=None, code="overloaded"):
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = {"code": code, "message": "no room", "request_id": "r1"}
    return httpx.Response(status, json={"error": error}, headers=headers)


class Script:
    """Answers requests one after the other as written, on a clock that only sleeping moves."""

    def __init__(self, *answers):
        self.answers, self.requests, self.waits, self.now = list(answers), [], [], 0.0

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def client(self, **options):
        transport = httpx.MockTransport(self)
        return Client(URL, transport=transport, sleep=self.sleep, clock=lambda: self.now, **options)


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_tried_again_when_the_service_says(status):
    script = Script(refusal(status, retry_after="3"), STATS)
    assert script.client().stats().entries == 3
    assert len(script.waits) == 1 and 3 <= script.waits[0] <= 3.75


@pytest.mark.parametrize("retry_after", [None, "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_without_seconds_the_waits_double_to_a_bound(retry_after):
    script = Script(*[refusal(503, retry_after=retry_after)] * 8, STATS)
    script.client(retry_s=1000).stats()
    for wait, least in zip(script.waits, (0.25, 0.5, 1, 2, 4, 8, 8, 8), strict=True):
        assert least <= wait <= 1.25 * least


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("cut")])
def test_a_broken_connection_is_tried_again(error):
    script = Script(error, STATS)
    assert script.client().stats().entries == 3


def test_no_try_begins_after_the_total_time():
    script = Script(*[httpx.ConnectError("refused")] * 100)
    with pytest.raises(Unreachable, match="refused"):
        script.client(retry_s=5).stats()
    assert 3 < sum(script.waits) <= 5


def test_a_wait_longer_than_is_left_ends_at_once():
    script = Script(refusal(503, retry_after="60"))
    with pytest.raises(Overloaded) as caught:
        script.client(retry_s=30).stats()
    assert script.waits == [] and caught.value.retry_after_s == 60


def test_embedding_searching_and_enrolling_are_tried_again():
    script = Script(refusal(503), EMBEDDED, refusal(503), FOUND, httpx.ReadError("reset"), ENROLLED)
    client = script.client()
    assert client.embed(b"1").embeddings.tolist() == [[1.0]]
    assert client.search(b"1").decision == "unknown"
    assert client.enroll(b"1", pid="anna").results[0].entry_id == 1
    keys = [request.headers.get("idempotency-key") for request in script.requests]
    assert keys[:4] == [None] * 4 and keys[4] == keys[5] is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda client: client.rename("a", "b"),
        lambda client: client.delete_identity("a"),
        lambda client: client.delete_entry(1),
    ],
)
@pytest.mark.parametrize("failure", [refusal(503), httpx.ReadError("reset")], ids=["refused", "broken"])
def test_a_change_without_a_key_is_never_sent_twice(change, failure):
    script = Script(failure)
    with pytest.raises((Overloaded, Unreachable)):
        change(script.client())
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(401, code="missing_key"), Unauthorised),
        (refusal(415, code="unsupported_media"), Rejected),
        (refusal(504, code="deadline_exceeded"), TimedOut),
        (refusal(408, code="receive_timeout"), TimedOut),
        (httpx.ReadTimeout("slow"), TimedOut),
        (refusal(500, code="inference_failed"), ReidError),
    ],
)
def test_what_would_fail_again_is_told_at_once(answer, error):
    script = Script(answer)
    with pytest.raises(error):
        script.client().stats()
    assert len(script.requests) == 1


def test_a_connection_that_takes_too_long_is_unreachable():
    script = Script(httpx.ConnectTimeout(""))
    with pytest.raises(Unreachable, match="got no answer \\(ConnectTimeout\\), wanted a running service"):
        script.client(retry_s=0).stats()


def test_an_error_carries_what_the_service_said():
    with pytest.raises(Overloaded, match="^no room$") as caught:
        Script(refusal(503)).client(retry_s=0).stats()
    error = caught.value
    assert (error.code, error.status, error.request_id, error.retry_after_s) == ("overloaded", 503, "r1", None)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>another program</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"entries": 1}),
        httpx.Response(302, headers={"location": "/login"}),
        httpx.Response(502, text="Bad Gateway"),
        httpx.Response(404, json=["not found"]),
    ],
)
def test_another_programs_answer_is_told_apart(answer):
    with pytest.raises(ReidError, match="GET /gallery/stats: got .*, wanted an answer of the service; check the URL") as caught:
        Script(answer).client().stats()
    assert caught.value.code == f"http_{answer.status_code}"


def test_a_crop_that_is_no_picture_is_another_programs_answer():
    with pytest.raises(ReidError, match="check the URL"):
        Script(httpx.Response(200, text="hello")).client().crop(1)


def test_an_answer_for_another_number_of_crops_is_refused():
    with pytest.raises(ReidError, match="check the URL"):
        Script(EMBEDDED).client().embed([b"1", b"2"])


def test_embeddings_of_two_models_are_not_mixed():
    script = Script(EMBEDDED, {**EMBEDDED, "model_id": "other"})
    with pytest.raises(ReidError, match="the models m, other, wanted one model's") as caught:
        script.client(crops_per_request=1).embed([b"1", b"2"])
    assert caught.value.code == "model_changed"


def test_the_key_is_sent_and_never_shown():
    script = Script(STATS)
    client = script.client(key="secret")
    client.stats()
    assert script.requests[0].headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(vars(client))


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "/gallery", "", "http://host:port", "http://[::1"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="url: got .*, wanted one like http://"):
        Client(url)


@pytest.mark.parametrize("key", ["", "12 34", "1234\n", "1234\u00e9"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="wanted one of REID_API_KEYS") as caught:
        Client(URL, key)
    assert "12" not in str(caught.value)


def test_an_idempotency_key_that_no_header_can_carry_is_refused():
    with pytest.raises(ValueError, match="idempotency_key: got"):
        Script().client().enroll(b"1", pid="anna", idempotency_key="a\nb")


def test_parameters_that_no_url_holds_are_refused():
    with pytest.raises(Rejected, match="got parameters that no URL holds"):
        Script().client().search(entry_id=1, attributes={"note": "x" * 100_000})


def test_a_path_before_the_services_own_is_kept():
    script = Script(STATS)
    with Client("https://example.org/reid/", transport=httpx.MockTransport(script)) as client:
        client.stats()
    assert str(script.requests[0].url) == "https://example.org/reid/gallery/stats"
