"""calibration.json: read strictly, used before the manifest's thresholds, made from the enrolled identities."""

import base64
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from gallery import bootstrap, calibration, pairs
from service.calibration import PAGE, draw_crops, find_calibration, from_gallery, read_calibration
from service.errors import ArtefactRefused, TooFewPeople
from service.manifest import read_manifest
from service.settings import BUNDLED_MODEL, Settings

DIM = 8  # of the double's embeddings
CONTENT = {
    "schema_version": 1,
    "model_id": "f" * 64,
    "source": "drawn people",
    "created_at": "2026-01-31T12:00:00+00:00",
    "default_far": 0.01,
    "threshold": 0.7,
    "margin": 0.05,
    "rates": [{"far": 0.1, "threshold": 0.4}, {"far": 0.01, "threshold": 0.7}],
}
NAME = "calibration of 2026-01-31 12:00 on drawn people"


@pytest.fixture(name="own")
def own_fixture(settings):
    """Where the service looks for a calibration of its own, holding one that fits the double."""
    settings.own_calibration.write_text(json.dumps(CONTENT))
    return settings.own_calibration


def entries_of(num, *, cameras=("east", "west"), crops=2, seed=0):
    """Entries of people drawn around `num` centres, crops of each under every camera."""
    rng = np.random.default_rng(seed)
    found = []
    for pid in range(num):
        centre = rng.normal(size=DIM)
        for camid in [*cameras] * crops:
            row = centre + 0.3 * rng.normal(size=DIM)
            found.append({"pid": f"p{pid}", "camid": camid, "embedding": (row / np.linalg.norm(row)).tolist()})
    return found


def enroll(client, entries):
    for start in range(0, len(entries), 200):
        assert client.post("/gallery", json={"entries": entries[start : start + 200]}).status_code == 201


def search(client, **parameters):
    row = np.zeros(DIM, np.float32)
    row[0] = 1
    text = base64.urlsafe_b64encode(row.tobytes()).decode()
    return client.get("/search", params={"embedding": text, **parameters}).json()


def test_a_search_says_which_threshold_it_used_and_where_it_came_from(serving, fake, own):
    client = serving(embed=fake())
    for parameters, threshold, source in (
        ({}, 0.7, NAME),
        ({"far": 0.1}, 0.4, f"far 0.1 of {NAME}"),
        ({"threshold": 0.2}, 0.2, "request"),
    ):
        answer = search(client, **parameters)
        assert (answer["threshold"], answer["threshold_source"]) == (threshold, source)
    assert client.get("/calibration").json()["source"] == "drawn people"
    shown = {"default": 0.7, "margin": 0.05, "far": {"0.1": 0.4, "0.01": 0.7}, "source": NAME}
    assert client.get("/model").json()["thresholds"] == shown


def test_without_a_calibration_the_manifests_thresholds_are_the_models(serving, fake, without):
    client = serving(embed=fake())
    assert search(client)["threshold_source"] == "model"
    assert search(client, far=0.1)["threshold_source"] == "far 0.1 of model"
    refused = client.get("/calibration")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_calibrated")
    client.close()
    assert search(serving(embed=without(thresholds=None)))["threshold_source"] is None


