"""The page in a real browser: headless Chromium, the command in a process of its own."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from tests.demo.files import encoded, picture, png_header

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
SETTLED = """() => {
    const { wanted, shown } = document.getElementById("canvas").dataset;
    return wanted !== undefined && wanted === shown && document.getElementById("busy").hidden;
}"""
PIXELS = "() => document.getElementById('canvas').toDataURL('image/png').split(',')[1]"


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: one of {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


class User:
    """Somebody at the page; a context of their own, all that it asks for and complains of noted."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(
            viewport={"width": 1000, "height": 640}, accept_downloads=True, **options
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.url = url
        self.page.goto(url)
        self.page.wait_for_selector(".example")

    def _note(self, message):
        # The browser itself notes every answer of 400 and above, which refusals are meant to be.
        refused = "Failed to load resource: the server responded with a status of 4"
        if message.type in ("error", "warning") and not message.text.startswith(refused):
            self.complaints.append(message.text)

    def settle(self):
        self.page.wait_for_function(SETTLED)
        self.page.evaluate("() => new Promise(requestAnimationFrame)")

    def open(self, data, name="photo.png"):
        file = {"name": name, "mimeType": "image/png", "buffer": data}
        self.page.set_input_files("#file", file)

    def example(self, name):
        self.page.get_by_role("button", name=name).click()
        self.page.wait_for_selector("#canvas:visible")
        self.settle()

    def click(self, row, column, **options):
        """On a patch of the 8 x 8 grid."""
        box = self.page.locator("#canvas").bounding_box()
        place = ((column + 0.5) / 8 * box["width"], (row + 0.5) / 8 * box["height"])
        self.page.locator("#canvas").click(position=dict(zip("xy", place, strict=True)), **options)
        self.settle()

    def pixels(self):
        self.page.mouse.move(2, 2)
        self.settle()
        return array(base64.b64decode(self.page.evaluate(PIXELS)))

    def text(self, selector):
        return self.page.inner_text(selector)

    def download(self, button):
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name=button).click()
        with open(started.value.path(), "rb") as file:
            return started.value.suggested_filename, file.read()

    def check(self):
        assert self.complaints == []
        assert all(re.match(f"({self.url}/|blob:{self.url}/)", url) for url in self.requests)


@pytest.fixture
def user(browser, command):
    users = []

    def make(**options):
        users.append(User(browser, command.url, **options))
        return users[-1]

    yield make
    for someone in users:
        someone.check()
        someone.context.close()


