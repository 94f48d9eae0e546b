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
    short = code[1].replace('"reconstruct.steps": 250', '"reconstruct.steps": 4')
    assert short != code[1]
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
