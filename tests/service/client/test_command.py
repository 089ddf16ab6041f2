"""python -m service.client against an application that listens: what it prints, writes and returns."""

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.client import Unauthorised
from service.client.__main__ import advised, main, make_parser, run_command
from service.client.commands import whole

ROOT = Path(__file__).parents[3]
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture(name="run")
def run_fixture(live, capsys):
    """Runs one command against the live service; gives its status, output and errors."""

    def run(*arguments, **environment):
        status = main([str(one) for one in arguments], {"REID_URL": live, **environment})
        return status, *capsys.readouterr()

    return run


@pytest.fixture(name="people")
def people_fixture(tmp_path, pictures):
    """A folder of anna, seen by two cameras, and bert."""
    for seed, name in enumerate(("anna/1.png", "anna/door/2.png", "bert/1.png")):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures(seed))
    return tmp_path / "people"


def test_a_folder_is_enrolled_and_running_it_again_is_harmless(run, reid, people):
    assert run("enroll", people, "--camid", "hall") == (0, "enrolled 3, 0 were there already, 0 failed\n", "")
    assert {(entry.pid, entry.camid) for entry in reid.entries()} == {("anna", "hall"), ("anna", "door"), ("bert", "hall")}
    assert run("enroll", people) == (0, "enrolled 0, 3 were there already, 0 failed\n", "")


def test_bad_files_are_named_at_the_end_and_the_others_enrolled(run, reid, people):
    (people / "bert" / "2.jpg").write_bytes(b"nothing")
    status, out, errors = run("enroll", people)
    assert (status, out) == (1, "enrolled 3, 0 were there already, 1 failed\n")
    assert errors.startswith(f"failed: {people}/bert/2.jpg: got 7 bytes") and errors.count("\n") == 1
    assert reid.stats().entries == 3


