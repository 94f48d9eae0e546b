"""Small float networks, trained on Fashion-MNIST."""

from pathlib import Path

__all__ = ["FOLDER", "OUR_NETWORKS"]

FOLDER = Path(__file__).parent
OUR_NETWORKS = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
