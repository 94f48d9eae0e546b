"""The images of a saved run: those that options name, or else those that the run remembers."""

from typing import TYPE_CHECKING

from mrecg.cli.options import ImageOptions

if TYPE_CHECKING:
    from mrecg.monitoring import Reporter
    from mrecg.records.record import Record

__all__ = ["source_of"]


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
