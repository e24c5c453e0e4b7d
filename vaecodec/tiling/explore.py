"""Other uses of the latents: features, rate maps, interpolation, samples from the prior.

`Explorer`, reached as `codec.explore`, is the interface. The functions below it do the work, with the same order of
symbols and the same quantization as decoder and encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import Tables, symbol_bits
from vaecodec.errors import VaecImageError, translated_errors
from vaecodec.format import container, records, sources
from vaecodec.format.records import DEFAULT_MAX_PIXELS, Bitstream, Header, Tile, TileMode
from vaecodec.model import coding
from vaecodec.model.architecture import HYPER_STRIDE, LATENT_STRIDE
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures import pixels
from vaecodec.pictures.pixels import ArrayRows, Samples, pad_edge
from vaecodec.tiling.canvas import Rect, analyze, to_rgb
from vaecodec.tiling.decode import Decoder
from vaecodec.tiling.encode import Encoder
from vaecodec.tiling.options import DEFAULT_QUALITY, Output, check_quality
from vaecodec.tiling.tile import decode_plain, decode_symbols, encode_latents, encode_symbols

Result = TypeVar("Result")
FloatMap = NDArray[np.float32]


class Coder(Protocol):
    """What an `Explorer` needs of a codec."""

    @property
    def engine(self) -> Engine: ...
    def run(self, work: Callable[[Engine], Result], of: Header | None = None) -> Result: ...
    def engine_of(self, header: Header, modes: Sequence[TileMode]) -> Engine | None: ...
    def encode(self, image: pixels.Source, quality: int | None = None) -> bytes: ...
    def decode(self, source: sources.Source, *, output: Literal["numpy"]) -> Any: ...
    def present(self, samples: Any, metadata: dict[str, bytes], output: Output) -> Any: ...


class Explorer:
    """Features, rate maps, interpolation and samples from the latents of a codec: `Codec().explore`.

    Example:
        >>> explore = vaecodec.Codec().explore
        >>> explore.rate_map("photo.png").shape     # bits per block of 16 x 16 pixels
        (32, 48)
    """

    def __init__(self, codec: Coder) -> None:
        self._codec = codec

    def sample(
        self,
        size: tuple[int, int],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        quality: int | None = None,
        output: Output = "pil",
    ) -> Any:
        """Draw a picture of `size` (width, height) pixels from the model's prior.

        Args:
            size: width and height in pixels.
            seed: at least 0; equal seeds give equal pictures.
            temperature: 1 samples the model's distribution, lower values are smoother, 0 takes the most probable
                symbols.
            quality: 1 to 100, of the prior; None is 75.
            output: as for `Codec.decode`.

        Raises:
            VaecImageError: (ARGUMENT) a value is out of range.
            VaecLimitError: the size is beyond the limits.

        Example:
            >>> Codec().explore.sample((512, 512), seed=7).size
            (512, 512)
        """
        records.check_size(*size)
        with translated_errors():
            chosen = _quality(quality)
            drawn = self._codec.run(lambda engine: draw(*size, chosen, engine, seed=seed, temperature=temperature))
            header = Header.of_picture(3, *size, self._codec.engine.model_id, chosen)
            shown = self._codec.decode(container.write(header, drawn), output="numpy")
            return self._codec.present(shown, {}, output)

    def interpolate(
        self, a: pixels.Source, b: pixels.Source, steps: int, *, quality: int | None = None, output: Output = "pil"
    ) -> list[Any]:
        """Interpolate between two pictures of equal size, in equal steps in latent space.

        Args:
            a: the first picture, as for `Codec.encode`.
            b: the last picture.
            steps: number of pictures, including a and b; at least 2.
            quality: 1 to 100; None is 75.
            output: as for `Codec.decode`.

        Raises:
            VaecImageError: (SIZE) the sizes differ, or (ARGUMENT) a value is out of range.

        Example:
            >>> len(Codec().explore.interpolate("a.png", "b.png", steps=5))
            5
        """
        with translated_errors():
            chosen, first, last = _quality(quality), _samples(a), _samples(b)
            blended = self._codec.run(lambda engine: blends(first, last, steps, chosen, engine))
            return [self._codec.present(samples, {}, output) for samples in blended]

    def features(self, image: pixels.Source, quality: int | None = None) -> "Features":
        """The latents of a picture before quantization, as float32 arrays: see `Features`.

        Example:
            >>> Codec().explore.features("photo.png").y.shape
            (384, 32, 48)
        """
        with translated_errors():
            chosen, samples = _quality(quality), _samples(image)
            return self._codec.run(lambda engine: features_of_picture(samples, chosen, engine))

    def features_from_bytes(self, source: sources.Source) -> "Features":
        """The quantized latents of a .vaec file, without synthesizing its pixels: see `Features`.

        Raises:
            VaecError: the file is damaged, or needs other weights.

        Example:
            >>> Codec().explore.features_from_bytes("photo.vaec").quality
            75
        """
        with translated_errors():
            stream = container.read(sources.read_all(source))
            self._engine_of(stream)  # refuses a file of other weights
            return self._codec.run(lambda engine: features_of_stream(stream, engine), of=stream.header)

    def rate_map(self, image: pixels.Source, quality: int | None = None) -> FloatMap:
        """Bits that a file spends on each 16x16 block of a picture, float32 [ceil(H / 16), ceil(W / 16)].

        Example:
            >>> Codec().explore.rate_map("photo.png", quality=50).shape
            (32, 48)
        """
        return self.rate_map_from_bytes(self._codec.encode(image, _quality(quality)))

    def rate_map_from_bytes(self, source: sources.Source) -> FloatMap:
        """Bits that a .vaec file spends on each 16x16 block, as `rate_map`; metadata and headers are not counted.

        Example:
            >>> Codec().explore.rate_map_from_bytes("photo.vaec").shape
            (32, 48)
        """
        with translated_errors():
            stream = container.read(sources.read_all(source))
            if self._engine_of(stream) is None:
                return block_bits(stream, None)
            return self._codec.run(lambda engine: block_bits(stream, engine), of=stream.header)

    def anomaly_score(self, image: pixels.Source, quality: int | None = None) -> float:
        """Bits per pixel under the model: high for complex pictures that are unlike photographs.

        Example:
            >>> Codec().explore.anomaly_score("noise.png") > Codec().explore.anomaly_score("photo.png")
            True
        """
        with translated_errors():
            chosen, samples = _quality(quality), _samples(image)
            return self._codec.run(lambda engine: bits_per_pixel(samples, chosen, engine))

    def _engine_of(self, stream: Bitstream) -> Engine | None:
        return self._codec.engine_of(stream.header, [tile.mode for tile in stream.tiles if tile])


def _quality(quality: int | None) -> int:
    return check_quality(DEFAULT_QUALITY if quality is None else quality)


def _samples(image: pixels.Source) -> Samples:
    """Samples [H, W, C] of a picture of at most DEFAULT_MAX_PIXELS."""
    rows = pixels.open_rows(image, max_pixels=DEFAULT_MAX_PIXELS)
    try:
        return rows.read(0, rows.shape[0])
    finally:
        rows.close()


class Features(NamedTuple):
    """The latents of a picture or a file.

    Attributes:
        y: float32 [M, ceil(H / 16), ceil(W / 16)]: M = 384 latents (with the built-in weights) per block of 16x16
            pixels. Unit: quantizer steps of `quality`; a file stores their distance from a prediction as integers.
            Steps are smaller at a higher quality, so values grow with it.
        z: float32 [Z, ceil(H / 64), ceil(W / 64)]: Z = 96 hyper-latents per block of 64x64 pixels, from which the codec
            predicts the scales of the latents. Unit: quantizer steps.
        quality: 1 to 100. Compare only features of the same quality and the same weights.
    """

    y: FloatMap
    z: FloatMap
    quality: int


def features_of_picture(samples: Samples, quality: int, engine: Engine) -> Features:
    """Unquantized features of a picture [H, W, C]; alpha is ignored, grey counts as RGB."""
    header = _colour_header(samples.shape[1], samples.shape[0], quality, engine)
    return _features([_in_steps(engine, y, quality) for y in analyze_tiles(samples, header, engine)], header)


def features_of_stream(stream: Bitstream, engine: Engine) -> Features:
    """Quantized features of a file: its latents are decoded, its pixels are not.

    Lossless tiles have no latents, so their pixels are analyzed.

    Raises:
        VaecCorruptError: a tile does not decode.
    """
    quality = stream.header.quality
    parts = []
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        if tile is None or box.plane != "colour":
            continue
        if not tile.mode.is_learned:
            samples = pad_edge(to_rgb(decode_plain(tile, box)), LATENT_STRIDE)
            parts.append(_in_steps(engine, engine.analyze(samples, quality), quality))
            continue
        size = rows, columns = Rect.of(box).latents.size
        symbols = decode_symbols(engine, tile, size, quality)
        y_hat = coding.dequantize(engine, [symbols], rows, columns, [quality])[0]
        z = _on_grid(symbols.z, rows, columns).transpose(2, 0, 1)
        parts.append((_in_steps(engine, y_hat, quality)[0], z.astype(np.float32)))
    return _features(parts, stream.header)


def analyze_tiles(samples: Samples, header: Header, engine: Engine) -> list[Array]:
    """Unquantized latents [M, h, w] of every colour tile of a picture [H, W, C]."""
    colour = (box for box in header.boxes() if box.plane == "colour")
    return [analyze(samples, 0, box, engine, header.quality) for box in colour]


def block_bits(stream: Bitstream, engine: Engine | None) -> FloatMap:
    """Where the bits of a file go: float32 [ceil(H / 16), ceil(W / 16)], bits per block of 16x16 pixels.

    A learned tile counts the bits of an ideal coder, which are within 0.1 % and 16 bytes of its payload. The bits of a
    hyper-latent are divided among its 4x4 blocks. The payload of any other tile, and of alpha, is spread evenly.
    Header, index and metadata are not counted.

    Args:
        stream: the file.
        engine: may be None if no tile is learned.

    Raises:
        VaecCorruptError: a tile does not decode.
    """
    header = stream.header
    total = np.zeros((-(-header.height // LATENT_STRIDE), -(-header.width // LATENT_STRIDE)), np.float32)
    for tile, box in zip(stream.tiles, header.boxes(), strict=True):
        size = rows, columns = Rect.of(box).latents.size
        top, left = box.top // LATENT_STRIDE, box.left // LATENT_STRIDE
        place = total[top : top + rows, left : left + columns]
        if tile is None:
            continue
        if engine is None or not tile.mode.is_learned:
            place += 8 * len(tile.payload) / place.size
            continue
        symbols = decode_symbols(engine, tile, size, header.quality)
        place += _bits_by_block(engine, symbols, rows, columns, header.quality)
    return total


def bits_per_pixel(samples: Samples, quality: int, engine: Engine) -> float:
    """Bits per pixel of a picture [H, W, C] if the network codes all of it: -log2 of its probability.

    Unlike in a file, no tile falls back to lossless coding, and alpha is ignored.
    """
    height, width = samples.shape[:2]
    header = _colour_header(width, height, quality, engine)
    bits = 0.0
    for y in analyze_tiles(samples, header, engine):
        symbols, _ = coding.quantize(engine, y, quality)
        bits += float(_bits_by_block(engine, symbols, y.shape[1], y.shape[2], quality).sum())
    return bits / (height * width)


def blends(a: Samples, b: Samples, steps: int, quality: int, engine: Engine) -> list[Samples]:
    """Pictures [H, W, 3] whose latents lie between those of two pictures, from a to b in equal steps.

    The latents are quantized and coded like those of any picture, so the first and last equal the decoded a and b.

    Args:
        a: samples [H, W, C].
        b: samples of the same height and width.
        steps: number of pictures, including a and b.
        quality: 1 to 100.
        engine: runs the network.

    Raises:
        VaecImageError: the pictures are of different sizes (SIZE), or steps is below 2 (ARGUMENT).
    """
    if steps < 2:
        raise VaecImageError(f"steps is {steps}, must be at least 2, which includes both pictures", code="ARGUMENT")
    if a.shape[:2] != b.shape[:2]:
        raise VaecImageError(
            f"pictures are {a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]} pixels, must have equal sizes",
            code="SIZE",
        )
    header = _colour_header(a.shape[1], a.shape[0], quality, engine)
    pairs = list(zip(analyze_tiles(a, header, engine), analyze_tiles(b, header, engine), strict=True))
    cuts = [_fitting_cut(to_rgb(end), header, engine) for end in (a, b)]
    pictures = []
    for share in np.linspace(0, 1, steps).tolist():
        mixed = [(1 - share) * y_a + share * y_b for y_a, y_b in pairs]
        tiles = [encode_latents(engine, y, quality)[0] for y in mixed]
        shown_as = replace(header, deblocking_cut=round((1 - share) * cuts[0] + share * cuts[1]))
        pictures.append(Decoder(tiles, shown_as, engine).picture())
    return pictures


def draw(width: int, height: int, quality: int, engine: Engine, *, seed: int, temperature: float) -> list[Tile]:
    """The tiles of a random picture: every symbol is drawn from the table that would code it.

    First the hyper-latents are drawn from their prior, then the latents, given those. The integers come from numpy's
    PCG64 and integer tables, so at temperature 1 they are the same on every machine.

    Args:
        width: pixels.
        height: pixels.
        quality: 1 to 100, of the prior.
        engine: computes the table indexes.
        seed: at least 0.
        temperature: probabilities are raised to the power 1 / temperature; 0 takes the most probable symbol.

    Raises:
        VaecImageError: (ARGUMENT) seed or temperature is out of range.
    """
    if seed < 0 or not 0 <= temperature < np.inf:
        raise VaecImageError(
            f"seed is {seed}, temperature is {temperature}: both must be finite and at least 0", code="ARGUMENT"
        )
    rng = np.random.default_rng(seed)
    header = _colour_header(width, height, quality, engine)

    def answer(tables: Tables, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        return _drawn(tables, indexes, rng, temperature)

    tiles = []
    for box in header.boxes():
        size = Rect.of(box).latents.size
        (symbols,) = coding.read(engine, *size, [quality], [answer])
        tiles.append(encode_symbols(engine, symbols, size, quality))
    return tiles


def _bits_by_block(engine: Engine, symbols: Symbols, rows: int, columns: int, quality: int) -> NDArray[np.float64]:
    """Bits [rows, columns] of one learned tile; those of a hyper-latent are divided among its blocks."""
    coded = coding.coded(engine, symbols, rows, columns, quality)
    multiple_bits = symbol_bits(*next(coded))
    hyper_bits, bits = np.zeros(symbols.z.shape), np.zeros(symbols.y.shape)
    passes = coding.hyper_passes(*coding.hyper_size(rows, columns))
    for of, of_pass in zip(passes, coded, strict=False):  # leaves the groups of y to the next loop
        hyper_bits[of.positions] = symbol_bits(*of_pass).reshape(-1, engine.arch.hyper_channels)
    for group, of_group in zip(coding.groups(rows, columns, engine.arch.latent_channels), coded, strict=True):
        group.put(bits, symbol_bits(*of_group))
    hyper_bits[:, 0] += multiple_bits
    shared = _shared_out(_on_grid(hyper_bits, rows, columns).sum(2), rows, columns)
    return bits.sum(1).reshape(rows, columns) + shared


def _on_grid(of_z: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Reshapes values of the hyper-latents of rows x columns blocks to [h, w, Z]."""
    return of_z.reshape(-(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE), -1)