def test_files_that_are_all_bad_are_named_too(run, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    status, out, errors = run("enroll", "--pid", "anna", bad, tmp_path / "missing.jpg")
    assert (status, out) == (1, "enrolled 0, 0 were there already, 2 failed\n")
    assert [line.split(": ")[1] for line in errors.splitlines()] == [str(bad), str(tmp_path / "missing.jpg")]
    assert run("embed", bad, "-o", tmp_path / "out.npy")[0] == 1 and not (tmp_path / "out.npy").exists()


def test_a_csv_file_is_enrolled_with_its_cameras_and_times(run, reid, people):
    table = people / "people.csv"
    table.write_text("path,pid,camid,captured_at\nanna/1.png,anna,hall,2026-01-31T12:00:00Z\nbert/1.png,bert,,\n")
    status, out, _ = run("enroll", table, "--json")
    assert (status, json.loads(out)) == (0, {"enrolled": 2, "duplicates": 0, "failed": 0})
    bert, anna = reid.entries()
    assert (anna.camid, anna.captured_at.isoformat()) == ("hall", "2026-01-31T12:00:00+00:00")
    assert (bert.camid, bert.captured_at) == (None, None)


def test_embeddings_are_written_with_their_names(run, reid, people, tmp_path):
    (people / "anna" / "bad.png").write_bytes(b"nothing")
    status, out, errors = run("embed", people, "-o", tmp_path / "out.npy")
    assert (status, out) == (1, f"embedded 3 into {tmp_path}/out.npy\n") and "anna/bad.png: got 7 bytes" in errors
    names = (tmp_path / "out.txt").read_text().splitlines()
    assert names == [str(people / name) for name in ("anna/1.png", "anna/door/2.png", "bert/1.png")]
    assert (np.load(tmp_path / "out.npy") == reid.embed(names).embeddings).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.txt", "people"]


def test_a_search_prints_its_decision_and_an_aligned_table(run, reid, people):
    run("enroll", people)
    status, out, errors = run("search", people / "anna" / "1.png", "--group-by", "entry", "--threshold", "0.99")
    words, header, first, *others = out.splitlines()
    assert (status, errors, len(others)) == (0, "", 2)
    assert words == "match: anna is first with cosine 1.000, the threshold is 0.990"
    assert header.split() == ["rank", "pid", "cosine", "entry", "camid", "captured_at", "entries"]
    assert first.split()[:3] == ["1", "anna", "1.000"]
    assert {line.index(cell) for line, cell in ((header, "pid"), (first, "anna"))} == {header.index("pid")}


def test_the_parameters_of_a_search_are_passed_on(run, reid, people):
    run("enroll", people, "--camid", "hall")
    crop = people / "anna" / "1.png"
    status, out, _ = run("search", crop, "--json", "--camid", "hall", "--exclude-camid", "door", "--k", "1", "--far", "0.1")
    assert status == 0 and json.loads(out)["threshold"] == 0.5 and len(json.loads(out)["matches"]) == 1
    assert json.loads(run("search", crop, "--json", "--attributes", '{"site":"north"}')[1])["matches"] == []
    status, _, errors = run("search", crop, "--pool", "mean", "--best-of", "2")
    assert status == 1 and errors.startswith("error: best_of: ")


def test_a_search_by_entry_leaves_it_out_and_bad_crops_are_named(run, reid, people, tmp_path):
    run("enroll", people)
    (entry,) = reid.entries(pid="bert")
    assert "bert" not in run("search", "--entry", entry.entry_id)[1]
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    status, out, errors = run("search", tmp_path / "bad.jpg", people / "bert" / "1.png")
    assert status == 1 and out.startswith("match: bert") and errors.startswith(f"failed: {tmp_path}/bad.jpg: ")


def test_a_search_is_drawn_with_its_pictures(run, reid, people, tmp_path):
    run("enroll", people)
    status, *_ = run("search", people / "anna" / "1.png", "--html", tmp_path / "out.html", "--pid", "anna")
    drawn = (tmp_path / "out.html").read_text()
    assert status == 0 and drawn.count("data:image/jpeg") == 2 and drawn.count("data:image/png") == 1
    assert drawn.index('<li class="right">') < drawn.index('<li class="wrong">')
    (entry,) = reid.entries(pid="bert")
    run("search", "--entry", entry.entry_id, "--html", tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text().count("data:image/jpeg") == 2


def test_a_query_that_is_no_picture_is_named(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    status, out, errors = run("search", tmp_path / "notes.jpg")
    assert (status, out) == (1, "") and errors.startswith(f"error: {tmp_path}/notes.jpg: got 5 bytes beginning 'hello'")


def test_a_match_without_a_kept_crop_is_drawn_without(run, reid, pictures, people, tmp_path):
    reid.enroll(embeddings=reid.embed(pictures(1)).embeddings, pid="anna")
    assert run("search", people / "anna" / "1.png", "--html", tmp_path / "out.html")[0] == 0
    assert "no crop kept" in (tmp_path / "out.html").read_text()


def test_entries_are_exported_as_json_lines_and_as_csv(run, reid, people, tmp_path):
    run("enroll", people)
    reid.rename("bert", "=cmd")
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.CSV"
    assert run("export", lines)[:2] == (0, f"wrote 3 into {lines}\n")
    assert run("export", table, "--pid", "anna", "--camid", "door")[0] == 0
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [entry["pid"] for entry in entries] == ["=cmd", "anna", "anna"] and entries[0]["attributes"] == {}
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["pid"], row["camid"], row["captured_at"], row["attributes"]) == ("anna", "door", "", "{}")


def test_identities_are_exported(run, reid, people, tmp_path):
    run("enroll", people)
    assert run("export", tmp_path / "out.csv", "--identities")[0] == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["pid"], row["entries"], row["camids"]) for row in rows] == [("anna", "2", '["door"]'), ("bert", "1", "[]")]


