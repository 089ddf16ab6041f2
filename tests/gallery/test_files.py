"""What is made aside appears whole or not at all, and is nobody else's meanwhile."""

import pytest

from gallery.errors import CorruptArchive, OutputExists
from gallery.files import aside, check_object, parse_object, put


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_put_stays_and_the_rest_goes(tmp_path):
    with aside(tmp_path / "out", ".making") as draft:
        (draft / "made").write_text("whole")
        (draft / "scratch").write_text("")
        put(draft / "made", tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_what_a_dead_process_left_goes_and_what_a_live_one_makes_stays(tmp_path):
    (tmp_path / "left.making").mkdir()
    (tmp_path / "left.making" / ".unfinished").touch()
    with aside(tmp_path / "one", ".making") as one, aside(tmp_path / "two", ".making") as two:
        assert names(tmp_path) == ["one.making", "two.making"]
        assert one.stat().st_mode & 0o077 == two.stat().st_mode & 0o077 == 0


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "theirs.making").mkdir()
    (tmp_path / "theirs.making" / "thesis.txt").write_text("years of work")
    with aside(tmp_path / "one", ".making"):
        pass
    assert names(tmp_path) == ["theirs.making"]


def test_files_and_links_of_the_same_suffix_are_not_touched(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / ".unfinished").touch()
    (tmp_path / "link.making").symlink_to(tmp_path / "target")
    (tmp_path / "file.making").write_text("")
    with aside(tmp_path / "one", ".making"):
        pass
    assert names(tmp_path) == ["file.making", "link.making", "target"]


def test_two_cannot_make_the_same(tmp_path):
    with aside(tmp_path / "out", ".making"):
        with pytest.raises(OutputExists, match=r"out\.making stands already"), aside(tmp_path / "out", ".making"):
            pass
        assert names(tmp_path) == ["out.making"]


def test_what_came_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(OutputExists, match="out exists already"), aside(tmp_path / "out", ".making") as draft:
        (draft / "made").write_text("mine")
        (tmp_path / "out").write_text("theirs")
        put(draft / "made", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "theirs"


def test_an_object_has_exactly_its_fields():
    fields = {"a": (int,), "b": (str, type(None))}
    assert parse_object(b'{"a": 1, "b": null}', fields, "here") == {"a": 1, "b": None}
    with pytest.raises(CorruptArchive, match=r"here: got a True, wanted int"):
        check_object({"a": True, "b": ""}, fields, "here")
    with pytest.raises(CorruptArchive, match=r"here: got \['a'\], wanted an object of \['a', 'b'\]"):
        check_object({"a": 1}, fields, "here")
    with pytest.raises(CorruptArchive, match="here: got b 1, wanted str or null"):
        check_object({"a": 1, "b": 1}, fields, "here")
