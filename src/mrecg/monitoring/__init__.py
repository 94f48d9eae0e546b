"""Where the events of a run go: bars on a terminal and in a notebook, lines in a pipe, scalars for TensorBoard."""

from mrecg.monitoring.choice import reporter_for, watched
from mrecg.monitoring.reporter import Reporter, SilentReporter
from mrecg.monitoring.tensorboard import TensorBoard

__all__ = ["Reporter", "SilentReporter", "TensorBoard", "reporter_for", "watched"]
