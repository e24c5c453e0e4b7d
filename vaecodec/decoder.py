"""Tiles to a picture, from the top down: all of it, a window of it, or a preview, touching only what that needs."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from vaecodec import batches
from vaecodec.bitstream import Header, Tile, TileBox, TileMode
from vaecodec.canvas import LATENT_PX, Canvas, Samples, area_of, at_once_px, in_channels
from vaecodec.errors import VaecCorruptError, VaecError, VaecMismatchError
from vaecodec.grid import Grid, Window, alpha_of, cut
from vaecodec.memory import first_that_fits
from vaecodec.pixels import reduced
from vaecodec.tile import decode_plain, read_base, read_symbols

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network
    from vaecodec.model.symbols import Symbols

DAMAGED_GREY = 128
PREVIEWED_PX = 1 << 20  # of previews at once: with fewer, calls take longer than what they compute
SCALE_OF_BASE = 8  # at which a preview needs no more than the base of the latents

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


def joined_px(network: "Network", scale: int) -> int:
    """How many pixels of neighbouring tiles go through a network together; 0 is no neighbours.

    At full size a CPU would gain nothing; and alone, tiles come out bit by bit as its encoder has seen them.
    """
    if scale > 1:
        return max(PREVIEWED_PX, at_once_px(network))
    return 0 if network.device.type == "cpu" else at_once_px(network)


class _Read(NamedTuple):
    """A tile as it was read: with its symbols, if it is learned; None if it does not decode, and what is wrong."""

    number: int
    tile: Tile | None
    symbols: "Symbols | None" = None
    error: VaecCorruptError | None = None

    @property
    def is_learned(self) -> bool:
        """Whether it is for the network."""
        return self.tile is not None and self.tile.mode == TileMode.LEARNED


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
        self.canvas: Canvas | None = None

    def run(self) -> Iterator[Any]:
        """Yields samples [h, w, C], uint8, in the medium: what a row of tiles has of the window."""
        margin = self.network.synthesis_margin if self.network and self.scale == 1 else 0
        needed = self.window.widened(margin * LATENT_PX, self.header)
        if self.network and self.scale == 1:
            self.canvas = Canvas(self.header, self.network, needed.area, margin)
        reach = self.canvas.reach if self.canvas else 0
        rows, columns = self.grid.under(needed)
        shown_rows, shown_columns = self.grid.under(self.window)
        first, held = shown_columns.start - columns.start, dict[int, list[_Read]]()
        with closing(self._read_ahead(rows, columns)) as read:
            for row in range(rows.start, rows.stop + reach):
                if row in rows:
                    held[row] = self._take(itertools.islice(read, len(columns)))
                ready = row - reach
                if ready in shown_rows:
                    yield self._band(held[ready][first : first + len(shown_columns)])
                held.pop(ready, None)
                if self.canvas:
                    self.canvas.let_go(ready)

    # --- from tiles to latents ---

    def _read_ahead(self, rows: range, columns: range) -> Generator[_Read]:
        """The tiles of some rows and columns in index order, read while the network is busy with those before."""
        numbers = [self.grid.number(row, column) for row in rows for column in columns]
        fetched = ((number, self.tiles[number]) for number in numbers)
        threads = batches.helpers(self.network.device.type) if self.network and len(numbers) > 1 else 0
        return batches.ahead(lambda each: self._read(*each), fetched, threads=threads, pending=threads + len(columns))

    def _read(self, number: int, tile: Tile | None) -> _Read:
        if not self.network or not tile or tile.mode != TileMode.LEARNED:
            return _Read(number, tile)
        size, quality = area_of(self.grid.boxes[number]).size, self.header.quality
        read = read_base if self.scale == SCALE_OF_BASE else read_symbols
        try:
            return _Read(number, tile._replace(payload=b""), read(self.network, tile, size, quality))
        except VaecCorruptError as error:
            return _Read(number, None, error=error)

    def _take(self, row: Iterable[_Read]) -> list[_Read]:
        """A row of tiles, without symbols if their latents have gone onto the canvas."""
        taken = list[_Read]()
        for span in self._spans(row):
            for each in span:
                if each.error:
                    self._lost(each.error, each.number)
            if self.canvas:
                self._place(span, self.canvas)
            taken += [each._replace(symbols=None) for each in span] if self.canvas else span
        return taken

    def _place(self, span: Sequence[_Read], canvas: Canvas) -> None:
        boxes = [self.grid.boxes[each.number] for each in span]
        symbols = [each.symbols for each in span if each.symbols]
        latents = self._dequantized(symbols, boxes[0]) if symbols else [None]
        for box, of_box in zip(boxes, latents, strict=True):
            canvas.place(box, of_box)

    def _dequantized(self, symbols: "list[Symbols]", box: TileBox) -> "Iterable[Tensor]":
        """Latents [M, h, w], or their base, of tiles as large as the box."""
        network, size, quality = cast("Network", self.network), area_of(box).size, self.header.quality
        return first_that_fits(
            lambda: network.dequantize(symbols, *size, [quality] * len(symbols)),
            lambda: [network.dequantize([each], *size, [quality])[0] for each in symbols],
        )

    def _spans(self, row: Iterable[_Read]) -> Iterator[list[_Read]]:
        """Neighbours that go through the network together, learned and of one size; all others alone."""
        largest_px = joined_px(self.network, self.scale) if self.network else 0
        span = list[_Read]()
        for each in row:
            if span:
                box, other = self.grid.boxes[each.number], self.grid.boxes[span[-1].number]
                is_alike = each.is_learned and span[-1].is_learned and box.width == other.width
                if not is_alike or (len(span) + 1) * box.width * box.height > largest_px:
                    yield span
                    span = []
            span.append(each)
        if span:
            yield span

    # --- from latents to the picture ---

    def _band(self, row: Sequence[_Read]) -> Any:
        """What the tiles of a row show, in colour and alpha."""
        band = self._blank(self.grid.boxes[row[0].number])
        for span in self._spans(row):
            self._paint(span, band)
        if self.header.pixel_format.has_alpha:
            for each in row:
                number = len(self.grid.boxes) + each.number
                self._paint([_Read(number, self.tiles[number])], band)
        return band

    def _paint(self, span: Sequence[_Read], band: Any) -> None:
        """Puts what neighbouring tiles of a plane show into the band of their row."""
        if span[0].tile is None:
            return
        first, last = (self._box(each.number) for each in (span[0], span[-1]))
        part = self.window.part_of(first._replace(width=last.left + last.width - first.left))
        try:
            samples = self._shown(span, part)
        except VaecCorruptError as error:
            if len(span) == 1:
                self._lost(error, span[0].number)
            else:
                for each in span:
                    self._paint([each], band)
        else:
            left, (height, width) = (part.left - self.window.left) // self.scale, samples.shape[:2]
            cut(band, part._replace(top=0, left=left, height=height, width=width))[:] = self.medium.take(samples)

    def _shown(self, span: Sequence[_Read], part: TileBox) -> "Samples | Tensor":
        """Samples [h, w, C] of a part of the picture in which all tiles are learned, or there is only one."""
        first = span[0]
        if self.canvas and first.is_learned:
            return self.canvas.synthesize(part)
        box = self._box(first.number)
        if self.network and first.symbols:
            latents = self._dequantized([each.symbols for each in span if each.symbols], box)
            pixels = self.network.join([self.network.preview(each, self.scale) for each in latents], 1)
            return in_channels(pixels[: -(-part.height // self.scale), : -(-part.width // self.scale)], part)
        top, left = part.top - box.top, part.left - box.left
        plain = decode_plain(cast(Tile, first.tile), box)[top : top + part.height, left : left + part.width]
        return plain if self.scale == 1 else reduced(plain, self.scale)

    def _box(self, number: int) -> TileBox:
        """Of a tile of either plane."""
        plane, place = divmod(number, len(self.grid.boxes))
        return alpha_of(self.grid.boxes[place]) if plane else self.grid.boxes[place]

    def _blank(self, box: TileBox) -> Any:
        """The band of the row of a tile before anything is in it."""
        part = self.window.part_of(box)
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
