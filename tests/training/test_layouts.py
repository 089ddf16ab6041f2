"""Public datasets in the forms they are unpacked in: names, signs, lists, halves, refusals. All files here are empty."""

import json

import pytest

from training.dataset import check_test, read_dataset
from training.layouts import read_folder


def ids(samples):
    return [(sample.pid, sample.camid) for sample in samples]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


# Market-1501 and the datasets named like it.


def test_identity_and_camera_come_from_the_file_name(layout):
    data = read_dataset(layout(train=["0002_c1s1_000451_03.jpg", "1501_c6s4_001902_01.jpg.png", "7_c12.JPG"]))
    assert ids(data.train) == [(2, 1), (1501, 6), (7, 12)]


def test_names_of_dukemtmc_are_read(layout):
    assert ids(read_dataset(layout(train=["0005_c2_f0046985.jpg", "7140_c8_f0062571.jpg"])).train) == [(5, 2), (7140, 8)]


def test_a_dataset_named_labeled_or_detected_bears_the_name_of_its_parent(tmp_path):
    touch(tmp_path / "cuhk03-np" / "labeled", "bounding_box_train/0001_c1_1.png", "bounding_box_train/0001_c2_6.png")
    data = read_dataset(tmp_path / "cuhk03-np" / "labeled")
    assert (data.name, ids(data.train)) == ("cuhk03-np-labeled", [(1, 1), (1, 2)])


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
    assert len(read_dataset(layout(query=["Thumbs.db", "readme.txt", "._0002_c1.jpg", "0002_c1.bmp"])).query) == 1


def test_a_market_layout_without_test_lists_can_be_read_and_not_tested(layout):
    data = read_dataset(layout(query=None, gallery=None))
    assert (len(data.train), data.query, data.gallery) == (1, (), ())
    with pytest.raises(ValueError, match="can only be trained on"):
        check_test(data)


def test_a_market_layout_without_training_list_can_be_tested(layout):
    data = read_dataset(layout(train=None))
    assert data.train == ()
    check_test(data)


@pytest.mark.parametrize(("place", "folder"), [("query", "query/"), ("gallery", "bounding_box_test/")])
def test_half_a_test_is_refused(layout, place, folder):
    with pytest.raises(ValueError, match=f"and no {folder}, wanted both to test with, or neither to train only"):
        read_dataset(layout(**{place: None}))


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "query").touch()
    with pytest.raises(ValueError, match=r"got no such folder, wanted a Market-1501 layout \(bounding_box_train/, query/"):
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


# MSMT17.

MSMT = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_000_14_0303noon_0010_1_ex.jpg 1"],
    "list_val.txt": ["0000/0000_001_02_0303morning_0008_0.jpg 0"],
    "list_query.txt": ["0000/0000_000_05_0113noon_0052_0.jpg 0"],
    "list_gallery.txt": ["0000/0000_001_06_0113noon_0052_0.jpg 0", "0007/0007_000_15_0303noon_0010_1.jpg 7"],
}


