"""The preprocessing of images, from what options, network, configuration file and record say."""

import math
from dataclasses import replace
from pathlib import Path

from mrecg.cli.options import CalibrationOptions, ImageOptions, NetworkOptions
from mrecg.data import Preprocessing, own_preprocessing
from mrecg.errors import DataError
from mrecg.paper.mqbench import Experiment
from mrecg.paper.networks import NETWORKS
from mrecg.records.record import Record

__all__ = ["check_resizable", "network_preprocessing", "run_preprocessing"]


def network_preprocessing(
    network: str, experiment: Experiment | None, options: NetworkOptions
) -> Preprocessing:
    """Return the preprocessing for a network: options win over the configuration file, which wins over the network's.

    Raises:
        DataError: the images have no such size or channels.
    """
    if options.channels == 2:
        raise DataError("Images have 1 channel (gray) or 3 (color), got --channels 2.")
    if options.data is not None:
        check_resizable(options.data, options)
        own = own_preprocessing(options.data)
        if own is not None:
            return own
    return _normalized(_cut_as_asked(network, experiment, options), options)


def _cut_as_asked(
    network: str, experiment: Experiment | None, options: NetworkOptions
) -> Preprocessing:
    """Return the network's preprocessing with the channels and the sizes that options and file ask for."""
    usual = _usual(network)
    if options.channels is not None and options.channels != usual.channels:
        usual = replace(_unknown(options.channels), crop=usual.crop, resize=usual.resize)
    if options.size is not None:
        return usual.resized(options.size)
    if experiment is not None:
        return replace(usual, crop=experiment.crop, resize=experiment.resize)
    return usual


def _normalized(usual: Preprocessing, options: NetworkOptions) -> Preprocessing:
    """Return the preprocessing with the mean and the standard deviation that were asked for."""
    given = {
        name: _numbers(name, text, usual.channels)
        for name, text in (("mean", options.mean), ("std", options.std))
        if text is not None
    }
    return replace(usual, **given)  # type: ignore[arg-type]


def _numbers(name: str, text: str, channels: int) -> tuple[float, ...]:
    """Read a number for each channel; a single one holds for all."""
    try:
        found = tuple(float(part) for part in text.split(","))
        if not all(map(math.isfinite, found)):
            raise ValueError
    except ValueError:
        raise DataError(
            f"The option --{name} takes numbers between commas, such as 0.5,0.5,0.5, got '{text}'."
        ) from None
    return found * channels if len(found) == 1 else found


def run_preprocessing(record: Record, data: str, options: ImageOptions) -> Preprocessing:
    """Return the preprocessing that makes images of `data` the inputs of a saved run.

    Raises:
        DataError: the images have a size of their own, and another was asked for.
    """
    check_resizable(data, options)
    if record.input_shapes:
        raise DataError(
            f"The run's network takes {len(record.input_shapes)} inputs: {', '.join(record.input_shapes)}, and image files give one; "
            "in Python, give dictionaries of tensors by these names."
        )
    if record.preprocessing:
        usual = Preprocessing.from_description(record.preprocessing)
    else:  # a run that was quantized from Python
        usual = _unknown(record.input_shape[0]).resized(record.input_shape[-1])
    if record.input_shape != (usual.channels, usual.crop, usual.crop):
        raise DataError(
            f"The run's preprocessing gives images of {usual.channels}×{usual.crop}×{usual.crop}, but its network takes "
            f"{'×'.join(map(str, record.input_shape))}; quantize again."
        )
    return usual if options.size is None else usual.resized(options.size)


def check_resizable(data: str, options: ImageOptions) -> None:
    """Refuse another size or number of channels where the images of a source come in one.

    Raises:
        DataError: naming the options to leave out.
    """
    own = own_preprocessing(data)
    asked = [options.size]
    if isinstance(options, CalibrationOptions):
        asked += [options.channels, options.mean, options.std]  # type: ignore[list-item]
    if own is not None and any(one is not None for one in asked):
        raise DataError(
            f"The images of '{data}' come as {own.channels}×{own.crop}×{own.crop}, normalized; "
            "leave out --size, --channels, --mean and --std."
        )


def _usual(network: str) -> Preprocessing:
    """Return the preprocessing of a network that is known, or of images as an ONNX file wants them."""
    source, _, file = network.partition(":")
    if source == "onnx":
        from mrecg.conversion.onnx_files import image_shape

        channels, side = image_shape(Path(file))
        usual = _unknown(1 if channels == 1 else 3)
        return usual if side is None else usual.resized(side)
    known = NETWORKS.get(network)
    return Preprocessing() if known is None else known.preprocessing


def _unknown(channels: int) -> Preprocessing:
    """Return the preprocessing for images of which only the channels are known."""
    return Preprocessing(channels=1, mean=(0.5,), std=(0.5,)) if channels == 1 else Preprocessing()
