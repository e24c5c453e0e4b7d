"""Tiles to a picture, from the top down: all of it, a window of it, or a preview, touching only what that needs."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vaecodec.bitstream import Header, Tile, TileBox, TileMode
from vaecodec.canvas import LATENT_PX, Canvas, Samples, area_of
from vaecodec.errors import VaecCorruptError, VaecError, VaecMismatchError
from vaecodec.grid import Grid, Window, alpha_of, cut
from vaecodec.pixels import reduced
from vaecodec.tile import decode_latents, decode_plain

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network

DAMAGED_GREY = 128

Report = Callable[[VaecError], None]


class Medium(Protocol):
    """What a picture is put down in: arrays, or tensors of a device, so that what is made there need not leave it."""

    def blank(self, shape: tuple[int, int, int], value: int) -> Any:
        """A picture uint8 [h, w, C] of one value."""

    def take(self, samples: "Samples | Tensor") -> Any:
        """Samples from wherever they are."""


class Arrays:
    """The medium of pictures in the computer's memory."""

    def blank(self, shape: tuple[int, int, int], value: int) -> Samples:
        """A picture of one value."""
        return np.full(shape, value, np.uint8)

    def take(self, samples: "Samples | Tensor") -> Samples:
        """Samples from wherever they are."""
        return samples if isinstance(samples, np.ndarray) else samples.cpu().numpy()


class Decoder:
    """One picture on its way out of tiles.

    Args:
        tiles: in index order, each asked for when it is needed; None is one that is damaged.
        header: the file's.
        network: may be None if no tile that is needed is learned.
        report: told of each tile that does not decode, which then is grey, unless this raises.
        window: the part to decode, within the picture; None is all of it.
        scale: 1; or 2, 4 or 8 for a preview with sides of 1/scale of the picture's, rounded up; then of all of it.
        medium: of what comes out.
    """

    def __init__(
        self, tiles: Sequence[Tile | None], header: Header, network: "Network | None", *, report: Report,
        window: Window | None = None, scale: int = 1, medium: Medium = Arrays(),
    ) -> None:  # fmt: skip
        self.tiles, self.header, self.network, self.report = tiles, header, network, report
        self.window, self.scale = window or Window(0, header.height, 0, header.width), scale
        self.grid, self.medium = Grid(header), medium
        self.prepared: dict[int, Tile | None] = {}

    def run(self) -> Iterator[Any]:
        """Yields samples [h, w, C], uint8, in the medium: what a row of tiles has of the window."""
        margin = self.network.synthesis_margin if self.network and self.scale == 1 else 0
        needed = self.window.widened(margin * LATENT_PX, self.header)
        canvas = Canvas(self.header, self.network, needed.area, margin) if self.network else None
        reach = canvas.reach if canvas else 0
        shown_rows, shown_columns = self.grid.under(self.window)
        rows, columns = self.grid.under(needed)
        for to_prepare, ready in self.grid.visits(rows, columns, reach):
            if to_prepare is not None:
                self._prepare(to_prepare, canvas)
            if ready is None:
                continue
            row, column = divmod(ready, self.grid.columns)
            if row in shown_rows and column in shown_columns:
                if column == shown_columns[0]:
                    band = self._blank(row)
                self._paint(ready, canvas, band)
                if column == shown_columns[-1]:
                    yield band
            del self.prepared[ready]
            if canvas and column == columns[-1]:
                canvas.let_go(row)

    def _prepare(self, number: int, canvas: Canvas | None) -> None:
        """Fetches a tile, and puts its latents in place."""
        tile, box, latents = self.tiles[number], self.grid.boxes[number], None
        if canvas and tile and tile.mode == TileMode.LEARNED:
            try:
                latents = decode_latents(canvas.network, tile, area_of(box).size, self.header.quality)
            except VaecCorruptError as error:
                tile = None
                self._lost(error, number)
        if canvas:
            canvas.place(box, latents)
        self.prepared[number] = tile if latents is None or tile is None else tile._replace(payload=b"")

    def _paint(self, number: int, canvas: Canvas | None, band: Any) -> None:
        """Puts what a tile shows, in colour and alpha, into the band of its row."""
        box = self.grid.boxes[number]
        self._paint_plane(number, self.prepared[number], box, canvas, band)
        if self.header.pixel_format.has_alpha:
            number += len(self.grid.boxes)
            self._paint_plane(number, self.tiles[number], alpha_of(box), canvas, band)

    def _paint_plane(self, number: int, tile: Tile | None, box: TileBox, canvas: Canvas | None, band: Any) -> None:
        if tile is None:
            return
        part = self.window.part_of(box)
        samples: Samples | Tensor
        try:
            if canvas and tile.mode == TileMode.LEARNED:
                samples = canvas.synthesize(part) if self.scale == 1 else canvas.preview(part, self.scale)
            else:
                top, left = part.top - box.top, part.left - box.left
                plain = decode_plain(tile, box)[top : top + part.height, left : left + part.width]
                samples = plain if self.scale == 1 else reduced(plain, self.scale)
        except VaecCorruptError as error:
            self._lost(error, number)
        else:
            left, (height, width) = (part.left - self.window.left) // self.scale, samples.shape[:2]
            cut(band, box._replace(top=0, left=left, height=height, width=width))[:] = self.medium.take(samples)

    def _blank(self, row: int) -> Any:
        """The band of a row of tiles before anything is in it."""
        part = self.window.part_of(self.grid.boxes[self.grid.number(row, 0)])
        width = self.window.right - self.window.left
        shape = -(-part.height // self.scale), -(-width // self.scale), self.header.pixel_format.channels
        return self.medium.blank(shape, DAMAGED_GREY)

    def _lost(self, error: VaecCorruptError, number: int) -> None:
        self.report(mismatch(error, number))


def mismatch(error: VaecCorruptError, number: int) -> VaecMismatchError:
    """The error of a tile that does not decode although its payload's CRC holds: it is not damaged, and says so."""
    message = f"tile {number} is intact but does not decode ({error})"
    return VaecMismatchError(
        f"{message}: crafted file, or this build computes differently", code=error.code, tile=number
    )
