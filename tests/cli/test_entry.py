"""The entry point: exit codes, help without torch, errors of the system, and options that commands share."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import click
import pytest
import typer

import mrecg
from command_line import Finished
from mrecg.cli import app
from mrecg.cli.consoles import error_console
from mrecg.cli.options import ImageOptions, NetworkOptions, RecipeOptions, worker_count
from mrecg.config.texts import bytes_of
from mrecg.config.yaml_files import flat
from mrecg.errors import StorageError

GROUPS = {
    "demo": None,
    "quantize": NetworkOptions,
    "plan": NetworkOptions,
    "sensitivity": NetworkOptions,
    "evaluate": ImageOptions,
    "verify-run": ImageOptions,
    "export": ImageOptions,
    "verify": ImageOptions,
    "recipe": RecipeOptions,
    "list": None,
    "reproduce": None,
    "sweep": None,
    "report": None,
    "compare": None,
}
"""Every command and the group of options that it takes."""


def process(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mrecg", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_a_process_exits_with_its_codes() -> None:
    assert process("recipe", "w4a4-brecq").stdout.startswith("name: w4a4-brecq\n")
    wrong = process("recipe", "w4a4-brecc")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.count("\n") == 1
    assert "did you mean 'w4a4-brecq'" in wrong.stderr
    assert process("quantise").returncode == 2


def test_help_names_all_commands_and_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from mrecg.cli import main\n"
        "try: main(['--help'])\n"
        "finally: sys.stderr.write(str({'torch', 'torchao', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()"
    commands = done.stdout.split("Commands")[1]
    assert set(re.findall(r"^\W*([\w-]+)  ", commands, re.MULTILINE)) == set(GROUPS)


def test_the_version_and_the_completion_load_no_torch() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"mrecg {mrecg.__version__}\n")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mrecg"],
        env={
            **os.environ,
            "_MRECG_COMPLETE": "complete_bash",
            "COMP_WORDS": "mrecg plan --preset w2a4-q",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = [f"w2a4-{name}{joins}" for name in ("qdrop", "qronos") for joins in ("", "-mrecg")]
    assert sorted(done.stdout.split()) == wanted
    assert time.perf_counter() - started < 10  # importing torch alone may take as long


def test_commands_come_in_the_order_in_which_they_are_needed() -> None:
    commands = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined]
    assert commands[:5] == ["demo", "quantize", "plan", "sensitivity", "evaluate"]
    assert commands[-1] == "reproduce"


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("networks", "mobilenetv2_small", "10 classes, images of 1×28×28"),
        ("backends", "onnxruntime", "weights to 8 bits, activations to 8"),
        ("presets", "w2a4-qdrop-mrecg", "neighbors joined where it helps"),
        ("settings", "reconstruct.steps", "optimizer steps per group; 0 is rounding to nearest"),
    ],
)
def test_lists(kind: str, name: str, said: str, mrecg_command: Callable[..., Finished]) -> None:
    text = " ".join(mrecg_command("list", kind).stdout.split())
    assert name in text
    assert said in text
    listed = json.loads(mrecg_command("list", kind, "--json").stdout)
    assert said in str(listed[name])
    assert all(map(str, listed.values()))


def test_every_setting_is_described(mrecg_command: Callable[..., Finished]) -> None:
    listed = json.loads(mrecg_command("list", "settings", "--json").stdout)
    assert [key for key, one in listed.items() if not one["meaning"]] == []
    defaults = mrecg.preset("w4a4-qdrop-mrecg")
    assert listed["reconstruct.steps"]["value"] == defaults.reconstruct.steps
    assert len(listed) == len(dict(flat(defaults.model_dump(mode="json"))))


def test_usage_errors_exit_with_two(mrecg_command: Callable[..., Finished]) -> None:
    for arguments in (("quantize",), ("quantise",), ("plan", "--crops", "middle")):
        done = mrecg_command(*arguments)
        assert done.returncode == 2
        assert "Usage: mrecg " in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_what_the_system_refuses_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = process("recipe", "w4a4-brecq", stdout=full.fileno())
    assert done.returncode == 1
    assert "error: The system says: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["mrecg.cli.entry.app", "mrecg.demo.run_demo"])
def test_an_interruption_says_what_is_left(
    where: str, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    done = mrecg_command("demo")
    assert done.returncode == 130
    assert done.stderr == "interrupted: nothing unfinished is written\n"
    assert not error_console.quiet


@pytest.mark.parametrize(("name", "group"), GROUPS.items())
def test_a_group_gives_its_options_to_every_command(name: str, group: type | None) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(GROUPS)
    found = {option.name: option for option in commands[name].params}
    if group is None:
        return
    shared = {field.name for field in fields(group)}
    assert shared <= set(found)
    for option in shared:
        assert found[option].help
        assert declared(found[option]) == declared(reference(option))


def reference(option: str) -> click.Parameter:
    """The option as `quantize` has it, which takes all groups."""
    quantize = typer.main.get_command(app).commands["quantize"]  # type: ignore[attr-defined]
    (found,) = [parameter for parameter in quantize.params if parameter.name == option]
    return found


def declared(option: click.Parameter) -> tuple[object, ...]:
    return option.opts, option.default, getattr(option, "help", None), option.nargs


def test_budgets() -> None:
    assert bytes_of("4GiB") == 4 * 2**30
    assert bytes_of("1.5 MB") == 1_500_000
    assert bytes_of("100") == 100
    for size in ("4 parsecs", "-1GiB", "GiB"):
        with pytest.raises(StorageError, match="cannot be read, expected a size such as 4GiB"):
            bytes_of(size)


def test_workers_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert (worker_count(None), worker_count(0), worker_count(9)) == (4, 0, 9)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert worker_count(None) == 2