def test_an_export_that_cannot_be_is_refused_and_leaves_nothing(run, tmp_path):
    assert "wanted a name that ends in .jsonl or .csv" in run("export", tmp_path / "out.xml")[2]
    assert "got --identities with --pid" in run("export", tmp_path / "out.csv", "--identities", "--pid", "a")[2]
    assert run("export", tmp_path / "out.csv", "--since", "yesterday")[0] == 1
    missing = tmp_path / "missing" / "out.csv"
    assert run("export", missing)[2].startswith(f"error: {missing}: got No such file or directory, wanted a file to read")
    assert list(tmp_path.iterdir()) == []


def test_identities_and_entries_are_deleted_and_those_that_are_not_there_named(run, reid, people):
    run("enroll", people)
    (entry,) = reid.entries(pid="bert")
    status, out, errors = run("delete", "anna", "nobody", "--entry", entry.entry_id)
    assert status == 1 and "nobody" in errors and errors.startswith("failed: ")
    assert out.splitlines()[0].startswith("deleted pid anna, entries 2, vectors 2, crops 2")
    assert out.splitlines()[1] == f"deleted entry_id {entry.entry_id}"
    assert reid.stats().entries == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search"], "got none or several of crops, embedding and entry_id, wanted one of them"),
        (["search", "/nowhere.jpg"], "/nowhere.jpg: got No such file or directory, wanted a file to read"),
        (["search", "--entry", "1", "--html", "/no/folder/x.html"], "--html: got /no/folder/x.html, wanted a name in a folder"),
        (["delete"], "got nothing to delete, wanted a PID or --entry ID"),
        (["enroll", "nowhere/"], "nowhere: got nothing there, wanted a folder"),
        (["enroll", __file__], "got files without --pid"),
        (["search", "--entry", "1", "--url", "localhost"], "url: got 'localhost', wanted one like http://127.0.0.1:8000"),
        (["search", "--entry", "1", "--url", CLOSED], f"{CLOSED}: got no answer"),
    ],
)
def test_an_error_is_one_line(run, arguments, words):
    status, out, errors = run(*arguments)
    assert (status, out) == (1, "") and errors.startswith(f"error: {words}") and errors.count("\n") == 1


def test_the_key_comes_from_the_environment_alone_and_is_never_shown(run):
    status, out, errors = run("delete", "nobody", REID_API_KEY="not a key")
    assert status == 1 and errors.startswith("error: key: got ") and "not a key" not in errors
    assert run("delete", "nobody", REID_API_KEY="")[:2] == (1, "deleted nothing\n")


def test_whoever_lacks_a_key_is_told_where_it_is_looked_for():
    missing = Unauthorised("got no API key, wanted the header Authorization: Bearer KEY", code="missing_key", status=401)
    assert advised(missing).endswith("Bearer KEY; the environment variable REID_API_KEY holds the key that is sent")


def test_ctrl_c_is_said_in_one_line(live, capsys):
    def stop(given, progress):
        raise KeyboardInterrupt

    given = make_parser({"REID_URL": live}).parse_args(["delete", "nobody"])
    given.run, given.key = stop, None
    assert run_command(given) == 130
    assert capsys.readouterr().err == "error: stopped before the end\n"


def test_embeddings_go_into_npy_files_alone(run, capsys):
    with pytest.raises(SystemExit):
        run("embed", "a.jpg", "-o", "out.txt")
    assert "got out.txt, wanted a name that ends in .npy" in capsys.readouterr().err


def test_it_runs_as_a_module_and_loads_little(live):
    asked = [sys.executable, "-X", "importtime", "-m", "service.client", "search", "--entry", "7", "--url", live]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # a measurement loads more
    done = subprocess.run(asked, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)
    *imported, error = done.stderr.splitlines()
    assert done.returncode == 1 and error.startswith("error: ") and "7" in error
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in imported}
    assert {"httpx", "numpy", "service"} <= loaded
    assert loaded & {"fastapi", "pydantic", "starlette", "uvicorn", "onnxruntime", "faiss", "PIL", "sqlite3"} == set()


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, whole(tmp_path / "out.csv") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename is None and list(tmp_path.iterdir()) == []
