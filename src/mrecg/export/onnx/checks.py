"""Arguments of `verify_onnx`, refused before the work where they cannot be used."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mrecg.errors import DataError, ExportError, expect, reason_of
from mrecg.graph.inputs import ModelInputs, NamedInputs, as_inputs, each, shapes
from mrecg.preparation.calibration import check_images
from mrecg.preparation.models import fit_inputs
from mrecg.reading import require_regular
from mrecg.runs.folder import QuantizedModel

__all__ = ["check_repeats", "checked_inputs", "require_file"]


def checked_inputs(quantized: QuantizedModel, images: Tensor | Mapping[str, Tensor]) -> ModelInputs:
    """Return images as the file and the simulation take them.

    Raises:
        DataError: they are none that the model can take.
    """
    where = "the images to verify with"
    inputs: ModelInputs = as_inputs(images, where)
    expect(
        inputs, (Tensor, NamedInputs), "What is verified with", "give images as a tensor", DataError
    )
    inputs = each(fit_inputs(quantized.model, inputs, where), _as_stored)
    check_images(inputs, where)
    if isinstance(inputs, Tensor):
        given, wanted = str(tuple(inputs.shape[1:])), str(quantized.record.input_shape)
    else:
        given, wanted = str(shapes(inputs)), str(quantized.record.input_shapes)
    if given != wanted or not len(inputs):
        raise DataError(
            f"There are {len(inputs)} {where.removeprefix('the ')}, of shape {given}, expected at least one, of shape {wanted}."
        )
    return inputs


def require_file(path: str | Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        ExportError: it is no path, or no file that can be read.
    """
    expect(path, (str, Path), "The ONNX file", "name one", ExportError)
    file = Path(path)
    try:
        require_regular(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"The file {file} cannot be read: {reason_of(error)}.") from error
    return file


def check_repeats(repeats: int) -> None:
    """Refuse what is no number of timed runs.

    Raises:
        ExportError: it is no whole number, or less than 0.
    """
    advice = "give the number of timed runs, or 0 for none"
    expect(repeats, int, "What is given as repeats", advice, ExportError)
    if repeats < 0:
        raise ExportError(f"What is given as repeats is {repeats}, expected 0 or more; {advice}.")


def _as_stored(tensor: Tensor) -> Tensor:
    """Return a tensor that numpy can read: without a gradient, and with its negations carried out."""
    return tensor.detach().resolve_neg()
