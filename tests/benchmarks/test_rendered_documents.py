"""The documents show the results of this repository, and nothing that was typed by hand."""

import shutil
from pathlib import Path

import benchmarks.accuracy.__main__ as accuracy
import benchmarks.architectures.__main__ as architectures
import benchmarks.export.__main__ as export
import benchmarks.natural_images.__main__ as natural_images
import benchmarks.performance.__main__ as performance
from benchmarks.tables import DOCS, README

PAGES = {
    "results.md": accuracy,
    "limits.md": architectures,
    "export.md": export,
    "efficientnet-lite0.md": natural_images,
    "performance.md": performance,
}


def test_documents_are_what_the_scripts_write(tmp_path: Path) -> None:
    shutil.copy(README, tmp_path)
    shutil.copy(DOCS / "efficientnet-lite0.md", tmp_path)
    for page, benchmark in PAGES.items():
        readme = ["--readme", str(tmp_path / "README.md")] if benchmark is accuracy else []
        benchmark.main(["render", "--docs", str(tmp_path), *readme])
        assert (tmp_path / page).read_text() == (DOCS / page).read_text(), page
    assert (tmp_path / "README.md").read_text() == README.read_text()
