"""The network and the images that a command works on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mrecg.cli.consoles import error_console, say
from mrecg.cli.options import NetworkOptions, worker_count
from mrecg.errors import DataError, NoLabelsError, RecipeError
from mrecg.paper.mqbench import Experiment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mrecg.data import CalibrationImages, Crops, EvaluationBatches, Preprocessing

__all__ = ["Inputs"]

_IMAGES = 256


@dataclass(frozen=True)
class Inputs:
    """Hold a network and its images by name, and read them when asked.

    Attributes:
        network: its name.
        weights: its checkpoint.
        num_classes: outputs of the classifier, where known.
        data: the source of the images; `None` where none is named.
        validation: the source of the images that accuracy is measured on, where it is another one.
        images: how many images calibrate.
        crops: how they are cut.
        workers: processes that decode images.
        preprocessing: of the images.
        options: what was asked for on the command line.
    """

    network: str
    weights: Path | None
    num_classes: int | None
    data: str | None
    validation: str | None
    images: int
    crops: "Crops"
    workers: int
    preprocessing: "Preprocessing"
    options: NetworkOptions

    @classmethod
    def resolve(
        cls,
        options: NetworkOptions,
        experiment: Experiment | None,
        validation: str | None = None,
    ) -> Self:
        """Let options win over the configuration file, which wins over what is known of the network.

        Raises:
            RecipeError: neither names a network.
            DataError: the images have no such size or channels.
        """
        from mrecg.cli.preprocessing_choice import network_preprocessing

        name = options.network or (experiment.network if experiment else None)
        if name is None:
            raise RecipeError(
                "No network is named; give --network, such as one of mrecg list networks, or a --config with model.type."
            )
        usual = f"imagenet:{experiment.data}" if experiment and experiment.data else None
        workers = experiment.workers if experiment and options.workers is None else options.workers
        return cls(
            network=name,
            weights=options.weights or (experiment.weights if experiment else None),
            num_classes=experiment.num_classes if experiment else None,
            data=usual if options.data is None else options.data,
            validation=validation,
            images=options.images or (experiment.images if experiment else _IMAGES),
            crops=options.crops or ("random" if experiment else "center"),
            workers=worker_count(workers),
            preprocessing=network_preprocessing(name, experiment, options),
            options=options,
        )

    def described(self, evaluation_images: int | None) -> dict[str, Any]:
        """Return what was asked for besides recipe and preprocessing, as a record keeps it in `options`.

        Args:
            evaluation_images: accuracy is measured on so many; `None` for all.
        """
        return {
            "network": self.network,
            "weights": None if self.weights is None else str(self.weights),
            "classes": self.num_classes,
            "data": self.data,
            "validation": self.validation,
            "images": self.images,
            "crops": self.crops,
            "evaluation_images": evaluation_images,
        }

    def model(self, needs_weights: bool = True) -> "nn.Module":
        """Make the float network; warn where its weights are random and that matters."""
        from mrecg.distributed import local_device
        from mrecg.paper.networks import has_own_weights, make_network

        image = (self.preprocessing.channels, self.preprocessing.crop, self.preprocessing.crop)
        model = make_network(self.network, self.weights, self.num_classes, image)
        model = model.to(local_device())
        if needs_weights and self.weights is None and not has_own_weights(self.network):
            text = f"warning: {self.network} has random weights; give --weights"
            say(error_console, text, style="yellow")
        return model

    def blank_images(self) -> "Tensor":
        """Return two images of zeros, where only the shape matters.

        Raises:
            StorageError: they do not fit into memory.
        """
        import torch

        from mrecg.shortage import require_memory

        require_memory(2, self.preprocessing.shape)
        return torch.zeros(2, *self.preprocessing.shape)

    def calibration(self, seed: int) -> "CalibrationImages":
        """Read the calibration images; name those that cannot be read.

        Raises:
            DataError: no images are named, or they cannot be used.
        """
        from mrecg.cli.preprocessing_choice import check_resizable
        from mrecg.cli.show import show_skipped
        from mrecg.data import calibration_images, recorded_name

        source = self.named_data()
        check_resizable(source, self.options)
        found = calibration_images(
            source,
            self.images,
            seed,
            self.preprocessing,
            crops=self.crops,
            workers=self.workers,
        )
        show_skipped(error_console, found.skipped)
        if self.validation is None or found.source is None:
            return found
        validation = {"validation": recorded_name(self.validation)}
        return replace(found, source=found.source.model_copy(update=validation))

    def named_data(self) -> str:
        """Return the source of the images.

        Raises:
            DataError: none is named.
        """
        if self.data is None:
            raise DataError(
                "No images are named; give --data, such as --data folder:images, --data imagenet:/data/imagenet, or "
                "--data demo for the packaged ones."
            )
        return self.data

    def evaluation(self, count: int | None) -> "EvaluationBatches | None":
        """Prepare the labeled images; `None` and a note where there are none, `None` where `count` is 0."""
        from mrecg.data import evaluation_batches

        if count == 0:
            return None
        try:
            return evaluation_batches(
                self.validation or self.named_data(),
                preprocessing=self.preprocessing,
                count=count,
                workers=self.workers,
            )
        except NoLabelsError as error:
            say(error_console, f"The accuracy is not measured: {error}")
            return None
