# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A headless Chromium, and somebody who uses the page in it."""

import base64
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement


# A busy machine is slow; an idle one never waits for long.
PATIENCE = 240.0
# Everything is chosen and deleted; without the NULL, the control key would stay down.
REPLACE = Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE


def start_browser(profile: Path, size: tuple[int, int] = (1200, 1000)) -> Any:
    """Chromium without a window, which talks to nobody but the page. Its consoles and requests are recorded."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
    ):
        options.add_argument(argument)
    # Waiting is done here, by what is on the page.
    options.page_load_strategy = "none"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


class Visitor:
    """Somebody with a browser."""

    def __init__(self, driver: Any, address: str, screenshots: Path):
        self.driver = driver
        self.address = address
        self.screenshots = screenshots

    def open(self, address: str | None = None) -> None:
        self.driver.get(address or self.address)
        self.until(lambda: self.all("button[role=tab]"), "the page")

    def all(self, selector: str) -> list[WebElement]:
        return [element for element in self.driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: self.all(selector), selector)[0]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits until something is true. What has just been replaced on the page is looked for again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if found := condition():
                    return found
            except Exception as error:
                if "stale element" not in str(error):
                    raise
            if time.monotonic() > deadline:
                self.shot("failure")
                raise AssertionError(f"Waited in vain for {what}.")
            time.sleep(0.05)

    def is_written(self, box: str, text: str) -> bool:
        """Whether this is what a text box holds."""
        return self.one(f"#{box} textarea, #{box} input").get_property("value") == text

    def tab(self, name: str) -> None:
        """Opens a tab, which a narrow page keeps in a menu."""

        def chosen() -> bool:
            for button in self.all("button[role=tab], .overflow-dropdown button"):
                if button.text.strip() == name:
                    button.click()
                    return True
            self.one(".overflow-menu > button").click()
            return False

        self.until(chosen, f"the tab {name!r}")

    def button(self, name: str) -> WebElement:
        return self.until(lambda: [b for b in self.all("button") if b.text.strip() == name], f"the button {name!r}")[0]

    def write(self, box: str, text: str, then: str = Keys.ENTER) -> None:
        """Writes into a text box and presses a key; again if a page that is still being set up empties the box."""

        def written() -> bool:
            if not self.is_written(box, text):
                self.one(f"#{box} textarea, #{box} input").send_keys(REPLACE, text)
            time.sleep(0.2)
            return self.is_written(box, text)

        self.until(written, f"{text!r} in {box}")
        self.one(f"#{box} textarea, #{box} input").send_keys(then)

    def upload(self, file: Path) -> None:
        inputs = self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]")
        shown = [
            field for field in inputs if field.find_element(By.XPATH, "ancestor::*[@role='tabpanel']").is_displayed()
        ]
        shown[0].send_keys(str(file))

    def take_example(self, number: int) -> None:
        self.until(lambda: self.all(".sacl-pictures button"), "pictures to try")[number].click()

    def answer(self, place: str, selector: str = "li") -> list[WebElement]:
        return self.until(lambda: self.all(f"#{place} {selector}"), f"an answer in {place}")

    def text_of(self, place: str) -> str:
        """The answer alone, without Gradio's clock over it."""
        return self.driver.find_element(By.CSS_SELECTOR, f"#{place} [aria-live]").text

    def set_number(self, name: str, value: int) -> None:
        """Writes into the field of this name, or that of a slider with it."""
        (field,) = (field for field in self.all("input[type=number]") if name in field.accessible_name)
        field.send_keys(REPLACE, str(value), Keys.ENTER)

    def shot(self, name: str, whole: bool = True) -> None:
        """Keeps what is seen, or the whole page."""
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        (self.screenshots / f"space_{name}.png").write_bytes(base64.b64decode(picture["data"]))

    def complaints(self) -> list[str]:
        """Errors in the console since they were last asked for."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
