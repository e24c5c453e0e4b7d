"""What latents are good for beside files: features, bits by place, pictures between pictures, pictures from the prior.

Everything here goes through `Network.walk_latents` and `choose`, as decoder and encoder do.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bitstream import Bitstream, Header, PixelFormat, Tile, TileBox, TileMode, tile_log2_for
from vaecodec.entropy.tables import Tables, symbol_bits
from vaecodec.errors import VaecImageError
from vaecodec.pixels import pad_edge
from vaecodec.tiles import (
    LATENT_PX,
    Samples,
    analyze_tiles,
    decode_plain,
    decode_tiles,
    encode_latents,
    encode_symbols,
    encode_tiles,
    read_symbols,
    to_rgb,
)

if TYPE_CHECKING:  # torch loads only when there is something to compute
    from torch import Tensor

    from vaecodec.model.network import Network
    from vaecodec.model.symbols import Symbols

BLOCK_PX = LATENT_PX
HYPER_BLOCKS = 4  # blocks a side that one hyper-latent tells of

FloatMap = NDArray[np.float32]


class Features(NamedTuple):
    """The latents of a picture: what the network makes of it, and what a file holds.

    Attributes:
        y: float32 [M, ceil(H / 16), ceil(W / 16)], one vector of M = 384 (with the built-in weights) a block of 16x16
            pixels. Unit: quantizer steps of `quality`, of which a file keeps a whole number as its distance from a
            prediction; a step is smaller at a higher quality, so values grow with it.
        z: float32 [Z, ceil(H / 64), ceil(W / 64)], hyper-latents, Z = 96 a block of 64x64 pixels: a summary from which
            the codec predicts how strong each latent is there. Unit: quantizer steps.
        quality: 1 to 100. Compare features of the same quality and the same weights only.
    """

    y: FloatMap
    z: FloatMap
    quality: int


def features_of_picture(samples: Samples, quality: int, network: "Network") -> Features:
    """Features of a picture [H, W, C] before anything is quantized; alpha is ignored, grey is taken as RGB."""
    header = _colour_header(samples.shape[1], samples.shape[0], quality, network)
    parts = [network.to_steps(y, quality) for y in analyze_tiles(samples, header, network)]
    return _features([(_array(part.y), _array(part.z)) for part in parts], header)


def features_of_stream(stream: Bitstream, network: "Network") -> Features:
    """Features as a file holds them, quantized: its latents are decoded, its pixels are not.

    The tiles that it keeps without loss have no latents: their pixels are analyzed.

    Raises:
        VaecCorruptError: a tile does not decode.
    """
    quality = stream.header.quality
    parts = []
    for tile, box in _colour_tiles(stream):
        if tile.mode != TileMode.LEARNED:
            pixels = pad_edge(to_rgb(decode_plain(tile, box)), LATENT_PX)
            latents = network.to_steps(network.analyze(pixels, quality), quality)
            parts.append((_array(latents.y), _array(latents.z)))
            continue
        rows, columns = _blocks_of(box)
        symbols = read_symbols(network, tile, (rows, columns), quality)
        y_hat = network.dequantize([symbols], rows, columns, [quality])[0]
        z = _on_grid(symbols.z, rows, columns).transpose(2, 0, 1)
        parts.append((_array(network.to_steps(y_hat, quality).y), z.astype(np.float32)))
    return _features(parts, stream.header)


def block_bits(stream: Bitstream, network: "Network | None") -> FloatMap:
    """Where the bits of a file lie: float32 [ceil(H / 16), ceil(W / 16)], bits a block of 16x16 pixels.

    A learned tile counts as an ideal coder would spend, which is within 0.1 % and 16 bytes of its payload; the bits of
    a hyper-latent are shared out among its 4x4 blocks. The payload of any other tile, and of alpha, is spread evenly.
    Header, index and metadata are not counted.

    Args:
        stream: the file.
        network: may be None if no tile is learned.

    Raises:
        VaecCorruptError: a tile does not decode.
    """
    header = stream.header
    total = np.zeros((-(-header.height // BLOCK_PX), -(-header.width // BLOCK_PX)), np.float32)
    for tile, box in zip(stream.tiles, header.boxes(), strict=True):
        rows, columns = _blocks_of(box)
        top, left = box.top // BLOCK_PX, box.left // BLOCK_PX
        place = total[top : top + rows, left : left + columns]
        if tile is None:
            continue
        if network is None or tile.mode != TileMode.LEARNED:
            place += 8 * len(tile.payload) / place.size
            continue
        symbols = read_symbols(network, tile, (rows, columns), header.quality)
        place += _bits_by_block(network, symbols, rows, columns, header.quality)
    return total


def bits_per_pixel(samples: Samples, quality: int, network: "Network") -> float:
    """Bits per pixel of a picture [H, W, C] if all of it is coded by the network: -log2 of its probability.

    Unlike in a file, nothing falls back to lossless coding, and alpha is ignored.
    """
    height, width = samples.shape[:2]
    header = _colour_header(width, height, quality, network)
    bits = 0.0
    for y in analyze_tiles(samples, header, network):
        symbols, _ = network.choose(network.to_steps(y, quality), quality)
        bits += float(_bits_by_block(network, symbols, y.shape[1], y.shape[2], quality).sum())
    return bits / (height * width)


def blends(a: Samples, b: Samples, steps: int, quality: int, network: "Network") -> list[Samples]:
    """Pictures [H, W, 3] whose latents lie between those of two pictures, from a to b in equal steps.

    The latents are quantized and coded as those of any picture: the first and the last show what files of a and b show.

    Args:
        a: samples [H, W, C].
        b: samples of the same height and width.
        steps: how many pictures, a and b included.
        quality: 1 to 100.
        network: the weights.

    Raises:
        VaecImageError: the pictures are of different sizes (SIZE), or steps is below 2 (ARGUMENT).
    """
    if steps < 2:
        raise VaecImageError(f"steps is {steps}, must be at least 2: the two pictures count", code="ARGUMENT")
    if a.shape[:2] != b.shape[:2]:
        raise VaecImageError(
            f"the pictures have {a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]} pixels: they must be equal",
            code="SIZE",
        )
    header = _colour_header(a.shape[1], a.shape[0], quality, network)
    pairs = list(zip(analyze_tiles(a, header, network), analyze_tiles(b, header, network), strict=True))
    cuts = [encode_tiles(to_rgb(end), header, network)[1].deblocking_cut for end in (a, b)]
    pictures = []
    for share in np.linspace(0, 1, steps).tolist():
        mixed = [(1 - share) * y_a + share * y_b for y_a, y_b in pairs]
        coded = [encode_latents(network, y, quality)[0] for y in mixed]
        shown_as = replace(header, deblocking_cut=round((1 - share) * cuts[0] + share * cuts[1]))
        pictures.append(decode_tiles(coded, shown_as, network)[0])
    return pictures


def draw(width: int, height: int, quality: int, network: "Network", *, seed: int, temperature: float) -> list[Tile]:
    """The tiles of a picture that nobody took: every symbol is drawn from the table that would code it.

    First the hyper-latents from their prior, then, given those, the latents. The integers come from
    numpy's PCG64 and integer tables: at temperature 1 they are the same on every machine.

    Args:
        width: pixels.
        height: pixels.
        quality: 1 to 100, of the prior.
        network: the weights.
        seed: at least 0.
        temperature: probabilities are raised to the power of 1 / temperature; 0 takes the most probable symbol.

    Raises:
        VaecImageError: (ARGUMENT) seed or temperature is out of range.
    """
    if seed < 0 or not 0 <= temperature < np.inf:
        raise VaecImageError(
            f"seed is {seed}, temperature is {temperature}: both must be at least 0, and finite", code="ARGUMENT"
        )
    rng = np.random.default_rng(seed)
    header = _colour_header(width, height, quality, network)

    def answer(tables: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        return _drawn(tables, rows, rng, temperature)

    sizes = [_blocks_of(box) for box in header.boxes()]
    return [encode_symbols(network, network.walk_latents(*size, quality, answer), size, quality) for size in sizes]


def _bits_by_block(
    network: "Network", symbols: "Symbols", rows: int, columns: int, quality: int
) -> NDArray[np.float64]:
    """Bits [rows, columns] of the symbols of one learned tile; those of a hyper-latent are shared out."""
    hyper, *groups = network.coded(symbols, rows, columns, quality)
    bits = np.zeros(symbols.y.shape)
    for coded, group in zip(groups, network.groups(rows, columns), strict=True):
        group.put(bits, symbol_bits(*coded))
    hyper_bits = _on_grid(symbol_bits(*hyper), rows, columns).sum(2)
    return bits.sum(1).reshape(rows, columns) + _shared_out(hyper_bits, rows, columns)


def _on_grid(of_z: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """What belongs to the hyper-latents of rows x columns blocks, as [h, w, Z]."""
    return of_z.reshape(-(-rows // HYPER_BLOCKS), -(-columns // HYPER_BLOCKS), -1)


def _shared_out(hyper_bits: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Bits [h, w] of hyper-latents as bits of their blocks; at the right and bottom edges they have fewer."""
    heights, widths = (np.minimum(HYPER_BLOCKS, n - np.arange(0, n, HYPER_BLOCKS)) for n in (rows, columns))
    each = hyper_bits / (heights[:, None] * widths)
    return each.repeat(heights, 0).repeat(widths, 1)


