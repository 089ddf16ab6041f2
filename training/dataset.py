"""From a folder or a file to lists of samples, whichever of the known layouts it has; and what a list must have to be used.

read_dataset(Path("Market-1501"))                  public datasets: training/layouts.py
read_dataset(Path("crops.csv"), cameras=False)     your own: training/own_data.py
join([market, msmt17], test=duke)                  several to train on, any to test with
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from training import layouts, own_data
from training.layouts import GALLERY, QUERY, TRAIN
from training.samples import (
    DISTRACTOR_PID,
    JUNK_PID,
    SMALL_HEIGHT,
    SMALL_WIDTH,
    Dataset,
    Sample,
    num_valid_queries,
    people,
    small_crops,
    subfolders,
)

__all__ = ["DISTRACTOR_PID", "GALLERY", "JUNK_PID", "QUERY", "TRAIN", "Dataset", "Sample"]  # what others take from here too


def read_dataset(path: Path, *, cameras: bool = True, seed: int = 0) -> Dataset:
    """Reads a dataset of any known layout, told apart by what is inside.

    Without `cameras` the camids are ignored: every query may match every gallery crop of its identity. `seed` draws the test
    where the data has no split. Raises ValueError when nothing known is found, and as the reader of each layout does.
    """
    data = read_any(path, cameras=cameras, seed=seed)
    small, looked_at = map(sum, zip(*(small_crops(samples) for _, samples in data.lists()), strict=True))
    if small:
        size = f"{SMALL_HEIGHT} x {SMALL_WIDTH} pixels (height x width)"
        data = replace(data, warnings=(*data.warnings, f"{small} of {looked_at} crops looked at are smaller than {size}"))
    return data if cameras else without_cameras(data)


def read_any(path: Path, *, cameras: bool, seed: int) -> Dataset:
    """Reads whatever `path` holds, camids as they are; raises ValueError as `read_dataset` does."""
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return own_data.read_csv(path, cameras=cameras, seed=seed)
        if path.suffix.lower() == ".json":
            return layouts.read_cuhk03(path)
        raise ValueError(f"{path}: got a file that is neither .csv nor .json, wanted one of these:\n{layouts.KNOWN}")
    if not path.is_dir():
        raise ValueError(f"{path}: got no such folder, wanted a Market-1501 layout or another of these:\n{layouts.KNOWN}")
    reader = layouts.reader_of(path, seed=seed)
    if reader:
        return reader(path)
    # Before folders of identities: the folders of a dataset inside this one would pass for somebody's cameras.
    inside = [str(folder) for folder in subfolders(path) if layouts.reader_of(folder, seed=seed)]
    if inside:
        raise ValueError(f"{path}: got a folder of {len(inside)} datasets, wanted one of them: give {' or '.join(inside)}")
    data = own_data.read_folders(path, cameras=cameras, seed=seed)
    if data is None:
        raise ValueError(f"{path}: got {contents(path)}, wanted one of these:\n{layouts.KNOWN}")
    return data


def contents(folder: Path) -> str:
    """Returns what a folder holds, in a few words."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"a folder with {', '.join(names[:5])}{more}" if names else "an empty folder"


def without_cameras(data: Dataset) -> Dataset:
    """Returns the dataset with all queries under one camid and all gallery crops under another: no crop is junk to any query.

    Raises ValueError for a file in both lists, which would match itself.
    """
    both = sorted({sample.path for sample in data.query} & {sample.path for sample in data.gallery})
    if both:
        raise ValueError(
            f"{data.folder}: got {len(both)} files in both query and gallery ({both[0]}), wanted none without cameras"
        )
    note = "cameras are ignored: matches under the query's own camera count, which is easier than the usual protocol"
    return replace(
        data,
        train=tuple(replace(sample, camid=0) for sample in data.train),
        query=tuple(replace(sample, camid=0) for sample in data.query),
        gallery=tuple(replace(sample, camid=1) for sample in data.gallery),
        warnings=(*data.warnings, note),
        has_cameras=False,
    )


def check_test(data: Dataset) -> None:
    """Raises ValueError when there is nothing to test with: a list is missing, or no query has a correct gallery crop."""
    if not (data.query and data.gallery):
        raise ValueError(
            f"{data.folder}: got {len(data.query)} query and {len(data.gallery)} gallery crops, wanted both to test with; "
            f"this dataset can only be trained on"
        )
    if num_valid_queries(data):
        return
    if not people(data.query) & people(data.gallery):
        raise ValueError(f"{data.folder}: got no query whose identity is in the gallery, wanted the same people in both")
    raise ValueError(
        f"{data.folder}: none of {len(data.query)} queries has its identity in the gallery under another camera; "
        f"wanted identities that two cameras saw, or --no-cameras to let every gallery crop of an identity match"
    )


def join(datasets: Sequence[Dataset], *, test: Dataset) -> Dataset:
    """Returns one dataset with the training lists of all `datasets` and the test lists of `test`, which may be one of them.

    Pids and camids of different datasets stay apart: those of `test` are kept as they are, all others are moved beyond.
    Raises ValueError for no dataset, one given twice, and one without a training list.
    """
    folders = [data.folder.resolve() for data in datasets]
    if not folders or len(set(folders)) < len(folders):
        raise ValueError(f"join: got {', '.join(map(str, folders)) or 'no dataset'}, wanted at least one, each once")
    bare = [str(data.folder) for data in datasets if not data.train]
    if bare:
        raise ValueError(f"join: got no training list in {', '.join(bare)}, wanted one in each dataset that is trained on")
    train: list[Sample] = []
    next_pid, next_camid = beyond(chain(test.train, test.query, test.gallery))
    for data, folder in zip(datasets, folders, strict=True):
        if folder == test.folder.resolve():
            train.extend(data.train)
            continue
        train.extend(replace(one, pid=one.pid + next_pid, camid=one.camid + next_camid) for one in data.train)
        next_pid, next_camid = beyond(chain(train, test.train, test.query, test.gallery))
    others = [data for data in datasets if data.folder.resolve() != test.folder.resolve()]
    return replace(
        test,
        train=tuple(train),
        num_junk=sum(data.num_junk for data in (test, *others)),
        warnings=tuple(f"{data.name}: {text}" for data in (test, *others) for text in data.warnings),
        train_name="+".join(data.name for data in datasets),
    )


def beyond(samples: Iterable[Sample]) -> tuple[int, int]:
    """Returns the lowest pid and the lowest camid above all of those in `samples`."""
    ids = [(0, 0), *((sample.pid, sample.camid) for sample in samples)]
    return 1 + max(pid for pid, _ in ids), 1 + max(camid for _, camid in ids)


def class_labels(samples: tuple[Sample, ...]) -> np.ndarray:
    """Returns int64 [N]: each sample's pid as 0 .. num_ids - 1, by rising pid. Raises ValueError under two identities."""
    pids = np.array([sample.pid for sample in samples])
    labels = np.unique(pids, return_inverse=True)[1].astype(np.int64)
    if len(pids) == 0 or labels.max() == 0:
        hint = (
            "" if samples else f"; this dataset can only be tested with: it has no {TRAIN}/, train/, or lines of the split train"
        )
        raise ValueError(f"training list: got {len(set(pids.tolist()))} identities in {len(pids)} crops, wanted at least 2{hint}")
    return labels
