"""The user's own crops from a CSV file or from folders: identities, cameras, splits, held-out identities, refusals."""

import csv

import pytest

from training.dataset import check_test, class_labels, read_dataset
from training.own_data import numbered

NO_CAMERA = (
    "no crop has a camera (a CSV column camid, a file name like 0001_c2.jpg or cam2_0001.jpg, or DIR/<pid>/<camera>/): "
    "testing will need --no-cameras"
)


def files(samples):
    return [sample.path.name for sample in samples]


def ids(samples):
    return [(sample.pid, sample.camid) for sample in samples]


@pytest.fixture
def table(tmp_path):
    """table(header, *lines): a CSV file; the crops in its first column are made, unless `touch` is False."""

    def make(header, *lines, touch=True):
        for line in lines if touch else ():
            (tmp_path / line.split(",")[0]).touch()
        (tmp_path / "shop.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path / "shop.csv"

    return make


@pytest.fixture
def tree(tmp_path):
    """tree(*names): a folder with these (empty) files below it."""

    def make(*names):
        for name in names:
            (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "shop" / name).touch()
        return tmp_path / "shop"

    return make


# CSV.


def test_a_csv_file_gives_three_lists(table):
    lines = "1.jpg,anna,door,train", "2.jpg,ben,door,train", "3.jpg,cleo,door,query", "4.jpg,cleo,yard,gallery"
    path = table("path,pid,camid,split", *lines)
    data = read_dataset(path)
    assert (ids(data.train), ids(data.query), ids(data.gallery)) == ([(1, 1), (2, 1)], [(3, 1)], [(3, 2)])
    assert data.train[0].path == path.parent / "1.jpg"
    assert (data.name, data.warnings, data.has_cameras, data.num_junk) == ("shop", (), True, 0)
    check_test(data)


def test_columns_may_come_in_any_order_and_with_spaces_capitals_and_a_byte_order_mark(table):
    path = table("1.jpg,x")
    path.write_bytes("\ufeffPID, Path ,split\r\n7, 1.jpg ,train\r\n\r\n8,2.jpg,train\r\n".encode())
    (path.parent / "2.jpg").touch()
    (path.parent / "1.jpg").touch()
    assert ids(read_dataset(path).train) == [(7, 0), (8, 0)]


def test_columns_that_are_not_used_are_named(table):
    data = read_dataset(table("path,pid,split,camera", "1.jpg,1,train,3", "2.jpg,2,train,3"))
    assert data.warnings == ("shop.csv: columns not used: camera", NO_CAMERA)


def test_a_quoted_path_may_hold_commas(table, tmp_path):
    path = table("path,pid,split")
    (tmp_path / "a,b.jpg").touch()
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(["a,b.jpg", "1", "train"])
    assert files(read_dataset(path).train) == ["a,b.jpg"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["pid,camid", "anna,1"],
            r"shop.csv: got the columns 'pid,camid', wanted path,pid,camid,split \(camid and split optional\)",
        ),
        (["path;pid", "1.jpg;anna"], "got the columns 'path;pid', wanted path,pid"),
        (["path,camid", "1.jpg,1"], "got the columns 'path,camid'"),
        (["path,pid,pid", "1.jpg,a,b"], "got the columns 'path,pid,pid'"),
        ([""], "got the columns ''"),
        (["path,pid"], "got a header and no crop"),
        (["path,pid", "1.jpg"], r"line 2: got 1 fields, wanted 2 \(path,pid\)"),
        (["path,pid", "1.jpg,a,b"], "line 2: got 3 fields, wanted 2"),
        (["path,pid,camid", "1.jpg,anna,1", "2.jpg, ,1"], "line 3: got an empty pid, wanted one on every line"),
        (["path,pid,camid", "1.jpg,anna,"], "line 2: got an empty camid"),
        (["path,pid,split", "1.jpg,anna,"], "line 2: got an empty split"),
        (["path,pid", ",anna"], "line 2: got an empty path"),
        (["path,pid,split", "1.jpg,anna,test"], "line 2: got the split 'test', wanted one of train, query, gallery"),
        (
            ["path,pid", "1.jpg,anna", "2.jpg,anna", "./1.jpg,ben"],
            r"line 4: got .*1.jpg again, wanted it once; it is listed in line 2",
        ),
        (["path,pid,split", "1.jpg,anna,query"], "got 1 query and 0 gallery crops, wanted both or none"),
        (["path,pid", '"1.jpg,anna'], "shop.csv: got unexpected end of data, wanted a comma-separated file"),
    ],
)
def test_a_wrong_csv_file_is_refused_with_its_line(table, tmp_path, lines, said):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=said):
        read_dataset(table(*lines, touch=False))


def test_an_empty_csv_file_is_refused(table):
    path = table("")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got the columns ''"):
        read_dataset(path)


def test_missing_files_of_a_csv_file_are_counted(table):
    with pytest.raises(ValueError, match=r"shop.csv: got 2 of 2 listed files missing \(.*/1.jpg, .*/2.jpg\), wanted all of them"):
        read_dataset(table("path,pid", "1.jpg,a", "2.jpg,b", touch=False))


