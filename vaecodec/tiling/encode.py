"""Encodes a picture to tiles, from top to bottom; the picture need not fit into memory.

A tile can be checked, as a decoder will show it, only after its neighbours are coded, because its synthesis sees their
latents. If a tile is then stored without the network, its neighbours lose its latents and must be checked again.
Further sweeps over the picture do that, each around the tiles that the previous sweep replaced.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.format.records import Header, Tile, TileBox
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import Rows, Samples, pad_edge, psnr_db, squared_error
from vaecodec.tiling.canvas import Canvas, Grid, Rect, alpha_of, analyze, cut, sweep, to_rgb
from vaecodec.tiling.multiples import BLOCK_PX, QUALITIES_BELOW
from vaecodec.tiling.tile import choose_mode, decode_latents, encode_tile, floor_psnr_db, learned_part, plain_tile

Refine = Callable[[Any, Array, tuple[slice, slice], Samples, int], tuple[Symbols, Array]]


class TileStore(Protocol):
    """Storage for tiles by number: a list, or a file."""

    def __getitem__(self, number: int, /) -> Tile: ...
    def __setitem__(self, number: int, tile: Tile, /) -> None: ...


def encode_plain(rows: Rows, header: Header, tiles: TileStore) -> None:
    """Codes all tiles of a picture losslessly, without the network; arguments as for `Encoder`."""
    grid = Grid(header)
    for row in range(header.grid[0]):
        first = grid.boxes[row * grid.columns]
        samples = rows.read(first.top, first.top + first.height)
        for number in grid.numbers(row):
            box = grid.boxes[number]._replace(top=0)
            tiles[number] = plain_tile(cut(samples, box))
            if header.pixel_format.has_alpha:
                tiles[len(grid.boxes) + number] = plain_tile(cut(samples, alpha_of(box)))


class Encoder:
    """Encodes one picture to tiles, with two rows of tiles in memory.

    Args:
        rows: the picture, in the header's format; read from top to bottom, and again where tiles miss their minimum
            PSNR.
        header: its size, format and quality.
        engine: runs the network.
        tiles: storage for the tiles, one place for each of `header.boxes()`.
        refine: chooses the symbols instead of `coding.quantize`, from latents y [M, H, W] of a tile and its
            surroundings, the tile's rows and columns in y, and its pixels.
        multiples: the step multiples of blocks of 64 x 64 pixels, as from `multiples.step_multiples`; None is 1
            everywhere.
    """

    def __init__(
        self, rows: Rows, header: Header, engine: Engine, tiles: TileStore, refine: Refine | None = None,
        multiples: NDArray[np.uint8] | None = None,
    ) -> None:  # fmt: skip
        self.refine, self.multiples = refine, multiples
        self.rows, self.header, self.engine, self.tiles = rows, header, engine, tiles
        self.grid = Grid(header)
        self.reach = self.grid.reach(engine.arch.synthesis_margin)
        self.errors = [0] * len(self.grid.boxes)
        self.deblocking_cut: int | None = None
        self.strips: dict[int, tuple[int, Samples]] = {}  # row of tiles: number of the first pixel row, and the rows

    def run(self) -> tuple[Header, int]:
        """Codes all tiles.

        Returns:
            The header for these tiles, with the deblocking cut chosen for the picture; and the sum of the squared
            errors of all samples except alpha, as a decoder will show them.
        """
        every = set(range(len(self.grid.boxes)))
        failing = self._sweep(self._code, every, every)
        while failing:  # the neighbours of a replaced tile change with it, so check them again
            looked_at = self.grid.around(failing, self.reach)
            failing = self._sweep(self._recall, looked_at, self.grid.around(looked_at, self.reach))
        return replace(self.header, deblocking_cut=self.deblocking_cut or 0), sum(self.errors)

    def _sweep(
        self, latents_of: Callable[[int, TileBox], Array | None], looked_at: set[int], needed: set[int]
    ) -> set[int]:
        """Compares learned tiles with the picture, and makes the final choice for each.

        Args:
            latents_of: returns the dequantized latents [M, h, w] of a tile; None if it is not learned.
            looked_at: numbers of the tiles to compare.
            needed: numbers of the tiles whose latents are needed for that.

        Returns:
            The numbers of the tiles that are no longer learned.
        """
        canvas = Canvas(self.header, self.engine, deblocking_cut=self.deblocking_cut)

        def place(row: int) -> None:
            for number in self.grid.numbers(row):
                if number in needed:
                    canvas.place(self.grid.boxes[number], latents_of(number, self.grid.boxes[number]))

        def compare(row: int) -> set[int]:
            learned = (n for n in self.grid.numbers(row) if n in looked_at and self.tiles[n].mode.is_learned)
            failing = {number for number in learned if not self._is_kept(number, canvas)}
            canvas.release(row)
            self.strips.pop(row, None)
            return failing

        rows = range(min(needed) // self.grid.columns, max(needed) // self.grid.columns + 1)
        failing = set[int]().union(*sweep(rows, self.reach, place, compare))
        self.strips.clear()
        self.deblocking_cut = canvas.deblocking_cut
        return failing

    def _code(self, number: int, box: TileBox) -> Array | None:
        top, samples = self._strip(number // self.grid.columns)
        tile, latents = encode_tile(
            self._cut(box), self.engine, self.header.quality, lambda: self._quantize(samples, top, box)
        )
        self.tiles[number] = tile
        if self.header.pixel_format.has_alpha:
            self.tiles[len(self.grid.boxes) + number] = plain_tile(self._cut(alpha_of(box)))
        return latents

    def _quantize(self, samples: Samples, top: int, box: TileBox) -> tuple[Symbols, Array]:
        """Returns the symbols of a tile, and its dequantized latents; arguments as in `analyze`."""
        engine, quality = self.engine, self.header.quality
        if self.refine is None or engine.restores:
            multiples = self._multiples_of(box)
            return coding.quantize(engine, analyze(samples, top, box, engine, quality), quality, multiples)
        around = engine.arch.synthesis_margin * LATENT_STRIDE
        bounds = Rect(top, top + samples.shape[0], 0, samples.shape[1])
        seen = Rect.of(box).widened(around, bounds)
        wide = box._replace(top=seen.top, left=seen.left, height=seen.size[0], width=seen.size[1])
        y = analyze(samples, top, wide, engine, quality)
        inner, outer = Rect.of(box).latents, seen.latents
        rows = slice(inner.top - outer.top, inner.bottom - outer.top)
        inside = rows, slice(inner.left - outer.left, inner.right - outer.left)
        return self.refine(engine, y, inside, pad_edge(to_rgb(self._cut(box)), LATENT_STRIDE), quality)

    def _multiples_of(self, box: TileBox) -> NDArray[np.uint8] | None:
        """The step multiples [h' w'] of a tile."""
        if self.multiples is None:
            return None
        inside = (
            slice(start // BLOCK_PX, -(-(start + length) // BLOCK_PX))
            for start, length in ((box.top, box.height), (box.left, box.width))
        )
        return self.multiples[*inside].ravel()

    def _recall(self, number: int, box: TileBox) -> Array | None:
        tile = self.tiles[number]
        if not tile.mode.is_learned:
            return None
        return decode_latents(self.engine, tile, Rect.of(box).latents.size, self.header.quality)

    def _is_kept(self, number: int, canvas: Canvas) -> bool:
        """Compares a learned tile with the picture, corrects or replaces it; returns whether it stays learned."""
        box = self.grid.boxes[number]
        original = self._cut(box)
        shown = self.engine.to_numpy(canvas.synthesize_like(box, original))
        if self.engine.restores:  # such weights change the picture on purpose
            self.errors[number] = squared_error(original, shown)
            return True
        learned = learned_part(self.tiles[number])  # as it was before its neighbours changed
        promised = self._promised(box, original, shown)
        self.tiles[number], self.errors[number] = choose_mode(learned, original, shown, promised)
        return self.tiles[number].mode.is_learned

    def _promised(self, box: TileBox, original: Samples, shown: Samples) -> int:
        """The quality whose minimum PSNR a tile must reach: a lower one with coarser steps, if all others are fine."""
        multiples, quality = self._multiples_of(box), self.header.quality
        if multiples is None or multiples.max() == 1:
            return quality
        columns = -(-box.width // BLOCK_PX)
        fine = (multiples == 1).reshape(-1, columns).repeat(BLOCK_PX, 0).repeat(BLOCK_PX, 1)[: box.height, : box.width]
        is_kept = not fine.any() or psnr_db(original[fine], shown[fine]) >= floor_psnr_db(quality)
        return max(1, quality - QUALITIES_BELOW) if is_kept else quality

    def _strip(self, row: int) -> tuple[int, Samples]:
        """The number of the first pixel row, and the pixel rows that the analysis of a row of tiles sees."""
        if row not in self.strips:
            margin_px, size_px = self.engine.arch.analysis_margin * LATENT_STRIDE, self.grid.tile_size
            top = max(0, row * size_px - margin_px)
            bottom = min(self.header.height, (row + 1) * size_px + margin_px)
            self.strips[row] = top, self.rows.read(top, bottom)
        return self.strips[row]

    def _cut(self, box: TileBox) -> Samples:
        top, samples = self._strip(box.top // self.grid.tile_size)
        return cut(samples, box._replace(top=box.top - top))
