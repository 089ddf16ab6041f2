import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from gallery.__main__ import main


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


def test_verify_finds_damaged_pages(folder, capsys):
    path = folder / "gallery.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        page, size = connection.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'entries_camera'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size + 3 : (page - 1) * size + 5] = b"\0\0"  # an index page that claims to hold no cells
    path.write_bytes(content)
    assert main(["verify", str(folder)]) == 1
    assert "entries_camera" in capsys.readouterr().out


def test_verify_of_a_file_that_is_no_database_fails(folder, capsys):
    (folder / "gallery.sqlite").write_bytes(b"x" * 5000)
    assert main(["verify", str(folder)]) == 1
    assert "not a database" in capsys.readouterr().out


def test_missing_gallery_is_one_line_on_standard_error(tmp_path, capsys):
    for command in ("stats", "verify"):
        assert main([command, str(tmp_path)]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1


def test_module_runs_as_a_command(folder):
    answer = subprocess.run([sys.executable, "-m", "gallery", "verify", str(folder)], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "sound\n", "")
