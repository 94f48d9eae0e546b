"""Show a step windows of large feature maps: of thousands of positions of an image, a few hundred say the same.

A window of a group's inputs has a halo, so that what is compared with the targets has the values that it has in the whole map
(the overlap-tile strategy of Ronneberger et al., U-Net, 2015). At the borders of a map the network's own padding stands. Every
value is cut at the same place, in positions of the coarsest one, so that strided layers keep their phase.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mrecg.graph.receptive_fields import Extent, trace_fields
from mrecg.graph.units import Unit
from mrecg.planning.cost import largest_value, output_positions

__all__ = ["AxisCut", "Cut", "DrawnWindows", "View", "Windows", "find_view", "find_windows"]

LARGEST_WHOLE = 3 << 14
"""Numbers per image in the largest map of a group that always sees whole ones: a batch of them fits into a processor's cache."""
FEWEST_IMAGES = 4
"""Of a batch, one in so many is left at least where whole maps are many."""


class Cut(NamedTuple):
    """Windows of equal size, one for each of some feature maps.

    Attributes:
        top, left: the first row and column of each.
        height, width: of all.
    """

    top: Int64[Tensor, " b"]
    left: Int64[Tensor, " b"]
    height: int
    width: int


@dataclass(frozen=True)
class AxisCut:
    """How one axis is cut, in positions of the coarsest value.

    Attributes:
        count: positions of the whole map.
        tile: of them, those that are compared.
        halo: in front of a tile.
        length: of a window, both halos included.
        stride: of one of these positions, in positions of the finest input.
    """

    count: int
    tile: int
    halo: int
    length: int
    stride: int

    def draw(self, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the first positions of random windows and, in these, of their tiles; tiles cover the map evenly."""
        tiles = -(-self.count // self.tile)
        number = torch.randint(tiles, (images,), generator=generator)
        first = number * (self.count - self.tile) // max(1, tiles - 1)
        window = (first - self.halo).clamp(0, self.count - self.length)
        return window, first - window

    def size(self, extent: Extent) -> int:
        """Return the positions of a window of some value: as many less than the whole map as are cut off."""
        return extent.size - (self.count - self.length) * self.scale(extent)

    def scale(self, extent: Extent) -> int:
        """Return the positions of a value in one of the coarsest."""
        return self.stride // extent.stride


@dataclass(frozen=True)
class Windows:
    """Windows of what a group reads and makes.

    Attributes:
        rows, columns: how either axis is cut.
        fields: of every value.
    """

    rows: AxisCut
    columns: AxisCut
    fields: Mapping[str, tuple[Extent, Extent]]

    @property
    def fraction(self) -> float:
        """Return which part of a map a window is."""
        return math.prod(axis.length / axis.count for axis in (self.rows, self.columns))

    def draw(self, images: int, generator: torch.Generator) -> "DrawnWindows":
        """Return one window at a random place for each of some images."""
        axes = (self.rows, self.columns)
        (top, left), tiles = zip(*(one.draw(images, generator) for one in axes), strict=True)
        return DrawnWindows(self, (top, left), tiles)


@dataclass(frozen=True)
class DrawnWindows:
    """Windows of some images.

    Attributes:
        windows: how values are cut.
        corners: first row and first column of each window, in positions of the coarsest value.
        tiles: the same of what is compared in it, from the window's first on.
    """

    windows: Windows
    corners: tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]]
    tiles: tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]]

    def cut(self, name: str) -> Cut:
        """Return the windows of a value."""
        rows, columns = self.windows.rows, self.windows.columns
        height, width = self.windows.fields[name]
        return Cut(
            self.corners[0] * rows.scale(height),
            self.corners[1] * columns.scale(width),
            rows.size(height),
            columns.size(width),
        )

    def inside(self, name: str) -> Float[Tensor, "b 1 h w"]:
        """Return 1 for every position of a value's windows that is compared, and 0 for the others."""
        axes = (self.windows.rows, self.windows.columns)
        rows, columns = (
            _inside(first * axis.scale(extent), axis.tile * axis.scale(extent), axis.size(extent))
            for first, axis, extent in zip(self.tiles, axes, self.windows.fields[name], strict=True)
        )
        return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _inside(first: Tensor, count: int, size: int) -> Tensor:
    positions = torch.arange(size)
    return (positions >= first[:, None]) & (positions < first[:, None] + count)


class View(NamedTuple):
    """Part of a batch that a step of a group sees.

    Attributes:
        windows: of each image; `None` is whole maps.
        divisor: of the batch; so many times fewer images are read.
    """

    windows: Windows | None = None
    divisor: int = 1

    @property
    def fraction(self) -> float:
        """Return which part of the whole maps of a whole batch a step sees."""
        return (1.0 if self.windows is None else self.windows.fraction) / self.divisor


def find_view(units: Sequence[Unit], targets: Sequence[str], positions: int) -> View:
    """Return what a step of neighboring units sees, so that it compares about so many positions for each image of a batch.

    Windows, or, where these are hardly smaller than the map, for their halo, or a unit needs whole maps, fewer images.

    Args:
        units: the group.
        targets: names of the outputs that are compared.
        positions: of the coarsest of these.
    """
    if max(map(largest_value, units)) <= LARGEST_WHOLE:
        return View()
    counts = [
        count for unit in units for name, count in output_positions(unit).items() if name in targets
    ]
    fewer = View(divisor=max(1, min(FEWEST_IMAGES, min(counts) // positions)))
    windows = find_windows(units, targets, positions) if fewer.divisor > 1 else None
    return View(windows) if windows and windows.fraction < fewer.fraction else fewer


def find_windows(units: Sequence[Unit], targets: Sequence[str], positions: int) -> Windows | None:
    """Return windows in which so many positions of the coarsest value are compared, about; `None` where a unit needs whole maps."""
    fields = trace_fields(units)
    if fields is None:
        return None
    side = math.isqrt(positions)
    rows, columns = (
        _axis([field[axis] for field in fields.values()], [fields[n][axis] for n in targets], side)
        for axis in (0, 1)
    )
    return Windows(rows, columns, fields)


def _axis(extents: Sequence[Extent], targets: Sequence[Extent], side: int) -> AxisCut:
    stride = math.lcm(*(one.stride for one in extents))
    count = min(one.size * one.stride // stride for one in extents)
    before = max(-(-one.before * one.stride // stride) for one in targets)
    behind = max(-(-one.behind * one.stride // stride) for one in targets)
    tile = min(side, count)
    return AxisCut(count, tile, before, min(count, before + tile + behind), stride)
