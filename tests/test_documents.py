"""The documents name what exists. What their code does is tested in `test_code_blocks`."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from code_blocks import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
REPOSITORY = "https://github.com/mrecg/mrecg"


def test_readme_is_short_and_its_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", text):
        assert f"\n{target}:" in makefile


def notation_rows() -> list[tuple[list[str], list[Path]]]:
    """The names and the files of every row of docs/notation.md."""
    rows = []
    for line in (ROOT / "docs" / "notation.md").read_text(encoding="utf-8").splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 5 and "`" in line:
            names, files = (re.findall(r"`([^`]+)`", cell) for cell in cells[2:4])
            rows.append((names, [ROOT / "src" / "mrecg" / file for file in files]))
    return rows


def test_the_notation_names_what_exists() -> None:
    rows = notation_rows()
    assert len(rows) > 15
    for names, files in rows:
        assert files
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        for name in names:
            for part in name.split("."):
                assert re.search(rf"\b{part}\b", text), f"{name} is not in {files}"


def tokens_of(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Where the links and the pictures of a page lead."""
    inner = [child for token in tokens_of(page) for child in token.children or ()]
    found = [token.attrs.get("href", token.attrs.get("src")) for token in inner]
    return [str(target) for target in found if target is not None]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page, and those of documented names."""
    tokens = tokens_of(page)
    heads = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return slugs | set(re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        place, _, anchor = link.partition("#")
        if place.startswith(("https://", "http://")):
            assert REPOSITORY not in link or "/blob/" not in link, f"{link}: link to the file"
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), link
        if ROOT / "docs" in page.parents:
            assert ROOT / "docs" in target.parents, f"{link} leaves the site"
        # A documented module documents the names in it.
        known = anchors(target) if anchor else {""}
        assert any(anchor == one or anchor.startswith(f"{one}.") for one in known), link


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    pages = (ROOT / "docs").rglob("*.md")
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in pages)
