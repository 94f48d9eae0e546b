"""The images of a saved run: those that options name, or else those that the run remembers."""

from typing import TYPE_CHECKING

from mrecg.cli.options import ImageOptions, worker_count
from mrecg.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from mrecg.monitoring import Reporter
    from mrecg.records.record import Record

__all__ = ["calibration_of", "source_of"]


def source_of(record: "Record", options: ImageOptions, reporter: "Reporter") -> str:
    """Return the source of images for a run, and say which one it is if no option does.

    Raises:
        DataError: neither names one that can be opened.
    """
    from mrecg.data import remembered_source

    if options.data is not None:
        return options.data
    name = remembered_source(record.source)
    reporter.note(f"images: {name}, as the run remembers; --data names others")
    return name


def calibration_of(
    record: "Record", options: ImageOptions, reporter: "Reporter"
) -> "Tensor | None":
    """Read the images that calibrated a run once more; where that is not possible, say why, and return nothing."""
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.data import calibration_images, remembered_source

    if record.source is None or "images" not in record.inputs:
        return None
    try:
        source = remembered_source(record.source.model_copy(update={"validation": None}))
        found = calibration_images(
            source,
            record.images,
            record.source.seed,
            run_preprocessing(record, source, options),
            crops=record.source.crops,
            workers=worker_count(options.workers),
        )
    except DataError as error:
        reporter.note(f"the images that calibrated are not compared: {error}")
        return None
    return found.images
