"""Searching as people do it: by dropping and pasting, and with the slider and the filters."""

import base64

import pytest
from playwright.sync_api import expect

from tests.console.browsing import SAMPLES

CARRIED = """(content) => {
    const carried = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    carried.items.add(new File([bytes], 'crop.jpg', { type: 'image/jpeg' }));
    return carried;
}"""
PASTE = "(carried) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: carried, bubbles: true }))"
RAISE = (
    "(slider) => { slider.value = slider.max; for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name)); }"
)


@pytest.fixture(name="page")
def page_fixture(keyed, open_page):
    page = open_page(keyed.url, has_key=True)
    page.locator("#far-part").wait_for()
    return page


def carried(page, name):
    return page.evaluate_handle(CARRIED, base64.b64encode((SAMPLES / name).read_bytes()).decode())


def test_a_crop_is_searched_when_it_is_dropped_and_another_when_it_is_pasted(page):
    page.dispatch_event("#drop", "drop", {"dataTransfer": carried(page, "person-06-garden.jpg")})
    expect(page.locator("#verdict")).to_contain_text("Fay")
    page.evaluate(PASTE, carried(page, "person-12-garden.jpg"))
    expect(page.locator("#verdict strong")).to_have_text("Gus")
    expect(page.locator(".asked-crop")).to_have_count(1)


def test_the_switch_shows_the_order_by_cosine_beside_the_re_ranked_one(page):
    page.set_input_files("#query", SAMPLES / "person-06-garden.jpg")
    page.locator(".match-card").first.wait_for()
    switch = page.get_by_role("switch", name="Re-rank, and compare both orders")
    switch.press("Space")
    orders = page.locator(".order")
    expect(orders).to_have_count(2)
    assert orders.locator("h2").all_inner_texts() == ["By cosine", "Re-ranked"]
    plain, reranked = (orders.nth(number).locator(".pid").all_inner_texts() for number in range(2))
    assert plain[0] == "Fay" and sorted(plain) == sorted(reranked)
    expect(orders.nth(1).locator(".move")).to_have_count(len(plain))
    expect(page.locator("#took")).to_contain_text("re-ranking")
    switch.press("Space")
    expect(page.locator(".match-card")).to_have_count(len(plain))


def test_a_stranger_is_accepted_once_the_slider_allows_more_and_not_from_a_camera_left_out(page):
    page.set_input_files("#query", SAMPLES / "person-22-garden.jpg")
    expect(page.locator("#verdict")).to_contain_text("under the threshold")
    page.locator("#far").evaluate(RAISE)
    expect(page.locator("#far-rate")).to_have_text("About 1 stranger in 10 accepted")
    expect(page.locator("#verdict")).to_contain_text("reach")
    page.get_by_role("button", name="Back to the model's own threshold").click()
    expect(page.locator("#verdict")).to_contain_text("under the threshold")
    page.get_by_text("Filters").click()
    page.get_by_label("Only cameras").fill("nowhere")
    page.get_by_label("Only cameras").press("Enter")
    expect(page.locator("#verdict")).to_contain_text("Nobody to compare with")
    page.get_by_role("button", name="Without nowhere").click()
    expect(page.locator("#verdict")).to_contain_text("under the threshold")


def test_a_match_that_is_pressed_while_a_newer_answer_comes_is_opened(page):
    page.set_input_files("#query", SAMPLES / "person-06-garden.jpg")
    match = page.locator(".match-card .pid").first
    match.wait_for()
    held = []
    page.route("**/search?*", lambda route: held.append(route))
    page.get_by_text("Filters").click()
    page.get_by_label("Only cameras").fill("hall")
    with page.expect_request("**/search?*"):
        page.get_by_label("Only cameras").press("Enter")
    box = match.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    with page.expect_response("**/search?*"):
        held.pop().continue_()
    page.wait_for_timeout(500)  # enough to be shown, were it not for the button
    assert page.locator("#matches.stale").count() == 1
    page.mouse.up()
    page.get_by_role("dialog").get_by_role("heading", name="Fay").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.get_by_role("link", name="Search", exact=True).click()
    expect(page.locator("#matches.stale")).to_have_count(0)  # released: the newer answer is shown
    expect(page.locator(".match-card .seen").first).to_contain_text("hall")


def test_a_crop_that_is_taken_away_while_it_is_searched_leaves_the_page_as_it_was(page):
    page.route("**/search?*", lambda route: None)  # never answered
    with page.expect_request("**/search?*"):
        page.set_input_files("#query", SAMPLES / "person-06-garden.jpg")
    page.get_by_role("button", name="Without person-06-garden.jpg").click()
    page.wait_for_timeout(300)  # for the search that is called off
    assert page.locator("#matches .placeholder").inner_text() == "Matches will stand here, the closest first."
