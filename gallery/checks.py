"""What may enter a gallery: each check raises with what was got, what was wanted, and what to do."""

from __future__ import annotations

import json
import math
import re

import numpy as np
from numpy.typing import NDArray

from gallery.columns import NO_ID
from gallery.entry import NewEntry
from gallery.errors import DimensionMismatch, InvalidRequest, ModelMismatch, NotUnitLength, no_entry
from gallery.times import to_microseconds

MAX_NAME = 128  # characters of a pid or camid
MAX_KEY = 256  # characters of a client_key or model_id
LARGE = 2**63  # an integer of attributes stays below
MAX_BEST_OF = 100  # cosines of an identity that pool=best averages
MAX_DIM = 65_536
LENGTH_TOLERANCE = 1e-3  # of an embedding's length: half-precision rounding is below 3e-4

OTHER_MODEL = (
    "serve the model it was made with, embed its crops anew (python -m gallery reembed), or enroll them again in a new folder"
)
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def check_space(got: str, wanted: str) -> None:
    """Raises ModelMismatch when the embedding space is not the gallery's."""
    if got != wanted:
        raise ModelMismatch(f"got embeddings of space {got!r}, this gallery holds space {wanted!r}; {OTHER_MODEL}")


def check_dim(dim: int) -> None:
    """Raises DimensionMismatch unless embeddings can be of that length."""
    if not 1 <= dim <= MAX_DIM:
        raise DimensionMismatch(f"got dim {dim}, wanted 1 to {MAX_DIM}: the length of the model's embeddings")


def check_embedding(embedding: NDArray[np.float32], dim: int) -> None:
    """Raises unless embedding is float32 [dim], finite, of unit length."""
    if embedding.shape != (dim,):
        raise DimensionMismatch(f"got an embedding of shape {list(embedding.shape)}, wanted [{dim}]; use this gallery's model")
    if embedding.dtype != np.float32:
        raise InvalidRequest(f"got an embedding of {embedding.dtype}, wanted float32; convert it first")
    length = math.sqrt(np.vdot(embedding, embedding))  # in float32 good to 1e-6, and infinite or NaN where that is too small
    if not abs(length - 1) <= LENGTH_TOLERANCE:  # not ... <=: catches NaN too
        raise NotUnitLength(f"got an embedding of length {length:.6g}, wanted 1; divide it by its length, which must be finite")


def check_entry(new: NewEntry, dim: int) -> None:
    """Raises unless the entry can be enrolled into a gallery of that dimension."""
    check_text("pid", new.pid, MAX_NAME)
    check_text("model_id", new.model_id, MAX_KEY)
    if new.camid is not None:
        check_text("camid", new.camid, MAX_NAME)
    if new.client_key is not None:
        check_text("client_key", new.client_key, MAX_KEY)
    if new.captured_at is not None:
        to_microseconds(new.captured_at)
    if new.content_hash is not None and not SHA256_HEX.fullmatch(new.content_hash):
        raise InvalidRequest(f"got content_hash {new.content_hash!r}, wanted 64 lower-case hex digits of a sha256")
    if new.crop_jpeg is not None and type(new.crop_jpeg) is not bytes:
        raise InvalidRequest(f"got a crop_jpeg of type {type(new.crop_jpeg).__name__}, wanted bytes; encode it as JPEG first")
    _check_attributes(new)
    check_embedding(new.embedding, dim)


def check_search(k: int, group_by: str, pool: str, best_of: int) -> None:
    """Raises InvalidRequest unless these arguments of a search make sense."""
    if k < 1:
        raise InvalidRequest(f"got k {k}, wanted 1 or more")
    if group_by not in ("identity", "entry"):
        raise InvalidRequest(f"got group_by {group_by!r}, wanted 'identity' or 'entry'")
    if pool not in ("max", "mean", "best"):
        raise InvalidRequest(f"got pool {pool!r}, wanted 'max', 'mean' or 'best'")
    if not 1 <= best_of <= MAX_BEST_OF:
        raise InvalidRequest(f"got best_of {best_of}, wanted 1 to {MAX_BEST_OF}")


def check_entry_id(entry_id: int) -> None:
    """Raises EntryNotFound for a number that is no entry's and that SQLite may not even hold."""
    if not 0 < entry_id < NO_ID:
        raise no_entry(entry_id)


def check_text(what: str, text: str, most: int) -> None:
    """Raises InvalidRequest unless text has 1 to `most` characters that UTF-8 can hold."""
    if not 1 <= len(text) <= most:
        raise InvalidRequest(f"got a {what} of {len(text)} characters, wanted 1 to {most}")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"got a {what} that is not valid Unicode: {text!r}; remove the lone surrogates") from error


def _check_attributes(new: NewEntry) -> None:
    attributes = dict(new.attributes)
    if all(type(name) is str and name.isascii() and _is_plain(value) for name, value in attributes.items()):
        return  # what nearly all are: nothing to try
    try:
        text = json.dumps(attributes, allow_nan=False, ensure_ascii=False).encode()  # lone surrogates fail here
        is_same = json.loads(text, parse_int=_small_int) == attributes
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"got attributes that are no JSON object: {error}") from error
    if not is_same:
        raise InvalidRequest("got attributes that change on their way through JSON, wanted string keys, lists, no tuples")


def _is_plain(value: object) -> bool:
    return type(value) is bool or (type(value) is str and value.isascii()) or (type(value) is int and abs(value) < LARGE)


def _small_int(digits: str) -> int:
    """The integer; raises ValueError beyond 64 bits, which not every reader of JSON takes."""
    if abs(number := int(digits)) >= LARGE:
        raise ValueError(f"an integer of {len(digits)} digits needs more than 64 bits")
    return number
