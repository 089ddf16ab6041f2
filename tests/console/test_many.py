"""The console with much to do; CONSOLE_MANY=1 adds the part that takes minutes, and `-s` shows the figures."""

import io
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from gallery.entry import NewEntry
from gallery.local import LocalGallery
from tests.service.conftest import DIM, write_tiny

FILES, IDENTITIES, BATCH = 1000, 100_000, 1000
LONGEST_MS = 300_000


@pytest.fixture(name="tiny")
def tiny_fixture(tmp_path):
    return write_tiny(tmp_path / "tiny")


@pytest.fixture(name="tell")
def tell_fixture(capsys):
    """Says a figure at once, past pytest's capture."""

    def tell(words):
        with capsys.disabled():
            sys.stderr.write(f"\n{words}\n")

    return tell


def picture(random):
    content = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


def test_a_thousand_files_are_enrolled_each_with_its_end(service, open_page, tiny, tmp_path, tell):
    service.stop()
    service.environment |= {"REID_MODEL": str(tiny), "REID_GALLERY": str(tmp_path / "tiny-gallery")}
    service.start()
    random = np.random.default_rng(0)
    for number in range(FILES):
        folder = tmp_path / "people" / f"person {number % 50:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.jpg").write_bytes(picture(random))
    page = open_page(f"{service.url}/#enroll")
    started = time.perf_counter()
    page.set_input_files("#folder", tmp_path / "people")
    expect(page.get_by_role("button", name="Enroll 1,000 crops")).to_be_enabled()
    listed = time.perf_counter()
    page.locator("#send").click()
    expect(page.locator("#progress-words")).to_have_text("1,000 enrolled", timeout=LONGEST_MS)
    assert page.locator("#sent .enrolled").count() == FILES
    tell(f"listed in {listed - started:.1f} s, enrolled in {time.perf_counter() - listed:.1f} s")


@pytest.mark.skipif(not os.environ.get("CONSOLE_MANY"), reason="minutes long: set CONSOLE_MANY=1")
def test_a_hundred_thousand_identities_are_paged_through(service, open_page, tiny, tmp_path, tell):
    service.stop()
    folder = tmp_path / "many"
    rows = np.random.default_rng(0).normal(size=(IDENTITIES, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery = LocalGallery.open(folder, space_id="5" * 64, dim=DIM)
    for first in range(0, IDENTITIES, BATCH):
        some = [NewEntry(pid=f"person {n:06d}", embedding=rows[n], model_id="f" * 64) for n in range(first, first + BATCH)]
        gallery.enroll(some, space_id="5" * 64)
    gallery.close()
    service.environment |= {"REID_MODEL": str(tiny), "REID_GALLERY": str(folder)}
    service.start()
    page = open_page(f"{service.url}/#gallery")
    page.locator(".tile").first.wait_for()
    took = []
    for number in range(1, 21):
        started = time.perf_counter()
        page.locator("#next").click()
        expect(page.locator("#page-words")).to_contain_text(f"{number * 60 + 1:,} –")
        took.append(time.perf_counter() - started)
    started = time.perf_counter()
    page.locator("#prefix").fill("person 09999")
    expect(page.locator(".tile")).to_have_count(10)
    assert page.locator(".tile").first.inner_text().startswith("person 099990")
    found = time.perf_counter() - started
    tell(f"pages: median {np.median(took):.2f} s, longest {max(took):.2f} s; a name found in {found:.2f} s")
