"""Writes tests/golden/bundled_embedding.json anew: what the bundled model gives for a few pictures drawn by seed.

    python -m tests.service.make_embedding

Only when the bundled model itself was changed: pixels, runtime and graph are what the file holds still.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from service.crops import decode, resize
from service.embedder import Embedder
from service.settings import BUNDLED_MODEL

GOLDEN = Path(__file__).parents[1] / "golden" / "bundled_embedding.json"
SIZES = ((150, 300), (40, 90), (96, 192))  # shrunk, enlarged, as the model has it
MAX_PIXELS = 1_000_000


def picture(seed: int, size: tuple[int, int]) -> bytes:
    """Returns a PNG of coloured blocks under noise, from numpy's integers alone."""
    width, height = size
    random = np.random.default_rng(seed)
    blocks = random.integers(32, 224, size=(8, 4, 3))
    down, across = np.arange(height) * 8 // height, np.arange(width) * 4 // width
    pixels = blocks[down][:, across] + random.integers(-32, 32, size=(height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def crops(*, height: int, width: int) -> np.ndarray:
    """Returns the pictures as the service decodes and resizes them: uint8 [3, height, width, 3]."""
    images = [decode(picture(seed, size), max_pixels=MAX_PIXELS) for seed, size in enumerate(SIZES)]
    return np.stack([resize(image, height=height, width=width) for image in images])


def main() -> None:
    embedder = Embedder.open(BUNDLED_MODEL, provider="cpu", threads=1)
    rows = embedder.embed(crops(height=embedder.model.height, width=embedder.model.width))
    packed = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    GOLDEN.write_text(json.dumps({"model_id": embedder.model.model_id, "float32_base64": packed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
