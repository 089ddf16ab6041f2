"""What names, times and attributes must look like: checks of values, and the schemas that tell of them."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

MAX_DEPTH = 16  # of attributes: lists and objects within each other
MAX_ATTRIBUTES = 65_536  # bytes as JSON
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def no_control_characters(text: str) -> str:
    """Refuse what no label needs and what terminals and logs stumble over."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("should hold no control characters")
    return text


def no_replacement_characters(text: str) -> str:
    """Refuse what undecodable bytes were turned into: it would make one name of different ones."""
    if "\ufffd" in text:
        raise ValueError("should be valid UTF-8 without U+FFFD, which stands for bytes that could not be decoded")
    return text


def rfc_3339(value: object) -> object:
    """Refuse the dates pydantic would also read: numbers, dates without a time, times without an offset."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and RFC_3339.fullmatch(value)):
        raise ValueError("should be RFC 3339 with an offset, like 2026-01-31T12:00:00Z (in a URL, + is written %2B)")
    return value


def in_utc(moment: datetime) -> datetime:
    """Refuse a time that its offset carries out of the years 1 to 9999."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("should be in the years 1 to 9999 in UTC") from None
    return moment


def modest(attributes: dict[str, Any]) -> dict[str, Any]:
    """Refuse attributes that are too deep for JSON libraries, or no longer a remark beside a picture."""
    level: list[Any] = [attributes]
    for _ in range(MAX_DEPTH):
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        level = [child for child in level if isinstance(child, dict | list)]
    if level:
        raise ValueError(f"should be nested at most {MAX_DEPTH} deep")
    size = len(orjson.dumps(attributes))
    if size > MAX_ATTRIBUTES:
        raise ValueError(f"should be at most {MAX_ATTRIBUTES} bytes of JSON, not {size}")
    return attributes


# For the document: what the checks of client keys and of Name refuse, and how labels are written where only text has room.
PLAIN = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"}
PRINTABLE = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f\ufffd]+$"}
NAME_TEXT = {"type": "string", "minLength": 1, "maxLength": 128, **PRINTABLE}
LABEL_TEXTS: dict[str, dict[str, Any]] = {
    "pid": NAME_TEXT,
    "camid": NAME_TEXT,
    "captured_at": {"type": "string", "format": "date-time"},
    "attributes": {"type": "string", "contentMediaType": "application/json", "description": 'Like `{"site":"north"}`.'},
}
VECTOR_TEXT = {"type": "string", "contentEncoding": "base64", "format": "base64-float32"}
VECTOR = {"anyOf": [{"type": "array", "items": {"type": "number"}}, VECTOR_TEXT]}
OBJECT = {"anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}]}

Name = Annotated[
    str,
    Field(min_length=1, max_length=128, json_schema_extra=PRINTABLE),
    AfterValidator(no_control_characters),
    AfterValidator(no_replacement_characters),
]
Moment = Annotated[AwareDatetime, BeforeValidator(rfc_3339), AfterValidator(in_utc)]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Attributes = Annotated[dict[str, Any], AfterValidator(modest), WithJsonSchema(OBJECT)]
Vector = Annotated[list[Any] | str, WithJsonSchema(VECTOR)]
