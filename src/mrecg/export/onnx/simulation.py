"""The simulation of a file, and the comparison of a runtime's answers with it, output by output."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from mrecg.errors import VerificationError
from mrecg.export.comparison import OutputComparison
from mrecg.export.onnx.runtimes import Run
from mrecg.export.onnx.tracing import computed, output_resolution, returned_nodes
from mrecg.graph.channels import class_axis_of
from mrecg.graph.inputs import ModelInputs, call
from mrecg.graph.layers import traced_value

__all__ = ["IMAGES_AT_ONCE", "Output", "Simulation", "of_another"]

IMAGES_AT_ONCE = 100


@dataclass(frozen=True)
class Output:
    """One output of a file.

    Attributes:
        name: in the file.
        node: in the simulation.
        resolution: its largest change by one code of the last layer's input.
        class_axis: where it has a logit for each class, or `None`.
    """

    name: str
    node: fx.Node
    resolution: float
    class_axis: int | None

    @property
    def has_classes(self) -> bool:
        """Return whether it has an axis of classes."""
        return self.class_axis is not None

    @property
    def is_of_floats(self) -> bool:
        """Return whether its values are floats."""
        value = traced_value(self.node)
        return isinstance(value, Tensor) and value.is_floating_point()


@dataclass(frozen=True)
class Simulation:
    """The simulation of a file, and what it returns for the images that are compared.

    Attributes:
        model: of the quantized model.
        file: the file.
        outputs: those that the model computes, in order.
        answers: of each batch, its outputs.
    """

    model: fx.GraphModule
    file: Path
    outputs: tuple[Output, ...]
    answers: tuple[list[Tensor], ...]

    @classmethod
    def of(cls, model: fx.GraphModule, file: Path, images: ModelInputs) -> "Simulation":
        """Run the simulation of a file.

        Raises:
            VerificationError: the file has another number of outputs.
        """
        nodes = [node for node in returned_nodes(model) if isinstance(node, fx.Node)]
        names = [value.name for value in onnx.load(file, load_external_data=False).graph.output]
        if len(names) != len(nodes):
            raise of_another(file, f"it has {len(names)} outputs, and the model {len(nodes)}")
        outputs = tuple(
            Output(name, node, output_resolution(model, node), class_axis_of(node))
            for name, node in zip(names, nodes, strict=True)
        )
        with torch.inference_mode():
            batches = images.split(IMAGES_AT_ONCE)
            return cls(
                model, file, outputs, tuple(computed(model, call(model, one)) for one in batches)
            )

    def compare(self, run: Run, images: ModelInputs) -> list[OutputComparison]:
        """Compare the outputs of a runtime, ties included."""
        found = self.comparisons()
        for batch, wanted in zip(images.split(IMAGES_AT_ONCE), self.answers, strict=True):
            self.add(found, wanted, run(batch.numpy()))
        return found

    def comparisons(self) -> list[OutputComparison]:
        """Return a new comparison for each output."""
        return [OutputComparison(output.class_axis) for output in self.outputs]

    def add(
        self, found: Sequence[OutputComparison], wanted: Sequence[Tensor], got: Sequence[np.ndarray]
    ) -> None:
        """Take the outputs for a batch into account.

        Raises:
            VerificationError: their shapes are not the simulation's.
        """
        for output, one, expected, values in zip(self.outputs, found, wanted, got, strict=True):
            try:
                one.add(expected, torch.from_numpy(np.asarray(values)))
            except ValueError as error:
                raise of_another(self.file, f"its output '{output.name}' has {error}") from error


def of_another(file: Path, reason: str) -> VerificationError:
    """Return the error of a file that the model at hand is not the simulation of."""
    return VerificationError(
        f"The file {file} is of another network than the run: {reason}; export it from this run."
    )
