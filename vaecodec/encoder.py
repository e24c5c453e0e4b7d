"""A picture to tiles, from the top down: it need not fit into memory.

Looking at a tile as a decoder will show it lags behind the coding of those around it, whose latents its synthesis sees.
A tile that misses its floor is stored without loss, which takes its latents away from its neighbours, so that these are
looked at again: in passes over the picture, each of which looks at tiles beside what the pass before has left.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from vaecodec.bitstream import Header, Tile, TileBox, TileMode
from vaecodec.canvas import LATENT_PX, Canvas, Samples, Strip, analyze, area_of
from vaecodec.grid import Grid, alpha_of, cut
from vaecodec.pixels import squared_error
from vaecodec.rows import Rows
from vaecodec.tile import decode_latents, encode_tile, misses_floor, plain_tile

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network


class Shelf(Protocol):
    """Where tiles are put, by number: a list, or what keeps them elsewhere."""

    def __getitem__(self, number: int, /) -> Tile: ...
    def __setitem__(self, number: int, tile: Tile, /) -> None: ...


class Encoder:
    """One picture on its way into tiles.

    Args:
        rows: the picture, in the header's format; read from the top down, again where tiles miss their floor.
        header: its size, format and quality.
        network: the loaded weights.
        tiles: where to put the tiles, one place for each of `header.boxes()`.
    """

    def __init__(self, rows: Rows, header: Header, network: "Network", tiles: Shelf) -> None:
        self.rows, self.header, self.network, self.tiles = rows, header, network, tiles
        self.grid = Grid(header)
        self.errors = [0] * len(self.grid.boxes)
        self.deblocking_cut: int | None = None
        self.strips: dict[int, Strip] = {}

    def run(self) -> tuple[Header, int]:
        """Codes all tiles; see `tiles.encode_rows` for what it returns."""
        every = set(range(len(self.grid.boxes)))
        failing = self._pass(self._code, every, every)
        while failing:  # the neighbours of a tile change with it, so they are looked at again
            reach = Canvas(self.header, self.network).reach
            looked_at = self.grid.around(failing, reach)
            failing = self._pass(self._recall, looked_at, self.grid.around(looked_at, reach))
        return replace(self.header, deblocking_cut=self.deblocking_cut or 0), sum(self.errors)

    def _pass(
        self, latents_of: "Callable[[int, TileBox], Tensor | None]", looked_at: set[int], needed: set[int]
    ) -> set[int]:
        """Looks at learned tiles beside one another; those that miss their floor are stored without loss.

        Args:
            latents_of: the latents [M, h, w] of a tile as a decoder will have them; None if it is not learned.
            looked_at: numbers of the tiles that are compared with the picture.
            needed: those of the tiles whose latents are.

        Returns:
            The numbers of the tiles that missed their floor.
        """
        canvas, failing = Canvas(self.header, self.network), set[int]()
        canvas.deblocking_cut = self.deblocking_cut
        rows = range(min(needed) // self.grid.columns, max(needed) // self.grid.columns + 1)
        for prepared, ready in self.grid.visits(rows, range(self.grid.columns), canvas.reach):
            if prepared is not None and prepared in needed:
                box = self.grid.boxes[prepared]
                canvas.place(box, latents_of(prepared, box))
            if ready is None:
                continue
            if ready in looked_at and self.tiles[ready].mode == TileMode.LEARNED and not self._is_kept(ready, canvas):
                failing.add(ready)
            self._let_go(ready, canvas)
        self.strips.clear()
        self.deblocking_cut = canvas.deblocking_cut
        return failing

    def _code(self, number: int, box: TileBox) -> "Tensor | None":
        strip = self._strip(number // self.grid.columns)
        tile, latents = encode_tile(
            self._cut(box), self.network, self.header.quality,
            lambda: analyze(strip, box, self.network, self.header.quality),
        )  # fmt: skip
        self.tiles[number] = tile
        if self.header.pixel_format.has_alpha:
            self.tiles[len(self.grid.boxes) + number] = plain_tile(self._cut(alpha_of(box)))
        return latents

    def _recall(self, number: int, box: TileBox) -> "Tensor | None":
        tile = self.tiles[number]
        if tile.mode != TileMode.LEARNED:
            return None
        return decode_latents(self.network, tile, area_of(box).size, self.header.quality)

    def _is_kept(self, number: int, canvas: Canvas) -> bool:
        """Compares a learned tile with the picture, and stores it without loss if it misses its floor."""
        box = self.grid.boxes[number]
        original = self._cut(box)
        self.errors[number] = squared_error(original, canvas.synthesize_like(box, original).cpu().numpy())
        if not misses_floor(original, self.errors[number], self.header.quality):
            return True
        self.tiles[number], self.errors[number] = plain_tile(original), 0
        return False

    def _strip(self, row: int) -> Strip:
        """The rows of a row of tiles, with those around them that analysis sees."""
        if row not in self.strips:
            margin_px, size_px = self.network.analysis_margin * LATENT_PX, self.header.tile_size
            top = max(0, row * size_px - margin_px)
            bottom = min(self.header.height, (row + 1) * size_px + margin_px)
            self.strips[row] = Strip(top, self.rows.read(top, bottom))
        return self.strips[row]

    def _cut(self, box: TileBox) -> Samples:
        strip = self._strip(box.top // self.header.tile_size)
        return cut(strip.samples, box._replace(top=box.top - strip.top))

    def _let_go(self, number: int, canvas: Canvas) -> None:
        row, column = divmod(number, self.grid.columns)
        if column == self.grid.columns - 1:
            canvas.let_go(row)
            self.strips.pop(row, None)
