"""Scalars for TensorBoard, through its own writer."""

from pathlib import Path
from typing import Self

from mrecg.errors import MrecgError, expect
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate

__all__ = ["TensorBoard"]


class TensorBoard:
    """Write the losses of a run into a folder that `tensorboard --logdir` shows; give it as `progress`.

    `tune/UNITS` is a group's loss in percent of the signal's power against its steps, `tune/group ends` the same along the network,
    `network/objective` the loss of the network as a whole. Runs may share a parent folder, one folder each.

    Args:
        folder: for the event file.

    Raises:
        MrecgError: the package tensorboard is missing, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        expect(folder, (str, Path), "The folder for TensorBoard", "name one", MrecgError)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MrecgError(
                "TensorBoard's writer needs the package tensorboard; run pip install 'mrecg[tensorboard]'."
            ) from error
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise MrecgError(
                f"The folder {folder} cannot be written for TensorBoard: {error.strerror}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Progress | Estimate) -> None:
        if isinstance(event, Estimate) or event.loss is None:
            return
        if event.relative_loss is None:
            tag = "divergence" if event.finished else "objective"
            self._writer.add_scalar(f"{event.phase}/{tag}", event.loss, event.step)
            return
        percent = 100 * event.relative_loss
        if event.finished:
            self._writer.add_scalar(f"{event.phase}/group ends", percent, event.index)
        else:
            self._writer.add_scalar(f"{event.phase}/{' + '.join(event.group)}", percent, event.step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
