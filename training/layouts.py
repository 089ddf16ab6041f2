"""Public datasets as they are unpacked: Market-1501, DukeMTMC-reID, MSMT17, CUHK03 (767/700) and VIPeR.

Each is known by the names inside its folder; nothing is read from the folder's own name, and nothing is downloaded.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.samples import JUNK_PID, Dataset, Sample, images, refuse_missing

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
NAME = re.compile(r"^(-?\d+)_c(\d+)")  # the sign belongs to the pid: "-1" must never be read as pid 1
VIPER_NAME = re.compile(r"^(\d+)_")
MSMT_LISTS = ("list_train.txt", "list_query.txt", "list_gallery.txt")
MSMT_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))  # V1; V2, the faces blurred
CUHK_SPLITS = ("splits_new_labeled.json", "splits_new_detected.json")
# MSMT17 and the CUHK03 splits count training and test identities from 0 each, and they are different people: this keeps them
# apart, and the 1 added to both keeps the first of them from being taken for distractors. MSMT17 trains on 1,041.
TEST_PIDS = 10_000

KNOWN = f"""\
  Market-1501, DukeMTMC-reID, cuhk03-np/labeled: {TRAIN}/, {QUERY}/, {GALLERY}/ with names such as 0002_c1s1_000451_03.jpg
  MSMT17: train/ and test/, or mask_train_v2/ and mask_test_v2/, with {", ".join(MSMT_LISTS)}
  CUHK03, extracted: {CUHK_SPLITS[0]} or {CUHK_SPLITS[1]} beside images_labeled/ or images_detected/
  VIPeR: cam_a/ and cam_b/
  your own: a CSV file with the columns path,pid,camid,split (the last two optional)
  your own: a folder per identity, DIR/<pid>/*.jpg, or in DIR/train/, DIR/query/ and DIR/gallery/"""

Reader = Callable[[Path], Dataset]


def reader_of(folder: Path, *, seed: int) -> Reader | None:
    """Returns the function that reads the public dataset unpacked in `folder`, or None when it is none of them."""
    names = {path.name for path in folder.iterdir()}
    if names & set(MSMT_LISTS):
        return read_msmt17
    if names & {TRAIN, GALLERY}:
        return read_market
    if names & set(CUHK_SPLITS):
        return read_cuhk03
    return partial(read_viper, seed=seed) if names >= {"cam_a", "cam_b"} else None


def refuse_half_a_test(source: Path, *, query: bool, gallery: bool, names: tuple[str, str]) -> None:
    """Raises ValueError when a dataset has one of its two test lists."""
    if query != gallery:
        missing, other = names if gallery else names[::-1]
        raise ValueError(f"{source}: got {other} and no {missing}, wanted both to test with, or neither to train only")


def read_folder(folder: Path) -> tuple[list[Sample], int]:
    """Reads one list of a Market-1501 layout: the samples in file-name order without junk, and the number of junk files.

    Raises ValueError when the folder is missing, holds no image or junk alone, or an image whose name carries no pid and camera.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: got no such folder, wanted a Market-1501 layout ({TRAIN}/, {QUERY}/, {GALLERY}/)")
    paths = images(folder)
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


def read_market(folder: Path) -> Dataset:
    """Reads a Market-1501 layout, which DukeMTMC-reID and cuhk03-np share: pid -1 is junk, pid 0 a distractor.

        FOLDER/bounding_box_train/0002_c1s1_000451_03.jpg    pid 2, camera 1
        FOLDER/query/..., FOLDER/bounding_box_test/...       DukeMTMC: 0005_c2_f0046985.jpg

    Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. Junk is dropped; distractors (0000) stay in the
    gallery as entries that are always wrong. Raises ValueError as `read_folder` does, and for a query without a gallery.
    """
    there = {name: (folder / name).is_dir() for name in (TRAIN, QUERY, GALLERY)}
    refuse_half_a_test(folder, query=there[QUERY], gallery=there[GALLERY], names=(f"{QUERY}/", f"{GALLERY}/"))
    lists = [read_folder(folder / name) if there[name] else ([], 0) for name in (TRAIN, QUERY, GALLERY)]
    train, query, gallery = (tuple(samples) for samples, _ in lists)
    place = folder.absolute()
    name = f"{place.parent.name}-{place.name}" if place.name in ("labeled", "detected") else place.name
    return Dataset(folder, train, query, gallery, sum(junk for _, junk in lists), name=name)


def read_msmt17(folder: Path) -> Dataset:
    """Reads MSMT17, V1 or V2, by its lists: "0000/0000_000_01_0303morning_0008_0.jpg 0" is pid 0, camera 1.

    Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018. Trains on list_train.txt
    alone, as the authors' released code does; many papers add list_val.txt. Raises ValueError for a line that is not a name
    and a pid, and for files that are listed and missing.
    """
    found = [pair for pair in MSMT_FOLDERS if (folder / pair[0]).is_dir() or (folder / pair[1]).is_dir()]
    if len(found) != 1:
        raise ValueError(f"{folder}: got {len(found)} of the two versions of MSMT17, wanted train/ and test/ or mask_*_v2/ alone")
    train_folder, test_folder = (folder / name for name in found[0])
    there = [(folder / name).is_file() for name in MSMT_LISTS]
    refuse_half_a_test(folder, query=there[1], gallery=there[2], names=MSMT_LISTS[1:])
    train, query, gallery = (
        read_msmt17_list(folder / name, images_in, first_pid=first_pid) if exists else ()
        for name, images_in, first_pid, exists in zip(
            MSMT_LISTS, (train_folder, test_folder, test_folder), (1, 1 + TEST_PIDS, 1 + TEST_PIDS), there, strict=True
        )
    )
    left_out = folder / "list_val.txt"
    notes = (f"{left_out.name} is left out of training, as in the authors' released code",) if left_out.is_file() else ()
    return Dataset(folder, train, query, gallery, 0, warnings=notes)


def read_msmt17_list(file: Path, folder: Path, *, first_pid: int) -> tuple[Sample, ...]:
    """Reads one list of MSMT17, whose names lie in `folder` and whose pid 0 becomes `first_pid`."""
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, pid = line.strip().rpartition(" ")
        fields = Path(name).name.split("_")
        if not (pid.isdecimal() and len(fields) > 2 and fields[2].isdecimal()):
            raise ValueError(f"{file}, line {number}: got {line!r}, wanted such as 0000/0000_000_01_0303morning_0008_0.jpg 0")
        samples.append(Sample(folder / name, int(pid) + first_pid, int(fields[2])))
    if not samples:
        raise ValueError(f"{file}: got no line, wanted such as 0000/0000_000_01_0303morning_0008_0.jpg 0")
    refuse_missing(file, [sample.path for sample in samples])
    return tuple(samples)


def read_cuhk03(path: Path) -> Dataset:
    """Reads CUHK03 under the 767/700 protocol from the images and the JSON split that torchreid extracts.

    Args: path: the folder, or one of its splits_new_*.json where it holds both.
    Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. The paths inside are those of the
    machine that extracted them: only the last folder and the name are used. Raises ValueError for both splits at once, a file
    that is no such split, and files that are listed and missing.
    """
    files = [path] if path.is_file() else [path / name for name in CUHK_SPLITS if (path / name).is_file()]
    if len(files) > 1:
        raise ValueError(f"{path}: got labeled and detected crops, wanted one of them: give {files[0]} or {files[1]}")
    file = files[0]
    try:
        [split] = json.loads(file.read_text())
        train, query, gallery = (
            tuple(cuhk03_sample(file.parent, *one, first_pid=first_pid) for one in split[name])
            for name, first_pid in (("train", 1), ("query", 1 + TEST_PIDS), ("gallery", 1 + TEST_PIDS))
        )
    except (ValueError, TypeError, KeyError) as error:
        wanted = "a list of one split with train, query and gallery, each of [path, pid, camid]"
        raise ValueError(f"{file}: got {error!r}, wanted {wanted}") from error
    refuse_missing(file, [sample.path for sample in (*train, *query, *gallery)])
    kind = file.stem.removeprefix("splits_new_")
    return Dataset(file, train, query, gallery, 0, name=f"{file.absolute().parent.name}-{kind}")


def cuhk03_sample(folder: Path, path: object, pid: Any, camid: Any, *, first_pid: int) -> Sample:
    """Returns one crop of a split read from JSON; raises TypeError or ValueError when the three are not text and two numbers."""
    place, name = str(path).replace("\\", "/").split("/")[-2:]
    return Sample(folder / place / name, int(pid) + first_pid, int(camid))


def read_viper(folder: Path, *, seed: int) -> Dataset:
    """Reads VIPeR: cam_a/000_45.bmp and cam_b/000_90.bmp are one of 632 people.

    Gray et al., "Evaluating Appearance Models for Recognition, Reacquisition, and Tracking", PETS 2007. Half of the people,
    drawn by `seed`, are trained on; of the others cam_a is the query and cam_b the gallery. Published figures are means over
    ten such halves, often over both directions: run several seeds. Raises ValueError for a name that carries no pid.
    """
    views = []
    for camid, name in enumerate(("cam_a", "cam_b"), 1):
        paths = images(folder / name)
        found = [VIPER_NAME.match(path.name) for path in paths]
        if not paths or None in found:
            strange = paths[found.index(None)].name if paths else "no image"
            raise ValueError(f"{folder / name}: got {strange}, wanted names such as 000_45.bmp")
        views.append([Sample(path, int(one[1]) + 1, camid) for path, one in zip(paths, found, strict=True) if one])
    pids = sorted({sample.pid for view in views for sample in view})
    trained = set(np.random.default_rng(seed).permutation(pids)[: len(pids) // 2].tolist())
    query, gallery = (tuple(sample for sample in view if sample.pid not in trained) for view in views)
    return Dataset(
        folder,
        train=tuple(sample for view in views for sample in view if sample.pid in trained),
        query=query,
        gallery=gallery,
        num_junk=0,
        warnings=(f"a random half of the people is held out to test with (seed {seed}); published figures average ten halves",),
    )
