"""What options, configuration files and networks say about inputs, and which of them wins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from command_line import Finished, small_network
from configuration_files import settings
from mrecg.cli.inputs import Inputs
from mrecg.cli.options import NetworkOptions
from mrecg.data import Preprocessing
from mrecg.errors import DataError, RecipeError
from mrecg.paper.mqbench import Experiment, read_experiment
from pictures import imagenet


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "authors.yaml").write_text(yaml.safe_dump(settings()))
    return read_experiment(tmp_path / "authors.yaml")


def test_a_configuration_file_wins_over_the_defaults(experiment: Experiment) -> None:
    inputs = Inputs.resolve(NetworkOptions(), experiment)
    assert (inputs.network, inputs.data) == ("resnet18", "imagenet:/data/imagenet")
    assert (inputs.workers, inputs.images, inputs.crops) == (4, 4096, "random")
    assert (inputs.preprocessing.resize, inputs.preprocessing.crop) == (256, 224)


def test_options_win_over_a_configuration_file(experiment: Experiment) -> None:
    options = NetworkOptions(
        network="resnet50", data="folder:mine", workers=0, size=112, images=7, crops="center"
    )
    inputs = Inputs.resolve(options, experiment)
    assert (inputs.network, inputs.data, inputs.workers) == ("resnet50", "folder:mine", 0)
    assert (inputs.images, inputs.crops) == (7, "center")
    assert (inputs.preprocessing.resize, inputs.preprocessing.crop) == (128, 112)


def test_a_known_network_brings_its_preprocessing() -> None:
    inputs = Inputs.resolve(NetworkOptions(network="efficientnet_lite0", data="folder:mine"), None)
    assert inputs.preprocessing.interpolation == "bicubic"
    assert (inputs.images, inputs.crops) == (256, "center")
    gray = NetworkOptions(network="mine:net", data="folder:mine", channels=1)
    unknown = Inputs.resolve(gray, None).preprocessing
    assert unknown == Preprocessing(channels=1, mean=(0.5,), std=(0.5,))
    assert Inputs.resolve(gray, None).blank_images().shape == (2, 1, 224, 224)


def test_inputs_that_contradict() -> None:
    with pytest.raises(RecipeError, match="No network is named"):
        Inputs.resolve(NetworkOptions(), None)
    fashion = NetworkOptions(network="resnet18_small", data="demo")
    for options in (replace(fashion, size=28), replace(fashion, channels=1)):
        with pytest.raises(
            DataError,
            match="come as 1×28×28, normalized; leave out --size, --channels, --mean and --std",
        ):
            Inputs.resolve(options, None)


def test_no_images_are_used_that_nobody_named() -> None:
    unnamed = Inputs.resolve(NetworkOptions(network="resnet18_small"), None)
    for use in (unnamed.named_data, lambda: unnamed.calibration(0), lambda: unnamed.evaluation(9)):
        with pytest.raises(
            DataError, match=r"No images are named; give --data, such as.*--data demo"
        ):
            use()


def test_a_size_that_cannot_fit_is_refused_before_memory_is_asked_for(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    network = small_network(tmp_path, channels=3)
    imagenet(tmp_path / "root", classes=2, images=4)
    for arguments, images, size in (
        (("plan", "--metric", "capacity"), 2, "223.5 GiB"),
        (
            ("quantize", "--images", "4", "--data", "folder:root/train", "--output", "run"),
            4,
            "447.0 GiB",
        ),
    ):
        done = mrecg_command(*arguments, "--network", network, "--size", "100000")
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"error: {images} images of 3×100000×100000 take {size} of")
        assert last.endswith("are free; give fewer or smaller ones.")
