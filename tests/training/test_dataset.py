"""Telling layouts apart, the no-camera mode, what a test needs, joining, class labels."""

from pathlib import Path

import numpy as np
import pytest

from training.dataset import Dataset, Sample, check_test, class_labels, join, read_dataset
from training.samples import concerns


def ids(samples):
    return [(sample.pid, sample.camid) for sample in samples]


def listed(name, ids_of_list):
    return tuple(Sample(Path(name, f"{number}.jpg"), pid, camid) for number, (pid, camid) in enumerate(ids_of_list))


def dataset(name, *, train=(), query=(), gallery=(), **more):
    parts = (listed(f"{name}/train", train), listed(f"{name}/query", query), listed(f"{name}/gallery", gallery))
    return Dataset(Path("data", name), *parts, 0, **more)


# Telling layouts apart.


def test_a_dataset_knows_its_folder(layout):
    folder = layout()
    assert read_dataset(folder) == Dataset(
        folder=folder,
        train=(Sample(folder / "bounding_box_train" / "0001_c1_a.jpg", 1, 1),),
        query=(Sample(folder / "query" / "0002_c1_a.jpg", 2, 1),),
        gallery=(Sample(folder / "bounding_box_test" / "0002_c2_a.jpg", 2, 2),),
        num_junk=0,
    )


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="^no/such/folder: got no such folder, wanted a Market-1501 layout or another of these:"):
        read_dataset(Path("no/such/folder"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got an empty folder, wanted one of these:"):
        read_dataset(tmp_path)


def test_an_unknown_layout_is_refused_with_what_was_found_and_what_is_known(tmp_path):
    (tmp_path / "a_folder").mkdir()
    for number in range(7):
        (tmp_path / f"{number}.jpg").touch()
    with pytest.raises(ValueError) as refusal:
        read_dataset(tmp_path)
    message = str(refusal.value)
    assert "got a folder with 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 3 more, wanted one of these:" in message
    assert all(
        name in message for name in ("Market-1501", "DukeMTMC", "MSMT17", "CUHK03", "VIPeR", "path,pid,camid,split", "<pid>")
    )


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "crops.xlsx").touch()
    with pytest.raises(ValueError, match=r"crops.xlsx: got a file that is neither .csv nor .json, wanted one of these:"):
        read_dataset(tmp_path / "crops.xlsx")


def test_a_folder_of_datasets_is_refused_with_their_names(tmp_path):
    for name in ("labeled", "detected"):
        (tmp_path / name / "bounding_box_train").mkdir(parents=True)
        (tmp_path / name / "bounding_box_train" / "0001_c1_1.png").touch()
    with pytest.raises(ValueError, match=r"got a folder of 2 datasets, wanted one of them: give .*detected or .*labeled$"):
        read_dataset(tmp_path)


# Without cameras.


def test_without_cameras_every_gallery_crop_of_an_identity_may_match(layout):
    data = read_dataset(layout(query=["0002_c1.jpg", "0003_c2.jpg"], gallery=["0002_c1.jpg", "0003_c2.jpg"]), cameras=False)
    junk = [(one, other) for one in data.query for other in data.gallery if (one.pid, one.camid) == (other.pid, other.camid)]
    assert junk == []
    assert not data.has_cameras
    assert "cameras are ignored" in data.warnings[-1]
    check_test(data)


def test_without_cameras_all_training_crops_share_one_camid(layout):
    assert ids(read_dataset(layout(train=["0001_c1.jpg", "0002_c5.jpg"]), cameras=False).train) == [(1, 0), (2, 0)]


def test_without_cameras_a_file_in_query_and_gallery_is_refused(tmp_path):
    (tmp_path / "test" / "0000").mkdir(parents=True)
    (tmp_path / "test" / "0000" / "0000_000_01_x_0.jpg").touch()
    for name in ("list_query.txt", "list_gallery.txt"):
        (tmp_path / name).write_text("0000/0000_000_01_x_0.jpg 0\n")
    with pytest.raises(ValueError, match=r"got 1 files in both query and gallery \(.*_0.jpg\), wanted none without cameras"):
        read_dataset(tmp_path, cameras=False)
    assert len(read_dataset(tmp_path).query) == 1


# What a test needs.


def test_one_query_with_a_match_in_another_camera_is_enough():
    check_test(dataset("one", query=[(1, 1), (2, 1)], gallery=[(2, 1), (1, 2)]))


@pytest.mark.parametrize(
    ("query", "gallery", "said"),
    [
        ([], [], "got 0 query and 0 gallery crops, wanted both to test with; this dataset can only be trained on"),
        ([(1, 1)], [], "got 1 query and 0 gallery crops"),
        ([(1, 1), (2, 1)], [(1, 1), (2, 1)], "under another camera; .* or --no-cameras"),
        ([(1, 1)], [(1, 1), (3, 2)], "none of 1 queries has its identity in the gallery under another camera"),
        ([(1, 1)], [(2, 2), (0, 3)], "got no query whose identity is in the gallery, wanted the same people in both"),
    ],
)
def test_lists_that_no_query_can_be_scored_with_are_refused(query, gallery, said):
    with pytest.raises(ValueError, match=f"data/none: .*{said}"):
        check_test(dataset("none", query=query, gallery=gallery))


# Several datasets.


def test_joined_datasets_keep_their_identities_and_cameras_apart():
    first, second = dataset("a", train=[(1, 1), (2, 2)]), dataset("b", train=[(1, 1), (2, 1), (0, 3)])
    train = join([first, second], test=first).train
    assert [sample.path for sample in train] == [sample.path for data in (first, second) for sample in data.train]
    assert len({sample.pid for sample in train}) == 5
    assert len({sample.camid for sample in train}) == 4


def test_the_test_lists_of_a_joined_dataset_are_those_of_the_test_as_they_were():
    market, duke = dataset("market", train=[(1, 1), (2, 1)]), dataset("duke", query=[(1, 1)], gallery=[(1, 2), (0, 3)])
    both = join([market], test=duke)
    assert (both.query, both.gallery, both.folder) == (duke.query, duke.gallery, duke.folder)
    assert list(concerns(both)) == [*concerns(market), *concerns(duke)] != []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_people_who_are_in_training_and_test_of_one_dataset_are_seen_after_joining_too(order):
    test = dataset("test", train=[(1, 1), (5, 1)], query=[(5, 1)], gallery=[(5, 2)])
    others = (test, dataset("a", train=[(5, 1), (8, 2)]), dataset("b", train=[(5, 1), (20, 2)]))
    data = join([others[place] for place in order], test=test)
    assert len({sample.pid for sample in data.train}) == 6
    assert {sample.pid for sample in data.train} & {sample.pid for sample in data.query} == {5}


def test_a_joined_dataset_has_the_names_the_junk_and_the_warnings_of_its_parts():
    first, second = dataset("a", train=[(1, 1)], warnings=("small",)), dataset("b", train=[(1, 1)], has_cameras=False)
    data = join([first, second], test=second)
    assert (data.train_name, data.warnings, data.has_cameras) == ("a+b", ("a: small",), False)
    assert data.name == "b"  # figures are those of the test set


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "got no dataset"), (("a", "a"), "wanted at least one, each once"), (("a", "bare"), "no training list")],
)
def test_joining_nothing_or_one_thing_twice_or_a_test_set_is_refused(names, said):
    known = {"a": dataset("a", train=[(1, 1)]), "bare": dataset("bare", query=[(1, 1)])}
    with pytest.raises(ValueError, match=said):
        join([known[name] for name in names], test=known["a"])


# Class labels.


def test_class_labels_are_dense_and_follow_rising_pids(tmp_path):
    samples = tuple(Sample(tmp_path, pid, 1) for pid in (700, 3, 3, 1500, 20, 700))
    labels = class_labels(samples)
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 0, 3, 1, 2]


@pytest.mark.parametrize("pids", [(), (5,), (5, 5, 5)])
def test_fewer_than_two_identities_are_refused(tmp_path, pids):
    with pytest.raises(ValueError, match=rf"got {len(set(pids))} identities in {len(pids)} crops, wanted at least 2"):
        class_labels(tuple(Sample(tmp_path, pid, 1) for pid in pids))


def test_a_dataset_without_a_training_list_says_so_when_its_labels_are_asked_for(layout):
    with pytest.raises(ValueError, match="can only be tested with: it has no bounding_box_train/, train/, or lines of the split"):
        class_labels(read_dataset(layout(train=None)).train)
