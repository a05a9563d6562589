# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser: every tab is used as people use it, by mouse, by keyboard and on a phone.

One page and one headless Chromium serve all tests, in their order. Screenshots are kept in the folder that the
variable `SACL_SCREENSHOTS` names. Where Gradio, Selenium or Chromium is missing the tests are skipped, or fail if
`SACL_REQUIRE_BROWSER=1`.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
from datasets import concatenate_datasets
from PIL import Image as PILImage

from .space_common import HAS_EMOJI, emoji, tiny_clip, tiny_sacl


def missing() -> str | None:
    """What is not there to look at the page with."""
    for module in ("gradio", "selenium", "faiss"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if HAS_EMOJI else "the emoji data are not part of this checkout"


if (reason := missing()) is not None:
    if os.environ.get("SACL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"A browser is required by SACL_REQUIRE_BROWSER=1, but {reason}.", pytrace=False)
    pytest.skip(f"needs a browser: {reason}", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from hub_cards.space import build_app  # noqa: E402

from .space_visitor import Visitor, start_browser  # noqa: E402


# Seconds for each test: a machine that is busy with others takes its time.
pytestmark = pytest.mark.timeout(900)

HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'> ${window.hacked=1} {{7*7}}"


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("SACL_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def dataset():
    """Emoji, and one with a caption that would like to be a program."""
    pairs = emoji(20)
    hostile = pairs.select([0]).remove_columns(["caption", "pair_id"])
    hostile = hostile.add_column("caption", [HOSTILE]).add_column("pair_id", ["hostile"])
    return concatenate_datasets([pairs, hostile.select_columns(pairs.column_names).cast(pairs.features)])


@pytest.fixture(scope="module")
def visitor(dataset, screenshots, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        page = build_app(
            *tiny_sacl(), dataset, title="Emoji", dataset_name="a few emoji", cache_dir=temporary, show_progress=False
        )
        _, address, _ = page.launch(server_port=None, prevent_thread_lock=True, quiet=True)
        driver = start_browser(tmp_path_factory.mktemp("profile"))
        try:
            visitor = Visitor(driver, address, screenshots)
            visitor.open()
            yield visitor
        finally:
            driver.quit()
            page.close(verbose=False)


@pytest.fixture(autouse=True)
def no_complaints(visitor):
    """No test leaves an error in the console."""
    yield
    assert visitor.complaints() == []


class TestPage:
    def test_find_images(self, visitor):
        visitor.tab("Find images")
        visitor.write("find-images-query", "a red heart")
        found = visitor.answer("found-images")
        assert len(found) == 12
        assert "1. cosine" in found[0].text
        for image in visitor.all("#found-images img"):
            assert image.get_attribute("alt")
            assert image.get_property("naturalWidth") > 0
        visitor.shot("find_images")

    def test_an_example_is_one_click_away(self, visitor):
        example = visitor.one(".sacl-examples button")
        text = example.text
        before = visitor.text_of("found-images")
        example.click()
        visitor.until(lambda: visitor.text_of("found-images") != before, "other pictures")
        visitor.until(lambda: visitor.is_written("find-images-query", text), "the example in the box")

    def test_an_empty_question_gets_a_friendly_answer(self, visitor):
        visitor.write("find-images-query", "  ")
        (message,) = visitor.answer("found-images", "[role=alert]")
        assert message.text == "Write what to look for: the text is empty."
        assert not visitor.all("#found-images li")

    def test_a_long_question_is_cut_and_said_to_be(self, visitor):
        visitor.write("find-images-query", "red heart " * 12)
        assert visitor.answer("found-images")
        assert "reads the first 16" in visitor.text_of("found-images")

    def test_find_texts(self, visitor, tmp_path):
        visitor.tab("Find texts")
        PILImage.new("RGB", (50, 40), "#c03020").save(tmp_path / "red.png")
        visitor.upload(tmp_path / "red.png")
        first = visitor.answer("found-texts")[0].text
        assert "1. cosine" in first
        visitor.shot("find_texts")

    def test_a_broken_upload_gets_a_friendly_answer(self, visitor, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more than that")
        visitor.one("button[aria-label*='Remove'], button[aria-label*='Clear']").click()
        visitor.until(lambda: "Choose a picture first" in visitor.text_of("found-texts"), "an empty place")
        visitor.upload(tmp_path / "broken.png")
        visitor.until(lambda: "cannot be read as a picture" in visitor.text_of("found-texts"), "the refusal")
        visitor.shot("broken_upload")

    def test_compose(self, visitor):
        visitor.tab("Picture and text")
        visitor.take_example(1)
        assert len(visitor.answer("found-composed")) == 12
        before = visitor.text_of("found-composed")
        visitor.write("compose-query", "in blue")
        visitor.until(lambda: visitor.text_of("found-composed") != before, "other pictures")
        visitor.shot("compose")

    def test_ground(self, visitor):
        visitor.tab("Words in the picture")
        visitor.take_example(2)
        visitor.answer("grounded")
        visitor.write("ground-query", "red heart")
        visitor.until(lambda: "“red heart”" in visitor.text_of("grounded"), "the words")
        titles = [title.text for title in visitor.all("#grounded .sacl-caption")]
        assert titles == ["the whole text", "red", "heart"]
        visitor.shot("ground")

    def test_patches(self, visitor):
        visitor.tab("Kept patches")
        visitor.take_example(3)
        visitor.until(lambda: len(visitor.all("#kept-patches li")) == 3, "three pictures")
        assert "layer 1: 8 of 16 patches" in visitor.text_of("kept-patches")
        visitor.shot("patches")

    def test_false_negatives(self, visitor):
        visitor.tab("False negatives")
        visitor.answer("weighed")
        assert "Anchor, row 0" in visitor.text_of("weighed")
        for section in visitor.all("#weighed .sacl-directions section"):
            numbers = section.find_elements(By.CSS_SELECTOR, "li .sacl-score b:first-child")
            shown = [float(number.text) for number in numbers if number.is_displayed()]
            assert len(shown) == 10 and shown == sorted(shown) and shown[0] < 1
        # All rows are in that batch. Of smaller ones there are several.
        visitor.set_number("Batch size", 8)
        for _ in range(2):
            before = visitor.text_of("weighed")
            visitor.button("Another batch").click()
            visitor.until(lambda: visitor.text_of("weighed") not in ("", before), "another batch")  # noqa: B023
            assert "7 negatives at strength 1" in visitor.text_of("weighed")
        visitor.shot("false_negatives")

    def test_captions_are_no_programs(self, visitor):
        """Every caption is shown: in results, in lists, as alternative text, and as an example."""
        visitor.tab("False negatives")
        visitor.set_number("Anchor (row)", 20)
        visitor.until(lambda: HOSTILE in visitor.text_of("weighed"), "the caption as it is written")
        assert visitor.driver.execute_script("return window.hacked") is None
        assert not visitor.driver.find_elements(By.CSS_SELECTOR, "#weighed script, #weighed img[src=x]")

    def test_by_keyboard_alone(self, visitor):
        """From the text to the button behind it, and over the tabs, with the focus to be seen."""
        visitor.tab("Find images")
        visitor.write("find-images-query", "star", then=Keys.TAB)
        focused = visitor.driver.switch_to.active_element
        assert focused.tag_name == "button" and focused.text.strip() == "Search"
        focused.send_keys(Keys.TAB)
        assert visitor.driver.switch_to.active_element.text == visitor.one(".sacl-examples button").text
        before = visitor.text_of("found-images")
        visitor.driver.switch_to.active_element.send_keys(Keys.ENTER)
        visitor.until(lambda: visitor.text_of("found-images") != before, "what the example finds")

    def test_every_field_has_a_name(self, visitor):
        unnamed = visitor.driver.execute_script(
            """
            return [...document.querySelectorAll('input, textarea, select')]
                .filter(field => field.type !== 'file' && field.offsetParent !== null)
                .filter(field => !(field.labels && [...field.labels].some(label => label.innerText.trim())))
                .filter(field => !field.getAttribute('aria-label') && !field.getAttribute('aria-labelledby'))
                .map(field => field.outerHTML)
            """
        )
        assert unnamed == []

    def test_on_a_phone(self, visitor):
        """At 375 pixels nothing has to be scrolled sideways."""
        phone = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
        visitor.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            visitor.open()
            visitor.write("find-images-query", "a red heart")
            visitor.answer("found-images")
            visitor.shot("phone_find_images")
            visitor.tab("False negatives")
            visitor.answer("weighed")
            visitor.shot("phone_false_negatives")
            assert visitor.driver.execute_script("return document.documentElement.scrollWidth") <= 375
        finally:
            visitor.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_nothing_is_asked_of_others(self, visitor):
        addresses = set()
        for entry in visitor.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                addresses.add(message["params"]["request"]["url"])
        elsewhere = [url for url in addresses if not url.startswith((visitor.address, "data:", "blob:", "chrome"))]
        assert addresses and not elsewhere


def test_a_plain_dual_encoder_says_what_it_lacks(visitor, dataset, tmp_path):
    page = build_app(*tiny_clip(), dataset.remove_columns("image"), cache_dir=tmp_path, show_progress=False)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        visitor.open(address)
        for name, words in {
            "Find images": "no images",
            "Picture and text": "no images",
            "Words in the picture": "`CLIPModel` has no fusion encoder",
            "Kept patches": "cannot select patches",
            "False negatives": "no images",
        }.items():
            visitor.tab(name)
            visitor.until(lambda words=words: words in visitor.one(".sacl-notice").text, words)
        visitor.shot("without_images")
    finally:
        page.close(verbose=False)
