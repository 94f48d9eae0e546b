"""The optional packages behind this room."""

from importlib.util import find_spec

from mrecg.errors import ExportError

__all__ = ["is_installed", "require"]


def is_installed(package: str) -> bool:
    """Whether `package` can be imported; it is not imported."""
    return find_spec(package) is not None


def require(*packages: str) -> None:
    """Refuse to go on without `packages`.

    Raises:
        ExportError: naming the first that is missing and how to get it.
    """
    for package in packages:
        if not is_installed(package):
            raise ExportError(
                f"Files for ONNX Runtime need the package {package}, which is not installed; "
                "install mrecg[onnx]."
            )