def array(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def test_example_clicks_undo_and_views(user):
    person = user()
    person.example("chelsea")
    assert "chelsea (CC0, Stefan van der Walt), 451 × 300 pixels" in person.text("#status")
    empty = person.pixels()

    person.click(3, 3)
    person.click(4, 4, button="right")
    one = person.pixels()
    assert (one != empty).any(axis=2).mean() > 0.01
    assert "Region 1: 1 patch marked" in person.text("#status")
    assert re.search(r"\+1 −1( · doubtful)?$", person.text(".region"))
    assert "score" not in person.text("body")

    person.click(3, 4)
    assert (person.pixels() != one).any()
    person.page.keyboard.press("Control+z")
    assert np.array_equal(person.pixels(), one)
    person.page.get_by_role("button", name="Redo").click()
    assert (person.pixels() != one).any()
    person.page.get_by_role("button", name="Undo").click()
    person.page.get_by_role("button", name="Clear").click()
    assert np.array_equal(person.pixels(), empty)
    person.page.get_by_role("button", name="Undo").click()
    assert np.array_equal(person.pixels(), one)

    seen = [one]
    for view in ("probability", "image"):
        person.page.check(f"input[value={view}]")
        seen.append(person.pixels())
        assert not any(np.array_equal(seen[-1], other) for other in seen[:-1])
    person.page.check("input[value=mask]")
    person.page.uncheck("#grid")
    assert not np.array_equal(person.pixels(), one)


def test_region_colors_brush_box_and_shift(user):
    person = user()
    person.open(encoded(picture(1)))
    person.settle()
    box = person.page.locator("#canvas").bounding_box()

    def drag(*patches):
        for k, (row, column) in enumerate(patches):
            x = box["x"] + (column + 0.5) / 8 * box["width"]
            person.page.mouse.move(x, box["y"] + (row + 0.5) / 8 * box["height"])
            if k == 0:
                person.page.mouse.down()
        person.page.mouse.up()
        person.settle()

    drag((1, 1), (1, 6))  # a fast stroke: the patches between are marked too
    person.click(6, 6, modifiers=["Shift"])
    assert "+6 −1" in person.text(".region >> nth=0")
    person.page.keyboard.press("Control+z")
    person.page.keyboard.press("Control+z")
    person.settle()
    assert "no marks yet" in person.text(".region >> nth=0")  # a stroke is undone as one

    person.page.get_by_role("button", name="Add region").click()
    person.page.check("input[value=box]")
    with person.page.expect_request("**/predict") as asked:
        drag((2, 2), (4, 4))
    sent = json.loads(asked.value.post_data)["regions"]
    assert [region["box"] for region in sent] == [[[2, 2], [4, 4]]]
    assert "+1 −16" in person.text(".region >> nth=1")
    person.page.get_by_role("button", name="Region 1").first.click()
    assert person.page.get_attribute(".region >> nth=0", "aria-pressed") == "true"
    person.page.get_by_role("button", name="Remove Region 2").click()
    assert person.page.locator(".region").count() == 1


def test_a_mask_of_nearly_all_is_doubtful(user, browser, serve, predictor):
    person = user()
    person.open(encoded(picture(1)))
    person.settle()
    person.page.fill("#threshold", "0.05")
    person.click(2, 2)
    assert "Doubtful: it covers nearly all of the image. Mark patches that" in person.text(
        "#status"
    )
    assert person.text(".region").endswith("+1 · doubtful")


def test_downloads_are_what_the_predictor_gives(user, predictor):
    person = user()
    pixels = picture(2, (60, 100))
    person.open(encoded(pixels), "my photo.png")
    person.settle()
    person.click(2, 2)
    person.click(6, 5, button="right")
    person.page.get_by_role("button", name="Add region").click()
    with person.page.expect_request("**/predict") as asked:
        person.click(5, 1)
    person.page.get_by_role("button", name="Region 1").first.click()

    embedding = predictor.embed(pixels)
    prompts = []
    for region in json.loads(asked.value.post_data)["regions"]:
        marks = [(*mark, 1) for mark in region["positive"]]
        marks += [(*mark, 0) for mark in region["negative"]]
        points = [((c + x) * 100 / 8, (r + y) * 60 / 8) for r, c, y, x, _ in marks]
        labels = [mark[-1] for mark in marks]
        prompts.append(predictor.prompt(points=points, labels=labels, embedding=embedding))
    assert [(int(p.visible.sum()), int(p.marked.sum())) for p in prompts] == [(2, 1), (1, 1)]
    expected = predictor.predict(prompts, 0.5, embedding)
    name, data = person.download("Mask PNG")
    assert name == "my photo_region1.png"
    assert np.array_equal(array(data), expected.masks[0] * 255)
    name, data = person.download("COCO JSON")
    content = json.loads(data)
    assert name == "my photo_regions.json"
    assert content["images"][0]["file_name"] == "my photo.png"
    masks = [mask_util.decode(a["segmentation"]) for a in content["annotations"]]
    assert np.array_equal(masks, expected.masks)
    name, data = person.download("Labels PNG")
    assert name == "my photo_regions_labels.png"
    assert np.array_equal(array(data) > 0, expected.masks.any(axis=0))


def test_keyboard_alone(user):
    person = user()
    page = person.page

    def focused():
        return page.evaluate(
            "() => document.activeElement.textContent || document.activeElement.id"
        )

    for _ in range(20):
        page.keyboard.press("Tab")
        if "coffee" in focused():
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#canvas:visible")
    person.settle()
    assert page.evaluate("() => document.activeElement.id") == "canvas"
    before = person.pixels()
    page.keyboard.press("ArrowRight")
    assert person.text("#cursor") == "Row 4, column 5: no mark"
    moved = person.pixels()
    assert (moved != before).any(), "the cursor is not seen"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("n")
    person.settle()
    assert person.text("#cursor") == "Row 6, column 5: not part"
    assert "+1 −1" in person.text(".region")
    page.keyboard.press("Delete")
    person.settle()
    assert re.search(r"\+1( · doubtful)?$", person.text(".region"))
    page.keyboard.press("Control+z")
    person.settle()
    assert "+1 −1" in person.text(".region")
    for _ in range(20):
        page.keyboard.press("Tab")
        if "Mask PNG" in focused():
            break
    with page.expect_download():
        page.keyboard.press("Space")


def test_sliders(user):
    person = user()
    person.open(encoded(picture(3)))
    person.settle()
    person.click(3, 3)
    person.click(6, 6, button="right")
    start = person.pixels()
    person.page.locator("#threshold").fill("0.9")
    person.page.wait_for_function(
        "() => document.getElementById('threshold-value').value === '0.90'"
    )
    assert (person.pixels() != start).any()
    person.page.locator("#threshold").fill("0.5")
    with person.page.expect_response(re.compile("mask_ratio=0.75")):
        person.page.locator("#ratio").focus()
        person.page.keyboard.press("ArrowRight")
        person.page.keyboard.press("ArrowRight")
    person.settle()
    person.page.get_by_text("Marks").click()
    person.page.get_by_text("Patch grid").click()
    person.page.locator("#threshold").fill("0.95")
    hidden = person.pixels()
    gray = (hidden[..., :3] == 128).all(axis=2).mean()
    assert 0.3 < gray <= 0.76
    assert person.page.get_attribute("#ratio", "aria-valuetext") == "75 %"


@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (b"not a picture", "text.png", "not an image: PNG, JPEG and WebP"),
        (png_header(20_000, 10_000), "huge.png", "megapixels: at most 25 are accepted"),
        (encoded(picture(), "JPEG")[:-700], "cut.jpg", "damaged or cut short"),
        (bytes(20_000_001), "large.png", "too large: at most 20 MB"),
    ],
)
def test_bad_files_are_refused_and_the_image_stays(user, tmp_path, data, name, text):
    person = user()
    person.open(encoded(picture(4)))
    person.settle()
    person.click(2, 2)
    before = person.pixels()
    (tmp_path / name).write_bytes(data)
    person.page.set_input_files("#file", tmp_path / name)
    person.page.wait_for_selector(f"#error:has-text('{text}')")
    assert np.array_equal(person.pixels(), before)
    about = "photo.png, 120 × 90 pixels"
    assert person.text("#status") == f"{name} was not opened. Still here: {about}."
    person.click(2, 3)
    assert person.text("#error") == "" and "2 patches marked" in person.text("#status")


