"""Crops as callers have them -> the bytes of picture files; bytes and files go out as they are."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

# A picture file's bytes, the path of one, a Pillow image, or uint8 [H, W, 3] RGB.
Crop: TypeAlias = "bytes | str | os.PathLike[str] | Image | NDArray[np.uint8]"
# One, several, or uint8 [N, H, W, 3].
Crops: TypeAlias = "Crop | Iterable[Crop]"

WANTED = "a picture's bytes, a path, a Pillow image or a uint8 [H, W, 3] array"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # the others have no PNG and become RGB


def listed(crops: Crops) -> list[Crop]:
    """Make a list of one crop or several; raises TypeError before anything is sent."""
    is_one = (
        isinstance(crops, bytes | str | os.PathLike) or is_image(crops) or (isinstance(crops, np.ndarray) and crops.ndim == 3)
    )
    found = [cast(Crop, crops)] if is_one else list(cast("Iterable[Crop]", crops))
    for crop in found:
        check(crop)
    return found


def check(crop: object) -> None:
    """Refuse what is no crop."""
    if isinstance(crop, np.ndarray):
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
            raise TypeError(f"got a {crop.dtype} array {crop.shape}, wanted uint8 [H, W, 3] RGB")
    elif not isinstance(crop, bytes | str | os.PathLike) and not is_image(crop):
        raise TypeError(f"got a {type(crop).__name__} as a crop, wanted {WANTED}")


def is_image(value: object) -> bool:
    """Tell whether this is a Pillow image, without loading Pillow for what is none."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def size_of(crop: Crop) -> int:
    """Guess the bytes that a crop will take; a path that leads nowhere takes none."""
    if isinstance(crop, bytes):
        return len(crop)
    if isinstance(crop, str | os.PathLike):
        return os.path.getsize(crop) if os.path.exists(crop) else 0
    if isinstance(crop, np.ndarray):
        return crop.nbytes
    return 3 * crop.width * crop.height


def content_of(crop: Crop) -> bytes:
    """Give the bytes to send; raises OSError for a path that cannot be read."""
    if isinstance(crop, bytes):
        return crop
    if isinstance(crop, str | os.PathLike):
        return Path(crop).read_bytes()
    return png(crop)


def png(picture: Any) -> bytes:
    """Encode a Pillow image or pixels without loss, upright where Exif says how it was held."""
    from PIL import Image, ImageOps

    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else ImageOps.exif_transpose(picture)
    if image.mode not in PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # on one machine the file costs more than the wire
    return buffer.getvalue()