def test_a_csv_file_that_is_not_utf8_is_refused(table):
    path = table("path,pid,split", "1.jpg,anna,train")
    path.write_bytes(path.read_bytes().replace(b"anna", "änna".encode("latin-1")))
    with pytest.raises(ValueError, match="got bytes that are not UTF-8 .*, wanted a CSV file saved as UTF-8"):
        read_dataset(path)


def test_junk_is_left_out_and_counted_and_never_read_as_identity_one(table):
    data = read_dataset(table("path,pid,split", "1.jpg,-1,train", "2.jpg,1,train", "3.jpg,-1,train", "4.jpg,2,train"))
    assert (files(data.train), ids(data.train), data.num_junk) == (["2.jpg", "4.jpg"], [(1, 0), (2, 0)], 2)


def test_junk_alone_is_refused(table):
    with pytest.raises(ValueError, match=r"got 1 crops, all junk \(pid -1\), wanted at least one identity"):
        read_dataset(table("path,pid", "1.jpg,-1"))


def test_identity_0_of_a_users_own_data_is_a_person(table):
    data = read_dataset(table("path,pid,split", "1.jpg,0,train", "2.jpg,1,train"))
    assert ids(data.train) == [(1, 0), (2, 0)]


def test_one_identity_is_refused_when_its_labels_are_asked_for(table):
    with pytest.raises(ValueError, match="training list: got 1 identities in 2 crops, wanted at least 2"):
        class_labels(read_dataset(table("path,pid,split", "1.jpg,a,train", "2.jpg,a,train")).train)


def test_a_csv_file_may_hold_a_test_alone(table):
    data = read_dataset(table("path,pid,camid,split", "1.jpg,a,1,query", "2.jpg,a,2,gallery"))
    assert data.train == ()
    check_test(data)


# Folders.


def test_a_folder_per_identity_in_three_splits_is_read(tree):
    data = read_dataset(tree("train/anna/1_c1.jpg", "train/ben/c2_1.jpg", "query/cleo/1_c1.jpg", "gallery/cleo/2_c2s1_3.jpg"))
    assert (ids(data.train), ids(data.query), ids(data.gallery)) == ([(1, 1), (2, 2)], [(3, 1)], [(3, 2)])
    assert (data.name, data.warnings) == ("shop", ())
    check_test(data)


def test_a_camera_may_be_a_folder_below_the_identity(tree):
    data = read_dataset(tree("train/anna/door/1.jpg", "train/anna/yard/1.jpg", "train/ben/yard/c7_1.jpg"))
    assert ids(data.train) == [(1, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("name", "camid"),
    [
        ("1_c3.jpg", 3),
        ("c12_1.jpg", 12),
        ("0002_c1s1_000451_03.jpg", 1),
        ("a_c4-2.png", 4),
        ("x_c5_c6.jpg", 5),
        ("cam01_7.jpg", 1),
        ("7_camera12.jpg", 12),
    ],
)
def test_the_camera_is_read_from_the_file_name(tree, name, camid):
    assert ids(read_dataset(tree(f"train/1/{name}", f"train/2/{name}")).train) == [(1, camid), (2, camid)]


@pytest.mark.parametrize("name", ["1.jpg", "abc1.jpg", "1_c.jpg", "1_c3po.jpg", "1_came3.jpg", "cc1_2.jpg", "1-c2.jpg"])
def test_a_name_without_a_camera_has_none(tree, name):
    data = read_dataset(tree(f"train/1/{name}", f"train/2/{name}"))
    assert (ids(data.train), data.has_cameras) == ([(1, 0), (2, 0)], False)


def test_cameras_for_some_crops_only_are_refused_unless_they_are_ignored(tree):
    folder = tree("train/1/a_c1.jpg", "train/1/b_c2.jpg", "train/2/portrait.jpg")
    with pytest.raises(ValueError, match=r"got 1 of 3 crops without a camera \(.*portrait.jpg\), wanted .* or --no-cameras"):
        read_dataset(folder)
    assert ids(read_dataset(folder, cameras=False).train) == [(1, 0), (1, 0), (2, 0)]


def test_without_known_cameras_the_test_is_refused_until_cameras_are_ignored(tree):
    folder = tree("query/1/a.jpg", "query/2/a.jpg", "gallery/1/b.jpg", "gallery/2/b.jpg")
    data = read_dataset(folder)
    assert data.warnings == (NO_CAMERA,)
    with pytest.raises(ValueError, match="--no-cameras"):
        check_test(data)
    ignored = read_dataset(folder, cameras=False)
    check_test(ignored)
    assert len(ignored.warnings) == 1


def test_junk_folders_are_left_out_and_what_else_is_not_read_is_said(tree):
    data = read_dataset(tree("train/-1/a_c1.jpg", "train/1/a_c1.jpg", "train/2/a_c1.jpg", "train_all/3/a_c1.jpg", "preview.jpg"))
    assert (ids(data.train), data.num_junk) == ([(1, 1), (2, 1)], 1)
    assert data.warnings == ("left out: train_all/", "1 images left out that lie in no identity's folder")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/1/a.jpg", "query/a.jpg"], r"query: got no image in a folder below, wanted a folder per identity: query/<pid>/"),
        (["train/1/a.jpg", "query/1/a.jpg"], "got 1 query and 0 gallery crops, wanted both or none"),
        (["Train/1/a.jpg", "val/1/a.jpg"], "got Train/, val/, wanted train/, query/, gallery/"),
        (["1/2/3/a.jpg"], "got a folder with 1/, wanted one of these"),
        (["1/notes.txt"], "got a folder with 1/, wanted one of these"),
    ],
)
def test_folders_of_another_form_are_refused(tree, names, said):
    with pytest.raises(ValueError, match=said):
        read_dataset(tree(*names))


