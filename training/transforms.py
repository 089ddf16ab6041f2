"""From a file to pixels: the evaluation transform, which the service repeats byte for byte, and the training augmentation.

`load_crop` gives uint8; everything after it happens on the batch and on the device that trains: chances are drawn by numpy
(`draw`) and applied by torch (`augment`). Once exported, normalisation is inside the ONNX graph.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.config import TrainConfig

MEAN = (0.485, 0.456, 0.406)  # ImageNet RGB, as torchvision's weights were trained with
STD = (0.229, 0.224, 0.225)
ERASED_AREA = (0.02, 0.4)  # share of the crop; Luo et al. 2019, section IV-B
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
NUM_TRIES = 100  # released code


def load_crop(path: Path, *, height: int, width: int) -> np.ndarray:
    """Reads one image as uint8 [height, width, 3] RGB: Exif orientation applied, bilinear with antialiasing.

    This is the contract of `service/crops.py`. Raises ValueError naming a file that is no readable image.
    """
    try:
        with Image.open(path) as image:
            upright = to_rgb(ImageOps.exif_transpose(image))
        return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, NotImplementedError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: got a file that cannot be read as an image ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB as the service does: 16-bit grey keeps its upper byte, transparency is dropped."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns about the direct way
    return image.convert("RGB")


@dataclass(frozen=True)
class Draws:
    """The chances taken for a batch of B crops: flip bool [B], top and left int [B] of the crop within the padded one, and box
    int [B, 4], the erased top, left, height, width (height 0: nothing)."""

    flip: np.ndarray
    top: np.ndarray
    left: np.ndarray
    box: np.ndarray

    def rows(self, part: slice) -> "Draws":
        """Returns the draws of a part of the batch."""
        return Draws(self.flip[part], self.top[part], self.left[part], self.box[part])


def draw(config: TrainConfig, count: int, rng: np.random.Generator) -> Draws:
    """Draws the augmentation of `count` crops: flip, place in the padded crop, erased box."""
    top, left = rng.integers(0, 2 * config.pad, size=(2, count), endpoint=True)
    box = draw_boxes(config.height, config.width, count, rng)
    box[rng.random(count) >= config.erasing_prob] = 0
    return Draws(flip=rng.random(count) < config.flip_prob, top=top, left=left, box=box)


def draw_boxes(height: int, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int [count, 4]: top, left, height, width of random erasing boxes, Zhong et al. 2017.

    As the released code: area U(0.02, 0.4) of the crop, aspect (height / width) U(0.3, 1 / 0.3), not log-uniform; the first of
    100 tries that is strictly smaller than the crop both ways; no box when none is.
    """
    area = rng.uniform(*ERASED_AREA, size=(count, NUM_TRIES)) * height * width
    aspect = rng.uniform(*ERASED_ASPECT, size=(count, NUM_TRIES))
    tall, wide = np.round(np.sqrt(area * aspect)).astype(int), np.round(np.sqrt(area / aspect)).astype(int)
    fits = (tall < height) & (wide < width)
    first = fits.argmax(axis=1)
    rows = np.arange(count)
    tall, wide = tall[rows, first] * fits.any(axis=1), wide[rows, first] * fits.any(axis=1)
    top, left = rng.integers(0, height - tall, endpoint=True), rng.integers(0, width - wide, endpoint=True)
    return np.stack([top, left, tall, wide], axis=1)


def augment(crops: Tensor, draws: Draws, *, pad: int, fill: str) -> Tensor:
    """Flips, shifts within a black border, normalises, erases: uint8 [B, H, W, 3] -> float32 [B, 3, H, W], on the crops' device.

    Luo et al. 2019, section III, in the released code's order: black is put in before normalisation, so it is not zero after
    it; the erased box is filled after it, with ImageNet's mean written into normalised space ("code", as released) or with 0,
    which is that mean ("mean").
    """
    height, width = crops.shape[1:3]
    chances = (draws.flip, draws.top, draws.left, draws.box)
    flip, top, left, box = (torch.from_numpy(one).to(crops.device, non_blocking=True) for one in chances)
    down, right = torch.arange(height, device=crops.device), torch.arange(width, device=crops.device)
    row, column = top[:, None] + down - pad, left[:, None] + right - pad
    is_inside = between(row, 0, height)[:, :, None] & between(column, 0, width)[:, None, :]
    column = torch.where(flip[:, None], width - 1 - column, column)
    crop = torch.arange(len(crops), device=crops.device)[:, None, None]
    moved = crops[crop, row.clamp(0, height - 1)[:, :, None], column.clamp(0, width - 1)[:, None, :]]
    images = normalize(torch.where(is_inside[..., None], moved, torch.zeros_like(moved)))
    tall = between(down, box[:, 0, None], box[:, 0, None] + box[:, 2, None])
    wide = between(right, box[:, 1, None], box[:, 1, None] + box[:, 3, None])
    is_erased = (tall[:, :, None] & wide[:, None, :])[:, None]
    filling = constant(MEAN if fill == "code" else (0.0, 0.0, 0.0), crops.device)[:, None, None]
    return torch.where(is_erased, filling, images).contiguous(memory_format=torch.channels_last)


def between(places: Tensor, first: Tensor | int, end: Tensor | int) -> Tensor:
    """Returns where first <= places < end."""
    return (places >= first) & (places < end)


def normalize(crops: Tensor) -> Tensor:
    """Turns uint8 [B, H, W, 3] RGB into float32 [B, 3, H, W] with ImageNet mean 0 and deviation 1, channels last in memory."""
    mean, std = constant(MEAN, crops.device) * 255, constant(STD, crops.device) * 255
    return ((crops.float() - mean) / std).permute(0, 3, 1, 2)


def constant(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Returns float32 [3] on the device; a copy that waited for a GPU would cost every step."""
    return torch.tensor(values).to(device, non_blocking=True)
