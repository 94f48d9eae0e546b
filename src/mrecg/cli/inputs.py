"""From options and configuration files to recipes, networks and images."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from mrecg.cli.consoles import error_console
from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe, read_recipe
from mrecg.errors import DataError, NoLabelsError, RecipeError, StorageError
from mrecg.paper.mqbench import Experiment

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from mrecg.data import CalibrationImages, EvaluationBatches, Preprocessing
    from mrecg.records.evaluation import Evaluation
    from mrecg.records.record import Record

__all__ = [
    "Inputs",
    "bytes_of",
    "changes_of",
    "measure_float",
    "preprocessing_of",
    "recipe_from",
    "workers_or_usual",
]

_IMAGES = 256


def changes_of(overrides: Sequence[str] | None) -> dict[str, Any]:
    """The settings in `KEY=VALUE` options, with values as YAML.

    Raises:
        RecipeError: an option has no value, or one that is no YAML.
    """
    changes: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator:
            raise RecipeError(f"The setting '{item}' has no value, expected KEY=VALUE.")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"The value of '{key}' cannot be read: {value}.") from error
    return changes


def recipe_from(
    preset_name: str | None,
    recipe_file: Path | None,
    experiment: Experiment | None,
    backend: str | None,
    overrides: Sequence[str] | None,
) -> Recipe:
    """The one recipe that the options ask for.

    Raises:
        RecipeError: there are two, or it cannot be used.
    """
    given = {"--preset": preset_name, "--recipe": recipe_file, "--config": experiment}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise RecipeError(f"A run has one recipe, got {' and '.join(named)}; leave one out.")
    if recipe_file is not None:
        recipe = read_recipe(recipe_file)
    elif experiment is not None:
        recipe = experiment.recipe
    else:
        recipe = preset(preset_name or "w4a4-qdrop-mrecg")
    if backend is not None:
        recipe = recipe.for_backend(backend)
    return recipe.override(changes_of(overrides))


def workers_or_usual(asked: int | None) -> int:
    """How many processes decode images."""
    return min(4, os.cpu_count() or 1) if asked is None else asked


def bytes_of(size: str | None) -> int | None:
    """A size such as 4GiB in bytes.

    Raises:
        StorageError: it cannot be read.
    """
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise StorageError(
            f"The memory budget '{size}' cannot be read, expected a size such as 4GiB."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


class Inputs(NamedTuple):
    """What a command works on, once options, configuration file and network have been asked in this order."""

    recipe: Recipe
    network: str
    weights: Path | None
    num_classes: int | None
    data: str
    images: int
    crops: str
    workers: int
    preprocessing: "Preprocessing"
    resized: bool

    @classmethod
    def resolve(
        cls,
        recipe: Recipe,
        experiment: Experiment | None,
        *,
        network: str | None,
        weights: Path | None,
        data: str | None,
        images: int | None = None,
        crops: str | None = None,
        size: int | None,
        channels: int | None,
        workers: int | None,
    ) -> "Inputs":
        """Options win over the configuration file, which wins over what is known of the network.

        Raises:
            RecipeError: neither names a network.
            DataError: the images have no such size or channels.
        """
        if channels == 2:
            raise DataError("Images have 1 channel (grey) or 3 (colour), got --channels 2.")
        resized = size is not None or channels is not None
        if data is not None:
            _check_resizable(data, resized)
        asked = experiment
        name = network or (asked.network if asked else None)
        if name is None:
            raise RecipeError("No network is named; give --network, or a --config with model.type.")
        usual = f"imagenet:{asked.data}" if asked and asked.data else "fashion-mnist"
        source = usual if data is None else data
        return cls(
            recipe=recipe,
            network=name,
            weights=weights or (asked.weights if asked else None),
            num_classes=asked.num_classes if asked else None,
            data=source,
            images=images or (asked.images if asked else _IMAGES),
            crops=crops or ("random" if asked else "centre"),
            workers=workers_or_usual(asked.workers if asked and workers is None else workers),
            preprocessing=_preprocessing(name, asked, data, size, channels),
            resized=resized,
        )

    def model(self, needs_weights: bool = True) -> "nn.Module":
        """The float network, with a warning when its weights are random and that matters."""
        from mrecg.distributed import local_device
        from mrecg.paper.networks import has_own_factory, network

        model = network(self.network, self.weights, self.num_classes).to(local_device())
        if needs_weights and self.weights is None and not has_own_factory(self.network):
            error_console.print(
                f"warning: {self.network} has random weights; give --weights", style="yellow"
            )
        return model

    def blank_images(self) -> "Tensor":
        """Two images of the right shape, for what looks at shapes only."""
        import torch

        side = self.preprocessing.crop
        return torch.zeros(2, self.preprocessing.channels, side, side)

    def calibration(self) -> "CalibrationImages":
        """The calibration images, with a note on those that cannot be read."""
        from mrecg.cli.show import show_skipped
        from mrecg.data import calibration_images

        _check_resizable(self.data, self.resized)
        found = calibration_images(
            self.data,
            self.images,
            self.recipe.seed,
            self.preprocessing,
            crops="random" if self.crops == "random" else "centre",
            workers=self.workers,
        )
        show_skipped(error_console, found.skipped)
        return found

    def evaluation(self, count: int | None) -> "EvaluationBatches | None":
        """The labelled images, or `None` and a note where there are none or none are wanted."""
        from mrecg.data import evaluation_batches

        if count == 0:
            return None
        try:
            return evaluation_batches(
                self.data, preprocessing=self.preprocessing, count=count, workers=self.workers
            )
        except NoLabelsError as error:
            error_console.print(
                f"The accuracy is not measured: {error}", markup=False, soft_wrap=True
            )
            return None


def _preprocessing(
    network: str,
    experiment: Experiment | None,
    data: str | None,
    size: int | None,
    channels: int | None,
) -> "Preprocessing":
    from mrecg.data import Preprocessing, own_preprocessing
    from mrecg.paper.networks import NETWORKS

    own = own_preprocessing(data) if data is not None else None
    if own is not None:
        return own

    known = NETWORKS.get(network)
    usual = Preprocessing() if known is None else known.preprocessing
    if channels is not None and channels != usual.channels:
        usual = replace(_plain(channels), crop=usual.crop, resize=usual.resize)
    if size is None and experiment is not None:
        return replace(usual, crop=experiment.crop, resize=experiment.resize)
    return usual if size is None else usual.resized(size)


def _plain(channels: int) -> "Preprocessing":
    """For images of which nothing else is known."""
    from mrecg.data import Preprocessing

    return (
        Preprocessing(channels=1, mean=(0.5,), deviation=(0.5,))
        if channels == 1
        else Preprocessing()
    )


def _check_resizable(data: str, resized: bool) -> None:
    from mrecg.data import own_preprocessing

    own = own_preprocessing(data)
    if own is not None and resized:
        raise DataError(
            f"The images of '{data}' come as {own.channels}×{own.crop}×{own.crop}; leave out --size and --channels."
        )


def preprocessing_of(record: "Record", data: str, size: int | None) -> "Preprocessing":
    """How the images of a source become the inputs of a run.

    Raises:
        DataError: they have a size of their own, and another was asked for.
    """
    from mrecg.data import Preprocessing

    _check_resizable(data, size is not None)
    if record.preprocessing:
        usual = Preprocessing.from_description(record.preprocessing)
    else:  # a run that no command made
        usual = _plain(record.input_shape[0]).resized(record.input_shape[-1])
    return usual if size is None else usual.resized(size)


def measure_float(
    model: "nn.Module", network: str, batches: "EvaluationBatches", output: "Console"
) -> "Evaluation":
    """The accuracy before quantization; one that is too low means that something else is wrong."""
    from mrecg.cli.show import show_accuracy, show_skipped
    from mrecg.evaluation import below_published, evaluate
    from mrecg.paper.networks import published_top1

    measured = evaluate(model.eval(), batches)
    show_accuracy(output, "float", measured)
    show_skipped(error_console, batches.skipped)
    warning = below_published(measured, published_top1(network))
    if warning is not None:
        error_console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    return measured
