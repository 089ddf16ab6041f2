"""Makes tests/golden/gallery_v2.sqlite: python -m tests.gallery.make_golden

The file is never made again for a schema that has been released; a new schema gets a new file.
"""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from gallery.entry import NewEntry, Remember
from gallery.local import LocalGallery

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def entries() -> list[NewEntry]:
    """Four entries, D = 8, that between them fill and leave empty every column."""
    rows = np.eye(8, dtype=np.float32)
    return [
        NewEntry("ann", rows[0], "model-1", "north", NOON, {"coat": "réd"}, "key-1", "ab" * 32, b"jpeg"),
        NewEntry("ann", rows[1], "model-1"),
        NewEntry("zoë", -rows[2], "model-2", camid="south", captured_at=NOON + timedelta(days=1)),
        NewEntry("a\0b", (rows[3] + rows[4]) / np.float32(np.sqrt(2)), "model-2", crop_jpeg=b""),
    ]


def main() -> None:
    """Enrolls the entries, remembers one answer, spends another key, and copies the file into tests/golden."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        midnight = datetime(2026, 11, 22, tzinfo=UTC)
        with LocalGallery.open(folder, space_id="space-golden", dim=8, clock=lambda: midnight) as gallery:
            remember = Remember("golden", "print", lambda enrolled: b"answer")
            gallery.enroll(entries(), space_id="space-golden", remember=remember)
            gone = NewEntry("gone", np.eye(8, dtype=np.float32)[7], "model-1")
            erased = Remember("erased", "print", lambda enrolled: b"gone")
            gallery.enroll([gone], space_id="space-golden", remember=erased)
            gallery.delete_identity("gone")
        shutil.copy(folder / "gallery.sqlite", Path(__file__).parents[1] / "golden" / "gallery_v2.sqlite")


if __name__ == "__main__":
    main()
