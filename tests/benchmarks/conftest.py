"""Benchmarks set the number of threads, which other tests keep; and a small data set."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mrecg.data import DEMO_FOLDER

IMAGES = {"train": 40, "t10k": 100}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first images of the packaged ones: 40 for training and 100 for tests."""
    folder = tmp_path_factory.mktemp("data")
    for path in DEMO_FOLDER.glob("*.gz"):
        raw, count = gzip.decompress(path.read_bytes()), IMAGES[path.name.partition("-")[0]]
        header = 4 + 4 * raw[3]
        size = (len(raw) - header) // int.from_bytes(raw[4:8])
        kept = raw[:4] + count.to_bytes(4) + raw[8 : header + count * size]
        (folder / path.name).write_bytes(gzip.compress(kept))
    return folder
