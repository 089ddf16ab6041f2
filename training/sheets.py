"""Sheets of crops: rank lists with green and red frames, and training crops above their erased versions.

Drawn pixel for pixel with Pillow and saved in full colour: the dithering of a palette shows on every crop.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training import checkpoint, transforms
from training.dataset import DISTRACTOR_PID, Dataset, Sample
from training.metrics import Evidence

CROP_WIDTH, CROP_HEIGHT = 72, 144  # pixels of a drawn crop, whatever the file's size
FRAME, GAP, MARGIN = 4, 6, 18  # pixels
QUERY_GAP = 22  # between the query and its matches
TITLE_HEIGHT, CAPTION_HEIGHT, FILE_HEIGHT, NOTE_HEIGHT = 76, 40, 26, 30  # FILE_HEIGHT: more of a caption where files are named
FILE_SIZE = 10  # of a file's name, smaller than a caption

Colour = tuple[int, int, int]
PAPER: Colour = (255, 255, 255)
INK: Colour = (40, 40, 45)
FAINT: Colour = (120, 120, 125)
QUERY: Colour = (60, 90, 140)
CORRECT: Colour = (0, 150, 60)  # green and red as the literature has them; the tick and the cross say it without colour
WRONG: Colour = (215, 30, 35)


@dataclass(frozen=True)
class Tile:
    """One crop on a sheet: uint8 [H, W, 3], its frame's colour, two lines of caption, a tick, a cross or nothing, its file."""

    crop: np.ndarray
    frame: Colour
    caption: tuple[str, str] = ("", "")
    is_correct: bool | None = None
    file: str = ""


def pick_queries(evidence: Evidence, pids: np.ndarray, choice: str, *, count: int = 5, seed: int = 0) -> list[int]:
    """Returns up to `count` valid queries: "best" and "worst" by AP, or "random" by seed.

    Best and worst take one query of each identity before a second one of any; equal APs keep the order of the queries.
    """
    valid = np.flatnonzero(evidence.is_valid)
    if choice == "random":
        drawn = np.random.default_rng(seed).choice(valid, size=min(count, len(valid)), replace=False)
        return sorted(drawn.tolist())
    sign = {"best": -1, "worst": 1}[choice]
    order = valid[np.argsort(sign * evidence.ap[valid], kind="stable")]
    firsts = np.sort(np.unique(pids[order], return_index=True)[1])
    others = np.setdiff1d(np.arange(len(order)), firsts)
    chosen: list[int] = order[np.concatenate([firsts, others])[:count]].tolist()
    return chosen


def rank_list(path: Path, evidence: Evidence, data: Dataset, queries: Sequence[int], *, title: str, subtitle: str) -> Path:
    """Draws each query and its ten best matches without junk, nearest first: green and ticked, or red and crossed.

    Raises ValueError without a query, or where a crop's file cannot be read.
    """
    roots = common_folder(data.query), common_folder(data.gallery)
    rows = [[query_tile(data, evidence, query, roots[0]), *match_tiles(data, evidence, query, roots[1])] for query in queries]
    heads = ["query", *(str(rank) for rank in range(1, evidence.top_QK.shape[1] + 1))]
    note = "nearest first, junk left out; tick and green: the query's identity; cross and red: another, or a distractor"
    return save(path, draw(rows, heads=heads, title=title, subtitle=subtitle, note=note, gap_after_first=QUERY_GAP))


def query_tile(data: Dataset, evidence: Evidence, query: int, root: str) -> Tile:
    """Returns the query's crop with who it is, its AP and its file below `root`."""
    sample = data.query[query]
    camera = f", cam {sample.camid}" if data.has_cameras else ""
    caption = (f"pid {sample.pid}{camera}", f"AP {100 * evidence.ap[query]:.1f} %")
    return Tile(load(sample), QUERY, caption, file=os.path.relpath(sample.path, root))


