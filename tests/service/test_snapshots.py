"""Snapshots over HTTP: made while the service runs, listed, downloaded whole, and restored to what was there."""

import base64
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from pydantic import SecretStr, ValidationError

from gallery.archive import restore
from gallery.errors import CorruptArchive, StoreFull, StoreUnavailable
from gallery.local import LocalGallery
from service import snapshots
from service.errors import SnapshotNotFound, SnapshotUnderWay
from service.settings import Settings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(name="gallery")
def gallery_fixture(tmp_path):
    with LocalGallery.open(tmp_path / "gallery", space_id="5" * 64, dim=16) as gallery:
        yield gallery


def enroll(client, content, pid="ann"):
    return client.post("/gallery", files=[("crops", ("a.png", content, "image/png"))], data={"pid": pid})


def error_code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_a_snapshot_made_over_http_restores_to_the_gallery_that_was(client, pictures, tmp_path):
    enroll(client, pictures(1))
    made = client.post("/gallery/snapshots")
    enroll(client, pictures(2), "bea")
    assert made.status_code == 201
    assert set(made.json()) == {"name", "size", "sha256", "entries", "created_at"} and made.json()["entries"] == 1
    downloaded = client.get(made.headers["location"])
    (tmp_path / "copy.tar").write_bytes(downloaded.content)
    restore(tmp_path / "copy.tar", tmp_path / "restored")
    with LocalGallery.open(tmp_path / "restored", space_id="5" * 64, dim=16) as restored:
        assert [entry.pid for entry in restored.entries().items] == ["ann"]


def test_a_download_says_how_long_it_is_and_what_its_sha256_is(client):
    made = client.post("/gallery/snapshots").json()
    answer = client.get(f"/gallery/snapshots/{made['name']}")
    digest = hashlib.sha256(answer.content)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    assert made["size"] == int(answer.headers["content-length"]) == len(answer.content)
    assert made["sha256"] == digest.hexdigest() == answer.headers["etag"].strip('"')
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-disposition"] == f'attachment; filename="{made["name"]}"'
    assert answer.headers["cache-control"] == "no-store"


def test_an_interrupted_download_goes_on_where_it_stopped(client):
    made = client.post("/gallery/snapshots").json()
    path = f"/gallery/snapshots/{made['name']}"
    whole = client.get(path).content
    rest = client.get(path, headers={"range": "bytes=1000-", "if-range": f'"{made["sha256"]}"'})
    some = client.get(path, headers={"range": "bytes=5-9"})
    assert (rest.status_code, rest.content) == (206, whole[1000:])
    assert (some.status_code, some.content, some.headers["content-range"]) == (206, whole[5:10], f"bytes 5-9/{len(whole)}")


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=9-5", "bytes=-5", "bytes=0-1,5-9", "rows=1-2", "bytes", ""])
def test_a_part_that_is_not_there_is_refused_in_the_one_error_form(client, wanted):
    name = client.post("/gallery/snapshots").json()["name"]
    answer = client.get(f"/gallery/snapshots/{name}", headers={"range": wanted})
    assert error_code(answer) == (416, "range_not_satisfiable") and repr(wanted) in answer.json()["error"]["message"]


def test_the_list_is_empty_before_the_first_and_then_newest_first(client):
    assert client.get("/gallery/snapshots").json() == {"snapshots": []}
    made = [client.post("/gallery/snapshots").json() for _ in range(3)]
    assert client.get("/gallery/snapshots").json() == {"snapshots": made[::-1]}


@pytest.mark.parametrize("name", ["20260102T030405Z-1.tar", "x", "..%2fgallery%2fgallery.sqlite", "x.tar.json", "a%00"])
def test_what_is_no_snapshot_is_not_found(client, name):
    answer = client.get(f"/gallery/snapshots/{name}")
    assert answer.status_code == 404 and answer.json()["error"]["code"] in ("snapshot_not_found", "not_found")


@pytest.mark.parametrize(
    "name", ["../gallery/gallery.sqlite", "..", "20260102T030405Z-1.tar/../x", "20260102T030405Z-1.tar\n", "/etc/passwd"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, gallery, name):
    snapshots.make(gallery, tmp_path / "kept", NOW)
    with pytest.raises(SnapshotNotFound, match="which is no snapshot here"):
        snapshots.find(tmp_path / "kept", name)


def test_a_link_is_no_snapshot(tmp_path, gallery):
    folder = tmp_path / "kept"
    made = snapshots.make(gallery, folder, NOW)
    (folder / "20260102T030405Z-2.tar").symlink_to(tmp_path / "gallery" / "gallery.sqlite")
    assert snapshots.listed(folder) == [made]
    with pytest.raises(SnapshotNotFound):
        snapshots.find(folder, "20260102T030405Z-2.tar")


def test_names_are_made_of_the_time_and_a_number_and_files_are_their_owners_alone(tmp_path, gallery):
    folder = tmp_path / "deep" / "kept"
    made = [snapshots.make(gallery, folder, NOW) for _ in range(3)]
    assert [one.path.name for one in made] == [f"20260102T030405Z-{number}.tar" for number in (1, 2, 3)]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600} and folder.stat().st_mode & 0o777 == 0o700


def test_while_one_is_made_another_is_refused(tmp_path, gallery):
    folder = tmp_path / "kept"
    folder.mkdir()
    with snapshots.alone(folder), pytest.raises(SnapshotUnderWay, match="one at a time"):
        snapshots.make(gallery, folder, NOW)
    assert snapshots.make(gallery, folder, NOW).entries == 0


