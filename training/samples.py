"""What a dataset is, once read: crops on disk with identity and camera, in three lists; its counts, and what is odd about it.

Every reader (training/layouts.py, training/own_data.py) ends here, and nothing after it knows where the crops came from.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
JUNK_PID = -1
DISTRACTOR_PID = 0  # a person of a public dataset counted from 0 is renumbered by its reader, so that 0 means this alone
FEW_IDS = 20  # ours: fewer than the 16 of a batch and a few to spare
SMALL_HEIGHT, SMALL_WIDTH = 64, 32  # pixels; ours: a quarter of what the network sees (256 x 128)
NUM_LOOKED_AT = 100  # crops of each list whose size is read: headers only, so that a large dataset opens at once


@dataclass(frozen=True)
class Sample:
    """One crop on disk, its identity and its camera."""

    path: Path
    pid: int
    camid: int


@dataclass(frozen=True)
class Dataset:
    """A dataset, read: three lists, how many junk files they lost, and what the reader has to say.

    A list may be empty: one without query and gallery can only be trained on, one without train only evaluated on. Without
    cameras the camids say nothing about where a crop was taken. The name is the folder's where none is given; `train_name` is
    another where the training list is not of the same dataset.
    """

    folder: Path
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]
    num_junk: int
    warnings: tuple[str, ...] = ()
    has_cameras: bool = True
    name: str = ""
    train_name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.folder.absolute().name)
        object.__setattr__(self, "train_name", self.train_name or self.name)

    def summary(self) -> str:
        """Returns what is printed before a run: one line per list with its counts, then the warnings."""
        other = f", trained on {self.train_name}" if self.train_name != self.name else ""
        lines = [f"{self.name} ({self.folder}){other}: {self.num_junk} junk files (pid -1) left out"]
        for name, samples in self.lists():
            distractors = sum(s.pid == DISTRACTOR_PID for s in samples)
            extra = f", {distractors:,} distractors" if distractors else ""
            cameras = f"{len({s.camid for s in samples}):3}" if self.has_cameras else " no"
            lines.append(f"  {name:8}{len(samples):7,} crops {len(people(samples)):6,} identities {cameras} cameras{extra}")
        return "\n".join([*lines, *(f"  warning: {text}" for text in (*self.warnings, *concerns(self)))])

    def lists(self) -> Iterator[tuple[str, tuple[Sample, ...]]]:
        """Yields train, query and gallery with their names."""
        yield from (("train", self.train), ("query", self.query), ("gallery", self.gallery))


def people(samples: Iterable[Sample]) -> set[int]:
    """Returns the pids that are identities: all but the distractors'."""
    return {sample.pid for sample in samples} - {DISTRACTOR_PID}


def cameras_of(samples: Iterable[Sample]) -> dict[int, list[int]]:
    """Returns for each pid the camids of its crops, one per crop."""
    found: dict[int, list[int]] = defaultdict(list)
    for sample in samples:
        found[sample.pid].append(sample.camid)
    return dict(found)


def num_valid_queries(data: Dataset) -> int:
    """Counts the queries that have a correct gallery crop under another camera."""
    cameras = {pid: set(camids) for pid, camids in cameras_of(data.gallery).items()}
    return sum(bool(cameras.get(query.pid, set()) - {query.camid}) for query in data.query)


def counted(number: int, what: str) -> str:
    """Returns "1 file" or "2 files"; `what` is the singular noun."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else plural}"


def concerns(data: Dataset) -> Iterator[str]:
    """Yields what can be seen to be odd about the lists, from paths and ids alone."""
    yield from train_concerns(data)
    yield from test_concerns(data)
    paths = {name: {sample.path for sample in samples} for name, samples in data.lists()}
    for name, samples in data.lists():
        again = len(samples) - len(paths[name])
        if again:
            yield f"{counted(again, 'file')} listed more than once in the {name} list"
    files = paths["train"] & (paths["query"] | paths["gallery"])
    if files:
        yield f"{counted(len(files), 'file')} in both the training and the test lists: the figures will flatter"
    pids = people(data.train) & people((*data.query, *data.gallery))
    if pids:
        yield f"{counted(len(pids), 'identity')} in both the training and the test lists: the protocol tests with other people"


def train_concerns(data: Dataset) -> Iterator[str]:
    """Yields what is odd about the identities trained on."""
    cameras = cameras_of(data.train)
    if 0 < len(cameras) < FEW_IDS:
        yield f"{counted(len(cameras), 'training identity')} only: the model will know little"
    single = sum(len(camids) == 1 for camids in cameras.values())
    if single:
        yield f"{counted(single, 'training identity')} with one crop only, its own positive in every triplet"
    lonely = sum(len(camids) > 1 and len(set(camids)) == 1 for camids in cameras.values())
    if lonely and data.has_cameras:
        yield f"{counted(lonely, 'training identity')} seen by one camera only: nothing to learn across cameras"


def test_concerns(data: Dataset) -> Iterator[str]:
    """Yields what is odd about the identities tested with."""
    pids = people(data.query)
    if 0 < len(pids) < FEW_IDS:
        yield f"{counted(len(pids), 'query identity')} only: the figures will be rough"
    invalid = len(data.query) - num_valid_queries(data)
    if invalid and data.gallery:
        where = " under another camera" if data.has_cameras else ""
        yield f"{invalid:,} of {len(data.query):,} queries without a correct gallery crop{where} will leave every mean"


# What readers share.


def images(folder: Path) -> list[Path]:
    """Returns the images of a folder in name order; hidden files are none (macOS writes ._0002_c1.jpg beside 0002_c1.jpg)."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders of a folder in name order, hidden ones left out."""
    with os.scandir(folder) as found:
        return sorted(folder / one.name for one in found if one.is_dir() and not one.name.startswith("."))


def refuse_missing(source: Path, paths: Sequence[Path]) -> None:
    """Raises ValueError when files that `source` lists are not there: how many, and the first few."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        first = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{source}: got {len(missing):,} of {len(paths):,} listed files missing ({first}), wanted all of them")


def small_crops(samples: Sequence[Sample]) -> tuple[int, int]:
    """Returns how many of the crops looked at are smaller than 64 x 32, and how many could be looked at; decodes none."""
    sizes = []
    for sample in samples[:: max(1, len(samples) // NUM_LOOKED_AT)]:
        try:
            with Image.open(sample.path) as image:
                sizes.append(image.size)
        except (OSError, Image.DecompressionBombError):
            continue  # whoever decodes it names it
    return sum(width < SMALL_WIDTH or height < SMALL_HEIGHT for width, height in sizes), len(sizes)