def match_tiles(data: Dataset, evidence: Evidence, query: int, root: str) -> list[Tile]:
    """Returns the query's matches in rank order, their files below `root`; a list that ends early is shorter."""
    matches = [data.gallery[index] for index in evidence.top_QK[query] if index >= 0]
    return [match_tile(match, root, pid=data.query[query].pid, has_cameras=data.has_cameras) for match in matches]


def match_tile(match: Sample, root: str, *, pid: int, has_cameras: bool) -> Tile:
    """Returns one match of a query of identity `pid`, framed; a distractor is always wrong."""
    is_distractor = match.pid == DISTRACTOR_PID
    is_correct = match.pid == pid and not is_distractor
    caption = ("distractor" if is_distractor else f"pid {match.pid}", f"cam {match.camid}" if has_cameras else "")
    return Tile(load(match), CORRECT if is_correct else WRONG, caption, is_correct, os.path.relpath(match.path, root))


def common_folder(samples: Sequence[Sample]) -> str:
    """Returns the deepest folder that holds all crops: below it a file's name tells folders of identities and cameras."""
    return os.path.commonpath([os.path.abspath(folder) for folder in {sample.path.parent for sample in samples}])


def file_lines(file: str, *, width: float, size: int = FILE_SIZE) -> tuple[str, str]:
    """Returns a file's name in two lines of at most `width` pixels: folder and name, or a name alone that is cut where it must.

    A line that does not fit loses its middle; a letter that cannot be printed becomes a question mark.
    """
    printable = "".join(letter if letter.isprintable() else "?" for letter in file)
    folder, slash, name = printable.rpartition("/")
    if folder:
        return shortened(folder + slash, width=width, size=size), shortened(name, width=width, size=size)
    font = ImageFont.load_default(size)
    length = next((end for end in range(len(name), 0, -1) if font.getlength(name[:end]) <= width), 1)
    return name[:length], shortened(name[length:], width=width, size=size)


def shortened(text: str, *, width: float, size: int) -> str:
    """Returns the text without as much of its middle as `width` pixels have no room for."""
    font = ImageFont.load_default(size)
    kept, short = len(text), text
    while kept > 2 and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def load(sample: Sample) -> np.ndarray:
    """Reads a crop at the size it is drawn in; raises ValueError naming a file that cannot be read."""
    return transforms.load_crop(sample.path, height=CROP_HEIGHT, width=CROP_WIDTH)


