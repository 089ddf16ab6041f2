"""What readiness finds on the disk, and that the wall clock may jump."""

import asyncio
import os
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from gallery.errors import StoreFull, StoreUnavailable
from gallery.local import LocalGallery
from service.app import create_app
from service.health import check_room, free_bytes, marks_of, replaced


def test_files_that_are_as_they_were_are_not_replaced(artefact, tmp_path):
    folder = artefact(tmp_path / "model")
    assert replaced(folder, marks_of(folder)) == []


def test_a_file_that_was_replaced_or_removed_is_named(artefact, tmp_path):
    folder = artefact(tmp_path / "model")
    loaded = marks_of(folder)
    copy = tmp_path / "copy"
    shutil.copy2(folder / "model.onnx", copy)
    os.replace(copy, folder / "model.onnx")
    assert replaced(folder, loaded) == ["model.onnx"]
    (folder / "manifest.json").unlink()
    assert replaced(folder, loaded) == ["model.onnx", "manifest.json"]


def test_a_file_that_comes_into_being_is_named(tmp_path):
    loaded = marks_of(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert replaced(tmp_path, loaded) == ["model.onnx"]


def test_room_is_refused_by_what_is_free(tmp_path):
    free = free_bytes(tmp_path)
    check_room(tmp_path, 0)
    with pytest.raises(StoreFull, match=f"wanted {1000 * free} for anything new; free some space, nothing was written"):
        check_room(tmp_path, 1000 * free)


def test_a_folder_that_is_gone_has_no_room(tmp_path):
    with pytest.raises(StoreUnavailable, match="No such file or directory.; put the gallery's folder back"):
        free_bytes(tmp_path / "gone")


def enroll(client, pictures, seed):
    return client.post("/gallery", files={"crops": pictures(seed)}, data={"pid": f"p{seed}"})


def test_a_replaced_model_file_is_told_of_and_the_loaded_model_goes_on(serving, artefact, graph, pictures, tmp_path):
    folder = artefact(tmp_path / "model")
    client = serving(model=folder)
    before = client.post("/embed", files={"crops": pictures(1)}).json()
    artefact(folder, model=graph(dim=8).SerializeToString())
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["parts"]["model"].startswith("ready; on the disk model.onnx and manifest.json changed since")
    assert client.post("/embed", files={"crops": pictures(1)}).json() == before


def test_a_gallery_folder_that_is_moved_away_is_told_of_and_nothing_is_lost(serving, settings, pictures, caplog):
    client = serving()
    assert enroll(client, pictures, 1).status_code == 201
    settings.gallery.rename(settings.gallery.with_name("away"))
    answer = client.get("/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "gallery_not_ready"
    assert "put them back" in answer.json()["parts"]["gallery"] and answer.json()["parts"]["model"] == "ready"
    assert str(settings.gallery.parent) not in answer.text  # anybody may ask
    assert str(settings.gallery) in caplog.records[0].fields["got"]
    assert enroll(client, pictures, 2).status_code == 503
    assert client.post("/search", files={"crops": pictures(1)}).json()["matches"][0]["pid"] == "p1"
    assert "reid_disk_free_bytes NaN" in client.get("/metrics").text
    settings.gallery.with_name("away").rename(settings.gallery)
    assert client.get("/readyz").status_code == 200
    assert enroll(client, pictures, 2).status_code == 201
    client.close()
    with LocalGallery.reopen(settings.gallery) as gallery:
        assert gallery.stats().entries == 2


def test_a_disk_that_is_nearly_full_is_told_of(serving, settings, pictures):
    client = serving(min_free_mb=free_bytes(settings.gallery.parent))  # a million times what is free
    answer = client.get("/readyz")
    refused = enroll(client, pictures, 1)
    assert refused.status_code == 507 and refused.json()["error"]["code"] == "store_full"
    assert client.post("/search", files={"crops": pictures(1)}).status_code == 200
    assert client.get("/gallery/stats").json()["entries"] == 0
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "store_full"
    assert answer.json()["parts"]["gallery"] == "ready" and "too little room" in answer.json()["parts"]["disk"]


def test_a_disk_that_hangs_keeps_nobody_waiting_for_long(serving, pictures):
    back = threading.Event()

    class Hanging(type(Path())):
        def __fspath__(self):
            assert back.wait(30)
            return super().__fspath__()

    client = serving()
    parts = client.app.state.parts
    hanging = parts.settings.model_copy(update={"gallery": Hanging(parts.settings.gallery)})
    client.app.state.parts = replace(parts, settings=hanging)

    async def ask():
        calls = [client.http.get("/readyz"), client.http.get("/metrics"), client.http.get("/livez")]
        written = client.http.post("/gallery", files={"crops": pictures(1)}, data={"pid": "a"})
        return await asyncio.gather(*calls, written)

    ready, metrics, alive, written = client.run(ask())
    back.set()
    client.app.state.parts = parts
    assert [answer.status_code for answer in (ready, metrics, alive, written)] == [503, 200, 200, 503]
    assert "does not answer" in ready.json()["parts"]["disk"] and "gave no answer" in written.json()["error"]["message"]
    assert "reid_disk_free_bytes NaN" in metrics.text and "reid_gallery_entries 0.0" in metrics.text


def test_who_may_not_write_hears_nothing_of_the_disk(serving, settings, pictures):
    client = serving(min_free_mb=free_bytes(settings.gallery.parent), api_keys=SecretStr("k"))
    assert enroll(client, pictures, 1).status_code == 401


def test_a_wall_clock_that_jumps_loses_no_order_and_no_readiness(serving, pictures):
    years = iter([2026, 1971, 2099])
    client = serving()
    client.app.state.parts.gallery._clock = lambda: datetime(next(years), 1, 1, tzinfo=UTC)
    for seed in range(3):
        assert enroll(client, pictures, seed).status_code == 201
    first = client.get("/gallery?limit=2").json()
    rest = client.get("/gallery", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [entry["pid"] for entry in first["entries"] + rest["entries"]] == ["p2", "p1", "p0"]
    assert [client.post("/search", files={"crops": pictures(seed)}).json()["matches"][0]["pid"] for seed in range(3)] == [
        "p0",
        "p1",
        "p2",
    ]
    assert client.get("/readyz").status_code == 200


def test_an_application_told_of_a_supervisor_tells_it_that_it_is_ready(settings, fake):
    told = []

    async def main():
        app = create_app(settings, embed=fake(), notify=told.append)
        async with app.router.lifespan_context(app):
            async with asyncio.timeout(20):
                while len(told) < 2:
                    await asyncio.sleep(0)

    asyncio.run(main())
    assert told == ["READY=1", "WATCHDOG=1"]
