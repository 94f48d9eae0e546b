"""The page of a run as a picture, taken in Chromium."""

import shutil
from pathlib import Path

__all__ = ["photograph_page"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph_page(page: Path, path: Path) -> None:
    """Write the top of a page as a picture.

    Args:
        page: a run's `report.html`.
        path: of the picture, PNG.
    """
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise SystemExit("There is no Chromium; install it (apt-get install chromium).")
    with sync_playwright() as started:
        # Root gets no sandbox.
        shown = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        opened = shown.new_page(viewport={"width": 900, "height": 1100})
        opened.goto(page.resolve().as_uri())
        opened.screenshot(path=path)
        shown.close()