def _drawn(
    tables: Tables, rows: NDArray[np.integer], rng: np.random.Generator, temperature: float
) -> NDArray[np.int32]:
    """Symbols int32 [n] from the distributions of the table rows [n]; never the escape, whose share is negligible."""
    symbols = np.zeros(rows.size, np.int32)
    for row in range(tables.first_coded_row, tables.rows):
        places = np.flatnonzero(rows == row)
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


def _colour_header(width: int, height: int, quality: int, network: "Network") -> Header:
    return Header(PixelFormat.RGB, width, height, network.model_id, quality, tile_log2_for(width))


def _colour_tiles(stream: Bitstream) -> list[tuple[Tile, TileBox]]:
    pairs = zip(stream.tiles, stream.header.boxes(), strict=True)
    return [(tile, box) for tile, box in pairs if tile is not None and box.plane == "colour"]


def _blocks_of(box: TileBox) -> tuple[int, int]:
    """Rows and columns of 16x16 blocks that cover a box."""
    return -(-box.height // BLOCK_PX), -(-box.width // BLOCK_PX)


def _features(parts: Sequence[tuple[FloatMap, FloatMap]], header: Header) -> Features:
    """Those of a picture, from (y, z) of its colour tiles in index order."""
    rows, columns = header.grid
    y, z = (
        np.block([[parts[row * columns + column][which] for column in range(columns)] for row in range(rows)])
        for which in (0, 1)
    )
    return Features(y, z, header.quality)


def _array(latents: "Tensor") -> FloatMap:
    array: FloatMap = latents.cpu().numpy()
    return array
