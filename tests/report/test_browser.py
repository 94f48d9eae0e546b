"""The page in a browser: nothing goes wrong, nothing is fetched, and it fits a phone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import reported
from mrecg.report.comparison import compare_runs
from mrecg.report.comparison_page import comparison_chapter
from mrecg.report.page import make_page, run_chapter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"
DESKTOP, PHONE = 1280, 390

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="there is no Chromium; apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        # Chromium refuses its sandbox to root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = started.chromium.launch(executable_path=BROWSER, args=options)
        yield made
        made.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything: two runs side by side, names with markup, one run from before there were reports."""
    runs = [
        reported.run(f"first {HOSTILE}", count=20, pattern="blocks.{}." + HOSTILE),
        reported.run("second", count=20, pattern="blocks.{}." + HOSTILE, bits=3),
    ]
    old = reported.bare(reported.run("old"))
    chapters = [comparison_chapter(compare_runs(runs))]
    chapters += [run_chapter(run, f"run-{place}") for place, run in enumerate([*runs, old])]
    folder = tmp_path_factory.mktemp("page")
    return make_page(f"Page {HOSTILE}", chapters).write(folder / "page.html")


class Visit:
    """A page that was opened, with all that it asked for and said."""

    def __init__(self, browser: "Browser", file: Path, width: int, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def sizes(self, selector: str) -> list[tuple[float, float]]:
        boxes = [one.bounding_box() for one in self.page.query_selector_all(selector)]
        return [(box["width"], box["height"]) if box else (0.0, 0.0) for box in boxes]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_page_opens(
    browser: "Browser", file: Path, width: int, scheme: str, tmp_path: Path
) -> None:
    visit = Visit(browser, file, width, color_scheme=scheme)
    assert visit.said == []
    # What a data address holds leaves the file as little as the file itself.
    assert [one for one in visit.asked if not one.startswith("data:")] == [file.as_uri()]
    charts = visit.sizes("svg")
    assert len(charts) == 2 + 7 + 7 + 3
    assert all(w > 300 and h > 50 for w, h in charts), charts
    across = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert across == [width, width]
    picture = visit.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(picture) > 50_000
    visit.page.close()


def test_opened_tables_stay_inside_of_a_phone(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, PHONE)
    visit.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE
    assert all(w > 100 and h > 20 for w, h in visit.sizes("table"))
    visit.page.close()


def test_names_with_markup_are_shown_as_text(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, DESKTOP)
    assert visit.page.query_selector_all("img, b, script") == []
    assert visit.page.title() == f"Page {HOSTILE}"
    assert f"first {HOSTILE}" in visit.page.inner_text("body")
    assert visit.said == []
    visit.page.close()


def test_colors_follow_the_scheme_and_paper_is_white(browser: "Browser", file: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, file, DESKTOP, color_scheme=scheme)
        colors = (
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('svg text')).fill]"
        )
        found[scheme] = visit.page.evaluate(colors)
        visit.page.emulate_media(
            media="print", color_scheme="dark" if scheme == "dark" else "light"
        )
        found[scheme, "print"] = visit.page.evaluate(colors)
        visit.page.close()
    assert found["light"] != found["dark"]
    assert all(light != dark for light, dark in zip(found["light"], found["dark"], strict=True))
    assert found["light", "print"] == found["dark", "print"] == found["light"]
