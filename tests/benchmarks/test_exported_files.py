"""The export benchmark in short."""

from pathlib import Path

import pytest

from benchmarks.export.__main__ import main


def test_cells_are_measured_once_and_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["--results", str(tmp_path / "results")]
    arguments = ["--bits", "w4a4", "--placements", "onnxruntime", "--layouts", "packed"]
    short = ["--images", "20", "--repeats", "2"]
    main([*results, "measure", *arguments, *short])
    assert capsys.readouterr().out == "mobilenetv2_small w4a4 onnxruntime packed\n"
    main([*results, "measure", *arguments, *short])
    assert capsys.readouterr().out == ""  # finished cells are skipped
    main([*results, "render", "--docs", str(tmp_path)])
    page = (tmp_path / "export.md").read_text()
    assert "| mobilenetv2_small | w4a4 | onnxruntime | packed | 20 | 100.00 %" in page