def test_the_services_own_calibration_goes_before_the_artefacts(settings, fake, own, tmp_path):
    beside = tmp_path / "artefact"
    beside.mkdir()
    (beside / "calibration.json").write_text(json.dumps(CONTENT | {"source": "the factory's"}))
    model = fake().model
    assert find_calibration(own, beside, model).name == NAME
    own.unlink()
    assert find_calibration(own, beside, model).name.endswith("on the factory's")
    assert find_calibration(own, None, model) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "got broken JSON"),
        ("[]", "got schema_version None, wanted 1"),
        (CONTENT | {"schema_version": 2}, "got schema_version 2, wanted 1"),
        (CONTENT | {"model_id": "0" * 64}, "got a calibration of model_id '0000.*cosines of two models do not compare"),
        (CONTENT | {"created_at": "yesterday"}, "got fields that do not fit"),
        (CONTENT | {"rates": [{"far": 0.1}]}, "got fields that do not fit"),
        (CONTENT | {"threshold": 0.5}, "got fields that do not fit"),
        (CONTENT | {"margin": -1}, "margin"),
        (CONTENT | {"default_far": None, "threshold": 1.5}, "a cosine"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_with_the_reason(fake, tmp_path, content, reason):
    path = tmp_path / "calibration.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ArtefactRefused, match=reason) as refused:
        read_calibration(path, fake().model)
    assert str(refused.value).startswith(str(path))


def test_a_calibration_that_cannot_be_read_is_refused(fake, tmp_path):
    with pytest.raises(ArtefactRefused, match="got Is a directory, wanted a calibration; remove it"):
        find_calibration(tmp_path, None, fake().model)


def test_a_service_does_not_start_with_another_models_calibration(serving, fake, own):
    own.write_text(json.dumps(CONTENT | {"model_id": "0" * 64}))
    with pytest.raises(ArtefactRefused, match="cosines of two models do not compare"):
        serving(embed=fake())


def test_a_calibration_is_shown_and_nothing_changes_until_it_is_applied(serving, fake, settings):
    client = serving(embed=fake())
    enroll(client, entries_of(30))
    shown = client.post("/calibration").json()
    assert shown["applied"] is False
    assert (shown["identities"], shown["crops"]) == (30, 120)
    assert search(client)["threshold_source"] == "model"
    assert not settings.own_calibration.exists()

    kept = client.post("/calibration", params={"apply": True}).json()
    assert kept["applied"] is True
    answer = search(client)
    assert answer["threshold"] == kept["threshold"] == shown["threshold"]
    assert answer["threshold_source"].endswith("on 30 of 30 enrolled identities that two cameras saw")
    client.close()
    again = serving(embed=fake())
    assert search(again)["threshold_source"] == answer["threshold_source"]
    assert json.loads(settings.own_calibration.read_text())["rates"] == kept["rates"]


def test_what_the_gallery_says_is_what_its_embeddings_say(serving, fake):
    client, entries = serving(embed=fake()), entries_of(25)
    enroll(client, entries)
    enroll(client, entries_of(40, cameras=("east",), seed=1)[30 * 2 :])  # ten people more, whom one camera saw
    shown = client.post("/calibration").json()
    rows, pids, cameras = (np.array([entry[key] for entry in entries]) for key in ("embedding", "pid", "camid"))
    people = pairs.people_of(rows, pids, cameras)
    found = pairs.tally(people, bootstrap.draw_weights(25, replicates=5))
    wanted = calibration.measure(found, people, camera_names=["east", "west"])
    assert shown["identities"] == 25
    assert [rate["threshold"] for rate in shown["rates"]] == pytest.approx([rate.threshold for rate in wanted.rates], abs=2e-3)
    assert {tuple(pair["cameras"]) for pair in shown["cameras"]} == {("east", "east"), ("east", "west"), ("west", "west")}


def test_too_few_people_are_refused_with_their_number(serving, fake):
    client = serving(embed=fake())
    enroll(client, entries_of(19))
    enroll(client, entries_of(30, cameras=("east",), seed=1)[25 * 2 :])
    refused = client.post("/calibration", params={"apply": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "too_few_people")
    assert refused.json()["error"]["message"].startswith("got 19 enrolled identities that two cameras saw, wanted at least 20")


class Shrinking:
    """A gallery in which somebody deletes every entry of a camera that is not seen yet, after they were listed."""

    def __init__(self, gallery, *, pid, camid):
        self._gallery, self._pid, self._camid = gallery, pid, camid

    def entries(self, **options):
        page = self._gallery.entries(**options)
        for entry in page.items:
            if (entry.pid, entry.camid) == (self._pid, self._camid):
                self._gallery.delete_entry(entry.entry_id)
        return page

    def embedding(self, entry_id):
        return self._gallery.embedding(entry_id)


def test_entries_deleted_meanwhile_take_no_part(serving, fake):
    client = serving(embed=fake())
    enroll(client, entries_of(21))
    gallery = client.app.state.parts.gallery
    made = from_gallery(Shrinking(gallery, pid="p3", camid="west"), fake().model, now=datetime.now(UTC))
    assert made.content["crops"] == 21 * 4 - 2
    with pytest.raises(TooFewPeople, match="got 19 enrolled identities"):
        from_gallery(Shrinking(gallery, pid="p4", camid="east"), fake().model, now=datetime.now(UTC))


def test_every_page_of_a_large_gallery_takes_part_but_for_entries_without_a_camera(serving, fake):
    client = serving(embed=fake())
    enroll(client, entries_of(21, crops=1))
    nobody = [{"pid": "p0", "embedding": entries_of(1, seed=9)[0]["embedding"]} for _ in range(PAGE)]
    enroll(client, nobody)
    assert client.post("/calibration").json()["crops"] == 42


def test_one_calibration_is_made_at_a_time(serving, fake):
    client = serving(embed=fake())
    with client.app.state.parts.calibration.making():
        refused = client.post("/calibration")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "calibration_under_way")


def test_a_calibration_that_cannot_be_kept_is_not_used(serving, fake, tmp_path):
    client = serving(embed=fake(), calibration=tmp_path / "nowhere")
    enroll(client, entries_of(20))
    (tmp_path / "nowhere").mkdir()
    refused = client.post("/calibration", params={"apply": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert search(client)["threshold_source"] == "model"
    assert list(tmp_path.glob(".nowhere*")) == []


def test_a_key_that_may_only_read_does_not_calibrate(serving, fake):
    client = serving(embed=fake(), api_keys=SecretStr("w"), read_only_keys=SecretStr("r"))
    reader = {"Authorization": "Bearer r"}
    assert client.post("/calibration", headers=reader).status_code == 403
    assert client.get("/calibration", headers=reader).status_code == 404


def test_crops_are_drawn_from_as_many_cameras_as_there_are(serving, fake):
    client = serving(embed=fake())
    enroll(client, entries_of(1, cameras=("a", "a", "a", "a", "b", "c"), crops=4))
    entries = list(client.app.state.parts.gallery.entries(limit=100).items)
    drawn = draw_crops(entries, np.random.default_rng(0))
    num = {camid: sum(entry.camid == camid for entry in drawn) for camid in "abc"}
    assert len(drawn) == 8
    assert min(num.values()) >= 2


def test_a_calibration_in_the_gallerys_folder_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="is in the gallery's folder"):
        Settings(gallery=tmp_path / "g", calibration=tmp_path / "g" / "calibration.json", _env_file=None)


def test_the_bundled_calibration_is_the_bundled_models(tmp_path):
    model = read_manifest(BUNDLED_MODEL)
    found = find_calibration(tmp_path / "none.json", BUNDLED_MODEL, model)
    assert found is not None
    assert found.content["identities"] == 750
    assert found.thresholds.at_far(0.001) == found.thresholds.default == found.content["threshold"]
