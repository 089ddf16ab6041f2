"""Reading a Market-1501 layout: signs, junk, distractors, counts, refusals."""

import numpy as np
import pytest

from training.dataset import Dataset, Sample, class_labels, read_dataset, read_folder


def ids(samples):
    return [(sample.pid, sample.camid) for sample in samples]


def test_identity_and_camera_come_from_the_file_name(layout):
    data = read_dataset(layout(train=["0002_c1s1_000451_03.jpg", "1501_c6s4_001902_01.jpg.png", "7_c12.JPG"]))
    assert ids(data.train) == [(2, 1), (1501, 6), (7, 12)]


def test_samples_come_in_the_order_of_their_names(layout):
    names = ["0009_c1_b.jpg", "0001_c2_a.jpg", "0009_c1_a.jpg"]
    assert [sample.path.name for sample in read_dataset(layout(train=names)).train] == sorted(names)


def test_junk_is_left_out_and_counted_and_never_read_as_identity_one(layout):
    folder = layout(train=["-1_c1.jpg", "0002_c1.jpg"], query=["-1_c1.jpg", "0003_c1.jpg"], gallery=["-1_c3.jpg", "0001_c2.jpg"])
    data = read_dataset(folder)
    assert (ids(data.train), ids(data.query), ids(data.gallery)) == ([(2, 1)], [(3, 1)], [(1, 2)])
    assert data.num_junk == 3


def test_distractors_stay_in_the_gallery(layout):
    data = read_dataset(layout(gallery=["0000_c1s1_000151_01.jpg", "0002_c2.jpg"]))
    assert ids(data.gallery) == [(0, 1), (2, 2)]
    assert data.num_junk == 0


def test_files_that_are_no_images_are_passed_over(layout):
    assert len(read_dataset(layout(query=["Thumbs.db", "readme.txt", "0002_c1.bmp"])).query) == 1


def test_the_summary_counts_crops_identities_cameras_and_distractors(layout):
    data = read_dataset(layout(gallery=["0000_c1.jpg", "0000_c2.jpg", "0002_c2.jpg", "0003_c2.jpg", "-1_c9.jpg"]))
    junk, *_, gallery = data.summary().splitlines()
    assert "1 junk" in junk
    assert gallery.split() == ["gallery", "4", "crops", "2", "identities", "2", "cameras,", "2", "distractors"]


@pytest.mark.parametrize("place", ["train", "query", "gallery"])
def test_a_missing_folder_is_refused_with_the_layout_that_is_wanted(layout, place):
    with pytest.raises(ValueError, match=r"got no such folder, wanted a Market-1501 layout \(bounding_box_train/, query/"):
        read_dataset(layout(**{place: None}))


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "query").touch()
    with pytest.raises(ValueError, match="got no such folder"):
        read_folder(tmp_path / "query")


def test_a_folder_without_images_is_refused(layout):
    with pytest.raises(ValueError, match=r"query: got no image, wanted files such as 0002_c1s1"):
        read_dataset(layout(query=["readme.txt"]))


def test_a_folder_of_junk_alone_is_refused(layout):
    with pytest.raises(ValueError, match=r"query: got 2 images, all junk \(pid -1\), wanted at least one identity"):
        read_dataset(layout(query=["-1_c1_a.jpg", "-1_c2_b.jpg"]))


@pytest.mark.parametrize(
    "name", ["portrait.jpg", "c1_0002.jpg", "0002c1.jpg", "_c1.jpg", "0002_cam1.jpg", "--1_c1.jpg", "a1_c1.jpg"]
)
def test_a_name_without_identity_and_camera_is_refused(layout, name):
    with pytest.raises(ValueError, match="got a name without identity and camera, wanted one such as") as refusal:
        read_dataset(layout(query=["0002_c1.jpg", name]))
    assert name in str(refusal.value)


def test_class_labels_are_dense_and_follow_rising_pids(tmp_path):
    samples = tuple(Sample(tmp_path, pid, 1) for pid in (700, 3, 3, 1500, 20, 700))
    labels = class_labels(samples)
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 0, 3, 1, 2]


@pytest.mark.parametrize("pids", [(), (5,), (5, 5, 5)])
def test_fewer_than_two_identities_are_refused(tmp_path, pids):
    with pytest.raises(ValueError, match=rf"got {len(set(pids))} identities in {len(pids)} crops, wanted at least 2"):
        class_labels(tuple(Sample(tmp_path, pid, 1) for pid in pids))


def test_a_dataset_knows_its_folder(layout):
    folder = layout()
    assert read_dataset(folder) == Dataset(
        folder=folder,
        train=(Sample(folder / "bounding_box_train" / "0001_c1_a.jpg", 1, 1),),
        query=(Sample(folder / "query" / "0002_c1_a.jpg", 2, 1),),
        gallery=(Sample(folder / "bounding_box_test" / "0002_c2_a.jpg", 2, 2),),
        num_junk=0,
    )
