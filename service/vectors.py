"""Embeddings that callers send: float lists and base64 texts, checked for size, finiteness and unit length."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gallery.errors import DimensionMismatch, NotUnitLength
from service.errors import InvalidRequest

Embedding = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-3  # float32, and lists of rounded decimals
HALF_TOLERANCE = 1e-2  # float16 keeps 11 bits of each value
EXACT_TOLERANCE = 1e-5  # what float32 rounding leaves on a unit row: such rows are kept bit for bit
POOLED_MIN = 1e-3  # mean of unit rows shorter than this: the crops point in all directions


def from_text(text: str, *, dim: int) -> Embedding:
    """Read base64 or base64url, padded or not, of little-endian float32 or float16; the length tells which.

    Raises:
        InvalidRequest: no base64. DimensionMismatch: D values in neither width. NotUnitLength: see `checked`.
    """
    try:
        plain = text.replace("-", "+").replace("_", "/").rstrip("=")
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"embedding: got no base64 text ({error}), wanted base64 of {dim} float32 values") from None
    widths = {4 * dim: "<f4", 2 * dim: "<f2"}
    if len(content) not in widths:
        raise DimensionMismatch(
            f"embedding: got {len(content)} bytes, wanted {4 * dim} ({dim} float32 values) or {2 * dim} (float16)"
        )
    width = widths[len(content)]
    return checked(np.frombuffer(content, dtype=width), dim=dim, tolerance=UNIT_TOLERANCE if width == "<f4" else HALF_TOLERANCE)


def from_list(values: Sequence[object], *, dim: int) -> Embedding:
    """Read a list of numbers."""
    if not {*map(type, values)} <= {int, float}:
        raise InvalidRequest(f"embedding: got a list that holds more than numbers, wanted {dim} numbers")
    try:
        row = np.array(values, dtype=np.float64)
    except OverflowError:
        raise InvalidRequest("embedding: got a number beyond any float, wanted values from -1 to 1") from None
    return checked(row, dim=dim, tolerance=UNIT_TOLERANCE)


def checked(row: npt.NDArray[np.floating], *, dim: int, tolerance: float) -> Embedding:
    """Check one embedding and scale away what rounding left of its length.

    Returns:
        float32 [D], unit length.

    Raises:
        DimensionMismatch: another length than [D].
        NotUnitLength: NaN, infinite, or a length that is off by more than the tolerance.
    """
    if row.shape != (dim,):
        raise DimensionMismatch(f"embedding: got {row.shape[0]} values, wanted {dim}, the size of this model")
    length = float(np.linalg.norm(row.astype(np.float64)))
    if not np.isfinite(length):
        raise NotUnitLength("embedding: got NaN, infinite or huge values, wanted finite ones; send what /embed answers")
    if abs(length - 1) > tolerance:
        raise NotUnitLength(
            f"embedding: got length {length:.6g}, wanted 1 within {tolerance:g}; divide by the length, "
            "or send what /embed answers"
        )
    return row.astype(np.float32) if abs(length - 1) <= EXACT_TOLERANCE else scaled(row)


def scaled(row: npt.NDArray[np.floating]) -> Embedding:
    """Scale [D] to unit length, float32."""
    wide = row.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide), dtype=np.float32)


def pooled(rows: Sequence[Embedding]) -> Embedding:
    """Pool embeddings of one person: their mean, scaled to unit length; a single row stays as it is, bit for bit.

    Raises:
        InvalidRequest: when they cancel out.
    """
    if len(rows) == 1:
        return rows[0]
    mean: npt.NDArray[np.float64] = np.stack(rows).astype(np.float64).mean(axis=0)
    if np.linalg.norm(mean) < POOLED_MIN:
        raise InvalidRequest(f"got {len(rows)} crops whose mean is zero, wanted crops of one person")
    return scaled(mean)
