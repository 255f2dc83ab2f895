"""The panel in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import impasto.assets

aiohttp = pytest.importorskip("aiohttp")

from impasto.realtime.engine_choice import load_engine  # noqa: E402

from .live_helpers import CAMERA_VALUE, wait_until  # noqa: E402

MEANS = """() => {
  const canvas = document.getElementById("picture");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const sums = [0, 0, 0];
  for (let i = 0; i < data.length; i += 4) for (let k = 0; k < 3; k++) sums[k] += data[i + k];
  return sums.map((sum) => (4 * sum) / data.length);
}"""
"""The mean of the shown picture's red, green and blue."""


@pytest.fixture
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, served: SimpleNamespace) -> Iterator[object]:
    """The panel in a browser; an error in its console fails the test."""
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.goto(served.panel.control_url)
    assert opened.url == served.base + "/"  # the token is gone from the address
    yield opened
    assert not problems


def drag(page, slider: str, start: float, end: float) -> None:
    """With the mouse, from one share of a slider to another; its knob is 22 pixels wide."""
    page.locator(slider).scroll_into_view_if_needed()
    box = page.locator(slider).bounding_box()
    across = [box["x"] + 11 + share * (box["width"] - 22) for share in (start, end)]
    page.mouse.move(across[0], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(across[1], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()


def test_a_browser_paints_switches_and_drags(served: SimpleNamespace, browser, page) -> None:
    middle = "() => [...document.getElementById('picture').getContext('2d').getImageData(160, 90, 1, 1).data]"

    def shows(value: int, tolerance: int = 3) -> None:
        wait_until(lambda: abs(page.evaluate(middle)[1] - value) <= tolerance)

    shows(CAMERA_VALUE + 30)
    page.click("[data-name=storm]")
    shows(CAMERA_VALUE + 160)
    drag(page, "#strength", 1.0, 0.5)
    shows(CAMERA_VALUE + 80, 8)
    assert served.session.settings.strength == pytest.approx(0.5, abs=0.03)
    page.keyboard.press("b")
    wait_until(lambda: page.locator("#split").is_visible())
    left = "() => [...document.getElementById('picture').getContext('2d').getImageData(40, 90, 1, 1).data]"
    wait_until(lambda: abs(page.evaluate(left)[1] - CAMERA_VALUE) <= 3)
    output = browser.new_page()
    output.goto(served.panel.output_url)
    wait_until(lambda: abs(output.evaluate(middle)[1] - CAMERA_VALUE - 80) <= 8)  # never the comparison


def test_a_browser_adds_paintings_and_mixes_them(
    served: SimpleNamespace, page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    networks = tuple((Path(impasto.assets.__file__).parent / "styles").glob("any.*.onnx"))
    monkeypatch.setattr("impasto.realtime.paintings.any_painting", lambda: sorted(networks, reverse=True))
    monkeypatch.setattr(served.controls.shelf, "_load", lambda artifact: load_engine(artifact, device="cpu"))
    noise = np.random.default_rng(0).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    means = {}
    for name, blue_green_red in (("red_one", (20, 40, 190)), ("blue_märz", (190, 40, 20))):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), noise + np.array(blue_green_red, np.uint8))
        page.set_input_files("#file", path)
        wait_until(lambda name=name: page.text_content("#now") == name.capitalize().replace("_", " "), 60.0)
        wait_until(lambda: not page.evaluate("state.loading"), 60.0)
        page.wait_for_timeout(500)
        means[name] = page.evaluate(MEANS)
    assert means["red_one"][0] > means["red_one"][2] + 10, means
    assert means["blue_märz"][2] > means["blue_märz"][0] + 10, means
    assert (served.styles / "blue_marz.fast.onnx").is_file()
    assert page.text_content("[data-name=blue_marz] b") == "Blue märz"
    assert page.locator("#mix").is_hidden()
    page.select_option("#mix_with", "red_one")
    wait_until(lambda: served.session.settings.mix == 0.5)  # seen at once
    drag(page, "#mix", 0.5, 1.0)
    wait_until(lambda: served.session.settings.mix == 1.0)
    wait_until(lambda: np.abs(np.subtract(page.evaluate(MEANS), means["red_one"])).max() < 4)
    drag(page, "#mix", 1.0, 0.0)
    wait_until(lambda: np.abs(np.subtract(page.evaluate(MEANS), means["blue_märz"])).max() < 4)


def test_a_browser_receives_webrtc(served: SimpleNamespace, browser) -> None:
    pytest.importorskip("aiortc")
    page = browser.new_page()
    page.goto(served.panel.output_url + "&webrtc=1")
    middle = """() => {
      const video = document.getElementById("video"), canvas = document.createElement("canvas");
      if (!video.videoWidth) return [0, 0, 0];
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      return [...canvas.getContext("2d").getImageData(160, 90, 1, 1).data];
    }"""
    wait_until(lambda: abs(page.evaluate(middle)[1] - CAMERA_VALUE - 30) <= 4)
    served.controls.set({"style": "storm"})
    wait_until(lambda: abs(page.evaluate(middle)[1] - CAMERA_VALUE - 160) <= 4)
    assert page.evaluate("() => document.getElementById('picture').hidden")


def test_pages_that_are_opened_too_early_find_the_run(served: SimpleNamespace, browser) -> None:
    served.panel._live._controls = None  # as while the program waits for its camera
    output, panel = browser.new_page(), browser.new_page()
    output.goto(served.panel.output_url)
    panel.goto(served.panel.control_url)
    wait_until(lambda: "waits for the camera" in panel.text_content("#veil"))
    served.panel.attach(served.controls)
    middle = "() => document.getElementById('picture').getContext('2d').getImageData(160, 90, 1, 1).data[1]"
    for page in (output, panel):
        wait_until(lambda page=page: abs(page.evaluate(middle) - CAMERA_VALUE - 30) <= 3)


def test_a_browser_knows_a_recording_that_failed(
    served: SimpleNamespace, page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed() -> str:
        return page.get_attribute("#record", "aria-pressed")

    page.click("#record")
    wait_until(lambda: pressed() == "true")
    served.recordings[0].fail_after = 0
    wait_until(lambda: pressed() == "false")
    assert page.text_content("#record-word") == "Record"
    assert page.locator("#rec").is_hidden()
    page.click("#record")  # begins a new one
    wait_until(lambda: len(served.recordings) == 2)
    wait_until(lambda: pressed() == "true")
    monkeypatch.setattr(served.controls, "stop_recording", lambda: None)
    page.click("#record")
    wait_until(lambda: page.text_content("#toast") == "nothing was recorded")


def test_the_numbers_in_the_gallery_are_those_of_the_keys(served: SimpleNamespace, browser) -> None:
    (served.styles / "broken.fast.onnx").write_bytes(b"broken")
    page = browser.new_page()
    page.goto(served.panel.control_url)
    wait_until(lambda: page.locator("[data-name]").count() == 3)
    numbers = {name: page.locator(f"[data-name={name}] .key") for name in ("broken", "calm", "storm")}
    assert numbers["broken"].count() == 0
    assert [numbers[name].text_content() for name in ("calm", "storm")] == ["1", "2"]
    page.keyboard.press("2")
    wait_until(lambda: served.session.settings.style == "storm")
    reason = page.text_content("[data-name=broken] small")
    assert "broken.fast.onnx" in reason
    page.focus("[data-name=broken]")  # also by the keyboard
    page.keyboard.press("Enter")
    wait_until(lambda: page.text_content("#toast") == reason)
    assert page.text_content("#style-count") == "2 installed"


def test_an_upload_that_a_proxy_refuses_is_said(served: SimpleNamespace, browser, tmp_path: Path) -> None:
    page = browser.new_page()
    page.route("**/api/styles", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>")
               if route.request.method == "POST" else route.continue_())  # fmt: skip
    page.goto(served.panel.control_url)
    style = tmp_path / "new.onnx"
    style.write_bytes(b"style")
    page.set_input_files("#file", style)
    wait_until(lambda: page.text_content("#toast").startswith("new.onnx: 502"))


def test_a_preset_is_replaced_or_deleted_only_after_a_question(served: SimpleNamespace, page) -> None:
    kept = served.tmp / "config/presets/night.toml"
    asked: list[str] = []
    answers = iter((False, True, False, True))

    def answer(dialog) -> None:
        asked.append(dialog.message)
        if next(answers):
            dialog.accept()
        else:
            dialog.dismiss()

    def save() -> None:
        page.fill("#preset-name", "night")
        page.keyboard.press("Enter")

    page.on("dialog", answer)
    wait_until(lambda: page.locator("[data-name]").count() == 2)
    save()
    wait_until(lambda: page.input_value("#preset") == "night")
    served.controls.set({"style": "storm"})
    wait_until(lambda: page.input_value("#preset") == "")  # the look is another now
    save()
    wait_until(lambda: asked == ["Replace “night”?"])
    assert 'style = "calm"' in kept.read_text()
    save()
    wait_until(lambda: 'style = "storm"' in kept.read_text())
    wait_until(lambda: page.input_value("#preset") == "night")
    page.click("#preset-delete")
    assert kept.is_file()
    page.click("#preset-delete")
    wait_until(lambda: not kept.exists())
    assert asked == ["Replace “night”?"] * 2 + ["Delete “night”?"] * 2


def test_a_file_may_be_dropped_anywhere_and_a_refusal_names_it(served: SimpleNamespace, browser) -> None:
    page = browser.new_page()
    errors: list[object] = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(served.panel.control_url)
    wait_until(lambda: page.locator("[data-name]").count() == 2)
    prevented = page.evaluate("""() => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["junk"], "drawing.onnx"));
      return ["dragover", "drop"].map((type) =>
        !document.getElementById("frame").dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true })));
    }""")  # noqa: E501
    assert prevented == [True, True]  # the browser does not open the file itself
    wait_until(lambda: page.text_content("#toast").startswith("drawing.onnx: "))
    page.wait_for_timeout(100)
    assert "adding" not in page.text_content("#toast")
    assert not errors  # a refusal is no error of the page


def test_the_gallery_follows_the_styles_and_keeps_the_focus(
    served: SimpleNamespace, browser, make_artifact, identity_model
) -> None:
    page = browser.new_page()  # its console may tell of a preview that came too late
    page.goto(served.panel.control_url)
    wait_until(lambda: page.locator("[data-name]").count() == 2)
    page.focus("[data-name=storm]")
    make_artifact(identity_model, name="fresh").path.rename(served.styles / "fresh.fast.onnx")
    wait_until(lambda: page.locator("[data-name=fresh]").count() == 1)
    assert page.evaluate("document.activeElement.dataset.name") == "storm"
    (served.styles / "fresh.fast.onnx").unlink()
    wait_until(lambda: page.locator("[data-name=fresh]").count() == 0)
    named = page.evaluate("""() => {
      const own = (name, title) => ({ name, title, painting: true, artist: "" });
      styles = [own("kuche-2", "Küche"), own("kuche", "Küche"), own("img-2", "IMG 2"), own("img-2-2", "IMG 2"),
        own("strasse-7", "Straße 7"), own("painting-2", "Ночь"), own("painting-3", "Море"), own("painting-4", "Море")];
      return styles.map((style) => called(style.name));
    }""")  # the number is the name's, so that it stays when another comes or goes
    assert named == ["Küche 2", "Küche", "IMG 2", "IMG 2 2", "Straße 7", "Ночь", "Море 3", "Море 4"]


def test_a_style_of_ones_own_is_removed_after_a_question(
    served: SimpleNamespace, browser, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = served.tmp / "own"
    own.mkdir()
    monkeypatch.setenv("IMPASTO_STYLES", str(own))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (own, served.styles))
    for day, name in enumerate(("fresh", "apple")):
        path = make_artifact(identity_model, name=name).path.rename(own / f"{name}.fast.onnx")
        os.utime(path, (0, 86_400 * (day + 1)))
    errors: list[object] = []
    page, phone = browser.new_page(), browser.new_page(viewport={"width": 390, "height": 844})
    for one in (page, phone):  # their consoles may tell of a preview that came too late
        one.on("pageerror", lambda error: errors.append(error))
        one.goto(served.panel.control_url)
        wait_until(lambda one=one: one.locator("[data-name]").count() == 4)
    names = "() => [...document.querySelectorAll('[data-name]')].map((node) => node.dataset.name)"
    assert page.evaluate(names) == ["calm", "storm", "fresh", "apple"]
    focused = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    bins = page.get_by_role("button", name="Remove", exact=False)
    assert [one.get_attribute("aria-label") for one in bins.all()] == ["Remove Fresh", "Remove Apple"]
    page.click("[data-name=fresh]")
    wait_until(lambda: served.session.status.painting_style == "fresh")
    wait_until(lambda: page.get_attribute("[data-name=fresh]", "aria-pressed") == "true")
    page.focus("[data-name=fresh]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog", name="Remove “Fresh”?").count() == 1
    assert page.text_content("#removal-text").startswith("It is painting now; Calm takes over.")
    assert page.evaluate(focused) == "Keep"
    page.keyboard.press("2")  # is of the question, not of the picture
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "Remove Fresh"
    assert (own / "fresh.fast.onnx").is_file()
    assert served.session.settings.style == "fresh"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for one in (page, phone):
        wait_until(lambda one=one: one.evaluate(names) == ["calm", "storm", "apple"])
    assert not (own / "fresh.fast.onnx").exists()
    wait_until(lambda: page.evaluate(focused).startswith("Apple"))  # its neighbour
    for one in (page, phone):
        wait_until(lambda one=one: one.text_content("#now") == "Calm")
    texts = page.evaluate("""() => ["apple apple", "apple storm", "storm apple"].map((both) => {
      const [painting, style] = both.split(" ");
      state = { ...state, painting, settings: { ...state.settings, style } };
      document.querySelector("[data-removes=apple]").click();
      $("removal").close();
      return $("removal-text").textContent;
    })""")
    said = ["It is painting now; Calm takes over.", "It is painting now; Storm takes over.", "Presets with it will"]
    assert [text.startswith(begin) for text, begin in zip(texts, said, strict=True)] == [True] * 3, texts
    page.focus("[data-removes=apple]")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")  # after a question that was answered with Remove
    assert page.evaluate(focused) == "Remove Apple"
    phone.click("[data-removes=apple]")
    phone.click("#removal >> text=Keep")
    box = phone.locator("[data-removes=apple]").bounding_box()
    assert min(box["width"], box["height"]) >= 40  # for a thumb
    assert (own / "apple.fast.onnx").is_file()
    page.keyboard.press("Enter")
    (own / "apple.fast.onnx").unlink()  # by somebody else, and before this page knows
    phone.evaluate("() => post('/api/styles/apple/remove', {})")
    wait_until(lambda: phone.text_content("#toast").startswith("style must be one of your own to be removed"))
    for one in (page, phone):
        wait_until(lambda one=one: one.evaluate(names) == ["calm", "storm"])
    page.keyboard.press("Escape")
    wait_until(lambda: page.evaluate("document.activeElement.dataset.name") == "storm")  # what it asked for is gone
    assert not errors


def test_a_key_that_is_held_acts_once(served: SimpleNamespace, page) -> None:
    wait_until(lambda: page.locator("[data-name]").count() == 2)
    for _ in range(3):
        page.keyboard.down("r")
        page.wait_for_timeout(100)
    page.keyboard.up("r")
    wait_until(lambda: page.get_attribute("#record", "aria-pressed") == "true")
    assert len(served.recordings) == 1
    for _ in range(3):
        page.keyboard.down("-")
    wait_until(lambda: served.session.settings.strength == pytest.approx(0.7))


def test_a_page_whose_program_is_gone_shows_nothing_of_it(served: SimpleNamespace, page) -> None:
    page.click("#record")
    wait_until(lambda: page.text_content("#record-word") == "Stop")
    wait_until(lambda: page.locator("#outputs tr").count() > 0)
    page.evaluate("() => { connect = () => {}; socket.close(); }")  # as if the program had ended
    wait_until(lambda: page.text_content("#camera-text") == "not connected")
    assert page.text_content("#record-word") == "Record"
    assert page.locator("#rec").is_hidden()
    assert page.locator("#outputs tr").count() == 0
    assert page.text_content("#fps") == page.text_content("#badge") == "–"
    page.click("[data-name=storm]")
    wait_until(lambda: page.text_content("#toast") == "the program cannot be reached")


def test_a_screen_reader_finds_the_pictures_and_is_left_in_peace(served: SimpleNamespace, page) -> None:
    wait_until(lambda: page.text_content("#camera-text") == "fake camera")
    assert page.get_by_role("img", name="Live painted picture").count() == 1
    assert page.get_by_role("heading", name="Impasto").count() == 1
    changes = page.evaluate("""async () => {
      let changes = 0;
      const observer = new MutationObserver((records) => { changes += records.length; });
      for (const node of document.querySelectorAll("output, #camera-text"))
        observer.observe(node, { childList: true, characterData: true, subtree: true });
      const shown = history.length;
      while (history.length < shown + 2) await new Promise((done) => setTimeout(done, 50));
      return changes;
    }""")
    assert changes == 0
