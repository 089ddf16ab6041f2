"""A small Market-1501-layout dataset of drawn people, so that every command runs with nothing downloaded.

An identity is clothing, hair, skin, build and bag; a camera is light, tint, blur, viewpoint and background; a crop adds pose,
framing and noise. The same seed writes the same bytes. Nobody real is shown, and no figure measured on it says anything about
people.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from tqdm import tqdm

from training.dataset import DISTRACTOR_PID, GALLERY, JUNK_PID, QUERY, TRAIN

WIDTH, HEIGHT = 64, 128  # pixels of a written crop, as in Market-1501
CANVAS = (128, 256)  # people are drawn at twice the size and scaled down
NUM_CAMERAS = 4
NUM_TRAIN_IDS, NUM_TEST_IDS, NUM_DISTRACTORS, NUM_JUNK = 48, 24, 16, 6
CROPS_PER_CAMERA = 3  # of each identity

Colour = tuple[int, int, int]

SKIN: tuple[Colour, ...] = ((255, 219, 190), (234, 192, 158), (198, 146, 107), (141, 92, 60), (92, 58, 38))
HAIR: tuple[Colour, ...] = ((30, 24, 20), (84, 52, 30), (166, 120, 60), (214, 186, 120), (150, 150, 150), (150, 50, 30))
CLOTH: tuple[Colour, ...] = (
    (200, 40, 40), (40, 90, 200), (40, 150, 70), (240, 200, 60), (240, 240, 240), (35, 35, 40), (130, 60, 150),
    (240, 130, 40), (120, 120, 125), (90, 60, 40), (250, 160, 190), (60, 180, 190), (30, 40, 90), (150, 160, 80),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """How one identity looks under every camera."""

    skin: Colour
    hair: Colour
    shirt: Colour
    shirt_mark: Colour
    pattern: str  # plain, stripes, block or jacket
    legs: Colour
    legwear: str  # trousers, shorts or skirt
    shoes: Colour
    bag: str  # none, backpack or handbag
    bag_colour: Colour
    build: float  # width factor
    has_long_hair: bool


@dataclass(frozen=True, eq=False)
class Camera:
    """What one camera does to everybody."""

    background: Colour
    ground: Colour
    light: float  # brightness factor
    contrast: float
    tint: np.ndarray  # float32 [3], factor of each channel
    blur: float  # pixels
    is_mirrored: bool
    tilt: float  # degrees


def draw_person(rng: np.random.Generator) -> Person:
    """Draws an identity's looks at random."""
    shirt, mark, legs, shoes, bag = (CLOTH[i] for i in rng.choice(len(CLOTH), size=5, replace=False))
    return Person(
        skin=SKIN[rng.integers(len(SKIN))],
        hair=HAIR[rng.integers(len(HAIR))],
        shirt=shirt,
        shirt_mark=mark,
        pattern=str(rng.choice(["plain", "stripes", "block", "jacket"])),
        legs=legs,
        legwear=str(rng.choice(["trousers", "trousers", "shorts", "skirt"])),
        shoes=shoes,
        bag=str(rng.choice(["none", "backpack", "handbag"])),
        bag_colour=bag,
        build=float(rng.uniform(0.8, 1.25)),
        has_long_hair=bool(rng.random() < 0.5),
    )


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draws a camera's properties at random."""
    grey = rng.integers(90, 200)
    return Camera(
        background=_colour(grey + rng.integers(-25, 26, 3)),
        ground=_colour(grey - 30 + rng.integers(-20, 21, 3)),
        light=float(rng.uniform(0.65, 1.25)),
        contrast=float(rng.uniform(0.75, 1.15)),
        tint=rng.uniform(0.88, 1.12, 3).astype(np.float32),
        blur=float(rng.uniform(0.0, 1.6)),
        is_mirrored=bool(rng.random() < 0.5),
        tilt=float(rng.uniform(-4, 4)),
    )


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = np.clip(values, 0, 255).tolist()
    return red, green, blue


