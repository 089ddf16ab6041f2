"""From a Market-1501-layout folder to lists of samples: file names, junk and distractor rules, counts.

    FOLDER/bounding_box_train/0002_c1s1_000451_03.jpg    pid 2, camera 1
    FOLDER/query/..., FOLDER/bounding_box_test/...       pid -1 is junk, pid 0 a distractor

Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. Junk (-1) is dropped; distractors (0000) stay in
the gallery as entries that are always wrong.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NAME = re.compile(r"^(-?\d+)_c(\d+)")  # the sign belongs to the pid: "-1" must never be read as pid 1
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
JUNK_PID = -1
DISTRACTOR_PID = 0
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True)
class Sample:
    """One crop on disk, its identity and its camera."""

    path: Path
    pid: int
    camid: int


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, read: three lists in file-name order, and how many junk files each lost."""

    folder: Path
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]
    num_junk: int

    def summary(self) -> str:
        """Returns the counts that are printed before a run, one line per list."""
        lines = [f"{self.folder}: {self.num_junk} junk files (pid -1) left out"]
        for name, samples in (("train", self.train), ("query", self.query), ("gallery", self.gallery)):
            pids = {s.pid for s in samples} - {DISTRACTOR_PID}
            distractors = sum(s.pid == DISTRACTOR_PID for s in samples)
            extra = f", {distractors:,} distractors" if distractors else ""
            cameras = len({s.camid for s in samples})
            lines.append(f"  {name:8}{len(samples):7,} crops {len(pids):6,} identities {cameras:3} cameras{extra}")
        return "\n".join(lines)


def read_folder(folder: Path) -> tuple[list[Sample], int]:
    """Reads one list: the samples in file-name order without junk, and the number of junk files.

    Raises ValueError when the folder is missing, holds no image or junk alone, or an image whose name carries no pid and camera.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: got no such folder, wanted a Market-1501 layout ({TRAIN}/, {QUERY}/, {GALLERY}/)")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: got no image, wanted files such as 0002_c1s1_000451_03.jpg")
    samples = []
    for path in paths:
        found = NAME.match(path.name)
        if not found:
            raise ValueError(f"{path}: got a name without identity and camera, wanted one such as 0002_c1s1_000451_03.jpg")
        samples.append(Sample(path=path, pid=int(found[1]), camid=int(found[2])))
    kept = [sample for sample in samples if sample.pid != JUNK_PID]
    if not kept:
        raise ValueError(f"{folder}: got {len(samples)} images, all junk (pid -1), wanted at least one identity")
    return kept, len(samples) - len(kept)


def read_dataset(folder: Path) -> Dataset:
    """Reads all three lists of a Market-1501-layout folder; raises ValueError as `read_folder` does."""
    train, query, gallery = (read_folder(folder / name) for name in (TRAIN, QUERY, GALLERY))
    return Dataset(
        folder=folder,
        train=tuple(train[0]),
        query=tuple(query[0]),
        gallery=tuple(gallery[0]),
        num_junk=train[1] + query[1] + gallery[1],
    )


def class_labels(samples: tuple[Sample, ...]) -> np.ndarray:
    """Returns int64 [N]: each sample's pid as 0 .. num_ids - 1, by rising pid. Raises ValueError under two identities."""
    pids = np.array([sample.pid for sample in samples])
    labels = np.unique(pids, return_inverse=True)[1].astype(np.int64)
    if len(pids) == 0 or labels.max() == 0:
        raise ValueError(f"training list: got {len(set(pids.tolist()))} identities in {len(pids)} crops, wanted at least 2")
    return labels
