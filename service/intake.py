"""Request bodies -> crops and fields: the four forms of the HTTP contract, limits checked while receiving."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.crops import read_npy
from service.errors import BodyTooLarge, ClientGone, InvalidRequest, TooManyCrops, UndecodableImage, UnsupportedMedia

PICTURES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
FORMS = f"multipart/form-data, application/json, application/x-npy or {', '.join(PICTURES)}"
FIELDS_PER_CROP = 4  # pid, camid, captured_at, attributes
MAX_FIELD_BYTES = 65_536

# One crop as received: a picture file's bytes, uint8 [H, W, 3] pixels, or why it can be neither.
RawCrop = bytes | npt.NDArray[np.uint8] | UndecodableImage


@dataclass(frozen=True)
class Limits:
    """What one request may bring."""

    body_bytes: int
    crops: int


@dataclass(frozen=True)
class Intake:
    """A body's crops, and its other fields: lists of text from a form, any JSON from JSON, none from the rest."""

    crops: list[RawCrop]
    fields: Mapping[str, Any]


async def read_intake(request: Request, limits: Limits, threads: Executor) -> Intake:
    """Receive a body in whichever form its content type names; JSON is parsed in one of the threads, as it may be long.

    Raises:
        UnsupportedMedia, BodyTooLarge, TooManyCrops, InvalidRequest: before anything is decoded.
        ClientGone: when the caller hangs up meanwhile.
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == "multipart/form-data":
        return await read_form(request, limits)
    if media == "application/json":
        body = await read_body(request, limits)
        return await asyncio.get_running_loop().run_in_executor(threads, read_json, body, limits)
    if media == "application/x-npy":
        return Intake(list(read_npy(await read_body(request, limits), max_crops=limits.crops)), {})
    if media in PICTURES:
        body = await read_body(request, limits)
        if not body:
            raise InvalidRequest(f"got an empty body, wanted a crop: send {FORMS}")
        return Intake([body], {})
    raise UnsupportedMedia(f"got content type {media or 'none'!r}, wanted {FORMS}")


async def stream_body(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body piece by piece, stopping at the limit whether or not its length was declared."""
    refusal = f"wanted a body of at most {limits.body_bytes} bytes; send fewer or smaller crops"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise BodyTooLarge(f"got {declared} bytes announced, {refusal}")
    received = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the caller hung up before the body was whole")
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        received += len(piece)
        if received > limits.body_bytes:
            raise BodyTooLarge(f"got more than {limits.body_bytes} bytes, {refusal}")
        yield piece


async def read_body(request: Request, limits: Limits) -> bytes:
    """Receive a whole body."""
    return b"".join([piece async for piece in stream_body(request, limits)])


async def read_form(request: Request, limits: Limits) -> Intake:
    """Receive multipart/form-data: files in the field `crops`, text in UTF-8 in any other."""
    kind = request.headers["content-type"]
    charset = parse_options_header(kind)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise InvalidRequest(f"got a form with charset={charset}, wanted UTF-8: leave it out")
    pieces = stream_body(request, limits)
    parser = MultiPartParser(
        Headers({"content-type": f"{kind}; charset=latin-1"}),  # which keeps bytes as they came: it guesses at what is no UTF-8
        pieces,
        max_files=limits.crops,
        max_fields=FIELDS_PER_CROP * limits.crops,
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(f"more than {limits.crops}", limits) from None
        raise InvalidRequest(f"got a broken form ({error.message}), wanted multipart/form-data") from None
    finally:
        await pieces.aclose()
    crops: list[RawCrop] = []
    fields: dict[str, list[str]] = {}
    try:
        for name, value in form.multi_items():
            name = text_of(name, "a field's name")
            if isinstance(value, UploadFile) and name != "crops":
                raise InvalidRequest(f"got a file in the field {name!r}, wanted files in the field 'crops' only")
            if isinstance(value, UploadFile):
                crops.append(await value.read())
            elif name == "crops":
                raise InvalidRequest("got text in the field 'crops', wanted files; with curl: -F crops=@picture.jpg")
            else:
                fields.setdefault(name, []).append(text_of(value, name))
    finally:
        await form.close()
    return Intake(crops, fields)


def text_of(latin: str, where: str) -> str:
    """Decode UTF-8 that was read as Latin-1; `where` begins the refusal."""
    try:
        return latin.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{where}: got bytes that are no UTF-8 ({error.reason}), wanted text in UTF-8") from None


def read_json(body: bytes, limits: Limits) -> Intake:
    """Parse `{"crops": ["<base64>", ...]}` and whatever fields stand beside it."""
    content = parse_object(body)
    raw = content.pop("crops", [])
    if not isinstance(raw, list):
        raise InvalidRequest(f"crops: got {type(raw).__name__}, wanted a list of base64 texts")
    if len(raw) > limits.crops:
        raise too_many(str(len(raw)), limits)
    return Intake([from_base64(text) for text in raw], content)


def parse_object(body: bytes, where: str = "") -> dict[str, Any]:
    """Parse a JSON object, refusing anything else, NaN and Infinity included; `where` begins its refusals."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{where}got what is no JSON ({error}), wanted a JSON object") from None
    if not isinstance(content, dict):
        raise InvalidRequest(f"{where}got a JSON {type(content).__name__}, wanted a JSON object")
    return content


def from_base64(text: object) -> RawCrop:
    """Undo base64; what is none becomes that crop's error and no other's."""
    refusal = UndecodableImage("got a crop that is no base64 text, wanted the picture's bytes in base64")
    if not isinstance(text, str):
        return refusal
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return refusal


def too_many(got: str, limits: Limits) -> TooManyCrops:
    """Word the refusal of a request with too many crops."""
    return TooManyCrops(f"got {got} crops, wanted at most {limits.crops}; send them in several requests")


def require_crops(intake: Intake) -> None:
    """Refuse a request that brought none."""
    if not intake.crops:
        raise InvalidRequest(f"got no crops, wanted at least one: send {FORMS}")
