"""Where tiles lie: rectangles of pixels and of latents, the grid of tiles, and the sweep over its rows."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from vaecodec.format.records import Header, TileBox
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.pictures.rows import Samples

Result = TypeVar("Result")


class Rect(NamedTuple):
    """A rectangle of a picture's pixels, or of its latent grid; the last row and column are outside."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, box: TileBox) -> "Rect":
        """The pixels of a tile."""
        return cls(box.top, box.top + box.height, box.left, box.left + box.width)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def latents(self) -> "Rect":
        """Of pixels: the latents that have a share in them."""
        top, left = self.top // LATENT_STRIDE, self.left // LATENT_STRIDE
        return Rect(top, -(-self.bottom // LATENT_STRIDE), left, -(-self.right // LATENT_STRIDE))

    def widened(self, margin: int, bounds: "Rect") -> "Rect":
        """Widened on every side, within bounds."""
        return Rect(
            max(bounds.top, self.top - margin), min(bounds.bottom, self.bottom + margin),
            max(bounds.left, self.left - margin), min(bounds.right, self.right + margin),
        )  # fmt: skip

    def part_of(self, box: TileBox) -> TileBox:
        """Of pixels: what a box that meets them has in common with them."""
        top, left = max(self.top, box.top), max(self.left, box.left)
        height = min(self.bottom, box.top + box.height) - top
        return box._replace(top=top, left=left, height=height, width=min(self.right, box.left + box.width) - left)


class Grid:
    """The colour tiles of a picture by number, row and column."""

    def __init__(self, header: Header) -> None:
        self.rows, self.columns = header.grid
        self.boxes = header.boxes()[: self.rows * self.columns]
        self.picture = Rect(0, header.height, 0, header.width)
        self.tile_size = header.tile_size

    def reach(self, margin: int) -> int:
        """How many rows, and columns, of tiles around a tile hold the latents within a margin of it."""
        return -(-margin * LATENT_STRIDE // self.tile_size)

    def number(self, row: int, column: int) -> int:
        """The number of a tile in the file."""
        return row * self.columns + column

    def numbers(self, row: int, columns: range | None = None) -> list[int]:
        """The numbers of the tiles of a row."""
        return [self.number(row, column) for column in columns or range(self.columns)]

    def under(self, window: Rect) -> tuple[range, range]:
        """Rows and columns of the tiles that a window of pixels meets."""
        rows = range(window.top // self.tile_size, -(-window.bottom // self.tile_size))
        return rows, range(window.left // self.tile_size, -(-window.right // self.tile_size))

    def around(self, numbers: set[int], reach: int) -> set[int]:
        """The tiles at most `reach` rows and columns away from some of these, themselves included."""
        found = set()
        for row, column in (divmod(number, self.columns) for number in numbers):
            rows = range(max(0, row - reach), min(self.rows, row + reach + 1))
            columns = range(max(0, column - reach), min(self.columns, column + reach + 1))
            found |= {self.number(*place) for place in itertools.product(rows, columns)}
        return found


def sweep(rows: range, reach: int, prepare: Callable[[int], None], finish: Callable[[int], Result]) -> Iterator[Result]:
    """Visit rows of tiles from the top down, for encoders and decoders alike.

    Args:
        rows: of tiles.
        reach: how many rows below a row must be prepared before it is finished.
        prepare: puts the latents of a row in place.
        finish: makes of a row whatever is yielded.
    """
    for row in range(rows.start, rows.stop + reach):
        if row in rows:
            prepare(row)
        if row - reach in rows:
            yield finish(row - reach)


def cut(samples: Samples, box: TileBox) -> Samples:
    """A view of the box's samples [h, w, C] of a picture, or of some of its rows, [H, W, all channels]."""
    channels = slice(-1, None) if box.plane == "alpha" else slice(0, box.channels)
    return samples[box.top : box.top + box.height, box.left : box.left + box.width, channels]


def alpha_of(box: TileBox) -> TileBox:
    """The box of the alpha plane in the place of one of the colour plane."""
    return box._replace(plane="alpha", channels=1)


def to_rgb(samples: Samples) -> Samples:
    """Colour [H, W, 3] of a picture in any of the four formats."""
    return np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]
