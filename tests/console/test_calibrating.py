"""New thresholds from the enrolled people: tried first, taken only when somebody says so, without a mouse."""

import re

import httpx
import numpy as np
from playwright.sync_api import expect

from tests.console.browsing import serious_faults
from tests.console.conftest import READER

PEOPLE, CAMERAS = 25, ("entrance", "hall")


def enroll_drawn(url):
    """Embeddings of so many people, each seen by two cameras."""
    rng, dim = np.random.default_rng(0), httpx.get(f"{url}/model").json()["dim"]
    entries = []
    for pid, centre in enumerate(rng.normal(size=(PEOPLE, dim))):
        for camid in CAMERAS:
            row = centre + rng.normal(size=dim)
            entries.append({"pid": f"p{pid}", "camid": camid, "embedding": (row / np.linalg.norm(row)).tolist()})
    httpx.post(f"{url}/gallery", json={"entries": entries}, timeout=60).raise_for_status()


def source(url):
    return httpx.get(f"{url}/calibration").json()["source"]


def test_thresholds_are_tried_compared_and_then_used_by_keyboard(service, open_page):
    page = open_page(f"{service.url}/#health")
    button, dialog = page.get_by_role("button", name="Calibrate on the gallery"), page.get_by_role("dialog")
    button.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("got 0 enrolled identities that two cameras saw, wanted at least 20")
    expect(page.get_by_role("button", name="Use the new ones")).to_be_hidden()
    assert serious_faults(page) == []
    page.keyboard.press("Escape")
    expect(button).to_be_focused()

    enroll_drawn(service.url)
    before = source(service.url)
    button.press("Enter")
    expect(dialog.get_by_role("status")).to_contain_text(f"Measured on {PEOPLE} of {PEOPLE} enrolled identities")
    default = httpx.get(f"{service.url}/model").json()["thresholds"]["default"]
    usual = dialog.get_by_role("row", name="Unless a search says otherwise").get_by_role("cell")
    assert usual.all_inner_texts()[0] == f"{default:.3f}" != usual.all_inner_texts()[1]
    expect(dialog.get_by_text("Take care: false-accept rates 0.0001: not measurable")).to_be_visible()
    assert serious_faults(page) == []
    page.get_by_role("button", name="Cancel").press("Enter")
    assert source(service.url) == before

    button.press("Enter")
    expect(page.get_by_role("button", name="Use the new ones")).to_be_enabled()
    page.get_by_role("button", name="Use the new ones").press("Enter")
    expect(page.locator("#notice-words")).to_contain_text(f"from {PEOPLE} of {PEOPLE} enrolled identities")
    expect(dialog).to_have_count(0)
    used = httpx.get(f"{service.url}/calibration").json()
    assert used["source"] != before
    expect(page.locator("#thresholds")).to_contain_text(f"Used unless a search says otherwise: {used['threshold']:.3f}")
    shown = [f"{100 * one['tar']:.1f} %" for one in used["rates"]]
    assert page.locator("#thresholds tbody td:nth-child(3)").all_inner_texts() == shown
    expect(page.locator("#facts")).to_contain_text(f"{PEOPLE} identities")
    page.get_by_role("link", name="Search", exact=True).click()
    expect(page.locator("#far-words")).to_contain_text(f"a cosine of {used['threshold']:.3f} is enough")
    (tar,) = [one["tar"] for one in used["rates"] if one["threshold"] == used["threshold"]]
    reached = re.search(r"from two cameras, ([\d.]+) % reach it", page.locator("#far-words").inner_text())
    assert abs(float(reached[1]) - 100 * tar) <= 2  # the histogram's bins are 0.02 wide


def test_whoever_may_only_read_is_told_so_and_changes_nothing(keyed, open_page):
    page = open_page(f"{keyed.url}/#health")
    page.get_by_label("This service asks for an API key").fill(READER)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("button", name="Calibrate on the gallery").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("got a read-only key")
