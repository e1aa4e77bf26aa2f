"""The page in a real Chromium, if there is one: drop an image, move a slider, choose an object, save."""

import shutil

import cv2
import numpy as np
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture
def tab(page):
    """The page in a tab, when its first image is judged; errors and requests to other places are none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1200, "height": 800})
        trouble: list[str] = []
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and trouble.append(message.text))
        tab.on("request", lambda r: r.url.startswith((page.address, "blob:")) or trouble.append(r.url))
        tab.goto(page.address)
        settle(tab)
        yield tab
        browser.close()
        assert trouble == []


def settle(tab):
    """Wait until the network, the grouping and the heads are done."""
    tab.wait_for_selector("body[data-ready]", timeout=60_000)
    before = None
    while before != (now := tab.get_attribute("body", "data-ready")) or "objects in" not in tab.inner_text("#status"):
        before = now
        tab.wait_for_timeout(400)


def note(tab, pane):
    return tab.inner_text(f"figure:has(canvas[data-pane={pane}]) .note")


def test_the_way_of_a_user(tab, drawn, explorer):
    assert note(tab, "result") != "nothing" and "hit" in note(tab, "truth")
    assert "bandwidth" in tab.inner_text("#histogram") and "AP50" in tab.inner_text("#comparison")

    # an object is chosen by a click in its middle
    box = explorer.find(explorer.view(0), {r["key"]: r["value"] for r in explorer.start()["controls"]}).masks.boxes[0]
    pane = tab.locator("canvas[data-pane=result]").bounding_box()
    scale = min(pane["width"], pane["height"]) / 128
    x = pane["x"] + pane["width"] / 2 + ((box[0] + box[2]) / 2 - 64) * scale
    y = pane["y"] + pane["height"] / 2 + ((box[1] + box[3]) / 2 - 64) * scale
    tab.mouse.move(x, y)
    assert "label" in tab.inner_text("#readout") and "1: " in tab.inner_text("#readout")
    tab.mouse.click(x, y)
    tab.wait_for_selector("#object dd:has-text('× IoU')")

    # a slider moved by the keyboard
    levels = note(tab, "levels")
    slider = tab.locator("fieldset[data-key='MODEL.MEAN_SHIFT.BANDWIDTHS'] input").last
    slider.focus()
    slider.press("Home")
    settle(tab)
    assert int(note(tab, "levels")) > int(levels)
    tab.click("#reset")
    settle(tab)
    assert note(tab, "levels") == levels

    # zoom and one picture by the keyboard
    tab.locator("#panes").focus()
    for key in ("3", "+", "ArrowLeft"):
        tab.keyboard.press(key)
    assert tab.locator("figure:visible").count() == 1
    tab.keyboard.press("a")
    assert tab.locator("figure:visible").count() == 6

    # a dropped image
    data = tab.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        list((drawn / "6.png").read_bytes()),
    )
    tab.dispatch_event("body", "drop", {"dataTransfer": data})
    tab.wait_for_selector("#images option:text('dropped.png')", state="attached")
    settle(tab)
    assert tab.locator("#images").input_value() == "2" and not tab.locator("#truth").is_visible()

    # saved
    tab.click("#save")
    tab.wait_for_selector("#saved:has-text('written')")
    assert (drawn / "thresholds.yaml").is_file()


def test_a_long_answer_is_announced_and_meets_only_the_newest_thresholds(tab, explorer):
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    slider = tab.locator("fieldset[data-key='MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD'] input").last
    slider.focus()
    with explorer.lock:  # the server is busy
        for _ in range(5):
            slider.press("ArrowRight")
        tab.wait_for_selector("#status:text-is('grouping …')")
    settle(tab)
    assert asked.count("group") == 2 and asked.count("find") == 1


def test_a_large_image_is_shown_a_part_at_a_time(tab, drawn, explorer, tmp_path):
    large = np.zeros((900, 1300, 3), np.uint8)
    large[700:828, 1100:1228] = cv2.imread(str(drawn / "5.png"))
    cv2.imwrite(str(tmp_path / "large.png"), large)
    explorer.cfg.defrost()
    explorer.cfg.INPUT.SCALE, explorer.cfg.TEST.TILE_SIZE = 1.0, 256
    tab.set_input_files("#file", str(tmp_path / "large.png"))
    tab.wait_for_selector("#images option:text('large.png')", state="attached")
    settle(tab)
    assert "1300 × 900" in note(tab, "image") and note(tab, "result") == "nothing"
    overview = tab.locator("#overview")
    overview.scroll_into_view_if_needed()
    size = overview.bounding_box()
    overview.click(position={"x": size["width"] * 1164 / 1300, "y": size["height"] * 764 / 900})
    found = "figure:has(canvas[data-pane=result]) .note"
    tab.wait_for_selector(f"{found}:not(:text-is('nothing'))")
    settle(tab)
    tab.locator("#panes").focus()
    for _ in range(3):
        tab.keyboard.press("Shift+ArrowLeft")
        settle(tab)
    tab.wait_for_selector(f"{found}:text-is('nothing')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window(tab, scheme, tmp_path):
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 400, "height": 800})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
