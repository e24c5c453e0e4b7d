"""Decodes tiles to a picture, from top to bottom: the whole picture, a window or a preview, reading only what it needs.

Small pictures of equal size, and neighbouring tiles on a GPU, go through the engine together: a single one gives the
processors too little to do.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from vaecodec.errors import VaecCorruptError, VaecError, VaecMismatchError, first_that_fits
from vaecodec.format.records import Bitstream, Header, Tile, TileBox, TileMode
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE, PREVIEW_SCALES
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import Samples, reduced
from vaecodec.runtime import threads
from vaecodec.tiling.canvas import Canvas, Grid, Rect, alpha_of, check_finite, cut, in_channels, sweep
from vaecodec.tiling.tile import corrected, decode_plain, read_symbols

DAMAGED_GREY = 128
SCALE_OF_BASE = PREVIEW_SCALES[-1]  # previews at this scale need only the base of the latents

Report = Callable[[VaecError], None]
Item = TypeVar("Item")


class Arrays(Protocol):
    """The array type of the output, so that pixels computed on a device need not leave it."""

    def full(self, shape: tuple[int, int, int], value: int) -> Any:
        """A picture uint8 [h, w, C] filled with one value."""

    def take(self, samples: Samples | Array, engine: Engine | None) -> Any:
        """Converts samples, of numpy or of the engine, to such an array."""

    def reduced(self, samples: Any, scale: int) -> Any:
        """As `pixels.reduced`, for such an array of a picture with alpha."""


class NumpyArrays:
    """Pictures as arrays in the computer's memory."""

    def full(self, shape: tuple[int, int, int], value: int) -> Samples:
        """A picture filled with one value."""
        return np.full(shape, value, np.uint8)

    def take(self, samples: Samples | Array, engine: Engine | None) -> Samples:
        """Converts samples to numpy."""
        return samples if isinstance(samples, np.ndarray) or engine is None else engine.to_numpy(samples)

    def reduced(self, samples: Samples, scale: int) -> Samples:
        """As `pixels.reduced`."""
        return reduced(samples, scale)


class _Read(NamedTuple):
    """A tile after entropy decoding, with symbols or latents if it is learned; None, with the error, if that fails."""

    number: int
    tile: Tile | None
    symbols: Symbols | None = None
    latents: Array | None = None
    error: VaecCorruptError | None = None

    @property
    def is_learned(self) -> bool:
        """Whether the network must decode it."""
        return self.tile is not None and self.tile.mode.is_learned


