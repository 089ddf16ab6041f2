"""Decoding crops: formats, orientation, modes, limits, hostile bytes."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service import crops
from service.errors import ImageTooLarge, InvalidRequest, TooManyCrops, UndecodableImage

LIMIT = 1_000_000


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that announces a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0"))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_lossless_formats_give_the_drawn_pixels(drawn, form):
    image = drawn(1)
    assert np.array_equal(crops.decode(encoded(image, form), max_pixels=LIMIT), image)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats_give_almost_the_drawn_pixels(drawn, form):
    image = drawn(1)
    decoded = np.asarray(crops.decode(encoded(image, form, quality=95), max_pixels=LIMIT), dtype=int)
    assert np.abs(decoded - np.asarray(image, dtype=int)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_picture(drawn, orientation):
    upright = drawn(2, size=(16, 32))
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turned = upright if undo == 1 else upright.transpose(crops.ORIENTATIONS[undo])
    exif = Image.Exif()
    exif[crops.ORIENTATION_TAG] = orientation
    assert np.array_equal(crops.decode(encoded(turned, "PNG", exif=exif), max_pixels=LIMIT), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(drawn, mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    image = crops.decode(encoded(drawn(3).convert(mode), form), max_pixels=LIMIT)
    assert image.mode == "RGB" and image.size == (24, 48)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(drawn):
    content = encoded(drawn(3).quantize(8), "PNG", transparency=bytes([0, 128, 255]))
    assert crops.decode(content, max_pixels=LIMIT).mode == "RGB"


def test_sixteen_bit_grey_keeps_its_upper_byte():
    grey = np.full((4, 4), 0x80FF, dtype=np.uint16)
    decoded = crops.decode(encoded(Image.fromarray(grey), "PNG"), max_pixels=LIMIT)
    assert np.asarray(decoded)[0, 0].tolist() == [0x80] * 3


def test_an_animation_gives_its_first_frame(drawn):
    first, second = drawn(1), drawn(2)
    content = encoded(first, "PNG", save_all=True, append_images=[second])
    assert np.array_equal(crops.decode(content, max_pixels=LIMIT), first)


def test_pixels_pass_through():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(crops.decode(pixels, max_pixels=LIMIT), pixels)


def test_the_resize_is_pillows_antialiased_bilinear(drawn):
    image = drawn(4, size=(150, 300))
    resized = crops.resize(image, height=32, width=16)
    assert resized.shape == (32, 16, 3) and resized.dtype == np.uint8
    assert np.array_equal(resized, np.asarray(image.resize((16, 32), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM", "PDF"])
def test_other_formats_are_refused(drawn, form):
    with pytest.raises(UndecodableImage, match="wanted a whole JPEG, PNG, WebP or BMP picture"):
        crops.decode(encoded(drawn(1), form), max_pixels=LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_picture_is_refused_at_every_length(drawn, form):
    content = encoded(drawn(1), form)
    for length in range(0, len(content) * 3 // 4, max(1, len(content) // 40)):
        with pytest.raises(UndecodableImage):
            crops.decode(content[:length], max_pixels=LIMIT)


def test_text_is_refused_with_what_was_got():
    with pytest.raises(UndecodableImage, match="got 11 bytes beginning 'hello wo'"):
        crops.decode(b"hello world", max_pixels=LIMIT)


@pytest.mark.parametrize("side", [1_001, 10_000, 20_000, 2**31 - 1])
def test_an_announced_size_over_the_limit_is_refused_before_decoding(side):
    with pytest.raises(ImageTooLarge, match="wanted at most 1000000"):
        crops.decode(png_header(side, side), max_pixels=LIMIT)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size):
    with pytest.raises(UndecodableImage, match="wanted a whole JPEG, PNG, WebP or BMP picture"):
        crops.decode(png_header(*size), max_pixels=LIMIT)


def test_a_header_within_the_limit_and_nothing_behind_it_is_refused():
    with pytest.raises(UndecodableImage):
        crops.decode(png_header(10, 10), max_pixels=LIMIT)


def test_pixels_over_the_limit_are_refused():
    with pytest.raises(ImageTooLarge, match="got 20 x 10 = 200 pixels, wanted at most 199"):
        crops.decode(np.zeros((10, 20, 3), dtype=np.uint8), max_pixels=199)


WHOLE = {
    form: encoded(Image.linear_gradient("L").resize((12, 20)).convert("RGB"), form) for form in ("PNG", "WEBP", "BMP", "JPEG")
}


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from(sorted(WHOLE)),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_pictures_decode_or_are_refused_and_nothing_else(form, damage):
    content = bytearray(WHOLE[form])
    for place, value in damage:
        content[int(place * len(content))] = value
    try:
        assert crops.decode(bytes(content), max_pixels=LIMIT).mode == "RGB"
    except (UndecodableImage, ImageTooLarge) as error:
        assert str(error)


@settings(max_examples=80, deadline=None)
@given(
    start=st.sampled_from([b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF\0\1\0\0WEBPVP8 ", b"BM", b""]),
    rest=st.binary(),
)
def test_random_bytes_are_refused(start, rest):
    with pytest.raises((UndecodableImage, ImageTooLarge)):
        crops.decode(start + rest, max_pixels=LIMIT)


def test_the_kept_crop_is_a_small_jpeg_without_metadata(drawn):
    image = drawn(5, size=(600, 1200))
    image.info.update(comment=b"secret", exif=b"Exif\0\0secret", icc_profile=b"secret", xmp=b"secret")
    jpeg = crops.kept_jpeg(image)
    kept = Image.open(io.BytesIO(jpeg))
    assert kept.format == "JPEG" and kept.size == (256, 512)
    assert b"secret" not in jpeg


def test_a_small_crop_is_kept_in_its_own_size(drawn):
    assert Image.open(io.BytesIO(crops.kept_jpeg(drawn(5)))).size == (24, 48)


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_npy_body_gives_its_crops(version):
    array = np.random.default_rng(0).integers(0, 256, size=(3, 4, 5, 3), dtype=np.uint8)
    got = crops.read_npy(npy(array, version=version), max_crops=3)
    assert len(got) == 3 and np.array_equal(np.stack(got), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 5, 3), dtype=np.float32),
        np.zeros((4, 5, 3), dtype=np.uint8),
        np.zeros((2, 4, 5, 4), dtype=np.uint8),
        np.zeros((0, 4, 5, 3), dtype=np.uint8),
        np.zeros((2, 0, 5, 3), dtype=np.uint8),
        np.asfortranarray(np.zeros((2, 4, 5, 3), dtype=np.uint8)),
    ],
    ids=["float", "three axes", "four channels", "no crops", "no rows", "fortran"],
)
def test_an_npy_body_of_another_kind_is_refused(array):
    with pytest.raises(InvalidRequest, match=r"wanted uint8 \[N,H,W,3\] RGB"):
        crops.read_npy(npy(array), max_crops=8)


def test_an_npy_body_with_objects_is_refused_unread():
    with pytest.raises(InvalidRequest, match="got object"):
        crops.read_npy(npy(np.array([[[[{}]]]], dtype=object), allow_pickle=True), max_crops=8)


def test_an_npy_body_with_too_many_crops_is_refused():
    with pytest.raises(TooManyCrops, match="got 9 crops, wanted at most 8"):
        crops.read_npy(npy(np.zeros((9, 1, 1, 3), dtype=np.uint8)), max_crops=8)


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"x"], ids=["short", "long"])
def test_an_npy_body_of_another_length_than_announced_is_refused(change):
    with pytest.raises(InvalidRequest, match="wanted 12 for shape"):
        crops.read_npy(change(npy(np.zeros((1, 2, 2, 3), dtype=np.uint8))), max_crops=8)


def hostile_header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + b"\0" * 64,
        hostile_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3)"),
        hostile_header(b"(" * 400),
        hostile_header(b"__import__('os').getcwd()"),
        hostile_header(b" " * 4000),
        hostile_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -2, 2, 3)}") + b"\0" * 12,
        hostile_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1L, 2, 2, 3)}") + b"\0" * 12,
        hostile_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2, 2, 3)}") + b"\0" * 12,
        hostile_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, True, 4, 3)}") + b"\0" * 12,
    ],
)
def test_a_hostile_npy_header_is_refused(body):
    with pytest.raises(InvalidRequest):
        crops.read_npy(body, max_crops=8)


def broken_exif(number):
    """A picture whose Exif has a tag of this number that is longer than the file."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHII", number, 2, 100_000, 26) + bytes(4)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_nothing_is_remembered_of_broken_exif():
    def remembered():
        registries = [
            vars(module).get("__warningregistry__", {}) for name, module in list(sys.modules.items()) if name.startswith("PIL.")
        ]
        return sum(map(len, registries))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        with pytest.warns(UserWarning, match="Tag data larger than file. Skipping tag 300"):
            crops.decode(broken_exif(300), max_pixels=100)
        crops.tame_pillow()
        crops.decode(broken_exif(301), max_pixels=100)
        before = remembered()
        for number in range(302, 320):
            crops.decode(broken_exif(number), max_pixels=100)
        assert remembered() == before