@pytest.fixture
def msmt17(tmp_path):
    """msmt17(train=folder, test=folder, lists={file: lines}): a folder of MSMT17 and the crops that its lists name."""

    def make(*, train="train", test="test", lists=MSMT):
        for name, lines in lists.items():
            folder = tmp_path / (train if name in ("list_train.txt", "list_val.txt") else test)
            touch(folder, *(line.split()[0] for line in lines))
            (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_both_versions_of_msmt17_are_read_by_their_lists(msmt17, folders):
    folder = msmt17(train=folders[0], test=folders[1])
    data = read_dataset(folder)
    assert [s.camid for s in (*data.train, *data.query, *data.gallery)] == [1, 14, 5, 6, 15]
    assert data.query[0].path == folder / folders[1] / "0000" / "0000_000_05_0113noon_0052_0.jpg"
    check_test(data)


def test_identity_0_of_msmt17_is_a_person_and_not_the_same_one_in_training_and_test(msmt17):
    data = read_dataset(msmt17())
    train, test = {s.pid for s in data.train}, {s.pid for s in (*data.query, *data.gallery)}
    assert len(train) == len(test) == 2
    assert 0 not in train | test
    assert train & test == set()


def test_msmt17_trains_on_list_train_alone_and_says_so(msmt17):
    data = read_dataset(msmt17())
    assert len(data.train) == 2
    assert data.warnings == ("list_val.txt is left out of training, as in the authors' released code",)


@pytest.mark.parametrize(
    ("names", "lengths"), [(["list_train.txt"], [2, 0, 0]), (["list_query.txt", "list_gallery.txt"], [0, 1, 2])]
)
def test_msmt17_with_its_training_list_or_its_test_lists_alone_is_read(msmt17, names, lengths):
    data = read_dataset(msmt17(lists={name: MSMT[name] for name in names}))
    assert [len(samples) for _, samples in data.lists()] == lengths


def test_msmt17_with_half_a_test_is_refused(msmt17):
    with pytest.raises(ValueError, match="got list_gallery.txt and no list_query.txt, wanted both"):
        read_dataset(msmt17(lists={name: lines for name, lines in MSMT.items() if name != "list_query.txt"}))


def test_blank_lines_of_a_list_are_passed_over(msmt17):
    folder = msmt17()
    (folder / "list_query.txt").write_text("\n" + MSMT["list_query.txt"][0] + "\n\n")
    assert len(read_dataset(folder).query) == 1


def test_files_that_a_list_of_msmt17_names_and_are_missing_are_counted(msmt17):
    folder = msmt17()
    for path in (folder / "test").rglob("0000_0*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=r"list_query.txt: got 1 of 1 listed files missing \(.*_0052_0.jpg\), wanted all"):
        read_dataset(folder)


@pytest.mark.parametrize(
    "line",
    ["0000/0000_000_01_x_0.jpg", "0000/0000_000_01_x_0.jpg -1", "0000/a.jpg 0", "0000/0000_000_xx_0.jpg 0", "a\ufffd\x00 0"],
)
def test_a_line_that_is_no_name_and_pid_is_refused_with_its_number(msmt17, line):
    folder = msmt17()
    (folder / "list_train.txt").write_text(f"{MSMT['list_train.txt'][0]}\n{line}\n{MSMT['list_train.txt'][1]}\n")
    with pytest.raises(ValueError, match=r"list_train.txt, line 2: got .*, wanted such as 0000/0000_000_01"):
        read_dataset(folder)


def test_an_empty_list_of_msmt17_is_refused(msmt17):
    with pytest.raises(ValueError, match="list_train.txt: got no line"):
        read_dataset(msmt17(lists=MSMT | {"list_train.txt": []}))


@pytest.mark.parametrize(("folders", "count"), [((), 0), (("train", "test", "mask_train_v2"), 2)])
def test_neither_or_both_versions_of_msmt17_in_one_folder_are_refused(tmp_path, folders, count):
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "list_train.txt").touch()
    with pytest.raises(ValueError, match=f"got {count} of the two versions of MSMT17"):
        read_dataset(tmp_path)


# CUHK03, extracted.

CUHK = {
    "train": [["/home/x/images_labeled/1_001_1_01.png", 0, 0], ["/home/x/images_labeled/1_001_2_06.png", 0, 1]],
    "query": [["D:\\x\\images_labeled\\1_002_1_01.png", 0, 0]],
    "gallery": [["images_labeled/1_002_2_06.png", 0, 1]],
    "num_train_pids": 1,
}
CUHK_FILES = [f"images_labeled/1_00{pid}_{camera}.png" for pid in (1, 2) for camera in ("1_01", "2_06")]


def test_cuhk03_is_read_from_its_split_whatever_machine_wrote_it(tmp_path):
    touch(tmp_path / "cuhk03", *CUHK_FILES)
    (tmp_path / "cuhk03" / "splits_new_labeled.json").write_text(json.dumps([CUHK]))
    data = read_dataset(tmp_path / "cuhk03")
    assert [s.path.relative_to(tmp_path / "cuhk03").as_posix() for s in (*data.train, *data.query, *data.gallery)] == CUHK_FILES
    assert ids(data.train) == [(1, 0), (1, 1)]
    assert {s.pid for s in (*data.query, *data.gallery)} & {0, 1} == set()
    assert data.name == "cuhk03-labeled"
    check_test(data)


def test_cuhk03_with_both_kinds_of_crops_asks_which(tmp_path):
    touch(tmp_path, *CUHK_FILES)
    for kind in ("labeled", "detected"):
        (tmp_path / f"splits_new_{kind}.json").write_text(json.dumps([CUHK]))
    with pytest.raises(ValueError, match=r"wanted one of them: give .*splits_new_labeled.json or .*splits_new_detected.json"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path / "splits_new_detected.json").train) == 2


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[[]]", "[1]", '[{"train": []}]', json.dumps([CUHK] * 2), json.dumps([CUHK | {"query": [["a.png"]]}])],
)
def test_a_split_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "splits_new_labeled.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"splits_new_labeled.json: got .*, wanted a list of one split with train, query and gallery"
    ):
        read_dataset(tmp_path)


def test_crops_of_cuhk03_that_are_missing_are_counted(tmp_path):
    (tmp_path / "splits_new_labeled.json").write_text(json.dumps([CUHK]))
    with pytest.raises(ValueError, match="got 4 of 4 listed files missing"):
        read_dataset(tmp_path)


# VIPeR.


@pytest.fixture
def viper(tmp_path):
    """Eleven people, from 000 on, each once in cam_a and once in cam_b."""
    return touch(
        tmp_path, *(f"cam_{camera}/{pid:03d}_{angle}.bmp" for camera, angle in (("a", 45), ("b", 90)) for pid in range(11))
    )


def test_viper_trains_on_half_of_the_people_and_searches_cam_b_for_those_of_cam_a(viper):
    data = read_dataset(viper)
    train, query, gallery = ({s.pid for s in samples} for samples in (data.train, data.query, data.gallery))
    assert (len(data.train), len(data.query), len(data.gallery)) == (10, 6, 6)
    assert query == gallery == set(range(1, 12)) - train
    assert {s.path.parent.name for s in data.query} == {"cam_a"} and {s.camid for s in data.gallery} == {2}
    check_test(data)


def test_the_half_of_viper_follows_the_seed(viper):
    halves = [tuple(read_dataset(viper, seed=seed).query) for seed in (0, 0, 1, 2, 3)]
    assert halves[0] == halves[1]
    assert len(set(halves)) > 2


@pytest.mark.parametrize(
    ("add", "said"), [("cam_a/x.bmp", "got x.bmp"), ("cam_b/-1_0.bmp", "got -1_0.bmp"), (None, "got no image")]
)
def test_viper_with_strange_names_is_refused(tmp_path, viper, add, said):
    if add:
        touch(viper, add)
    for path in () if add else (viper / "cam_b").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=f"{said}, wanted names such as 000_45.bmp"):
        read_dataset(viper)
