"""The README's example runs as written, and the documents name what exists."""

import re
from pathlib import Path

import pytest
import torch

import mrecg
from mrecg.data import evaluation_batches

ROOT = Path(__file__).parent.parent


def test_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    short = code[1]
    for long, few in [
        ('"reconstruct.steps": 250', '"reconstruct.steps": 1'),
        ('calibration_images("demo", 256', 'calibration_images("demo", 32'),
        ('evaluation_batches("demo")', 'evaluation_batches("demo", count=50)'),
    ]:
        assert long in short
        short = short.replace(long, few)
    names: dict[str, object] = {}
    exec(short, names)
    quantized, model = names["quantized"], names["model"]
    assert isinstance(quantized, mrecg.QuantizedModel)
    assert isinstance(model, torch.nn.Module)
    images, _ = next(iter(evaluation_batches("demo")))
    assert torch.equal(quantized.model(images[:8]), model(images[:8]))


def test_readme_is_short_and_its_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
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
