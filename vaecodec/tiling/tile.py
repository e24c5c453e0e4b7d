"""One tile: coded by the network, without loss, or as one colour; and the floor below which the first does not do."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy import lossless
from vaecodec.entropy.tables import Pass, Tables
from vaecodec.errors import VaecCorruptError, VaecMismatchError
from vaecodec.format.records import Tile, TileBox, TileMode
from vaecodec.model import coding
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import decibels, psnr_db
from vaecodec.pictures.rows import Samples

STRIPE_SPACING_PX = 128  # between stripes of a tile from which its lossless size is guessed
# Height of the stripes, and how many times the learned payload the guess may be: a quick look spares most photographs
# the better one, and that spares most of the rest the packing.
GUESSES = ((2, 4.0), (8, 1.25))
FLOOR_BLOCK_PX = 8


def floor_psnr_db(quality: int) -> float:
    """PSNR in dB that a learned tile must reach: 8 dB below what photographs have on average at this quality.

    A tile that misses it may still be kept if it is closer to the picture than the means of 8x8 blocks are: noise has
    a low PSNR in every codec of that size.
    """
    return 16.0 + 0.14 * quality


# --- one learned tile -------------------------------------------------------------------------------------------------


def encode_latents(engine: Engine, y: Array, quality: int) -> tuple[Tile, Array]:
    """Code the latents y [M, h, w] of one tile; also returns what the decoder will have of them [M, h, w]."""
    symbols, y_hat = coding.quantize(engine, y, quality)
    return encode_symbols(engine, symbols, (y.shape[1], y.shape[2]), quality), y_hat


def encode_symbols(engine: Engine, symbols: Symbols, size: tuple[int, int], quality: int) -> Tile:
    """The tile of `size` latents, rows and columns, that has these symbols."""
    passes = [Pass(*coded) for coded in coding.coded(engine, symbols, *size, quality)]
    return Tile(TileMode.LEARNED, engine.write(passes), _crc_of(symbols))


def read_symbols(
    engine: Engine, tiles: Sequence[Tile], size: tuple[int, int], qualities: Sequence[int], *, base_only: bool = False
) -> list[Symbols | VaecCorruptError]:
    """The symbols of learned tiles of `size` latents, rows and columns; an error in the place of those it holds for.

    Args:
        engine: gives table indexes.
        tiles: all of one size. What is wrong with one is no other's matter.
        size: of each.
        qualities: of each.
        base_only: stop when the base is known, enough for a small preview; what follows is not looked at.

    Returns:
        Of each tile its symbols; or VaecCorruptError, if the payload is not one that an encoder wrote, and
        VaecMismatchError, if it does not decode to the latents that were encoded.
    """
    readers = [_Reader(engine, tile) for tile in tiles]
    found = coding.read(engine, *size, qualities, [reader.answer for reader in readers], base_only=base_only)
    errors = [
        reader.error or (None if base_only else reader.end(each)) for reader, each in zip(readers, found, strict=True)
    ]
    return [error or each for error, each in zip(errors, found, strict=True)]


class _Reader:
    """One payload; where it cannot be read, zeros answer in its place, and `error` says why."""

    def __init__(self, engine: Engine, tile: Tile) -> None:
        self._tile = tile
        self.error: VaecCorruptError | None = None
        try:
            self._coder = engine.reader(tile.payload)
        except VaecCorruptError as error:
            self.error = error

    def answer(self, tables: Tables, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The next symbols."""
        if self.error is None:
            try:
                return self._coder.read(tables, indexes)
            except VaecCorruptError as error:
                self.error = error
        return np.zeros(indexes.size, np.int32)

    def end(self, symbols: Symbols) -> VaecCorruptError | None:
        """What is wrong, if this is not all that the encoder wrote, no less and nothing else."""
        try:
            self._coder.finish()
        except VaecCorruptError as error:
            return error
        crc, stored = _crc_of(symbols), self._tile.content_crc
        if crc == stored:
            return None
        return VaecMismatchError(f"latents have CRC {crc:08x}, the file says {stored:08x}", code="LATENT_CRC")


def decode_symbols(engine: Engine, tile: Tile, size: tuple[int, int], quality: int) -> Symbols:
    """The symbols of one learned tile of `size` latents; raises the errors that `read_symbols` returns."""
    (found,) = read_symbols(engine, [tile], size, [quality])
    if isinstance(found, VaecCorruptError):
        raise found
    return found


