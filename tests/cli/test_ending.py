"""The last lines of `mrecg quantize` name what did not go as planned, and a next command that runs."""

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

import mrecg
from mrecg.cli.show import show_ending
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import NetworkRecord, Record
from run_folders import quantized


def ending(record: Record, recipe: mrecg.Recipe, folder: str = "run") -> dict[str, str]:
    page = io.StringIO()
    show_ending(Console(file=page, width=160), record, recipe, Path(folder))
    pairs = (line.split(":", 1) for line in page.getvalue().splitlines())
    return {label: text.strip() for label, text in pairs}


def test_five_lines_where_all_went_well() -> None:
    run = quantized()
    accuracy = {"float": Evaluation(200, 190, 200), "quantized": Evaluation(200, 180, 200)}
    record = run.record.model_copy(update={"accuracy": accuracy, "left_in_float": ()})
    found = ending(record, run.recipe)
    assert list(found) == ["accuracy", "size", "worst unit", "run", "next"]
    assert found["accuracy"] == "95.00 % → 90.00 % top-1 of 200 images"
    assert found["worst unit"].startswith(f"{record.oscillation.largest_unit}: its loss is ")


def test_the_size_is_that_of_codes_in_their_bits() -> None:
    run = quantized()
    assert run.record.size is not None
    assert run.record.size.quantized_bytes < run.record.size.float_bytes
    assert re.fullmatch(
        r"[\d.]+ \w+ → [\d.]+ \w+ of parameters, [\d.]+ times smaller",
        ending(run.record, run.recipe)["size"],
    )
    unknown = run.record.model_copy(update={"size": None})
    assert ending(unknown, run.recipe)["size"] == "not recorded"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"left_in_float": ("a", "b", "c", "d")}, "left in float: a, b, c and 1 more"),
        ({"skipped_images": ("x.png",)}, "1 unreadable images skipped"),
        (
            {
                "network": NetworkRecord(
                    steps=1,
                    divergence_before=1.0,
                    divergence_after=2.0,
                    accepted=False,
                    seconds=1.0,
                )
            },
            "no better than before and taken back: the network as a whole",
        ),
    ],
)
def test_a_line_for_what_did_not(change: dict[str, object], said: str) -> None:
    run = quantized()
    assert said in ending(run.record.model_copy(update=change), run.recipe)["note"]


def test_the_next_command_is_one_that_a_shell_reads() -> None:
    run = quantized()
    command = ending(run.record, run.recipe, "my runs/one")["next"]
    assert shlex.split(command) == [
        *("mrecg", "export", "my runs/one", "--output", "my runs/one.onnx")
    ]
    logarithms = mrecg.preset("w8a8-rtn").for_backend("nnie")
    assert ending(run.record, logarithms, "run")["next"] == "mrecg evaluate run"
