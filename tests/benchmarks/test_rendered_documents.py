"""The documents show the results of this repository, and nothing that was typed by hand."""

import re
import shutil
from pathlib import Path

import benchmarks.accuracy.__main__ as accuracy
import benchmarks.architectures.__main__ as architectures
import benchmarks.closed_form.__main__ as closed_form
import benchmarks.detector.__main__ as detector
import benchmarks.export.__main__ as export
import benchmarks.held_out.__main__ as held_out
import benchmarks.mixed_precision.__main__ as mixed_precision
import benchmarks.natural_images.__main__ as natural_images
import benchmarks.peers.__main__ as peers
import benchmarks.performance.__main__ as performance
import benchmarks.pictures.__main__ as pictures
import benchmarks.reliability.__main__ as reliability
import benchmarks.training.__main__ as training
from benchmarks.tables import DOCS, README

PAGES = {
    "results.md": accuracy,
    "choices.md": held_out,
    "closed-form.md": closed_form,
    "bits.md": mixed_precision,
    "limits.md": architectures,
    "detector.md": detector,
    "export.md": export,
    "efficientnet-lite0.md": natural_images,
    "peers.md": peers,
    "performance.md": performance,
    "how-to/training.md": training,
    "reliability.md": reliability,
}


def test_documents_name_benchmarks_that_exist() -> None:
    root = README.parent
    texts = [path.read_text() for path in (README, root / "Makefile", *DOCS.rglob("*.md"))]
    named = {name for text in texts for name in re.findall(r"\bbenchmarks\.([a-z_]+)", text)}
    assert {path.parent.name for path in root.glob("benchmarks/*/__main__.py")} >= named
    paths = {
        path for text in texts for path in re.findall(r"\b(?:tests/)?benchmarks/[\w/.-]*\w", text)
    }
    assert {path for path in paths if not (root / path).exists()} == set()


def test_documents_are_what_the_scripts_write(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "how-to").mkdir(parents=True)
    shutil.copy(README, tmp_path)
    for page in ("efficientnet-lite0.md", "how-to/training.md", "closed-form.md", "bits.md"):
        shutil.copy(DOCS / page, docs / page)
    for page, benchmark in PAGES.items():
        benchmark.main(["render", "--docs", str(docs)])
        assert (docs / page).read_text() == (DOCS / page).read_text(), page
    assert (tmp_path / README.name).read_text() == README.read_text()


def test_pictures_are_what_the_script_draws(tmp_path: Path) -> None:
    pictures.main(["render", "--docs", str(tmp_path)])
    # Boxes are drawn into a photograph that another package ships.
    stored = {path.name: path.read_bytes() for path in (DOCS / "pictures").glob("*.svg")}
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert drawn == stored