# Identities held out.


@pytest.fixture
def crowd(tree):
    """Twenty people in a flat folder, each twice in camera 1 and once in cameras 2 and 3."""
    return tree(*(f"p{pid:02d}/{shot}" for pid in range(20) for shot in ("a_c1.jpg", "b_c1.jpg", "c_c2.jpg", "d_c3.jpg")))


def test_without_a_split_a_fifth_of_the_identities_is_held_out_and_it_is_said(crowd):
    data = read_dataset(crowd, seed=3)
    train, query, gallery = ({s.pid for s in samples} for samples in (data.train, data.query, data.gallery))
    assert (len(train), len(query), train & query, query) == (16, 4, set(), gallery)
    assert data.warnings == ("no split given: 4 of 20 identities, drawn by seed 3, are held out to test with",)
    check_test(data)


def test_of_a_held_out_identity_the_first_crop_of_each_camera_is_the_query_and_single_crops_the_gallery(crowd):
    data = read_dataset(crowd)
    pid = data.query[0].pid
    assert files(s for s in data.query if s.pid == pid) == ["a_c1.jpg"]
    assert files(s for s in data.gallery if s.pid == pid) == ["b_c1.jpg", "c_c2.jpg", "d_c3.jpg"]


def test_whoever_two_cameras_saw_once_each_can_be_tested_with(tree):
    data = read_dataset(tree(*(f"{pid}/{camera}/x.jpg" for pid in range(1, 6) for camera in ("door", "yard"))))
    assert [len(samples) for _, samples in data.lists()] == [6, 2, 2]
    assert {s.camid for s in data.query} == {1} and {s.camid for s in data.gallery} == {2}


def test_the_held_out_identities_follow_the_seed_and_not_the_order_of_the_lines(table):
    lines = [f"{pid}_{camera}.jpg,p{pid},{camera}" for pid in range(30) for camera in (1, 2)]
    held_out = [{s.path.name for s in read_dataset(table("path,pid,camid", *lines), seed=seed).query} for seed in (0, 0, 1, 2)]
    assert held_out[0] == held_out[1]
    assert len({frozenset(names) for names in held_out}) > 1
    shuffled = sorted(lines, key=lambda line: (line.split(",")[2], line.split(",")[1][::-1]))
    assert {s.path.name for s in read_dataset(table("path,pid,camid", *shuffled)).query} == held_out[0]


def test_identities_that_one_camera_saw_are_trained_on_and_not_held_out(tree):
    lonely = [f"lonely{pid}/{shot}_c1.jpg" for pid in range(30) for shot in (1, 2)]
    data = read_dataset(tree(*lonely, *(f"seen{pid}/{camera}_c{camera}.jpg" for pid in range(3) for camera in (1, 2))))
    assert {s.path.parent.name for s in data.query} == {"seen0", "seen1", "seen2"}


def test_without_cameras_the_first_crop_is_the_query_and_single_crops_are_trained_on(tree):
    many = [f"{pid}/{shot}.jpg" for pid in range(1, 9) for shot in "abc"]
    data = read_dataset(tree(*many, "9/a.jpg", "10/a.jpg"), cameras=False)
    assert (set(files(data.query)), set(files(data.gallery))) == ({"a.jpg"}, {"b.jpg", "c.jpg"})
    assert {9, 10} <= {s.pid for s in data.train}
    check_test(data)


def test_a_flat_folder_without_cameras_is_refused_as_a_test_and_names_the_way_out(tree):
    with pytest.raises(ValueError, match="--no-cameras"):
        check_test(read_dataset(tree(*(f"{pid}/{shot}.jpg" for pid in range(8) for shot in "ab"))))


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_identities_to_hold_any_out_are_refused(tree, count):
    with pytest.raises(ValueError, match=f"got {count} identities and no split, wanted at least 4, or a split of your own"):
        read_dataset(tree(*(f"{pid}/{camera}_c{camera}.jpg" for pid in range(count) for camera in (1, 2))))


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        ("7 3 7 12", {"3": 3, "7": 7, "12": 12}),
        ("7 007", {"007": 1, "7": 2}),
        ("b a", {"a": 1, "b": 2}),
        ("0 1", {"0": 1, "1": 2}),
        ("", {}),
    ],
)
def test_numbers_stay_as_they_are_and_other_texts_are_numbered(texts, numbers):
    assert numbered(texts.split()) == numbers
