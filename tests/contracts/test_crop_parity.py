"""The eval resize exists twice, in training and in the service: the same file gives equal bytes from both."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service import crops
from training import transforms

HEIGHT, WIDTH = 64, 32
ORIENTATION = 0x0112


def drawn(width: int = 30, height: int = 50) -> Image.Image:
    """Noise over a gradient: every pixel and every direction differs."""
    ramp = np.add.outer(np.arange(height), 2 * np.arange(width))[..., None]
    noise = np.random.default_rng(3).integers(0, 100, (height, width, 3))
    return Image.fromarray(((ramp + noise) % 256).astype(np.uint8))


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The crop that training reads and the one that the service makes of the same bytes."""
    picture = crops.decode(path.read_bytes(), max_pixels=10_000_000)
    return transforms.load_crop(path, height=HEIGHT, width=WIDTH), crops.resize(picture, height=HEIGHT, width=WIDTH)


def agree(path: Path) -> bool:
    trained, served = both(path)
    assert trained.dtype == served.dtype == np.uint8
    assert trained.shape == (HEIGHT, WIDTH, 3)
    return trained.tobytes() == served.tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_every_format_gives_equal_crops(tmp_path, suffix):
    drawn().save(tmp_path / f"crop.{suffix}")
    assert agree(tmp_path / f"crop.{suffix}")


@pytest.mark.parametrize("size", [(8, 16), (32, 64), (33, 65), (64, 128), (401, 97), (1, 1), (700, 1400)])
def test_every_size_gives_equal_crops(tmp_path, size):
    drawn(*size).save(tmp_path / "crop.jpg", quality=90)
    assert agree(tmp_path / "crop.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_equal_crops(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    drawn().save(tmp_path / f"crop.{suffix}", exif=exif)
    assert agree(tmp_path / f"crop.{suffix}")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("RGBA", "webp")],
)
def test_every_colour_mode_gives_equal_crops(tmp_path, mode, suffix):
    drawn().convert(mode).save(tmp_path / f"crop.{suffix}")
    assert agree(tmp_path / f"crop.{suffix}")


@pytest.mark.parametrize("transparency", [3, bytes(range(16))], ids=["one colour", "every colour"])
def test_palettes_with_transparency_give_equal_crops(tmp_path, transparency):
    drawn().quantize(16).save(tmp_path / "crop.png", transparency=transparency)
    assert agree(tmp_path / "crop.png")


def test_sixteen_bit_grey_gives_equal_crops(tmp_path):
    deep = np.random.default_rng(5).integers(0, 65536, (50, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "crop.png")
    assert agree(tmp_path / "crop.png")


def test_another_interpolation_would_be_noticed(tmp_path):
    drawn().save(tmp_path / "crop.png")
    nearest = np.asarray(drawn().resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
    assert not np.array_equal(both(tmp_path / "crop.png")[0], nearest)


def test_an_ignored_orientation_would_be_noticed(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    drawn().save(tmp_path / "turned.png", exif=exif)
    drawn().save(tmp_path / "plain.png")
    assert not np.array_equal(both(tmp_path / "turned.png")[1], both(tmp_path / "plain.png")[1])