def decode_latents(engine: Engine, tile: Tile, size: tuple[int, int], quality: int) -> Array:
    """Latents [M, h, w] of a learned tile, ready for synthesis; raises as `decode_symbols`."""
    return coding.dequantize(engine, [decode_symbols(engine, tile, size, quality)], *size, [quality])[0]


def _crc_of(symbols: Symbols) -> int:
    return zlib.crc32(symbols.y.astype("<i2").tobytes(), zlib.crc32(symbols.z.astype("<i2").tobytes()))


# --- one plain tile ---------------------------------------------------------------------------------------------------


def plain_tile(samples: Samples) -> Tile:
    """A tile [h, w, C] without loss: one colour if it has only one, else packed."""
    colour = lossless.is_solid(samples)
    mode, payload = (TileMode.ZLIB, lossless.pack(samples)) if colour is None else (TileMode.SOLID, colour)
    return Tile(mode, payload, zlib.crc32(samples.tobytes()))


def decode_plain(tile: Tile, box: TileBox) -> Samples:
    """Samples [h, w, C] of a tile that was stored without loss."""
    shape = (box.height, box.width, box.channels)
    if tile.mode == TileMode.SOLID:
        samples = np.broadcast_to(np.frombuffer(tile.payload, np.uint8), shape)
    else:
        samples = lossless.unpack(tile.payload, shape)
    crc = zlib.crc32(samples.tobytes())
    if crc != tile.content_crc:
        raise VaecMismatchError(f"samples have CRC {crc:08x}, the file says {tile.content_crc:08x}", code="SAMPLES_CRC")
    return samples


def _plain_may_pay(samples: Samples, learned_bytes: int) -> bool:
    """Whether packing a tile without loss may take no more bytes, guessed from stripes: packing all of it is slow."""
    return all(_guess_plain_bytes(samples, stripe_px) <= margin * learned_bytes for stripe_px, margin in GUESSES)


def _guess_plain_bytes(samples: Samples, stripe_px: int) -> float:
    stripes = [samples[top : top + stripe_px] for top in range(0, len(samples), STRIPE_SPACING_PX)]
    sample = np.concatenate(stripes)
    return len(lossless.pack(sample)) * len(samples) / len(sample)


# --- which of them ----------------------------------------------------------------------------------------------------


def encode_tile(
    samples: Samples, engine: Engine, quality: int, analyze: Callable[[], Array]
) -> tuple[Tile, Array | None]:
    """Code the samples [h, w, C] of a colour tile in the way that takes fewest bytes.

    Args:
        samples: of the tile.
        engine: computes.
        quality: 1 to 100.
        analyze: the latents [M, h, w] of the tile before they are quantized, computed when they are needed.

    Returns:
        The tile and, if it is learned, the latents that the decoder will have of it.
    """
    if lossless.is_solid(samples) is not None:
        return plain_tile(samples), None
    tile, y_hat = encode_latents(engine, analyze(), quality)
    if _plain_may_pay(samples, len(tile.payload)):
        plain = plain_tile(samples)
        if len(plain.payload) <= len(tile.payload):
            return plain, None
    return tile, y_hat


def misses_floor(original: Samples, squared_error: int, quality: int) -> bool:
    """Whether a learned tile is too far from its samples [h, w, C] to be kept; see `floor_psnr_db`."""
    reached_db = decibels(squared_error, original.size)
    return reached_db < floor_psnr_db(quality) and reached_db < psnr_db(original, _block_means(original))


def _block_means(samples: Samples) -> Samples:
    """The picture [h, w, C] with every 8x8 block as its mean; blocks at the right and bottom edges are smaller."""
    tops, lefts = (np.arange(0, side, FLOOR_BLOCK_PX) for side in samples.shape[:2])
    heights, widths = np.diff(tops, append=samples.shape[0]), np.diff(lefts, append=samples.shape[1])
    sums = np.add.reduceat(np.add.reduceat(samples, tops, 0, dtype=np.int32), lefts, 1)
    means = sums / (heights[:, None] * widths)[..., None]
    blocks: Samples = means.round().astype(np.uint8).repeat(heights, 0).repeat(widths, 1)
    return blocks
