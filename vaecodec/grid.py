"""The grid of tiles: which tiles lie around others, and the order in which they are worked on."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bitstream import Header, TileBox
from vaecodec.canvas import LATENT_PX, Area

Samples = NDArray[np.uint8]


class Window(NamedTuple):
    """A rectangle of a picture in pixels; the last row and column are outside."""

    top: int
    bottom: int
    left: int
    right: int

    def widened(self, margin_px: int, header: Header) -> "Window":
        """The window with so many pixels around it, as far as the picture goes."""
        return Window(
            max(0, self.top - margin_px), min(header.height, self.bottom + margin_px),
            max(0, self.left - margin_px), min(header.width, self.right + margin_px),
        )  # fmt: skip

    @property
    def area(self) -> Area:
        """The latents that the window has a share of."""
        top, left = self.top // LATENT_PX, self.left // LATENT_PX
        return Area(top, -(-self.bottom // LATENT_PX), left, -(-self.right // LATENT_PX))

    def part_of(self, box: TileBox) -> TileBox:
        """What the window and a box that meets it have in common."""
        top, left = max(self.top, box.top), max(self.left, box.left)
        height = min(self.bottom, box.top + box.height) - top
        return box._replace(top=top, left=left, height=height, width=min(self.right, box.left + box.width) - left)


class Grid:
    """The colour tiles of a picture by number, row and column."""

    def __init__(self, header: Header) -> None:
        self.rows, self.columns = header.grid
        self.boxes = header.boxes()[: self.rows * self.columns]
        self._size_px = header.tile_size

    def number(self, row: int, column: int) -> int:
        """The number of a tile in the file."""
        return row * self.columns + column

    def under(self, window: Window) -> tuple[range, range]:
        """Rows and columns of the tiles that a window meets."""
        rows = range(window.top // self._size_px, -(-window.bottom // self._size_px))
        return rows, range(window.left // self._size_px, -(-window.right // self._size_px))

    def around(self, numbers: set[int], reach: int) -> set[int]:
        """The tiles at most `reach` rows and columns away from some of these, themselves included."""
        found = set()
        for row, column in (divmod(number, self.columns) for number in numbers):
            rows = range(max(0, row - reach), min(self.rows, row + reach + 1))
            columns = range(max(0, column - reach), min(self.columns, column + reach + 1))
            found |= {self.number(*place) for place in itertools.product(rows, columns)}
        return found

    def visits(self, rows: range, columns: range, reach: int) -> Iterator[tuple[int | None, int | None]]:
        """Pairs of numbers: a tile to prepare, and one around which all are prepared by then; either may be None."""
        for row in range(rows.start, rows.stop + reach):
            for column in range(columns.start, columns.stop + reach):
                prepared = self.number(row, column) if row in rows and column in columns else None
                is_ready = row - reach in rows and column - reach in columns
                yield prepared, self.number(row - reach, column - reach) if is_ready else None


def cut(samples: Samples, box: TileBox) -> Samples:
    """A view of the box's samples [h, w, C] of a picture, or of some of its rows, [H, W, all channels]."""
    channels = slice(-1, None) if box.plane == "alpha" else slice(0, box.channels)
    return samples[box.top : box.top + box.height, box.left : box.left + box.width, channels]


def alpha_of(box: TileBox) -> TileBox:
    """The box of the alpha plane in the place of one of the colour plane."""
    return box._replace(plane="alpha", channels=1)
