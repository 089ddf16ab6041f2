"""Bytes -> crops: uint8 [H, W, 3] RGB of the model's input size, by Pillow alone, limits checked before decoding."""

import io
import re
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from service.errors import ImageTooLarge, InvalidRequest, TooManyCrops, UndecodableImage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
KEPT_SIDE = 512  # longest side of a kept crop, in pixels: enough for a person to judge a match
KEPT_QUALITY = 92
NPY_HEADER_MAX = 512  # bytes; numpy writes 128 for a plain array
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd8\xff])", re.DOTALL)  # those that stand within a scan left out
JPEG_SCAN_START = b"\xff\xda"
JPEG_SCAN, JPEG_END = b"\xda", b"\xd9"
ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = npt.NDArray[np.uint8]


def tame_pillow() -> None:
    """Set what becomes of Pillow's warnings in this process.

    A decompression bomb of up to twice its limit is only warned of, and becomes the crop's own error. All other warnings are left
    out: Python remembers each text for good, texts carry numbers from the file, and a sender of broken Exif could make them up.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(content: bytes | Pixels, *, max_pixels: int) -> Image.Image:
    """Open one crop as an upright RGB picture of its own size.

    Args:
        content: the bytes of a picture file, or uint8 [H, W, 3] RGB.

    Raises:
        UndecodableImage: with the reason.
        ImageTooLarge: when the header announces more than max_pixels.
    """
    if isinstance(content, np.ndarray):
        check_size(content.shape[1], content.shape[0], max_pixels)
        return Image.fromarray(content)
    if not content:
        raise UndecodableImage("got an empty file, wanted a JPEG, PNG, WebP or BMP picture")
    if content.startswith(b"\xff\xd8"):
        check_scans(content)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(*image.size, max_pixels)
            image.load()
            return to_rgb(upright(image))
    except (ImageTooLarge, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error}; wanted at most {max_pixels} pixels, send the crop alone") from None
    except UnidentifiedImageError:
        raise UndecodableImage(
            f"got {len(content)} bytes beginning {show(content[:8])}, wanted a whole JPEG, PNG, WebP or BMP picture"
        ) from None
    except Exception as error:  # hostile bytes reach OSError, ValueError, SyntaxError, NotImplementedError, struct.error
        raise UndecodableImage(f"got a broken picture ({error}), wanted a whole one; send it again") from None


def show(start: bytes) -> str:
    """Spell bytes for people: text as it is, the rest as \\x and two digits."""
    return repr(start).removeprefix("b")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by its announced size."""
    if width * height > max_pixels:
        raise ImageTooLarge(f"got {width} x {height} = {width * height} pixels, wanted at most {max_pixels}; send the crop alone")


def check_scans(jpeg: bytes) -> None:
    """Refuse a progressive JPEG whose scans, a few bytes each and each as slow as a picture, would keep a thread for hours."""
    if jpeg.count(JPEG_SCAN_START) <= MAX_SCANS:
        return  # all pictures but a few: as many as that at most, wherever they stand
    at = scans = 0
    while (marker := JPEG_MARKER.search(jpeg, at)) and marker[1] != JPEG_END:
        scans += marker[1] == JPEG_SCAN
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > MAX_SCANS:
        raise UndecodableImage(f"got a JPEG of {scans} scans, wanted at most {MAX_SCANS}; save it as a baseline JPEG")


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture the way its Exif orientation says."""
    turn = ORIENTATIONS.get(image.getexif().get(ORIENTATION_TAG, 1))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: 16-bit grey keeps its upper byte, transparency is dropped."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int32) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns about the direct way
    return image.convert("RGB")


def resize(image: Image.Image, *, height: int, width: int) -> Pixels:
    """Scale an RGB picture to uint8 [height, width, 3]; the very lines of the training's eval transform."""
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)


def kept_jpeg(image: Image.Image) -> bytes:
    """Encode the crop that is kept for people: small, and without the upload's metadata."""
    small = image.copy()
    small.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    small.info.clear()
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=KEPT_QUALITY)
    return buffer.getvalue()


def read_npy(body: bytes, *, max_crops: int) -> list[Pixels]:
    """Parse one .npy file of crops, uint8 [N, H, W, 3] RGB, without copying and without pickle.

    Raises:
        InvalidRequest: when it is anything else. TooManyCrops: when N is over the limit.
    """
    buffer = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(buffer)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(buffer, max_header_size=NPY_HEADER_MAX)
    except Exception as error:  # the header is Python source: ValueError, SyntaxError, KeyError, RecursionError ...
        raise InvalidRequest(f"got a broken .npy header ({error}), wanted numpy.save of uint8 [N,H,W,3]") from None
    rest = len(body) - buffer.tell()
    whole = all(type(size) is int for size in shape)  # numpy lets True through, and fails on it later
    if dtype != np.uint8 or len(shape) != 4 or not whole or shape[3] != 3 or fortran or min(shape) < 1:
        order = "Fortran" if fortran else "C"
        raise InvalidRequest(f"got {dtype} {shape} in {order} order, wanted uint8 [N,H,W,3] RGB in C order")
    if shape[0] > max_crops:
        raise TooManyCrops(f"got {shape[0]} crops, wanted at most {max_crops}; send them in several requests")
    needed = shape[0] * shape[1] * shape[2] * 3
    if rest != needed:
        raise InvalidRequest(f"got {rest} bytes after the .npy header, wanted {needed} for shape {shape}")
    return list(np.frombuffer(body, dtype=np.uint8, offset=buffer.tell()).reshape(shape))
