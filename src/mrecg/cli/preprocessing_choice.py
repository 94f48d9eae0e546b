"""The preprocessing of images, from what options, network, configuration file and record say."""

from dataclasses import replace
from pathlib import Path

from mrecg.cli.options import ImageOptions, NetworkOptions
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
    usual = _usual(network)
    if options.channels is not None and options.channels != usual.channels:
        usual = replace(_unknown(options.channels), crop=usual.crop, resize=usual.resize)
    if options.size is not None:
        return usual.resized(options.size)
    if experiment is not None:
        return replace(usual, crop=experiment.crop, resize=experiment.resize)
    return usual


def run_preprocessing(record: Record, data: str, options: ImageOptions) -> Preprocessing:
    """Return the preprocessing that makes images of `data` the inputs of a saved run.

    Raises:
        DataError: the images have a size of their own, and another was asked for.
    """
    check_resizable(data, options)
    if record.preprocessing:
        usual = Preprocessing.from_description(record.preprocessing)
    else:  # a run that was quantized from Python
        usual = _unknown(record.input_shape[0]).resized(record.input_shape[-1])
    return usual if options.size is None else usual.resized(options.size)


def check_resizable(data: str, options: ImageOptions) -> None:
    """Refuse another size or number of channels where the images of a source come in one.

    Raises:
        DataError: naming the options to leave out.
    """
    own = own_preprocessing(data)
    channels = options.channels if isinstance(options, NetworkOptions) else None
    if own is not None and (options.size is not None or channels is not None):
        raise DataError(
            f"The images of '{data}' come as {own.channels}×{own.crop}×{own.crop}; leave out --size and --channels."
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
