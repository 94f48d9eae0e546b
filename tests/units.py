"""Units of one layer, as a plan sees them, without a network."""

from mrecg.records.plan import Layer


class Unit:
    """Its name, shape and layers."""

    def __init__(
        self, name: str, parameters: int = 10, shape: tuple[int, ...] = (4, 8, 8), stride: int = 1
    ) -> None:
        self.name = name
        self.shape = shape
        self.layers = (
            Layer(
                name=name,
                kind="conv2d",
                parameters=parameters,
                bits=2,
                stride=stride,
                groups="dense",
            ),
        )


def units_of(*parameters: int) -> list[Unit]:
    return [Unit(f"u{i}", count) for i, count in enumerate(parameters)]
