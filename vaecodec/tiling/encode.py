"""A picture to tiles, from the top down: it need not fit into memory.

Looking at a tile as a decoder will show it lags behind the coding of those around it, whose latents its synthesis sees.
A tile that is stored without the network after all takes its latents away from its neighbours, so that these are looked
at again: in sweeps over the picture, each of which looks at tiles beside what the one before has left.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from vaecodec.format.records import Header, Tile, TileBox
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import Rows, Samples, pad_edge, squared_error
from vaecodec.tiling.canvas import Canvas, Grid, Rect, alpha_of, analyze, cut, sweep, to_rgb
from vaecodec.tiling.tile import decode_latents, encode_tile, learned_part, plain_tile, settle

Refine = Callable[[Any, Array, tuple[slice, slice], Samples, int], tuple[Symbols, Array]]


class TileStore(Protocol):
    """Where tiles are put, by number: a list, or what keeps them elsewhere."""

    def __getitem__(self, number: int, /) -> Tile: ...
    def __setitem__(self, number: int, tile: Tile, /) -> None: ...


def encode_plain(rows: Rows, header: Header, tiles: TileStore) -> None:
    """Codes all tiles of a picture without loss, and without the network; arguments as of `Encoder`."""
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
    """One picture on its way into tiles, with memory for two rows of them.

    Args:
        rows: the picture, in the header's format; read from the top down, again where tiles miss their floor.
        header: its size, format and quality.
        engine: computes.
        tiles: where to put the tiles, one place for each of `header.boxes()`.
        refine: chooses symbols in the place of `coding.quantize`, from latents y [M, H, W] of a tile and around it,
            rows and columns of the tile in y, and its pixels.
    """

    def __init__(
        self, rows: Rows, header: Header, engine: Engine, tiles: TileStore, refine: Refine | None = None
    ) -> None:
        self.refine = refine
        self.rows, self.header, self.engine, self.tiles = rows, header, engine, tiles
        self.grid = Grid(header)
        self.reach = self.grid.reach(engine.arch.synthesis_margin)
        self.errors = [0] * len(self.grid.boxes)
        self.deblocking_cut: int | None = None
        self.strips: dict[int, tuple[int, Samples]] = {}  # row of tiles: first row of the picture, and rows from there

    def run(self) -> tuple[Header, int]:
        """Codes all tiles.

        Returns:
            The header that belongs to the tiles, with the deblocking that suits the picture; and the sum of the squared
            errors of all samples but alpha, as a decoder will show them.
        """
        every = set(range(len(self.grid.boxes)))
        failing = self._sweep(self._code, every, every)
        while failing:  # the neighbours of a tile change with it, so they are looked at again
            looked_at = self.grid.around(failing, self.reach)
            failing = self._sweep(self._recall, looked_at, self.grid.around(looked_at, self.reach))
        return replace(self.header, deblocking_cut=self.deblocking_cut or 0), sum(self.errors)

    def _sweep(
        self, latents_of: Callable[[int, TileBox], Array | None], looked_at: set[int], needed: set[int]
    ) -> set[int]:
        """Compares learned tiles with the picture, and settles what they become.

        Args:
            latents_of: the latents [M, h, w] of a tile as a decoder will have them; None if it is not learned.
            looked_at: numbers of the tiles that are compared.
            needed: those of the tiles whose latents are.

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
            canvas.let_go(row)
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
        """The symbols of a tile, and what the decoder will have of its latents; arguments as of `analyze`."""
        engine, quality = self.engine, self.header.quality
        if self.refine is None or engine.restores:
            return coding.quantize(engine, analyze(samples, top, box, engine, quality), quality)
        around = engine.arch.synthesis_margin * LATENT_STRIDE
        bounds = Rect(top, top + samples.shape[0], 0, samples.shape[1])
        seen = Rect.of(box).widened(around, bounds)
        wide = box._replace(top=seen.top, left=seen.left, height=seen.size[0], width=seen.size[1])
        y = analyze(samples, top, wide, engine, quality)
        inner, outer = Rect.of(box).latents, seen.latents
        rows = slice(inner.top - outer.top, inner.bottom - outer.top)
        inside = rows, slice(inner.left - outer.left, inner.right - outer.left)
        return self.refine(engine, y, inside, pad_edge(to_rgb(self._cut(box)), LATENT_STRIDE), quality)

    def _recall(self, number: int, box: TileBox) -> Array | None:
        tile = self.tiles[number]
        if not tile.mode.is_learned:
            return None
        return decode_latents(self.engine, tile, Rect.of(box).latents.size, self.header.quality)

    def _is_kept(self, number: int, canvas: Canvas) -> bool:
        """Compares a learned tile with the picture, and corrects or replaces it if need be; whether it is learned."""
        box = self.grid.boxes[number]
        original = self._cut(box)
        shown = self.engine.to_numpy(canvas.synthesize_like(box, original))
        if self.engine.restores:  # the picture is what is not to be kept
            self.errors[number] = squared_error(original, shown)
            return True
        learned = learned_part(self.tiles[number])  # as it was before its neighbours changed
        self.tiles[number], self.errors[number] = settle(learned, original, shown, self.header.quality)
        return self.tiles[number].mode.is_learned

    def _strip(self, row: int) -> tuple[int, Samples]:
        """The rows of a row of tiles, with those around them that analysis sees, after the number of the first."""
        if row not in self.strips:
            margin_px, size_px = self.engine.arch.analysis_margin * LATENT_STRIDE, self.grid.tile_size
            top = max(0, row * size_px - margin_px)
            bottom = min(self.header.height, (row + 1) * size_px + margin_px)
            self.strips[row] = top, self.rows.read(top, bottom)
        return self.strips[row]

    def _cut(self, box: TileBox) -> Samples:
        top, samples = self._strip(box.top // self.grid.tile_size)
        return cut(samples, box._replace(top=box.top - top))
