"""Findings about an exported file: frozen models, read from and written to JSON."""

from pathlib import Path

from mrecg.errors import RunError
from mrecg.records.json_model import JsonModel
from mrecg.writing import write_file

__all__ = ["OutputRecord", "RuntimeRecord", "Verification", "save_verification"]


class OutputRecord(JsonModel):
    """Hold the comparison of one output with the simulation's.

    Attributes:
        name: in the file.
        resolution: the largest change of the output by one code of the last layer's input; of floats only.
        difference: the largest, ties apart, in units of the resolution; of floats only.
        relative_error: ‖difference‖ / ‖output‖, ties included; of floats only.
        agreement: percent of the positions with the same class, where there is an axis of classes, or with the same integer
            or boolean; ties included. `None` for other floats.
        agreement_ties_apart: the same, ties apart.
    """

    name: str
    resolution: float | None = None
    difference: float | None = None
    relative_error: float | None = None
    agreement: float | None = None
    agreement_ties_apart: float | None = None


class RuntimeRecord(JsonModel):
    """Hold the agreement and the speed of a file on one runtime, with one thread.

    Attributes:
        name: with version.
        problem: why it cannot load the file; then there is nothing else.
        top1_agreement: percent of the images whose class is the simulation's, by the first output that has classes.
        largest_difference: of an output to the simulation's, in units of its resolution. A number between two codes
            that was rounded to the other side is in it, with all that follows from it.
        seconds, spread: median and interquartile range for one image.
        float_seconds, float_spread: the same of the float network, measured in turns with it.
    """

    name: str
    problem: str | None = None
    top1_agreement: float | None = None
    largest_difference: float | None = None
    seconds: float | None = None
    spread: float | None = None
    float_seconds: float | None = None
    float_spread: float | None = None

    @property
    def speed(self) -> float | None:
        """Return how many times as fast as the float network the file is."""
        if self.seconds is None or self.float_seconds is None:
            return None
        return self.float_seconds / self.seconds


class Verification(JsonModel):
    """Hold the comparison of a file with the simulation.

    "Ties apart" is with the file's codes behind every quantizer of the simulation: a number between two
    codes may round to either side, and what follows from it is no difference of any layer.

    Attributes:
        file: its name.
        images: how many were compared.
        outputs: each output.
        top1_agreement: percent of the images, or of the positions of a map, whose class is the same, ties included; of the
            first output that has classes, `None` without one.
        top1_agreement_ties_apart: the same, ties apart.
        largest_difference: of an output of floats, ties apart, in units of its resolution.
        largest_distance: of a code to the simulated number, ties apart, in units of the scale; ½ is perfect.
        different_codes: codes that are not the simulation's, ties apart: the ties.
        codes: that were compared.
        output_resolution: the largest change of the first output of floats by one code of the last layer's input.
        integer_layers, float_layers: what ONNX Runtime computes in integers and what in float.
        file_bytes: its size.
        ideal_bytes: codes and zero points in their bits, scales and everything else in 32 bits.
        runtimes: agreement and speed on each.
        saturates: whether products of 8 by 8 bits saturate where it was compared, in numbers of these images. Then the
            comparison is without such products; agreement and speed of the runtimes are with them.
    """

    file: str
    images: int
    outputs: tuple[OutputRecord, ...] = ()
    top1_agreement: float | None
    top1_agreement_ties_apart: float | None
    largest_difference: float
    largest_distance: float
    different_codes: int
    codes: int
    output_resolution: float
    integer_layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    file_bytes: int
    ideal_bytes: int
    runtimes: tuple[RuntimeRecord, ...]
    saturates: bool = False


def save_verification(folder: Path, result: Verification) -> Path:
    """Keep what verifying a file showed in the folder of the run that it was exported from.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / f"{result.file}.verification.json"
    write_file(path, result.to_json().encode(errors="replace"), RunError)
    return path
