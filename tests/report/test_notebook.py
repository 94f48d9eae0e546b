"""A quantized model shows itself: in a line, in a notebook, as a table, beside another one."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mrecg
import run_folders
import toys
from mrecg.errors import RunError
from mrecg.report.unit_table import UnitTable
from quick import quick, run


@pytest.fixture(scope="module")
def joined() -> mrecg.QuantizedModel:
    return run(toys.make("residual"), quick("w2a4-qdrop-mrecg"))


@pytest.fixture
def no_pandas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pandas", None)
    return


def test_a_model_is_a_line(joined: mrecg.QuantizedModel) -> None:
    said = repr(joined)
    assert said.startswith("QuantizedModel(w2a4-qdrop-mrecg: 2/4 bits, 5 units, ")
    assert "loss at the end" in said
    assert len(said) < 160
    assert "\n" not in said


def test_a_notebook_shows_figures_and_the_loss(joined: mrecg.QuantizedModel) -> None:
    shown = joined._repr_html_()
    assert "Where does the error arise?" in shown
    assert len(re.findall("<svg", shown)) == 1
    used = set(re.findall(r"var\(--([\w-]+)\)", shown))
    assert used <= set(re.findall(r"--([\w-]+):", shown))
    assert "<html" not in shown


def test_units_are_a_table_of_pandas(joined: mrecg.QuantizedModel) -> None:
    pandas = pytest.importorskip("pandas")
    units = joined.units
    assert isinstance(units, pandas.DataFrame)
    assert list(units.index) == [unit.name for unit in joined.record.units]
    assert list(units["relative_loss"]) == [unit.relative_loss for unit in joined.record.units]


@pytest.mark.usefixtures("no_pandas")
def test_units_are_a_table_without_pandas(joined: mrecg.QuantizedModel) -> None:
    units = joined.units
    assert isinstance(units, UnitTable)
    lines = repr(units).splitlines()
    assert lines[0].split()[:3] == ["unit", "group", "parameters"]
    assert [line.split()[0] for line in lines[1:]] == [unit.name for unit in joined.record.units]
    assert max(map(len, lines)) <= 80
    assert "<table>" in units._repr_html_()


def test_two_models_are_compared(joined: mrecg.QuantizedModel) -> None:
    other = run_folders.quantized("residual")
    found = joined.compare(other)
    assert "settings differ: " in repr(found)
    assert "Which is better?" in found._repr_html_()
    again = joined.compare(joined)
    assert [group.label[-7:] for group in again.groups] == [" (this)", "(other)"]
    with pytest.raises(RunError, match="other model is a str, expected a QuantizedModel"):
        joined.compare("runs/x")  # type: ignore[arg-type]


def test_a_report_is_a_page(joined: mrecg.QuantizedModel, tmp_path: Path) -> None:
    page = joined.report(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == page.html
    assert page._repr_html_().startswith("<iframe ")
    assert "characters; write it with" in repr(page)
    with pytest.raises(RunError, match="already exists"):
        joined.report(tmp_path / "page.html")


def test_a_record_that_cannot_be_shown_is_saved_all_the_same(
    joined: mrecg.QuantizedModel, tmp_path: Path
) -> None:
    odd = joined.with_found(groups=())
    with pytest.warns(UserWarning, match=r"saved without its report\.html: The record of the run"):
        odd.save(tmp_path / "run")
    assert mrecg.load(tmp_path / "run").record == odd.record
    assert not (tmp_path / "run" / "report.html").exists()
