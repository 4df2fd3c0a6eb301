"""A real browser: Chromium driven by Playwright, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from page_client import TOKEN

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser: the distribution's Chromium, else Playwright's own; skips the test without either."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no sandbox
    with playwright.sync_playwright() as running:
        try:
            browser = running.chromium.launch(executable_path=executable, args=options)
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Screen:
    """One person's browser window, signed in; ``faults`` are the errors of its console."""

    def __init__(
        self, browser: Any, address: str, name: str = "anna", width: int = 1280, height: int = 800, token: str = TOKEN,
        ready: str = "body:not(.busy) .candidate", **context,
    ):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(address)
        self.page.fill("#name", name)
        self.page.fill("#token", token)
        self.page.click("button[type=submit]")
        self.ready = ready
        self.wait_for_item()

    def wait_for_item(self, case: str | None = None) -> None:
        """Until an item is on the screen and nothing is under way; a certain one where its case is given."""
        self.page.wait_for_selector(self.ready)
        if case is not None:
            # Not wait_for_function: the page's policy forbids eval, also to tests.
            self.page.locator("#case", has_text=case).wait_for()
            self.page.wait_for_selector("body:not(.busy)")

    def seen(self) -> None:
        """Until an item has been on the screen long enough to be accepted."""
        self.page.wait_for_timeout(350)

    def press(self, keys: str) -> None:
        """Keys with spaces between them."""
        for key in keys.split():
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        """What is written there."""
        return self.page.locator(selector).inner_text()
