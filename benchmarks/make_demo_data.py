"""Cut the demo slice out of Fashion-MNIST: 512 training images for calibration, the first 2,000 test images."""

import gzip
from pathlib import Path

import numpy as np

from mrecg.data import DEMO_FOLDER
from mrecg.data.fashion_mnist import DEBIAN_FOLDER

CALIBRATION, TEST, SEED = 512, 2000, 1005


def write(name: str, header_size: int, keep: np.ndarray) -> None:
    raw = gzip.decompress((DEBIAN_FOLDER / f"{name}.gz").read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=header_size).reshape(shape)[keep]
    header = raw[:4] + np.asarray(values.shape, ">i4").tobytes()
    path: Path = DEMO_FOLDER / f"{name}.gz"
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def main() -> None:
    DEMO_FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = np.random.RandomState(SEED).permutation(60000)[:CALIBRATION]
    for prefix, keep in (("train", chosen), ("t10k", np.arange(TEST))):
        write(f"{prefix}-images-idx3-ubyte", 16, keep)
        write(f"{prefix}-labels-idx1-ubyte", 8, keep)


if __name__ == "__main__":
    main()
