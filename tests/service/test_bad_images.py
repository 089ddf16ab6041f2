"""Pictures of every bad kind over HTTP: an embedding or a named refusal, and a good crop beside them is never disturbed."""

import base64
import itertools

import pytest

from service import crops
from service.errors import UndecodableImage
from tests.service.bad_images import encoded, hostile, mutated, odd, scan_bomb, truncated, whole

ALLOWED = {"undecodable_image", "image_too_large"}
AT_ONCE = 40


@pytest.fixture(name="outcomes")
def outcomes_fixture(client, pictures):
    """Embed pictures, many in a request, each request with a good crop at its end that must give the same bits."""
    good = pictures(5)

    def embed(files):
        answer = client.post("/embed?encoding_format=base64", files=[("crops", file) for file in [*files, good]])
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    alone = embed([])[0]["embedding"]

    def send(named):
        found = {}
        named = iter(named)
        while group := list(itertools.islice(named, AT_ONCE)):
            *results, last = embed([content for _, content in group])
            assert last["embedding"] == alone
            for (name, _), result in zip(group, results, strict=True):
                found[name] = result["error"]["code"] if "error" in result else "embedded"
                assert found[name] in {"embedded", *ALLOWED}, (name, result)
                assert "error" in result or len(base64.b64decode(result["embedding"])) == 4 * 16
        return found

    return send


def test_whole_pictures_of_every_kind_are_embedded(outcomes):
    assert set(outcomes(whole()).values()) == {"embedded"}


def test_odd_pictures_are_embedded_or_refused_by_name(outcomes):
    found = outcomes(odd(most_pixels=500_000))
    refused = {name for name, outcome in found.items() if outcome != "embedded"}
    assert all("head" in name or "exif" in name or "bomb" in name for name in refused), refused


def test_hostile_pictures_are_refused_by_name(outcomes):
    found = outcomes(hostile())
    embedded = {name for name, outcome in found.items() if outcome == "embedded"}
    assert embedded <= {"png of colour 0 and no palette", "png of colour 3 and no palette"}
    assert found["png that says 30000 x 30000"] == found["jpeg that says 65500 x 65500"] == "image_too_large"
    assert found["jpeg of 100,000 scans"] == found["svg"] == found["GIF"] == "undecodable_image"


def test_pictures_cut_anywhere_are_refused_or_lack_next_to_nothing(outcomes):
    found = outcomes(truncated(percent=5))
    late = {name: int(name.split()[-2]) for name, outcome in found.items() if outcome == "embedded"}
    assert all(share >= 30 for share in late.values()), late


def test_mutated_pictures_are_embedded_or_refused_by_name(outcomes):
    found = outcomes(mutated(0, each=8))
    assert set(found.values()) >= {"embedded", "undecodable_image"}


@pytest.mark.parametrize("name", ["crop.jpg", "crop.png", "crop", "../../crop.svg", "crop.jpg\0.exe"])
def test_a_files_name_means_nothing(client, pictures, name):
    answer = client.post("/embed", files={"crops": (name, pictures(1), "text/html")})
    assert answer.status_code == 200


def test_scans_are_counted_up_to_the_pictures_end(drawn):
    few = scan_bomb(50)
    crops.check_scans(few + scan_bomb(200))
    thumbnail = encoded(drawn(1), "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\2" * 500)
    crops.check_scans(thumbnail)
    with pytest.raises(UndecodableImage, match="got a JPEG of 20. scans, wanted at most 100; save it as a baseline JPEG"):
        crops.check_scans(scan_bomb(200))
