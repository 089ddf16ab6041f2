"""What the OpenAPI document says of request bodies: their forms, each JSON one with examples that a test sends.

Client generators make classes of these objects, named after their titles. They stumble over a default that is an object, and
then drop the whole body: no field here may have one.
"""

from collections.abc import Mapping
from typing import Any

from service.intake import PICTURES
from service.routes.examples import MOMENT
from service.schemas import RenameIn

Schema = Mapping[str, Any]

PICTURE = "UklGRigAAABXRUJQVlA4TBsAAAAvAcAAAA9wBY9bIR8Fav5jCQoBBEBBE9H/gAcA"  # a WebP of two by four pixels
LABELS = {"camid": "entrance", "captured_at": MOMENT, "attributes": {"site": "north"}}
TEXTS = {"pid": "alice", "camid": "entrance", "captured_at": MOMENT, "attributes": '{"site":"north"}'}  # the same in a form
UNIT = [0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]

CROPS = {"crops": {"summary": "Pictures", "value": {"crops": [PICTURE]}}}
ENROLMENTS = {
    "crops": {"summary": "Pictures of one person", "value": {"crops": [PICTURE, PICTURE], "pid": "alice", **LABELS}},
    "people": {
        "summary": "Pictures of two people, each with labels of its own",
        "value": {"crops": [PICTURE, PICTURE], "pid": ["alice", "bob"], "camid": ["entrance", None]},
    },
    "entries": {
        "summary": "Embeddings made earlier, of a model that makes 8 numbers: send as many as the model's `dim`",
        "value": {"entries": [{"pid": "alice", "embedding": UNIT, **LABELS, "client_key": "track-7-frame-120"}]},
    },
}
RENAMES = {
    "rename": {"summary": "A new name", "value": {"pid": "alice-2"}},
    "merge": {"summary": "The same person as another identity", "value": {"pid": "bob", "merge": True}},
}


def crop_body(
    *,
    name: str = "Crops",
    form: Schema | None = None,
    fields: Schema | None = None,
    other: Schema | None = None,
    examples: Schema = CROPS,
) -> dict[str, Any]:
    """Describe the forms a crop body may have.

    Args:
        name: the title of the JSON form; the multipart form's ends in Form.
        form, fields: what may stand beside the crops in a form and in JSON.
        other: a JSON body without crops that is taken as well.
        examples: JSON bodies, by name.
    """
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": "Picture files."}
    texts = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "contentEncoding": "base64", "format": "base64-picture"},
        "description": "Picture files in base64.",
    }
    required = ["crops"] + (["pid"] if fields else [])
    as_form = closed(f"{name}Form", {"crops": files, **(form or {})}, required)
    as_json = closed(name, {"crops": texts, **(fields or {})}, required)
    picture = {"schema": {"type": "string", "format": "binary"}}
    content = {
        "multipart/form-data": {"schema": as_form},
        "application/json": {"schema": as_json if other is None else {"anyOf": [as_json, other]}, "examples": examples},
        **dict.fromkeys(PICTURES, picture),
        "application/x-npy": {"schema": {**picture["schema"], "description": "One .npy file: uint8 [N, H, W, 3] RGB."}},
    }
    return {"requestBody": {"required": True, "content": content}}


def rename_body() -> dict[str, Any]:
    """Describe the body of a renaming."""
    content = {"application/json": {"schema": RenameIn.model_json_schema(), "examples": RENAMES}}
    return {"requestBody": {"required": True, "content": content}}


def closed(title: str, properties: Schema, required: list[str]) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "title": title,
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }
