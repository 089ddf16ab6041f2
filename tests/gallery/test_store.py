import runpy
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gallery.entry import Enrolled
from gallery.errors import AnswerErased
from gallery.local import LocalGallery
from gallery.schema import row_crc
from gallery.store import row_fault

GOLDEN = Path(__file__).parents[1] / "golden"
MAKE_GOLDEN = Path(__file__).with_name("make_golden.py")
KEYS = (7, "ann", None, None, 1, "{}", "model-1", None, None)


def test_sound_row_has_no_fault():
    assert row_fault((row_crc(KEYS, b"12" * 8), b"12" * 8, *KEYS), 8) is None


def test_row_of_damaged_types_is_a_fault():
    assert row_fault((1, None, *KEYS), 8) == "entry 7 fails its checksum"
    assert row_fault((1, b"12" * 8, 7, b"ann", *KEYS[2:]), 8) == "entry 7 fails its checksum"


def test_row_of_another_dimension_is_a_fault():
    row = (row_crc(KEYS, b"1234"), b"1234", *KEYS)
    assert row_fault(row, 8) == "entry 7 has 4 bytes of embedding, wanted 16"


@pytest.mark.parametrize("version", [1, 2])
def test_gallery_of_every_released_schema_opens(tmp_path, version):
    entries = runpy.run_path(str(MAKE_GOLDEN))["entries"]
    (tmp_path / "gallery").mkdir()
    shutil.copy(GOLDEN / f"gallery_v{version}.sqlite", tmp_path / "gallery" / "gallery.sqlite")
    with LocalGallery.open(tmp_path / "gallery", space_id="space-golden", dim=8) as gallery:
        assert gallery.faults() == []
        for entry_id, new in enumerate(entries(), start=1):
            entry = gallery.entry(entry_id)
            assert (entry.pid, entry.camid, entry.captured_at) == (new.pid, new.camid, new.captured_at)
            assert (entry.attributes, entry.model_id) == (new.attributes, new.model_id)
            assert entry.enrolled_at == datetime(2026, 11, 22, tzinfo=UTC)
            assert gallery.crop(entry_id) == new.crop_jpeg
            assert np.array_equal(gallery.embedding(entry_id), new.embedding.astype(np.float16))
        assert gallery.enroll(entries(), space_id="space-golden")[0] == Enrolled(1, "ann", duplicate=True)
        assert gallery.recall("golden", "print") == b"answer"
        with pytest.raises(AnswerErased):
            gallery.recall("erased", "print")