def draw_crop(person: Person, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Draws one crop, 64 x 128 RGB: the person in a pose of the moment, seen through the camera."""
    image = Image.new("RGB", CANVAS, camera.background)
    pen = ImageDraw.Draw(image)
    horizon = int(rng.integers(150, 200))
    pen.rectangle((0, horizon, *CANVAS), fill=camera.ground)
    for _ in range(4):  # clutter behind the person
        left, top = rng.integers(0, CANVAS[0]), rng.integers(0, CANVAS[1])
        shade = _colour(rng.integers(60, 210, 3))
        pen.rectangle((int(left), int(top), int(left + rng.integers(5, 40)), int(top + rng.integers(5, 60))), fill=shade)
    centre = CANVAS[0] / 2 + rng.uniform(-8, 8)
    _draw_body(pen, person, centre, swing=float(rng.uniform(-14, 14)))
    return _through_camera(image, camera, rng)


def _draw_body(pen: ImageDraw.ImageDraw, person: Person, x: float, *, swing: float) -> None:
    """Draws the figure around column `x`, from far to near: bag, legs, torso, arms, head."""
    half = 24 * person.build  # of the shoulders, pixels
    if person.bag == "backpack":
        pen.rounded_rectangle((x - half - 9, 66, x + half * 0.5, 130), 10, fill=person.bag_colour)
    leg_colour = person.skin if person.legwear != "trousers" else person.legs
    for side in (-1, 1):
        foot = x + side * (half * 0.4 + swing)
        pen.line((x + side * half * 0.4, 140, foot, 236), fill=leg_colour, width=int(15 * person.build))
        pen.ellipse((foot - 11, 228, foot + 11, 244), fill=person.shoes)
    if person.legwear == "shorts":
        pen.rectangle((x - half * 0.85, 132, x + half * 0.85, 178), fill=person.legs)
    if person.legwear == "skirt":
        pen.polygon(
            [(x - half * 0.7, 130), (x + half * 0.7, 130), (x + half * 1.1, 186), (x - half * 1.1, 186)], fill=person.legs
        )
    _draw_torso(pen, person, x, half)
    for side in (-1, 1):
        hand = (x + side * (half + 4) - swing * side * 0.6, 138)
        pen.line((x + side * half, 62, *hand), fill=person.shirt, width=12)
        pen.ellipse((hand[0] - 6, hand[1] - 4, hand[0] + 6, hand[1] + 8), fill=person.skin)
    if person.bag == "handbag":
        pen.rounded_rectangle((x + half - 2, 124, x + half + 22, 156), 4, fill=person.bag_colour)
    if person.has_long_hair:
        pen.rounded_rectangle((x - 19, 14, x + 19, 66), 12, fill=person.hair)
    pen.ellipse((x - 15, 14, x + 15, 52), fill=person.skin)
    pen.pieslice((x - 17, 10, x + 17, 46), 180, 360, fill=person.hair)


def _draw_torso(pen: ImageDraw.ImageDraw, person: Person, x: float, half: float) -> None:
    """Draws the shirt with its pattern."""
    pen.rounded_rectangle((x - half, 54, x + half, 144), 12, fill=person.shirt)
    if person.pattern == "stripes":
        for top in range(64, 140, 18):
            pen.rectangle((x - half, top, x + half, top + 8), fill=person.shirt_mark)
    elif person.pattern == "block":
        pen.rectangle((x - half, 54 + 40, x + half, 144), fill=person.shirt_mark)
    elif person.pattern == "jacket":
        pen.rectangle((x - half * 0.35, 56, x + half * 0.35, 144), fill=person.shirt_mark)


def _through_camera(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Applies viewpoint, framing, blur, light, tint and noise, and scales the drawing to a crop."""
    if camera.is_mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(camera.tilt + rng.uniform(-2, 2), Image.Resampling.BILINEAR, fillcolor=camera.background)
    left, top = rng.uniform(0, 8), rng.uniform(0, 10)
    box = (left, top, CANVAS[0] - rng.uniform(0, 8), CANVAS[1] - rng.uniform(0, 10))
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * 0.5))
    image = ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(camera.light)).enhance(camera.contrast)
    noisy = np.asarray(image, np.float32) * camera.tint + rng.normal(0, 5, (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_dataset(folder: Path, *, seed: int) -> None:
    """Writes the whole dataset below `folder`; a folder that holds a finished one is left as it is.

    Training and test identities differ. Each test identity gives one query per camera; the rest of its crops are gallery, with
    distractors (pid 0) and a few junk files (pid -1) between them.
    """
    finished = folder / "seed.txt"
    if finished.is_file():
        if finished.read_text() != f"{seed}\n":
            raise ValueError(
                f"{folder}: got drawn people of seed {finished.read_text().strip()}, wanted {seed}; use a new folder"
            )
        return
    cameras = [draw_camera(np.random.default_rng((seed, 0, number))) for number in range(NUM_CAMERAS)]
    for name in (TRAIN, QUERY, GALLERY):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pids = range(1, NUM_TRAIN_IDS + NUM_TEST_IDS + 1)
    for pid in tqdm(pids, desc="draw people", unit="identity", disable=None):
        rng = np.random.default_rng((seed, 1, pid))
        person = draw_person(rng)
        for number, camera in enumerate(cameras, start=1):
            for shot in range(CROPS_PER_CAMERA):
                place = TRAIN if pid <= NUM_TRAIN_IDS else QUERY if shot == 0 else GALLERY
                _save(draw_crop(person, camera, rng), folder / place, pid, number, shot)
    for pid, count in ((DISTRACTOR_PID, NUM_DISTRACTORS), (JUNK_PID, NUM_JUNK)):
        for shot in range(count):
            rng = np.random.default_rng((seed, 2, pid + 1, shot))
            number = shot % NUM_CAMERAS + 1
            _save(draw_crop(draw_person(rng), cameras[number - 1], rng), folder / GALLERY, pid, number, shot)
    finished.write_text(f"{seed}\n")


def _save(image: Image.Image, folder: Path, pid: int, camera: int, shot: int) -> None:
    name = f"{pid:04d}" if pid >= 0 else str(pid)
    image.save(folder / f"{name}_c{camera}s1_{shot:06d}_00.jpg", quality=92)
