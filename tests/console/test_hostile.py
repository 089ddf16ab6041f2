"""The console among people who mean ill: keys, names full of markup, files of any name; and its own arithmetic."""

import httpx
import pytest
from playwright.sync_api import expect

from service.manifest import Thresholds
from tests.console.browsing import SAMPLES
from tests.console.conftest import KEY

MODULE = "/console/metrics.js"  # a page of the same origin that costs nothing to open
MARKUP = "<img src=x onerror=alert(1)>"
ESCAPES = "\"'></a><script>alert(2)</script>"


def give(page, key):
    page.get_by_label("This service asks for an API key").fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_a_wrong_key_is_told_and_the_right_one_lasts_as_long_as_the_tab(keyed, open_page):
    page = open_page(keyed.url)
    give(page, MARKUP.replace(" ", "/"))
    expect(page.locator("#key-problem")).to_have_text("The service does not know that key.")
    give(page, "schlüssel")
    expect(page.locator("#key-problem")).to_have_text("A key has neither spaces nor letters beyond ASCII.")
    give(page, KEY)
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("identities")  # what was asked before the key came is answered after it
    page.reload()
    expect(page.locator("#facts")).to_contain_text("identities")
    assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    other = page.context.new_page()  # another tab of the same browser
    other.goto(keyed.url)
    expect(other.locator("#key-form")).to_be_visible()


def test_a_late_refusal_of_the_wrong_key_leaves_what_is_being_typed(keyed, open_page):
    page, late = open_page(keyed.url), []
    expect(page.locator("#key-form")).to_be_visible()
    page.route("**/gallery/stats", lambda route: late.append(route))
    give(page, "wrong")
    expect(page.locator("#key-problem")).to_have_text("The service does not know that key.")
    page.get_by_label("This service asks for an API key").fill(KEY)
    assert late
    with page.expect_response("**/gallery/stats") as refused:
        late.pop().continue_()
    assert refused.value.status == 401
    page.unroute("**/gallery/stats")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("identities")


def test_markup_in_every_field_and_file_name_is_shown_as_it_is_and_never_run(keyed, open_page):
    page = open_page(f"{keyed.url}/#enroll", has_key=True)
    picture = (SAMPLES / "person-18-hall.jpg").read_bytes()
    names = (f"{MARKUP}.jpg", f"{ESCAPES}.jpg".replace("/", "_"))
    good = {"name": names[0], "mimeType": "image/jpeg", "buffer": picture}
    bad = {"name": names[1], "mimeType": "image/jpeg", "buffer": b"<script>alert(3)</script>"}
    page.set_input_files("#files", [good, bad])
    page.get_by_label("Name of the identity").fill(MARKUP)
    page.get_by_label("Camera", exact=True).fill(ESCAPES)
    page.get_by_role("button", name="Enroll 2 crops").click()
    expect(page.locator("#progress-words")).to_have_text("1 enrolled, 1 failed")
    expect(page.locator("#sent .failed")).to_contain_text("'<script>'")
    assert sorted(page.locator(".file-name").all_inner_texts()) == sorted(names)

    page.get_by_role("link", name="Search", exact=True).click()
    page.set_input_files("#query", [good, bad])
    expect(page.locator("#verdict")).to_contain_text(MARKUP)
    expect(page.locator(".asked-crop.bad")).to_contain_text(names[1])
    expect(page.locator(".match-card").first).to_contain_text(ESCAPES)
    page.get_by_text("Filters").click()
    page.get_by_label("Not cameras").fill(MARKUP)
    page.get_by_label("Not cameras").press("Enter")
    page.get_by_label("Only cameras").fill(ESCAPES)
    page.get_by_label("Only cameras").press("Enter")
    assert [chip.strip(" ×") for chip in page.locator(".chip").all_inner_texts()] == [ESCAPES, MARKUP]

    page.locator(".match-card .pid").first.click()
    page.get_by_role("dialog").get_by_role("heading", name=MARKUP).wait_for()
    page.get_by_label("Name", exact=True).fill(ESCAPES)
    page.get_by_role("button", name="Rename").click()
    expect(page.locator("#notice-words")).to_have_text(f"{MARKUP} is now {ESCAPES}.")
    page.locator("#prefix").fill(ESCAPES[:3])
    page.locator(".tile").get_by_role("link", name=ESCAPES).click()
    page.get_by_label("Merge into").fill(MARKUP)
    page.keyboard.press("Enter")
    expect(page.locator("dialog #notice-words")).to_contain_text(MARKUP)  # nobody bears it: said inside the open dialog
    page.get_by_role("button", name="Erase this identity").click()
    page.get_by_role("button", name=f"Erase {ESCAPES}").click()
    expect(page.locator("#notice-words")).to_contain_text(f"{ESCAPES} is erased: 1 entry")


def test_markup_in_an_address_or_a_folders_name_is_shown_as_it_is_and_never_run(keyed, open_page, tmp_path):
    nobody = f"{MARKUP} nobody"
    page = open_page(f"{keyed.url}/#gallery/{nobody}", has_key=True)
    expect(page.locator("#notice-words")).to_contain_text(nobody)
    (tmp_path / "people" / MARKUP).mkdir(parents=True)
    (tmp_path / "people" / "Fay").mkdir()
    for pid in (MARKUP, "Fay"):
        (tmp_path / "people" / pid / "a.jpg").write_bytes(b"no picture")
    page.get_by_role("link", name="Enroll", exact=True).click()
    page.set_input_files("#folder", tmp_path / "people")
    expect(page.locator("#named")).to_have_text(f"2 identities: {MARKUP}, Fay.")
    page.get_by_role("button", name="Enroll 2 crops").click()
    expect(page.locator("#progress-words")).to_have_text("2 failed")
    expect(page.locator("#sent")).to_contain_text(MARKUP)


def test_the_page_reckons_thresholds_as_the_service_does(keyed, open_page):
    page = open_page(f"{keyed.url}{MODULE}")
    far = ((0.0001, 0.668), (0.001, 0.5689), (0.01, 0.4227), (0.1, 0.2158))
    known = Thresholds(0.5689, 0.05, far, "drawn")
    rates = [0.0001, 0.0004, 0.001, 0.02, 0.1]
    script = "([far, rates]) => import('/console/thresholds.js').then((all) => rates.map((rate) => all.cosineAt(far, rate)))"
    assert page.evaluate(script, [far, rates]) == pytest.approx([known.at_far(rate) for rate in rates])


def test_the_page_reads_the_services_own_metrics(service, open_page):
    page = open_page(f"{service.url}{MODULE}")
    before = httpx.get(f"{service.url}/metrics").text
    crop = (SAMPLES / "person-18-hall.jpg").read_bytes()
    for _ in range(3):
        httpx.post(f"{service.url}/embed", files={"crops": crop}, timeout=60)
    script = """([before, now]) => import('/console/metrics.js').then((all) => {
        const [a, b] = [all.parse(before), all.parse(now)];
        return [all.increase(a, b, 'reid_batch_size_count'), all.mean(a, b, 'reid_batch_size'), all.gauge(b, 'reid_queue_crops'),
                all.quantile(a, b, 'reid_request_seconds', 0.5), all.quantile(b, b, 'reid_request_seconds', 0.5)];
    })"""
    batches, batch, queue, median, nothing = page.evaluate(script, [before, httpx.get(f"{service.url}/metrics").text])
    assert (batches, batch, queue, nothing) == (3, 1, 0, None) and median > 0
