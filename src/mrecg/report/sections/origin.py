"""The recipe, and the command that repeats the run."""

import shlex

from mrecg.report.parts import Code, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import counted, seconds_as_text

__all__ = ["origin_section"]


def origin_section(run: ReportedRun) -> Section:
    """Return the section."""
    record = run.record
    shape = ", ".join(
        " ".join(filter(None, (name, " × ".join(map(str, one)))))
        for name, one in (record.input_shapes or {"": record.input_shape}).items()
    )
    answer = (
        f"The recipe is {run.recipe.name} with seed {run.recipe.seed}, calibrated on {counted(record.images, 'image')} of "
        f"{shape}. The same recipe, images and versions give the same numbers, on such a processor with as many threads."
    )
    if record.training is not None:
        answer += " Training that followed is not repeated by them."
    answer += _about_precision(run)
    rows = [(key, str(value)) for key, value in record.environment.items()]
    rows += [(f"preprocessing: {key}", str(value)) for key, value in record.preprocessing.items()]
    rows += [(f"time: {phase}", seconds_as_text(time)) for phase, time in record.seconds.items()]
    return Section(
        "How can it be repeated?",
        answer,
        tables=(Table("Versions, preprocessing and time", ("", "value"), tuple(rows)),),
        code=(_command(run), Code("recipe.yaml", run.recipe.to_yaml())),
    )


def _about_precision(run: ReportedRun) -> str:
    """Return what depends on the processor, if anything does."""
    taken = [group.precision for group in run.record.groups if group.steps]
    taken += [run.record.network.precision] if run.record.network else []
    if run.recipe.reconstruct.precision != "fastest" or "bfloat16" not in taken:
        return ""
    return (
        f" Of {counted(len(taken), 'optimization')}, {taken.count('bfloat16')} multiplied in bfloat16, which this processor has: on one "
        "that has not, numbers differ, unless reconstruct.precision is float32."
    )


def _command(run: ReportedRun) -> Code:
    if run.record.command:
        return Code("The command", shlex.join(run.record.command))
    return Code(
        "In Python",
        'recipe = mrecg.read_recipe("recipe.yaml")\nquantized = mrecg.quantize(model, images, recipe=recipe)',
    )
