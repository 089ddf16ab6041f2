"""The parts of the commands; that they run as commands is in test_main.py."""

import io
import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gallery.commands import embed_with, time_of
from gallery.database import Space
from gallery.entry import NewEntry
from gallery.errors import InvalidRequest
from gallery.local import LocalGallery, utc_now
from gallery.store import Store
from service.errors import InferenceFailed, UndecodableImage

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("30d", NOW - timedelta(days=30)),
        ("12h", NOW - timedelta(hours=12)),
        ("0d", NOW),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00+02:00", datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_an_age_is_a_time(text, time):
    assert time_of(text, NOW) == time


@pytest.mark.parametrize(
    "text", ["", "30", "-3d", "3w", "d", "٣d", "999999d", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00Z"]
)
def test_what_is_no_age_is_refused(text):
    with pytest.raises(InvalidRequest, match="wanted 30d, 12h, or a time"):
        time_of(text, NOW)


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (10, 20), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


class Embedder:
    """A fake: a crop's embedding is the shade of its first pixel; it fails on a batch with a black crop in it."""

    model = SimpleNamespace(height=4, width=2)

    def embed(self, crops):
        assert crops.shape[1:] == (4, 2, 3)
        if (crops[:, 0, 0, 0] == 0).any():
            raise InferenceFailed("not finite")
        return np.array([[crop[0, 0, 0]] for crop in crops], np.float32)


def test_crops_are_embedded_in_order_and_broken_ones_give_their_error():
    outcomes = embed_with(Embedder())([jpeg(50), b"no picture", jpeg(70)])
    assert [outcome.tolist() for outcome in outcomes[::2]] == [[50], [70]]
    assert isinstance(outcomes[1], UndecodableImage)


def test_a_crop_that_the_model_fails_on_does_not_fail_the_others():
    outcomes = embed_with(Embedder())([jpeg(50), jpeg(0), jpeg(70)])
    assert [outcome.tolist() for outcome in outcomes[::2]] == [[50], [70]]
    assert isinstance(outcomes[1], InferenceFailed)


def test_no_crops_are_no_batch():
    assert embed_with(Embedder())([]) == []
    assert [type(one) for one in embed_with(Embedder())([b""])] == [UndecodableImage]


def test_reembed_gives_what_the_bundled_model_gives(tmp_path):
    from service.crops import decode, resize
    from service.embedder import Embedder as Real

    model = ROOT / "service" / "model"
    crops = [jpeg(40), jpeg(200)]
    one = np.zeros(8, np.float32)
    one[0] = 1
    with closing(Store.open(tmp_path / "gallery", create=Space("space-1", 8))) as store:
        entries = [NewEntry(f"p{n}", one, "model-1", crop_jpeg=crop) for n, crop in enumerate(crops)]
        store.insert(entries, now=utc_now(), remember=None)
    command = [sys.executable, "-m", "gallery", "reembed", tmp_path / "gallery", "--model", model, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    real = Real.open(model, threads=1)
    pixels = [resize(decode(crop, max_pixels=1000), height=real.model.height, width=real.model.width) for crop in crops]
    with LocalGallery.open(tmp_path / "gallery", space_id=answer["space_id"], dim=real.model.dim) as gallery:
        assert (answer["entries"], gallery.entry(2).model_id) == (2, real.model.model_id)
        got = np.stack([gallery.embedding(entry_id) for entry_id in (1, 2)])
    assert np.abs(got - real.embed(np.stack(pixels))).max() < 2e-3