def test_an_image_that_is_gone_is_sent_again(browser, serve, predictor):
    from rmae_d2.demo import Limits
    from rmae_d2.demo.examples import default_examples
    from rmae_d2.demo.server import build_app

    examples = default_examples()[:1]
    url = serve(build_app(predictor, examples, Limits(kept_images=1)))
    first, second = User(browser, url), User(browser, url)
    for person in (first, second, first):
        person.open(encoded(picture(5)))
        person.settle()
    second.click(3, 3)
    assert "1 patch marked" in second.text("#status")
    assert second.text("#error") == ""
    for person in (first, second):
        person.check()
        person.context.close()


def test_drop_and_paste(user):
    """As dragging a file in and pasting one arrive in the page."""
    person = user()
    give = """async ([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: transfer })
            : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
    }"""
    for kind, size in (("drop", (40, 50)), ("paste", (30, 70))):
        data = base64.b64encode(encoded(picture(6, size))).decode()
        person.page.evaluate(give, [kind, data])
        person.page.wait_for_selector(f"#status:has-text('{size[1]} × {size[0]} pixels')")


@pytest.mark.parametrize("width", [340, 1280])
def test_nothing_is_wider_than_the_window(user, width):
    person = user()
    person.page.set_viewport_size({"width": width, "height": 700})
    person.example("rocket")
    assert person.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_contrast_is_enough_in_light_and_dark(user):
    """WCAG's 4.5:1 for the colors of text on what lies below them."""
    pairs = (("text", "card"), ("text", "ground"), ("soft", "card"), ("soft", "ground"))
    pairs += (("soft", "sunk"), ("text", "chosen"), ("on-accent", "accent"), ("bad", "bad-ground"))
    for scheme in ("light", "dark"):
        person = user(color_scheme=scheme)
        read = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name)"
        for front, back in pairs:
            one, other = (luminance(person.page.evaluate(read, name)) for name in (front, back))
            ratio = (max(one, other) + 0.05) / (min(one, other) + 0.05)
            assert ratio >= 4.5, (scheme, front, back, ratio)


def luminance(color):
    values = np.array([int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_of_an_upload_is_saved(user, command, tmp_path):
    """The server has no file open for writing, and its working folder gains none."""
    person = user()
    person.open(encoded(picture(7)))
    person.settle()
    person.click(1, 1)
    folder = f"/proc/{command.process.pid}/fd"
    if not os.path.isdir(folder):
        pytest.skip("needs /proc")
    for number in os.listdir(folder):
        target = os.readlink(f"{folder}/{number}")
        assert not target.endswith((".png", ".jpg", ".tmp")), target
