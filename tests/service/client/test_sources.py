"""What the shell names -> pictures and their labels."""

import os

import pytest

from service.client.sources import Source, pictures, read_sources

TIME = "2026-01-31T12:00:00+01:00"


@pytest.fixture(name="make")
def make_fixture(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    return make


@pytest.fixture(name="table")
def table_fixture(tmp_path):
    def table(text):
        path = tmp_path / "people.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return list(read_sources([path], pid=None, camid=None))

    return table


def test_pictures_below_folders_are_found_and_hidden_ones_are_not(make):
    folder = make("b.JPG", "a/c.webp", "a/.hidden.jpg", ".git/d.png", "notes.txt")
    assert pictures([folder]) == [folder / "a/c.webp", folder / "b.JPG"]
    assert pictures([folder / "notes.txt", folder / "missing"]) == [folder / "notes.txt", folder / "missing"]


def test_no_picture_is_refused(make):
    with pytest.raises(ValueError, match="got no picture, wanted files that end in .jpg"):
        pictures([make("notes.txt")])


def test_a_folder_per_identity_may_hold_folders_per_camera(make):
    folder = make("anna/1.jpg", "anna/door/2.jpg")
    assert read_sources([folder], pid=None, camid="hall") == [
        Source(folder / "anna/1.jpg", "anna", "hall"),
        Source(folder / "anna/door/2.jpg", "anna", "door"),
    ]


@pytest.mark.parametrize("names", [(), ("1.jpg", "anna/2.jpg"), ("anna/door/2026/1.jpg",)])
def test_a_folder_that_is_none_per_identity_is_refused(make, names):
    with pytest.raises(ValueError, match="wanted every picture in PID/ or PID/CAMID/, got"):
        read_sources([make(*names)], pid=None, camid=None)


def test_files_of_one_identity_are_named_by_pid(make):
    folder = make("1.jpg", "more/2.jpg")
    found = read_sources([folder / "1.jpg", folder / "more"], pid="anna", camid="hall")
    assert found == [Source(folder / "1.jpg", "anna", "hall"), Source(folder / "more/2.jpg", "anna", "hall")]


def test_a_csv_files_paths_count_from_its_folder(table, tmp_path):
    found = table(f"\ufeffPath, pid ,camid,captured_at,split\r\n1.jpg,anna,hall,{TIME},train\r\n\r\n/2.jpg,bert,,,\r\n")
    assert found[0] == Source(tmp_path / "1.jpg", "anna", "hall", TIME)
    assert found[1] == Source(tmp_path / "/2.jpg", "bert", None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got the columns ''"),
        ("path\n1.jpg\n", "got the columns 'path', wanted path,pid"),
        ("path,pid,pid\n", "got the columns 'path,pid,pid'"),
        ("path,pid\n1.jpg\n", "line 2: got 1 fields, wanted 2"),
        ("path,pid\n1.jpg,\n", "line 2: got the name ''"),
        (f"path,pid\n1.jpg,{'x' * 129}\n", "wanted 1 to 128 printable"),
        ("path,pid,camid\n1.jpg,anna,a\x07b\n", "got the name 'a.x07b'"),
        ("path,pid,captured_at\n1.jpg,anna,2026-01-31\n", "line 2: got captured_at '2026-01-31'"),
        ("path,pid,captured_at\n1.jpg,anna,2026-13-31T12:00:00Z\n", "wanted a time with an offset"),
        (b"path,pid\n1.jpg,\xff\n", "wanted a comma-separated file in UTF-8"),
        ('path,pid\n1.jpg,"anna\n', "wanted a comma-separated file in UTF-8"),
    ],
)
def test_a_csv_file_that_makes_no_sense_is_refused_by_line(table, text, words):
    with pytest.raises(ValueError, match=words):
        table(text)


def test_a_csv_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got No such file or directory, wanted a CSV file to read"):
        read_sources([tmp_path / "missing.csv"], pid=None, camid=None)


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="printable characters of UTF-8"):
        read_sources([tmp_path], pid=None, camid=None)
