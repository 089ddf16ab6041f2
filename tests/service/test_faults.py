"""A gallery that cannot serve is seen from outside: in what a write is answered, in readyz, and at the start."""

import shutil

import pytest

from gallery.errors import CorruptStore, GalleryError
from service.parts import open_gallery


def enroll(client, content, pid="ann"):
    return client.post("/gallery", files=[("crops", ("a.png", content, "image/png"))], data={"pid": pid})


def test_a_gallery_whose_folder_vanishes_is_not_ready_and_takes_nothing_more(client, pictures, settings, tmp_path):
    assert enroll(client, pictures(1)).status_code == 201
    settings.gallery.rename(tmp_path / "elsewhere")
    refused = enroll(client, pictures(2))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert "removed or replaced" in refused.json()["error"]["message"]
    probe = client.get("/readyz")
    assert (probe.status_code, probe.json()["error"]["code"]) == (503, "gallery_not_ready")
    assert probe.json()["parts"]["model"] == "ready" and "removed" in probe.json()["parts"]["gallery"]
    found = client.post("/search", files=[("crops", ("a.png", pictures(1), "image/png"))])
    assert found.json()["matches"][0]["pid"] == "ann"  # what is in memory can still be searched
    (tmp_path / "elsewhere").rename(settings.gallery)
    assert client.get("/readyz").status_code == 200
    assert enroll(client, pictures(2)).status_code == 201


def damage(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"ann") + 1] ^= 1
    path.write_bytes(content)


def test_a_damaged_gallery_never_starts_as_an_empty_one(serving, settings, fake, pictures, tmp_path):
    client = serving()
    assert enroll(client, pictures(1)).status_code == 201
    client.close()
    file = settings.gallery / "gallery.sqlite"
    whole = shutil.copy(file, tmp_path / "whole")
    for content in (b"", file.read_bytes()[:5000], b"x" * 9000):
        file.write_bytes(content)
        with pytest.raises(CorruptStore, match="restore"):
            open_gallery(settings, serving_model(client))
    shutil.copy(whole, file)
    damage(file)
    with pytest.raises(GalleryError, match="restore"):
        open_gallery(settings, serving_model(client))
    shutil.copy(whole, file)
    with open_gallery(settings, serving_model(client)) as gallery:
        assert gallery.stats().entries == 1


def serving_model(client):
    return client.app.state.parts.model
