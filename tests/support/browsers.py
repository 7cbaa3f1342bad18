"""A real browser for tests of pages: it fails a test on errors, and on requests to anywhere else."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

WAIT_MS = 30_000
"""Nothing takes this long; a busy machine may."""
expect.set_options(timeout=WAIT_MS)
OTHER_HOST = "label.test"
"""A name of this machine. Without HTTPS, browsers trust it less than 127.0.0.1."""
SIZES = {"wide": (1440, 900), "laptop": (1280, 720), "phone": (360, 740)}


def find_chromium() -> str:
    """Return the path of a Chromium, from TILTLM_CHROMIUM or the system; skip the test if there is none."""
    found = os.environ.get("TILTLM_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("needs Chromium: install it (apt install chromium), or set TILTLM_CHROMIUM to its path")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium without a window."""
    path = find_chromium()
    with sync_playwright() as playwright:
        rules = f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", rules])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A window of the browser, and all that went wrong in it."""

    context: BrowserContext
    address: str
    """Of the app under test."""
    problems: list[str] = field(default_factory=list)
    """Errors on the console, uncaught errors, dialogs, and requests to other hosts."""
    expected: list[str] = field(default_factory=list)
    """Patterns of problems that the test causes itself."""

    def new_page(self) -> Page:
        """Open a tab."""
        page = self.context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("dialog", self._refuse_dialog)
        page.on("request", lambda request: self._check_host(request.url))
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(f"console: {text}")

    def _refuse_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.type} {dialog.message}")
        if dialog.type == "beforeunload":
            dialog.accept()  # leave the page after all
        else:
            dialog.dismiss()

    def _check_host(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.address).netloc:
            self.problems.append(f"request: {url}")

    def unexpected(self) -> list[str]:
        """Return the problems that the test did not expect."""
        return [one for one in self.problems if not any(re.search(pattern, one) for pattern in self.expected)]


@contextmanager
def window(
    browser: Browser, address: str, size: str = "laptop", *, scheme: str = "light", motion: str = "reduce"
) -> Iterator[Watched]:
    """Open a window of its own, with own cookies; at the end nothing must have gone wrong in it.

    Args:
        browser: The browser.
        address: Of the app under test.
        size: A name in `SIZES`. A phone has a touch screen.
        scheme: light | dark.
        motion: reduce | no-preference.
    """
    width, height = SIZES[size]
    is_phone = size == "phone"
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion=motion,
        has_touch=is_phone,
        is_mobile=is_phone,
    )
    watched = Watched(context, address)
    try:
        yield watched
    finally:
        context.close()
    assert watched.unexpected() == []


def check_accessibility(page: Page) -> None:
    """Require that axe finds nothing, with all of its rules."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    told = [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']]}" for one in found]
    assert told == []
