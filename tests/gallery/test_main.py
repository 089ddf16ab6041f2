import argparse
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gallery.__main__ import main, run_command
from gallery.local import LocalGallery

MODEL = str(Path(__file__).parents[2] / "service" / "model")


@pytest.fixture
def folder(gallery, enroll, new, tmp_path):
    """The folder of a closed gallery of two entries."""
    enroll(new(crop_jpeg=b"jpeg"), new("bob"))
    gallery.close()
    return tmp_path / "gallery"


def damage(folder, statement):
    with closing(sqlite3.connect(folder / "gallery.sqlite")) as connection, connection:
        connection.execute(statement)


def test_stats_prints_the_numbers(folder, capsys):
    assert main(["stats", str(folder)]) == 0
    assert "entries        2\n" in capsys.readouterr().out
    assert main(["stats", str(folder), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["entries"], numbers["identities"], numbers["space_id"]) == (2, 2, "space-1")


def test_verify_of_a_sound_gallery_succeeds(folder, capsys):
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == "sound\n"
    assert main(["verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sound": True, "faults": []}


def test_verify_names_every_fault_and_fails(folder, capsys):
    damage(folder, "UPDATE entries SET crc = crc + 1")
    damage(folder, "UPDATE crops SET crc = crc + 1")
    damage(folder, "INSERT INTO crops VALUES (77, 0, x'')")
    damage(folder, "UPDATE entries SET embedding = x'00', crc = 1478205474 WHERE entry_id = 2")
    assert main(["verify", str(folder), "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert faults == [
        "crops: row 77 belongs to nothing",
        "entry 1 fails its checksum",
        "entry 2 fails its checksum",
        "the crop of entry 1 fails its checksum",
    ]


def empty_index(folder, name):
    """Makes an index of one page claim to hold no cells."""
    path = folder / "gallery.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        asked = "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?"
        page, size = connection.execute(asked, (name,)).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size + 3 : (page - 1) * size + 5] = b"\0\0"
    path.write_bytes(content)


def test_verify_finds_damaged_pages(folder, capsys):
    empty_index(folder, "entries_camera")
    assert main(["verify", str(folder)]) == 1
    assert "entries_camera" in capsys.readouterr().out


def test_verify_of_a_file_that_is_no_database_fails(folder, capsys):
    (folder / "gallery.sqlite").write_bytes(b"x" * 5000)
    assert main(["verify", str(folder)]) == 1
    assert "not a database" in capsys.readouterr().out


def test_verify_finds_answers_that_belong_to_no_key(folder, capsys):
    damage(folder, "INSERT INTO answer_entries VALUES (x'00', 0, 1, 'ann', 0)")
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out.startswith("answer_entries: ")


def test_verify_names_what_stopped_commands_left(folder, capsys):
    left = ["gallery.sqlite.new", "reembedding", "a.tar.snapshotting", "out.exporting", "../gallery.restoring"]
    for name in left:
        (folder / name).mkdir()
    assert main(["verify", str(folder), "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [Path(fault.split(" was left behind")[0]).name for fault in faults] == [Path(name).name for name in left]


def test_rebuild_makes_damaged_indexes_anew(folder, capsys):
    empty_index(folder, "entries_camera")
    assert main(["verify", str(folder)]) == 1
    assert main(["rebuild", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("sound\nsound\n")


def test_rebuild_removes_what_stopped_commands_left_in_the_gallery(folder, capsys):
    (folder / "gallery.sqlite.new").write_text("half")
    (folder / "reembedding").mkdir()
    assert main(["rebuild", str(folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["sound"], values["bytes"]) == (True, (folder / "gallery.sqlite").stat().st_size)
    assert sorted(path.name for path in folder.iterdir()) == ["gallery.sqlite", "lock"]


def test_rebuild_mends_no_row(folder, capsys):
    damage(folder, "UPDATE entries SET crc = crc + 1 WHERE entry_id = 2")
    assert main(["rebuild", str(folder)]) == 1
    assert capsys.readouterr().out == "entry 2 fails its checksum\n"


def test_rebuild_of_rows_that_contradict_each_other_fails(folder, capsys):
    damage(folder, "UPDATE entries SET content_hash = 'ab' WHERE entry_id = 1")
    empty_index(folder, "entries_content")
    damage(folder, "UPDATE entries SET pid = 'ann', content_hash = 'ab' WHERE entry_id = 2")
    assert main(["rebuild", str(folder)]) == 1
    assert "contradict each other" in capsys.readouterr().err


def test_a_snapshot_is_restored(folder, tmp_path, capsys):
    assert main(["snapshot", str(folder), str(tmp_path / "one.tar"), "--json"]) == 0
    taken = json.loads(capsys.readouterr().out)
    assert (taken["path"], taken["entries"]) == (str(tmp_path / "one.tar"), 2)
    assert main(["restore", str(tmp_path / "one.tar"), str(tmp_path / "again")]) == 0
    assert f"sha256         {taken['sha256']}\n" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "again")]) == 0


def test_an_export_is_imported(folder, tmp_path, capsys):
    assert main(["export", str(folder), str(tmp_path / "out"), "--crops", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"entries": 2, "crops": 1, "path": str(tmp_path / "out")}
    for entries in (2, 0):
        assert main(["import", str(tmp_path / "out"), str(tmp_path / "new"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"entries": entries, "duplicates": 2 - entries}
    assert main(["verify", str(tmp_path / "new")]) == 0


def test_expire_erases_what_is_older(folder, reopen, new, capsys):
    with reopen() as gallery:
        gallery.enroll([new("old", captured_at=datetime(2026, 1, 1, tzinfo=UTC))], space_id="space-1")
    assert main(["expire", str(folder), "--older-than", "2026-01-01T00:00:01Z", "--json"]) == 0
    expired = json.loads(capsys.readouterr().out)
    assert (expired["before"], expired["entries"], expired["identities"]) == ("2026-01-01T00:00:01+00:00", 1, 1)
    with reopen() as gallery:
        assert gallery.stats().entries == 2


def test_expire_erases_nobody_on_the_word_of_a_damaged_row(folder, capsys):
    damage(folder, "UPDATE entries SET captured_us = 1 WHERE entry_id = 1")
    assert main(["expire", str(folder), "--older-than", "2026-01-01T00:00:01Z"]) == 1
    assert "entry 1 fails its checksum" in capsys.readouterr().err
    assert main(["stats", str(folder)]) == 0
    assert "entries        2\n" in capsys.readouterr().out


def test_an_age_that_is_none_is_refused(folder, capsys):
    assert main(["expire", str(folder), "--older-than", "soon"]) == 1
    assert capsys.readouterr().err.startswith("error: got --older-than 'soon', wanted 30d")


def test_reembed_of_entries_without_crops_needs_drop_and_never_drops_all(folder, capsys):
    damage(folder, "DELETE FROM crops")
    assert main(["reembed", str(folder), "--model", MODEL]) == 1
    assert "2 of 2 entries have no stored crop (first: 1, 2)" in capsys.readouterr().err
    assert main(["reembed", str(folder), "--model", MODEL, "--drop"]) == 1
    assert "none of 2 entries could be embedded" in capsys.readouterr().err


def test_reembed_of_an_empty_gallery_gives_it_the_models_space(tmp_path, capsys):
    LocalGallery.open(tmp_path / "empty", space_id="space-1", dim=8).close()
    assert main(["reembed", str(tmp_path / "empty"), "--model", MODEL, "--json"]) == 0
    space_id = json.loads(capsys.readouterr().out)["space_id"]
    assert main(["stats", str(tmp_path / "empty"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["space_id"] == space_id != "space-1"


def test_reembed_with_what_is_no_artefact_is_refused(folder, tmp_path, capsys):
    assert main(["reembed", str(folder), "--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "command",
    [
        *(["stats"], ["verify"], ["rebuild"], ["expire", "--older-than", "1d"]),
        *(["snapshot", "none/out.tar"], ["restore", "none/new"], ["export", "none/out"], ["import", "none/new"]),
        ["reembed", "--model", MODEL],
    ],
    ids=lambda command: command[0],
)
def test_what_is_missing_is_one_line_on_standard_error(tmp_path, capsys, command):
    assert main([command[0], str(tmp_path), *command[1:]]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["stats", "verify", "rebuild", "snapshot", "restore", "export", "import", "expire", "reembed"]
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "--json" in text
    assert text.index(".\n\npositional") > text.index("]")  # a sentence that says what it does


def test_ctrl_c_is_one_line_and_no_success(capsys):
    def interrupted(given, progress):
        raise KeyboardInterrupt

    assert run_command(argparse.Namespace(command="verify", json=False, run=interrupted)) == 130
    assert capsys.readouterr().err == "error: stopped before the end\n"


def test_module_runs_as_a_command(folder):
    answer = subprocess.run([sys.executable, "-m", "gallery", "verify", str(folder)], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "sound\n", "")