def erasing_sheet(
    path: Path, crops: np.ndarray, erased: np.ndarray, *, title: str = "Random erasing", subtitle: str = ""
) -> Path:
    """Draws training crops above their erased versions, both uint8 [N, H, W, 3] RGB; Fig. 4 of Luo et al. 2019.

    Raises ValueError for unequal shapes, another type, or no crop.
    """
    for name, images in (("crops", crops), ("erased", erased)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape != crops.shape:
            raise ValueError(f"{name}: got {images.dtype} {list(images.shape)}, wanted uint8 [N, H, W, 3], equal shapes")
    shares = (crops != erased).any(axis=3).mean(axis=(1, 2))
    above = [Tile(crop, FAINT, ("augmented", "")) for crop in crops]
    texts = [f"erased {100 * share:.0f} %" if share else "untouched" for share in shares]
    below = [Tile(crop, FAINT, (text, "")) for crop, text in zip(erased, texts, strict=True)]
    heads = [str(number) for number in range(1, len(crops) + 1)]
    return save(path, draw([above, below], heads=heads, title=title, subtitle=subtitle, note=""))


def tile_corner(row: int, column: int, *, gap_after_first: int = 0, caption_height: int = CAPTION_HEIGHT) -> tuple[int, int]:
    """Returns the left and top pixel of a tile's frame."""
    left = MARGIN + column * (CROP_WIDTH + 2 * FRAME + GAP) + (gap_after_first if column else 0)
    return left, TITLE_HEIGHT + row * (CROP_HEIGHT + 2 * FRAME + caption_height)


def draw(
    rows: Sequence[Sequence[Tile]], *, heads: Sequence[str], title: str, subtitle: str, note: str, gap_after_first: int = 0
) -> Image.Image:
    """Returns a sheet of tiles in rows below their column heads, in RGB; raises ValueError without a tile."""
    if not any(rows):
        raise ValueError(f"{title}: got no crop to draw, wanted at least one")
    caption_height = CAPTION_HEIGHT + FILE_HEIGHT * any(tile.file for row in rows for tile in row)
    place = partial(tile_corner, gap_after_first=gap_after_first, caption_height=caption_height)
    width, bottom = place(len(rows), len(heads))
    width = max(width - GAP + MARGIN, 420)  # room for the titles above a single column
    sheet = Image.new("RGB", (width, bottom + NOTE_HEIGHT), PAPER)
    write(sheet, (MARGIN, 10), title, INK, size=18)
    write(sheet, (MARGIN, 34), subtitle, FAINT, size=13)
    write(sheet, (MARGIN, bottom + 4), note, FAINT, size=12)
    for column, head in enumerate(heads):
        left, top = place(0, column)
        write(sheet, (left + FRAME + CROP_WIDTH // 2, top - 17), head, FAINT, size=12, is_centred=True)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            draw_tile(sheet, tile, place(row, column))
    return sheet


def draw_tile(sheet: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    """Draws one crop with its frame, its caption and the name of its file."""
    left, top = corner
    right, bottom = left + CROP_WIDTH + 2 * FRAME - 1, top + CROP_HEIGHT + 2 * FRAME - 1
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left, top, right, bottom), fill=tile.frame)
    sheet.paste(fitted(tile.crop), (left + FRAME, top + FRAME))
    indent = 0 if tile.is_correct is None else 14
    if tile.is_correct is not None:
        sheet.paste(tile.frame, (left, bottom + 5), mark(is_correct=tile.is_correct))
    write(sheet, (left + indent, bottom + 4), tile.caption[0], INK, size=11)
    write(sheet, (left + indent, bottom + 18), tile.caption[1], FAINT, size=11)
    for line, text in enumerate(file_lines(tile.file, width=right - left) if tile.file else ()):
        write(sheet, (left, bottom + 32 + 13 * line), text, FAINT, size=FILE_SIZE)


def write(sheet: Image.Image, corner: tuple[int, int], text: str, colour: Colour, *, size: int, is_centred: bool = False) -> None:
    """Writes one line, drawn four times as large and scaled down: small hinted letters run into each other."""
    font = ImageFont.load_default(4 * size)
    large = Image.new("L", (4 * (ceil(font.getlength(text) / 4) + 2), 4 * (size + 6)))
    ImageDraw.Draw(large).text((4, 4), text, 255, font)
    mask = large.resize((large.width // 4, large.height // 4), Image.Resampling.LANCZOS)
    left, top = corner
    sheet.paste(colour, (left - mask.width // 2 if is_centred else left - 1, top - 1), mask)


def mark(*, is_correct: bool) -> Image.Image:
    """Returns a tick or a cross as a smooth mask of 11 x 11 pixels."""
    large = Image.new("L", (88, 88))
    pen = ImageDraw.Draw(large)
    strokes = [[(8, 48), (34, 74), (80, 14)]] if is_correct else [[(12, 12), (76, 76)], [(76, 12), (12, 76)]]
    for stroke in strokes:
        pen.line(stroke, fill=255, width=17, joint="curve")
    return large.resize((11, 11), Image.Resampling.LANCZOS)


def fitted(crop: np.ndarray) -> Image.Image:
    """Returns a crop at the size it is drawn in."""
    return Image.fromarray(crop).resize((CROP_WIDTH, CROP_HEIGHT), Image.Resampling.LANCZOS)


def save(path: Path, sheet: Image.Image) -> Path:
    """Writes a sheet as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole({path: lambda temporary: sheet.save(temporary, "PNG", optimize=True)})
    return path