class Decoder:
    """Decodes one picture from its tiles.

    Args:
        tiles: in index order, each fetched when it is needed; None marks a damaged tile.
        header: of the file.
        engine: may be None if no needed tile is learned.
        report: called with the error of each tile that is intact but does not decode; the tile is then grey. None
            raises the VaecMismatchError.
        window: the part to decode, in pixels, within the picture; None is all of it.
        scale: 1; or 2, 4 or 8 for a preview of the whole picture, with sides divided by scale and rounded up.
        arrays: array type of the output.
    """

    def __init__(
        self, tiles: Sequence[Tile | None], header: Header, engine: Engine | None, *, report: Report | None = None,
        window: Rect | None = None, scale: int = 1, arrays: Arrays = NumpyArrays(),
    ) -> None:  # fmt: skip
        self.tiles, self.header, self.engine, self.report = tiles, header, engine, report or _raise
        self.grid, self.scale, self.arrays = Grid(header), scale, arrays
        self.window = window or self.grid.picture
        self.canvas: Canvas | None = None

    def picture(self) -> Any:
        """Samples uint8 [h, w, C] of the whole window."""
        bands = self.bands()
        first = next(bands)
        height = -(-self.window.size[0] // self.scale)
        if len(first) == height:
            return first
        whole, top = self.arrays.full((height, *first.shape[1:]), 0), 0
        for band in itertools.chain([first], bands):
            whole[top : top + len(band)] = band
            top += len(band)
        return whole

    def bands(self) -> Iterator[Any]:
        """Yields samples uint8 [h, w, C] of the window from top to bottom, one band per row of tiles."""
        margin = self.engine.arch.synthesis_margin if self.engine and self.scale == 1 else 0
        needed = self.window.widened(margin * LATENT_STRIDE, self.grid.picture)
        if self.engine and self.scale == 1:
            self.canvas = Canvas(self.header, self.engine, needed.latents, deblocking_cut=self.header.deblocking_cut)
        rows, columns = self.grid.under(needed)
        shown_rows, shown_columns = self.grid.under(self.window)
        held = dict[int, list[_Read]]()
        with closing(self._read_ahead(rows, columns)) as read:

            def place(row: int) -> None:
                held[row] = self._take(itertools.islice(read, len(columns)))

            def show(row: int) -> Any:
                first, taken = shown_columns.start - columns.start, held.pop(row)
                return self._band(taken[first : first + len(shown_columns)]) if row in shown_rows else None

            for row, band in zip(rows, sweep(rows, self.grid.reach(margin), place, show), strict=False):
                if band is not None:
                    yield band
                if self.canvas:
                    self.canvas.release(row)

    # --- from tiles to latents ---

    def _read_ahead(self, rows: range, columns: range) -> Generator[_Read]:
        """Yields the tiles of some rows and columns in index order, read while the engine is busy with earlier ones.

        Previews need nothing after that but a small product, so on a CPU that has helpers, all processors read.
        """
        numbers = [number for row in rows for number in self.grid.numbers(row, columns)]
        fetched = ((number, self.tiles[number]) for number in numbers)
        count, start = 0, None
        if self.engine and len(numbers) > 1:
            count = self.engine.helpers
            if count and self.scale > 1 and not self._joined_px():
                count = self.engine.pictures_at_once
            start = self.engine.use_one_thread
        return threads.ahead(
            lambda each: self._read(*each), fetched, threads=count, pending=count + len(columns), start=start
        )

    def _read(self, number: int, tile: Tile | None) -> _Read:
        if not self.engine or not tile or not tile.mode.is_learned:
            return _Read(number, tile)
        size, base_only = Rect.of(self.grid.boxes[number]).latents.size, self.scale == SCALE_OF_BASE
        (found,) = read_symbols(self.engine, [tile], size, [self.header.quality], base_only=base_only)
        if isinstance(found, VaecCorruptError):
            return _Read(number, None, error=found)
        if tile.mode == TileMode.LEARNED:  # a corrected tile is still needed for its correction
            tile = tile._replace(payload=b"")
        if self._joined_px():
            return _Read(number, tile, found)
        return _Read(number, tile, latents=self._dequantized([found], size)[0])

    def _take(self, row: Iterable[_Read]) -> list[_Read]:
        """Takes a row of tiles; their latents are dropped once they are on the canvas."""
        taken = list[_Read]()
        for span in self._spans(row):
            for each in span:
                if each.error:
                    self.report(mismatch(each.error, each.number))
            if self.canvas:
                self._place(span, self.canvas)
            taken += [each._replace(symbols=None, latents=None) for each in span] if self.canvas else span
        return taken

    def _place(self, span: Sequence[_Read], canvas: Canvas) -> None:
        for each, latents in zip(span, self._latents(span), strict=True):
            canvas.place(self.grid.boxes[each.number], latents)

    def _latents(self, span: Sequence[_Read]) -> Sequence[Array | None]:
        """Latents [M, h, w], or their base, of neighbouring tiles; None if a tile is not learned."""
        symbols = [each.symbols for each in span if each.symbols]
        if not symbols:
            return [each.latents for each in span]
        return self._dequantized(symbols, Rect.of(self.grid.boxes[span[0].number]).latents.size)

    def _dequantized(self, symbols: list[Symbols], size: tuple[int, int]) -> Sequence[Array]:
        """Latents [M, h, w], or their base, of tiles of `size` (rows, columns) latents."""
        engine, quality = cast(Engine, self.engine), self.header.quality
        return first_that_fits(
            lambda: coding.dequantize(engine, symbols, *size, [quality] * len(symbols)),
            lambda: [coding.dequantize(engine, [each], *size, [quality])[0] for each in symbols],
        )

    def _spans(self, row: Iterable[_Read]) -> Iterator[list[_Read]]:
        """Groups neighbouring learned tiles of equal size that go through the engine together; others stay alone."""

        def kind(each: _Read) -> object:
            is_alone = not each.is_learned or cast(Tile, each.tile).mode == TileMode.CORRECTED
            return each.number + 0.5 if is_alone else self.grid.boxes[each.number].width

        def largest(first: _Read) -> int:
            box = self.grid.boxes[first.number]
            return max(1, self._joined_px() // (box.width * box.height)) if first.is_learned else 1

        return in_runs(row, kind, largest)

    def _joined_px(self) -> int:
        """How many pixels of neighbouring tiles go through the engine together."""
        return self.engine.joined_px if self.engine else 0

    # --- from latents to the picture ---

    def _band(self, row: Sequence[_Read]) -> Any:
        """The pixels of a row of tiles, colour and alpha."""
        band = self._blank(self.grid.boxes[row[0].number])
        for span in self._spans(row):
            self._paint(span, band)
        if self.header.pixel_format.has_alpha:
            for each in row:
                number = len(self.grid.boxes) + each.number
                self._paint([_Read(number, self.tiles[number])], band)
                if self.scale > 1 and each.tile and self._is_partly_transparent(number):
                    self._paint_by_alpha(each.number, band)
        return band

    def _is_partly_transparent(self, number: int) -> bool:
        """Whether an alpha tile has several values; the colours of a preview are then weighted by alpha."""
        tile = self.tiles[number]
        if tile is None or tile.mode == TileMode.SOLID:
            return False
        try:
            alpha = decode_plain(tile, self._box(number))
        except VaecCorruptError:  # reported when it is painted
            return False
        return bool((alpha != alpha[0, 0]).any())

    def _paint_by_alpha(self, number: int, band: Any) -> None:
        """Downscales a tile from full size, weighted by alpha, which a linear map from latents cannot do."""
        box, errors = self.grid.boxes[number], list[VaecError]()
        whole = Decoder(
            self.tiles, self.header, self.engine, report=errors.append, window=Rect.of(box), arrays=self.arrays
        )
        samples = self.arrays.reduced(whole.picture(), self.scale)
        if errors:  # in a neighbour, or in symbols that the preview skips: keep the plain preview
            return
        left, (height, width) = (box.left - self.window.left) // self.scale, samples.shape[:2]
        band[:height, left : left + width] = samples

    def _paint(self, span: Sequence[_Read], band: Any) -> None:
        """Writes the pixels of neighbouring tiles of a plane into the band of their row."""
        if span[0].tile is None:
            return
        first, last = (self._box(each.number) for each in (span[0], span[-1]))
        part = self.window.part_of(first._replace(width=last.left + last.width - first.left))
        try:
            samples = self._shown(span, part)
        except VaecCorruptError as error:
            if len(span) == 1:
                self.report(mismatch(error, span[0].number))
            else:
                for each in span:
                    self._paint([each], band)
        else:
            left, (height, width) = (part.left - self.window.left) // self.scale, samples.shape[:2]
            place = part._replace(top=0, left=left, height=height, width=width)
            cut(band, place)[:] = self.arrays.take(samples, self.engine)

    def _shown(self, span: Sequence[_Read], part: TileBox) -> Samples | Array:
        """Samples [h, w, C] of a part of the picture that holds only learned tiles, or a single tile."""
        first = span[0]
        box = self._box(first.number)
        if self.canvas and first.is_learned:
            samples = self.canvas.synthesize(part)
            tile = cast(Tile, first.tile)
            if tile.mode == TileMode.LEARNED:
                return samples
            return corrected(tile, box, cast(Engine, self.engine).to_numpy(samples), part)
        if self.engine and first.is_learned:
            pixels = self.engine.concat([self.engine.preview(each, self.scale) for each in self._latents(span)], 1)
            return in_channels(
                self.engine, pixels[: -(-part.height // self.scale), : -(-part.width // self.scale)], part
            )
        top, left = part.top - box.top, part.left - box.left
        plain = decode_plain(cast(Tile, first.tile), box)[top : top + part.height, left : left + part.width]
        return plain if self.scale == 1 else reduced(plain, self.scale)

    def _box(self, number: int) -> TileBox:
        """The box of a tile of either plane."""
        plane, place = divmod(number, len(self.grid.boxes))
        return alpha_of(self.grid.boxes[place]) if plane else self.grid.boxes[place]

    def _blank(self, box: TileBox) -> Any:
        """An empty band for the row of a tile."""
        height, width = self.window.part_of(box).height, self.window.size[1]
        shape = -(-height // self.scale), -(-width // self.scale), self.header.pixel_format.channels
        return self.arrays.full(shape, DAMAGED_GREY)


# --- small pictures together ------------------------------------------------------------------------------------------


def is_single(stream: Bitstream) -> bool:
    """Whether the picture is one learned tile without alpha, so that it can be decoded together with others."""
    return len(stream.tiles) == 1 and stream.tiles[0] is not None and stream.tiles[0].mode == TileMode.LEARNED


def alike(streams: Mapping[int, Bitstream], engine: Engine) -> Iterator[dict[int, Bitstream]]:
    """Groups of two or more files to decode together, by their numbers; each file occurs at most once."""
    by_size = defaultdict[tuple[int, int], list[tuple[int, Bitstream]]](list)
    for number, stream in streams.items():
        if is_single(stream) and stream.header.model_id == engine.model_id:
            by_size[Grid(stream.header).picture.latents.size].append((number, stream))
    for (rows, columns), found in by_size.items():
        at_once = max(1, engine.at_once_px // (rows * columns * LATENT_STRIDE**2))
        together = (dict(found[start : start + at_once]) for start in range(0, len(found), at_once))
        yield from (group for group in together if len(group) > 1)


def decode_alike(group: Mapping[int, Bitstream], engine: Engine, arrays: Arrays) -> dict[int, Any]:
    """Pictures uint8 [H, W, C] of single tiles of one size; a VaecMismatchError replaces one that does not decode.

    They equal those of `Decoder.picture` within the tolerance between machines.
    """
    headers = [stream.header for stream in group.values()]
    tiles = [cast(Tile, stream.tiles[0]) for stream in group.values()]
    size, qualities = Grid(headers[0]).picture.latents.size, [header.quality for header in headers]
    done, read = dict[int, Any](), read_symbols(engine, tiles, size, qualities)
    good = {n: each for n, each in enumerate(read) if not isinstance(each, VaecCorruptError)}
    shown = dict[int, Array | VaecError]()
    if good:
        of_good = [qualities[n] for n in good]
        latents = coding.dequantize(engine, [*good.values()], *size, of_good)
        pixels, are_finite = engine.synthesize(latents, of_good, [headers[n].deblocking_cut for n in good])
        for place, n in enumerate(good):
            box = headers[n].boxes()[0]
            try:
                whole = check_finite(pixels[place], are_finite[place])[: box.height, : box.width]
                shown[n] = arrays.take(in_channels(engine, whole, box), engine)
            except VaecCorruptError as error:
                shown[n] = mismatch(error, 0)
    for n, number in enumerate(group):
        each = read[n]
        done[number] = mismatch(each, 0) if isinstance(each, VaecCorruptError) else shown[n]
    return done


def in_runs(
    items: Iterable[Item], kind: Callable[[Item], object], largest: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Consecutive items of one kind, as many together as the first of them allows."""
    for _, run in itertools.groupby(items, kind):
        for first in run:
            yield [first, *itertools.islice(run, largest(first) - 1)]  # noqa: B031


def mismatch(error: VaecCorruptError, number: int) -> VaecMismatchError:
    """The error of a tile that does not decode although its payload's CRC holds: it is not damaged, and says so."""
    message = f"tile {number} is intact but does not decode ({error})"
    return VaecMismatchError(
        f"{message}: crafted file, or this build computes differently", code=error.code, tile=number
    )


def _raise(error: VaecError) -> None:
    raise error