def test_of_many_at_once_each_is_whole_or_refused(client, pictures):
    enroll(client, pictures(1))
    start = threading.Barrier(8)

    def ask():
        start.wait()
        return client.post("/gallery/snapshots")

    with ThreadPoolExecutor(8) as threads:
        answers = [work.result() for work in [threads.submit(ask) for _ in range(8)]]
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert made and {error_code(answer) for answer in answers if answer.status_code != 201} <= {(409, "snapshot_under_way")}
    listed = client.get("/gallery/snapshots").json()["snapshots"]
    assert sorted(one["name"] for one in listed) == sorted(one["name"] for one in made)
    for one in listed:
        content = client.get(f"/gallery/snapshots/{one['name']}").content
        assert hashlib.sha256(content).hexdigest() == one["sha256"] and one["entries"] == 1


class FullDisk:
    """A gallery whose disk has no room for a snapshot."""

    def stats(self):
        return SimpleNamespace(bytes=0)

    def snapshot(self, path):
        raise StoreFull(f"no room left in {path.parent}; free some space")


def test_a_full_disk_is_507_and_leaves_nothing(client, settings):
    parts = client.app.state.parts
    full = type(parts)(**{**vars(parts), "gallery": FullDisk()})
    client.app.state.parts = full
    answer = client.post("/gallery/snapshots")
    client.app.state.parts = parts
    assert error_code(answer) == (507, "store_full") and list(settings.snapshots.iterdir()) == []


def test_a_snapshot_that_would_not_fit_is_refused_before_anything_is_written(serving, settings):
    client = serving(min_free_mb=1e12)
    answer = client.post("/gallery/snapshots")
    assert error_code(answer) == (507, "store_full") and "bytes free for snapshots" in answer.json()["error"]["message"]
    assert list(settings.snapshots.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path, gallery):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="for snapshots .*file/kept cannot be made: .*set REID_SNAPSHOTS"):
        snapshots.make(gallery, tmp_path / "file" / "kept", NOW)


def test_a_snapshot_without_its_description_is_described_again(tmp_path, gallery):
    made = snapshots.make(gallery, tmp_path, NOW)
    beside = snapshots.description_of(made.path)
    beside.unlink()
    assert snapshots.listed(tmp_path) == [made] and beside.exists()
    assert snapshots.listed(tmp_path) == [made] == [snapshots.find(tmp_path, made.path.name)]


def test_a_description_that_cannot_be_written_keeps_nobody_from_the_snapshot(tmp_path, gallery):
    folder = tmp_path / "kept"
    folder.mkdir()
    made = gallery.snapshot(folder / "20260102T030405Z-1.tar")
    snapshots.description_of(made.path).symlink_to(tmp_path / "nowhere" / "else")
    assert asdict(snapshots.find(folder, made.path.name)) == asdict(made)


def test_a_file_that_is_shorter_than_when_it_was_made_is_refused(tmp_path, gallery):
    made = snapshots.make(gallery, tmp_path, NOW)
    made.path.write_bytes(made.path.read_bytes()[:-512])
    with pytest.raises(CorruptArchive, match="wanted .* use an undamaged copy"):
        snapshots.find(tmp_path, made.path.name)


@pytest.mark.parametrize("content", ["", "{}", '{"bytes": 1, "sha256": "", "entries": 0, "created_at": "monday"}'])
def test_a_damaged_description_is_refused_by_name_and_hides_no_other_snapshot(tmp_path, gallery, content, caplog):
    made, other = (snapshots.make(gallery, tmp_path, NOW) for _ in range(2))
    snapshots.description_of(made.path).write_text(content)
    with pytest.raises(CorruptArchive, match=r"-1\.tar\.json: got"):
        snapshots.find(tmp_path, made.path.name)
    assert snapshots.listed(tmp_path) == [other]
    assert "-1.tar.json: got" in caplog.records[0].fields["got"]


def test_a_snapshot_that_is_none_inside_hides_no_other(tmp_path, gallery):
    made, other = (snapshots.make(gallery, tmp_path, NOW) for _ in range(2))
    snapshots.description_of(made.path).unlink()
    made.path.write_bytes(b"")
    assert snapshots.listed(tmp_path) == [other]


def test_a_read_only_key_lists_and_neither_makes_nor_takes_away(serving, fake):
    client = serving(embed=fake(), api_keys=SecretStr("full"), read_only_keys=SecretStr("reader"))
    full, reader = ({"authorization": f"Bearer {key}"} for key in ("full", "reader"))
    name = client.post("/gallery/snapshots", headers=full).json()["name"]
    path = f"/gallery/snapshots/{name}"
    assert client.get("/gallery/snapshots", headers=reader).json()["snapshots"][0]["name"] == name
    assert error_code(client.post("/gallery/snapshots", headers=reader)) == (403, "read_only_key")
    assert error_code(client.get(path, headers=reader)) == (403, "read_only_key")
    assert error_code(client.get(path)) == (401, "missing_key")
    assert client.get(path, headers=full).status_code == 200


@pytest.mark.parametrize("inside", ["gallery", "gallery/kept", "gallery/../gallery/kept"])
def test_a_folder_in_the_gallerys_own_is_refused_at_the_start(tmp_path, inside):
    with pytest.raises(ValidationError, match="is in the gallery's folder"):
        Settings(_env_file=None, gallery=tmp_path / "gallery", snapshots=tmp_path / inside)


def test_the_default_folder_is_checked_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match="is in the gallery's folder"):
        Settings(_env_file=None, gallery="var")


def test_a_description_holds_nothing_of_anybody(client, settings, pictures):
    enroll(client, pictures(1), "a-very-particular-pid")
    name = client.post("/gallery/snapshots").json()["name"]
    beside = json.loads((settings.snapshots / f"{name}.json").read_text())
    assert set(beside) == {"bytes", "sha256", "entries", "created_at"}
