"""Every block of code in the documents does what its kind promises (see `code_blocks`)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import mrecg.cli.entry  # noqa: F401 (registers the commands)
from code_blocks import ROOT, Block, blocks, commands, pages
from command_line import forget_modules_in, run
from mrecg.cli.consoles import app

RUN_IN_CI = {"README.md": ".ci/newcomer", "docs/quickstart.md": ".ci/wheel-test"}
"""Pages that a script runs as they are written, the first in a clone, the second with a wheel."""

NAMES = [str(page.relative_to(ROOT)) for page in pages()]


def is_run(block: Block) -> bool:
    return block.language in ("python", "bash") or block.file is not None


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if name not in RUN_IN_CI and any(map(is_run, blocks(ROOT / name)))],
)
def test_blocks_run(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(ROOT / name):
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            for words in commands(block):
                _run(words, capsys)
        elif block.language == "python":
            # Empty lines in front give an error the line of the page.
            text = "\n" * block.line + block.text
            exec(compile(text, name, "exec"), names)
    forget_modules_in(tmp_path)


def _run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command of a shell block; mrecg's in this process, because importing torch takes seconds."""
    if words[0] == "mrecg":
        finished = run(words[1:], capsys)
        assert finished.returncode == 0, finished.stderr
    else:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = subprocess.run(
            words, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "script"), RUN_IN_CI.items())
def test_pages_that_a_script_runs(page: str, script: str) -> None:
    assert page in (ROOT / script).read_text(encoding="utf-8")
    assert script in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    """Commands that are shown and not run have the options that they are given."""
    for block in blocks(ROOT / name):
        if block.language not in ("bash", "python"):
            for words in commands(block):
                try:
                    check_command(words)
                except typer.Exit:
                    continue
                except Exception as error:
                    raise AssertionError(f"{name}:{block.line + 1}: {error}") from error


def check_command(words: list[str]) -> None:
    """Parse what mrecg is given, without running it; of make, find the target."""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(f"\n{target}:" in makefile for target in words[1:]), words
    if words[0] in ("python", "torchrun") and "-m" in words:
        module = words[words.index("-m") + 1]
        found = importlib.util.find_spec(module)
        if found is None or found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
        assert found is not None, f"{module} is no module that runs"
    if "mrecg" in words:
        arguments = words[words.index("mrecg") + 1 :]
        group = typer.main.get_command(app)
        context = group.make_context("mrecg", list(arguments[:1]))
        _, command, _ = group.resolve_command(context, list(arguments[:1]))
        command.make_context(command.name, list(arguments[1:]), parent=context)


@pytest.mark.parametrize(
    "words",
    [
        "mrecg quantise",
        "mrecg plan --metrics loss",
        "mrecg export runs/x",
        "make documentation",
        "torchrun --nproc-per-node 2 -m mrecg.cli plan",
    ],
)
def test_what_does_not_exist_is_found(words: str) -> None:
    with pytest.raises(Exception, match=r"No such|Missing parameter|documentation|mrecg\.cli"):
        check_command(words.split())


def test_blocks_are_read_as_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '# A\n\n```yaml title="a/b.yaml"\nx: 1\n```\n\n```console\n$ mrecg plan \\\n    --json | jq\nout\n```\n'
    )
    written, shown = blocks(page)
    assert written == Block(3, "yaml", "a/b.yaml", "x: 1\n")
    assert list(commands(shown)) == [["mrecg", "plan", "--json"]]
