"""The calls that are handled directly answer as FastAPI does, to the last header and word."""

import re
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from pydantic import SecretStr

from service import direct
from service.parts import Parts
from service.routes.common import reads
from service.schemas import EmbedQuery

PNG = {"content-type": "image/png"}
FULL, READER = ({"authorization": f"Bearer {key}"} for key in ("full", "reader"))
QUERIES = (
    "",
    "?encoding_format=base64",
    "?encoding_format=hex",
    "?encoding_format=",
    "?encoding_format=float&encoding_format=float",
    "?nonsense=1",
    "?k=2&group_by=entry&camid=a&camid=b",
    "?k=0",
    "?k=many&pool=all",
    "?k=%31",
    "?k",
    "?threshold=0.5&far=0.1",
    "?threshold=nan",
    "?since=2026-01-02T03:04:05Z&attributes=%7B%22site%22%3A%22north%22%7D",
    "?attributes=%5B",
    "?rerank=true&k1=3",
    "?rerank=maybe",
    "?pid=somebody&camid=1",
    "?pid=a&pid=b",
)
CALLS = [("POST", path + query, FULL) for path in ("/embed", "/search", "/gallery", "/emb%65d") for query in QUERIES]
CALLS += [("POST", path, key) for path in ("/embed", "/search", "/gallery") for key in ({}, READER)]
CALLS += [(method, path, FULL) for path in ("/embed", "/search", "/gallery") for method in ("GET", "HEAD", "PUT", "OPTIONS")]
CALLS += [("POST", path, FULL) for path in ("/embed/", "//embed", "/search/x", "/gallery/import", "/console/embed")]


@pytest.fixture(name="ask")
def ask_fixture(serving, fake, pictures, tmp_path, monkeypatch):
    """Ask an application that handles calls directly, or one that leaves them all to FastAPI."""
    keys = {"api_keys": SecretStr("full"), "read_only_keys": SecretStr("reader")}
    quick = serving(embed=fake(), gallery=tmp_path / "direct", **keys)
    monkeypatch.setattr("service.app.DIRECT", ())
    plain = serving(embed=fake(), gallery=tmp_path / "plain", **keys)

    def ask(method, url, headers, *, body=None, kind=PNG):
        body = pictures(1) if body is None else body
        answers = [one.request(method, url, content=body, headers=headers | kind) for one in (quick, plain)]
        return [(answer.status_code, sorted(answer.headers.items()), settled(answer.text)) for answer in answers]

    return ask


def settled(text):
    """An answer without what differs from time to time: ids and milliseconds."""
    return re.sub(r'("(request_id|enrolled_at)": ?"[^"]*"|"took_ms": ?\{[^}]*\})', "", text)


def of_the_request(headers):
    """Headers without the request's id and the length, which the milliseconds change."""
    return [(name, value) for name, value in headers if name not in ("x-request-id", "content-length")]


@pytest.mark.parametrize(("method", "url", "key"), CALLS, ids=lambda value: str(value)[:60])
def test_the_answer_is_fastapis(ask, method, url, key):
    quick, plain = ask(method, url, key)
    assert quick[0] == plain[0] and quick[2] == plain[2]
    assert of_the_request(quick[1]) == of_the_request(plain[1])


@pytest.mark.parametrize("body", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b'{"crops": 1}', b"{"])
@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data", "text/plain"])
def test_bad_bodies_get_fastapis_answer(ask, body, kind):
    for path in ("/embed", "/search", "/gallery?pid=a"):
        quick, plain = ask("POST", path, FULL, body=body, kind={"content-type": kind})
        assert quick[0] == plain[0] >= 400 and quick[2] == plain[2]


def test_what_nobody_expects_is_answered_500(serving, without, pictures, monkeypatch):
    client = serving(embed=without())
    monkeypatch.setattr(type(client.app.state.parts.pipeline), "check_room", lambda self: 1 / 0)
    answer = client.post("/embed", content=pictures(1), headers=PNG)
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"


def test_errors_of_the_framework_are_answered_as_it_does(serving, without, pictures, monkeypatch):
    def refuse(self):
        raise HTTPException(405)

    client = serving(embed=without())
    monkeypatch.setattr(type(client.app.state.parts.pipeline), "check_room", refuse)
    answer = client.post("/embed", content=pictures(1), headers=PNG)
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"


def test_a_handler_that_wants_more_is_no_direct_call():
    parts, query = Annotated[Parts, reads(EmbedQuery)], Annotated[EmbedQuery, Query()]

    async def handler(request: Request, query: query, parts: parts) -> Response: ...

    async def wants_more(request: Request, query: query, parts: parts, accept: Annotated[str, Header()]) -> Response: ...

    for function, more in ((wants_more, []), (handler, [Depends(lambda: None)])):
        router = APIRouter(dependencies=more)
        router.post("/embed", response_class=Response)(function)
        with pytest.raises(AssertionError, match="/embed wants more"):
            direct.Direct(None, [router])


def test_the_calls_with_crops_are_handled_directly_and_no_others(serving, monkeypatch):
    seen, answer = [], direct.answer

    async def note(call, request):
        seen.append(call.route.name)
        return await answer(call, request)

    monkeypatch.setattr(direct, "answer", note)
    client = serving()
    for call in ("POST /embed", "POST /search", "POST /gallery", "GET /search", "GET /gallery", "POST /gallery/snapshot"):
        client.request(*call.split())
    assert seen == ["embed_crops", "search_crops", "enroll"]
