"""From a file to pixels: the training transform, and the evaluation transform that the service repeats byte for byte.

Both return uint8; scaling and normalisation happen on the batch (`normalize`) and, once exported, inside the ONNX graph.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # ImageNet RGB, as torchvision's weights were trained with
STD = (0.229, 0.224, 0.225)


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


def augment(crop: np.ndarray, *, flip_prob: float, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Flips, pads with black and crops back at random: uint8 [H, W, 3] in, the same shape out.

    Luo et al. 2019, section III; black is put in before normalisation, as the released code does.
    """
    height, width = crop.shape[:2]
    if rng.random() < flip_prob:
        crop = crop[:, ::-1]
    padded = np.pad(crop, ((pad, pad), (pad, pad), (0, 0)))
    top, left = rng.integers(0, 2 * pad, size=2, endpoint=True)
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def normalize(crops: Tensor) -> Tensor:
    """Turns uint8 [B, H, W, 3] RGB into float32 [B, 3, H, W] with ImageNet mean 0 and deviation 1, channels last in memory."""
    mean = torch.tensor(MEAN, device=crops.device) * 255
    std = torch.tensor(STD, device=crops.device) * 255
    return ((crops.float() - mean) / std).permute(0, 3, 1, 2)