def _shared_out(hyper_bits: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Divides the bits [h, w] of hyper-latents among their blocks, of which there are fewer at the edges."""
    heights, widths = (np.minimum(HYPER_STRIDE, n - np.arange(0, n, HYPER_STRIDE)) for n in (rows, columns))
    each = hyper_bits / (heights[:, None] * widths)
    return each.repeat(heights, 0).repeat(widths, 1)


def _drawn(
    tables: Tables, indexes: NDArray[np.integer], rng: np.random.Generator, temperature: float
) -> NDArray[np.int32]:
    """Draws symbols int32 [n] from the tables of the indexes [n]; never the escape, whose share is negligible."""
    symbols = np.zeros(indexes.size, np.int32)
    for row in range(tables.first_coded_row, tables.rows):
        places = np.flatnonzero(indexes == row)
        radius = int(tables.radius[row])
        counts = tables.counts[row, : 2 * radius + 1]
        if temperature == 0:
            symbols[places] = int(counts.argmax()) - radius
        elif temperature == 1:
            ends = counts.cumsum()
            symbols[places] = ends.searchsorted(rng.integers(ends[-1], size=places.size), "right") - radius
        else:
            ends = ((counts / counts.max()) ** (1 / temperature)).cumsum()
            symbols[places] = ends.searchsorted(rng.random(places.size) * ends[-1], "right") - radius
    return symbols


def _colour_header(width: int, height: int, quality: int, engine: Engine) -> Header:
    return Header.of_picture(3, width, height, engine.model_id, quality)


def _fitting_cut(samples: Samples, header: Header, engine: Engine) -> int:
    """The deblocking cut that the encoder chooses for a picture."""
    tiles = [Tile(TileMode.SOLID, b"", 0)] * header.tile_count
    return Encoder(ArrayRows(samples), header, engine, tiles).run()[0].deblocking_cut


def _in_steps(engine: Engine, y: Array, quality: int) -> tuple[FloatMap, FloatMap]:
    """Latents [M, h, w] of a tile, and its hyper-latents [Z, h', w'], in quantizer steps."""
    steps, z = engine.hyper_analyze(y, quality)
    return engine.to_numpy(steps), _on_grid(z, *y.shape[1:]).transpose(2, 0, 1)


def _features(parts: Sequence[tuple[FloatMap, FloatMap]], header: Header) -> Features:
    """The features of a picture, from (y, z) of its colour tiles in index order."""
    rows, columns = header.grid
    y, z = (
        np.block([[parts[row * columns + column][which] for column in range(columns)] for row in range(rows)])
        for which in (0, 1)
    )
    return Features(y, z, header.quality)
