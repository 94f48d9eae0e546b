"""Configuration files of MQBench and of the paper's code, as recipes."""

from mrecg.paper.mqbench.experiment import Experiment, Note
from mrecg.paper.mqbench.files import is_mqbench, read_experiment

__all__ = ["Experiment", "Note", "is_mqbench", "read_experiment"]
