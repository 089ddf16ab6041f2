"""What a read dataset says of itself: counts, names, and what is odd about its lists."""

from pathlib import Path

import pytest
from PIL import Image

from training.dataset import read_dataset
from training.samples import (
    Dataset,
    Sample,
    concerns,
    counted,
    images,
    num_valid_queries,
    refuse_missing,
    small_crops,
    subfolders,
)


def crops(*ids, folder="crops"):
    return tuple(Sample(Path(folder, f"{number}.jpg"), pid, camid) for number, (pid, camid) in enumerate(ids))


def dataset(*, train=(), query=(), gallery=(), **more):
    lists = (crops(*train, folder="train"), crops(*query, folder="query"), crops(*gallery, folder="gallery"))
    return Dataset(Path("somewhere/people"), *lists, 0, **more)


MANY = [(pid, camid) for pid in range(1, 31) for camid in (1, 2)]
OTHERS = [(pid + 100, camid) for pid, camid in MANY]
SOUND = {"train": MANY, "query": OTHERS[::2], "gallery": OTHERS[1::2]}


def test_the_summary_counts_crops_identities_cameras_and_distractors(layout):
    data = read_dataset(layout(gallery=["0000_c1.jpg", "0000_c2.jpg", "0002_c2.jpg", "0003_c2.jpg", "-1_c9.jpg"]))
    junk, train, _, gallery, *_ = data.summary().splitlines()
    assert "1 junk" in junk
    assert train.split() == ["train", "1", "crops", "1", "identities", "1", "cameras"]
    assert gallery.split() == ["gallery", "4", "crops", "2", "identities", "2", "cameras,", "2", "distractors"]


def test_the_summary_of_data_without_cameras_counts_none():
    assert dataset(**SOUND, has_cameras=False).summary().count(" no cameras") == 3


def test_the_summary_ends_with_what_the_reader_said_and_what_is_odd():
    lines = dataset(**SOUND | {"train": MANY[:4]}, warnings=("drawn by hand",)).summary().splitlines()
    assert [line.strip() for line in lines[4:]] == [
        "warning: drawn by hand",
        "warning: 2 training identities only: the model will know little",
    ]


def test_nothing_is_odd_about_sound_lists():
    assert list(concerns(dataset(**SOUND))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": [*MANY, (31, 1)]}, "1 training identity with one crop only"),
        ({"train": [*MANY, (31, 1), (31, 1), (32, 2), (32, 2)]}, "2 training identities seen by one camera only"),
        ({"query": OTHERS[:10:2]}, "5 query identities only"),
        ({"query": [*OTHERS[::2], (777, 1)]}, "1 of 31 queries without a correct gallery crop under another camera"),
        ({"query": [*OTHERS[::2], (130, 2)]}, "1 of 31 queries without a correct gallery crop under another camera"),
        ({"train": [*MANY, *OTHERS[:4]]}, "2 identities in both the training and the test lists"),
    ],
)
def test_what_is_odd_is_counted_once(change, said):
    [found] = concerns(dataset(**SOUND | change))
    assert found.startswith(said)


def test_one_camera_is_not_odd_where_cameras_are_ignored():
    assert list(concerns(dataset(train=[(pid, 0) for pid, _ in MANY], has_cameras=False))) == []


def test_distractors_are_neither_an_identity_nor_shared_between_lists():
    assert list(concerns(dataset(**SOUND | {"train": [*MANY, (0, 1), (0, 2)], "gallery": [*OTHERS[1::2], (0, 1)]}))) == []


def test_a_file_listed_twice_or_in_two_lists_is_counted():
    sound = dataset(**SOUND)
    again = Dataset(sound.folder, (*sound.train, sound.train[0], sound.query[0]), sound.query, sound.gallery, 0)
    assert [text.split(":")[0] for text in concerns(again)] == [
        "1 training identity with one crop only, its own positive in every triplet",
        "1 file listed more than once in the train list",
        "1 file in both the training and the test lists",
        "1 identity in both the training and the test lists",
    ]


def test_valid_queries_are_those_with_a_correct_crop_under_another_camera():
    query, gallery = [(1, 1), (2, 1), (3, 1), (4, 2)], [(1, 1), (1, 2), (2, 1), (4, 1), (0, 2)]
    slow = sum(any(pid == other and camid != camera for other, camera in gallery) for pid, camid in query)
    assert num_valid_queries(dataset(query=query, gallery=gallery)) == slow == 2


def test_a_dataset_is_named_after_its_folder_unless_it_is_named():
    assert (dataset().name, dataset(name="both").name) == ("people", "both")
    assert Dataset(Path("."), (), (), (), 0).name == Path.cwd().name


@pytest.mark.parametrize(("number", "text"), [(1, "1 identity"), (2, "2 identities"), (1500, "1,500 identities")])
def test_counts_are_english(number, text):
    assert counted(number, "identity") == text


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("b.jpg", "a.PNG", "._a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("y", "x", ".cache"):
        (tmp_path / name).mkdir()
    assert [path.name for path in images(tmp_path)] == ["a.PNG", "b.jpg"]
    assert [path.name for path in subfolders(tmp_path)] == ["x", "y"]


def test_missing_files_are_counted_and_the_first_few_named(tmp_path):
    (tmp_path / "there.jpg").touch()
    paths = [tmp_path / "there.jpg", *(tmp_path / f"{number}.jpg" for number in range(5))]
    with pytest.raises(
        ValueError, match=r"^list.txt: got 5 of 6 listed files missing \(.*0.jpg, .*1.jpg, .*2.jpg, ...\), wanted"
    ):
        refuse_missing(Path("list.txt"), paths)
    refuse_missing(Path("list.txt"), paths[:1])


def test_small_crops_are_told_by_their_headers_and_unreadable_ones_left_alone(tmp_path):
    sizes = [(32, 64), (31, 64), (32, 63), (128, 256)]  # width, height
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    assert small_crops([Sample(tmp_path / f"{number}.png", 1, 1) for number in range(6)]) == (2, 4)


def test_of_a_long_list_a_few_crops_spread_over_it_are_looked_at(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    small, looked_at = small_crops([Sample(tmp_path / "0.png", 1, 1)] * 1000)
    assert small == looked_at == 100


def test_small_crops_are_said_when_a_dataset_is_read(layout):
    folder = layout()
    Image.new("RGB", (20, 40)).save(folder / "query" / "0002_c1_a.jpg")
    assert read_dataset(folder).warnings == ("1 of 1 crops looked at are smaller than 64 x 32 pixels (height x width)",)
