"""Tile geometry, the sweep over rows of tiles, and the canvas: latents around a tile, so that there are no seams."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vaecodec.errors import Result, VaecCorruptError, first_that_fits
from vaecodec.format.records import Header, TileBox
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import Samples, pad_edge


class Rect(NamedTuple):
    """A rectangle of pixels, or of positions on the latent grid; `bottom` and `right` are exclusive."""

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
        """For a rectangle of pixels: the latents whose blocks it touches."""
        top, left = self.top // LATENT_STRIDE, self.left // LATENT_STRIDE
        return Rect(top, -(-self.bottom // LATENT_STRIDE), left, -(-self.right // LATENT_STRIDE))

    def widened(self, margin: int, bounds: "Rect") -> "Rect":
        """The rectangle widened by a margin on every side, clipped to bounds."""
        return Rect(
            max(bounds.top, self.top - margin), min(bounds.bottom, self.bottom + margin),
            max(bounds.left, self.left - margin), min(bounds.right, self.right + margin),
        )  # fmt: skip

    def part_of(self, box: TileBox) -> TileBox:
        """For a rectangle of pixels: its intersection with an overlapping box."""
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
        """How many rows and columns of tiles around a tile a margin of latents reaches into."""
        return -(-margin * LATENT_STRIDE // self.tile_size)

    def number(self, row: int, column: int) -> int:
        """The number of a tile in the file."""
        return row * self.columns + column

    def numbers(self, row: int, columns: range | None = None) -> list[int]:
        """The numbers of the tiles in a row."""
        return [self.number(row, column) for column in columns or range(self.columns)]

    def under(self, window: Rect) -> tuple[range, range]:
        """Rows and columns of the tiles that overlap a window of pixels."""
        rows = range(window.top // self.tile_size, -(-window.bottom // self.tile_size))
        return rows, range(window.left // self.tile_size, -(-window.right // self.tile_size))

    def around(self, numbers: set[int], reach: int) -> set[int]:
        """These tiles and all tiles at most `reach` rows and columns away from one of them."""
        found = set()
        for row, column in (divmod(number, self.columns) for number in numbers):
            rows = range(max(0, row - reach), min(self.rows, row + reach + 1))
            columns = range(max(0, column - reach), min(self.columns, column + reach + 1))
            found |= {self.number(*place) for place in itertools.product(rows, columns)}
        return found


def sweep(rows: range, reach: int, prepare: Callable[[int], None], finish: Callable[[int], Result]) -> Iterator[Result]:
    """Visit rows of tiles from top to bottom; both encoders and decoders use this.

    Args:
        rows: of tiles.
        reach: how many rows below a row must be prepared before it can be finished.
        prepare: puts the latents of a row in place.
        finish: returns the result for a row, which is yielded.
    """
    for row in range(rows.start, rows.stop + reach):
        if row in rows:
            prepare(row)
        if row - reach in rows:
            yield finish(row - reach)


def cut(samples: Samples, box: TileBox) -> Samples:
    """A view of the samples [h, w, C] in a box of a picture [H, W, all channels], or of some of its rows."""
    channels = slice(-1, None) if box.plane == "alpha" else slice(0, box.channels)
    return samples[box.top : box.top + box.height, box.left : box.left + box.width, channels]


def alpha_of(box: TileBox) -> TileBox:
    """The box of the alpha plane at the place of a box of the colour plane."""
    return box._replace(plane="alpha", channels=1)


def to_rgb(samples: Samples) -> Samples:
    """The colours [H, W, 3] of a picture in any of the four pixel formats; grey is repeated."""
    return np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]


SMALLEST_PART_PX = 64  # when memory is short, transforms process parts of a tile, down to this side


def analyze(samples: Samples, top: int, box: TileBox, engine: Engine, quality: int) -> Array:
    """Unquantized latents [M, h, w] of a box, analyzed with the pixels around it as far as they are given.

    Args:
        samples: rows [h, W, C] of the picture.
        top: number of the first of these rows in the picture, a multiple of 16.
        box: in the picture.
        engine: runs the analysis.
        quality: 1 to 100.
    """
    bounds = Rect(top, top + samples.shape[0], 0, samples.shape[1]).latents

    def work(part: TileBox) -> Array:
        inner = Rect.of(part).latents
        seen = inner.widened(engine.arch.analysis_margin, bounds)
        rows = slice((seen.top - bounds.top) * LATENT_STRIDE, (seen.bottom - bounds.top) * LATENT_STRIDE)
        pixels = samples[rows, seen.left * LATENT_STRIDE : seen.right * LATENT_STRIDE]
        latents = engine.analyze(pad_edge(to_rgb(pixels), LATENT_STRIDE), quality)
        above, before = inner.top - seen.top, inner.left - seen.left
        return latents[:, above : inner.bottom - seen.top, before : inner.right - seen.left]

    def join(parts: list[Array], axis: int) -> Array:
        return engine.concat(parts, 1 + axis)

    return _whole_or_halves(box, work, join, largest_px=engine.at_once_px)


class Canvas:
    """Latents of a few rows of tiles: placed in order, synthesized, and released again.

    Args:
        header: of the picture.
        engine: runs the synthesis.
        window: the needed part of the latent grid; None is all of it.
        deblocking_cut: as in the header. None, for encoders: the first synthesized part chooses it.
    """

    def __init__(
        self, header: Header, engine: Engine, window: Rect | None = None, *, deblocking_cut: int | None
    ) -> None:
        self.engine, self.quality, self.deblocking_cut = engine, header.quality, deblocking_cut
        self.window = window or Rect(0, header.height, 0, header.width).latents
        self._margin = engine.arch.synthesis_margin
        self._side = header.tile_size // LATENT_STRIDE
        self._left = self.window.left // self._side * self._side  # where tiles begin
        self._width = (
            min(-(-self.window.right // self._side) * self._side, -(-header.width // LATENT_STRIDE)) - self._left
        )
        self._rows: dict[int, tuple[int, Array]] = {}  # row of tiles: first row of its latents and of those above them

    def place(self, box: TileBox, latents: Array | None) -> None:
        """Puts the latents [M, h, w] of a tile in place; None, for a tile that is not learned, means zeros.

        A row of tiles, with its margin above, is one block of memory: many small blocks between those that synthesis
        allocates and frees would fragment the heap.
        """
        area = Rect.of(box).latents
        row = area.top // self._side
        if row not in self._rows:
            self._rows[row] = self._begin_row(row, area)
        top, block = self._rows[row]
        if latents is not None:
            block[:, area.top - top : area.bottom - top, area.left - self._left : area.right - self._left] = latents

    def _begin_row(self, row: int, area: Rect) -> tuple[int, Array]:
        """Allocates a row of tiles, and copies the margin from the row above, which is complete."""
        above = self._rows[row - 1][1][:, -self._margin :] if row - 1 in self._rows else None
        height = 0 if above is None else above.shape[1]
        block = self.engine.zeros(height + area.size[0], self._width)
        if above is not None:
            block[:, :height] = above
        return area.top - height, block

    def release(self, row: int) -> None:
        """Frees the memory of a finished row of tiles."""
        for done in [number for number in self._rows if number <= row]:
            del self._rows[done]

    def synthesize_like(self, box: TileBox, original: Samples) -> Array:
        """Synthesizes samples uint8 [h, w, C] of a tile whose neighbours are in place, to compare with `original`.

        Chooses the deblocking cut if there is none yet.
        """

        def work(part: TileBox) -> Array:
            if self.deblocking_cut is not None:
                return self._synthesize(part)
            top, left = part.top - box.top, part.left - box.left
            return self._fit(part, original[top : top + part.height, left : left + part.width])

        return _whole_or_halves(box, work, self.engine.concat, largest_px=self.engine.at_once_px)

    def synthesize(self, box: TileBox) -> Array:
        """Synthesizes samples uint8 [h, w, C] of a part of a tile whose neighbours are in place."""
        above, before = box.top % LATENT_STRIDE, box.left % LATENT_STRIDE
        aligned = box._replace(
            top=box.top - above, left=box.left - before, height=box.height + above, width=box.width + before
        )
        whole = _whole_or_halves(aligned, self._synthesize, self.engine.concat, largest_px=self.engine.at_once_px)
        return whole[above:, before:]

    def _synthesize(self, box: TileBox) -> Array:
        seen, inside = self._around(box)
        latents = self.latents(seen)[None]
        pixels, (is_finite,) = self.engine.synthesize(latents, [self.quality], [self.deblocking_cut or 0])
        return in_channels(self.engine, check_finite(pixels[0], is_finite)[inside], box)

    def _fit(self, box: TileBox, original: Samples) -> Array:
        seen, inside = self._around(box)
        pixels, cut, is_finite = self.engine.synthesize_like(self.latents(seen), self.quality, to_rgb(original), inside)
        check_finite(pixels, is_finite)
        self.deblocking_cut = cut
        return in_channels(self.engine, pixels[inside], box)

    def _around(self, box: TileBox) -> tuple[Rect, tuple[slice, slice]]:
        """The latents that the synthesis of a box needs, and the position of the box in their pixels."""
        inner = Rect.of(box).latents
        seen = inner.widened(self._margin, self.window)
        above, before = (inner.top - seen.top) * LATENT_STRIDE, (inner.left - seen.left) * LATENT_STRIDE
        return seen, (slice(above, above + box.height), slice(before, before + box.width))

    def latents(self, area: Rect) -> Array:
        """Latents [M, h, w] of an area whose tiles are in place."""
        columns = slice(area.left - self._left, area.right - self._left)
        first = max(row for row, (top, _) in self._rows.items() if top <= area.top)
        parts, begins = [], area.top
        for row in range(first, -(-area.bottom // self._side)):
            top, block = self._rows[row]
            parts.append(block[:, begins - top : area.bottom - top, columns])
            begins += parts[-1].shape[1]
        return parts[0] if len(parts) == 1 else self.engine.concat(parts, 1)


def in_channels(engine: Engine, rgb: Array, box: TileBox) -> Array:
    """Converts pixels [h, w, 3] to the channels of a tile."""
    return rgb if box.channels == 3 else engine.grey(rgb)


def check_finite(pixels: Array, is_finite: bool) -> Array:
    """Returns the pixels unchanged.

    Raises:
        VaecCorruptError: (NONFINITE) the synthesis overflowed.
    """
    if not is_finite:
        raise VaecCorruptError("the latents do not synthesize to finite pixels", code="NONFINITE")
    return pixels


def _whole_or_halves(
    box: TileBox,
    work: Callable[[TileBox], Result],
    join: Callable[[list[Result], int], Result],
    *,
    largest_px: int,
) -> Result:
    """Does the work on a box. If memory does not suffice, splits the box in halves, recursively, and joins the results.

    Args:
        box: a part of a tile that starts on the latent grid.
        work: what to do with a box.
        join: joins the results of two boxes along axis 0 (one above the other) or 1 (side by side).
        largest_px: boxes with more pixels are always split.
    """
    is_tall = box.height >= box.width
    middle = max(box.height, box.width) // 2 // LATENT_STRIDE * LATENT_STRIDE
    if middle < SMALLEST_PART_PX:
        return first_that_fits(lambda: work(box))
    if is_tall:
        halves = box._replace(height=middle), box._replace(top=box.top + middle, height=box.height - middle)
    else:
        halves = box._replace(width=middle), box._replace(left=box.left + middle, width=box.width - middle)

    def in_halves() -> Result:
        parts = [_whole_or_halves(half, work, join, largest_px=largest_px) for half in halves]
        return join(parts, 0 if is_tall else 1)

    if box.height * box.width > largest_px:
        return in_halves()
    return first_that_fits(lambda: work(box), in_halves)
