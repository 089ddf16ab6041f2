"""A process that dies at any moment loses nothing it has acknowledged and brings nothing back that it has deleted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gallery.errors import GalleryLocked
from gallery.local import LocalGallery

ROOT = Path(__file__).parents[2]

HOLD_OPEN = """
import sys
from pathlib import Path
from gallery.local import LocalGallery
with LocalGallery.open(Path(sys.argv[1]), space_id="space-1", dim=8):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_killed_processes_lose_nothing_acknowledged(tmp_path):
    rounds = ["--rounds", "12", "--kills", "9", "--folder", str(tmp_path), "--json", str(tmp_path / "figures")]
    command = [sys.executable, "-m", "tests.gallery.crash", *rounds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["rounds"] == 12
    assert figures["acknowledged enroll"] > 0
    assert figures["entries read back"] > 0


def test_second_process_is_refused_while_the_first_lives(tmp_path):
    command = [sys.executable, "-c", HOLD_OPEN, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(GalleryLocked, match=rf"pid {process.pid}\); stop that one"):
            LocalGallery.reopen(tmp_path)
        process.kill()
    with LocalGallery.reopen(tmp_path) as gallery:
        assert gallery.stats().entries == 0
