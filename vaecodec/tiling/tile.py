"""One tile: coded by the network, corrected, without loss, or as one colour; and what a quality promises of it."""

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy import lossless
from vaecodec.entropy.tables import Pass, Tables
from vaecodec.errors import VaecCorruptError, VaecMismatchError
from vaecodec.format import external
from vaecodec.format.records import Tile, TileBox, TileMode
from vaecodec.model import coding
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.pictures.pixels import Samples, decibels, squared_error

STRIPE_PX, STRIPE_SPACING_PX = (
    8,
    128,
)  # a tile's size without loss is guessed from stripes first: quicker than all of it
# How many times the learned payload the guesses, from stripes and from all, may be: what repeats is only told once.
STRIPES_MARGIN, GUESS_MARGIN = 4.0, 1.7
WAVES_RATIO = 2  # of a quick guess to a thorough one
FLAT_SHARE = 0.5  # text and drawings: quickly packed, and better than any guess says
SMOOTH_BPP, SMALL_SAMPLES = 0.1, 1 << 16  # below either, packing is quick, and guesses say little
# What a tile has at least, in dB of PSNR by quality. Photographs have some 10 dB more at quality 75 and 4 at 90. What
# the network serves badly (text in colour, noise) passes it at low qualities only, as in any codec of these sizes.
FLOOR_DB = ((1, 5.0), (75, 26.5), (90, 36.5), (100, 40.0))
TRUSTED_DB = 34.0  # what has less may be cheaper in another way, too
MARGIN_DB, LEAST_CORRECTED_DB = 0.5, 26.0  # what is coded in another way is above the floor by this, and not below that
EXACT_MARGIN = 1.05  # what is exact may take more bytes than what is only near
STEPS = (64, 48, 40, 32, 28, 24, 20, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)  # of corrections, and of levels
ROUND_UP = 0.35  # of a step of a correction: less than half, because zeros are cheap

_CORRECTED = struct.Struct("<IIB")  # bytes of the learned payload, CRC-32 of the symbols of the correction, their step


def floor_psnr_db(quality: int) -> float:
    """PSNR in dB that a tile has at least at a quality, whatever it shows; see `settle`."""
    qualities, floors = zip(*FLOOR_DB, strict=True)
    return float(np.interp(quality, qualities, floors))


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
            self._coder = engine.reader(learned_part(tile).payload)
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


# --- one corrected tile -----------------------------------------------------------------------------------------------


def learned_part(tile: Tile) -> Tile:
    """What the network decodes of a tile that is learned, corrected or not.

    Raises:
        VaecCorruptError: (CORRECTION) the payload of a corrected tile has no place for a correction.
    """
    if tile.mode != TileMode.CORRECTED:
        return tile
    learned_bytes, _, step = _CORRECTED.unpack_from(tile.payload)
    end = _CORRECTED.size + learned_bytes
    if end >= len(tile.payload) or step not in STEPS:
        message = f"{learned_bytes} of {len(tile.payload)} bytes are learned and the step is {step}, which cannot be"
        raise VaecCorruptError(message, code="CORRECTION")
    return Tile(TileMode.LEARNED, tile.payload[_CORRECTED.size : end], tile.content_crc)


def corrected(tile: Tile, box: TileBox, shown: Samples, part: TileBox) -> Samples:
    """Samples [h, w, C] of a part of a corrected tile, of what the network shows there.

    Raises:
        VaecCorruptError: (CORRECTION, WEBP) the correction cannot be read.
        VaecMismatchError: (CORRECTION_CRC) it is not the one that was written.
    """
    learned_bytes, crc, step = _CORRECTED.unpack_from(tile.payload)
    symbols = lossless.unpack(tile.payload[_CORRECTED.size + learned_bytes :], (box.height, box.width, box.channels))
    if zlib.crc32(symbols.tobytes()) != crc:
        raise VaecMismatchError("the correction does not decode to what was encoded", code="CORRECTION_CRC")
    top, left = part.top - box.top, part.left - box.left
    return _add(shown, symbols[top : top + part.height, left : left + part.width], step)


def _add(shown: Samples, symbols: Samples, step: int) -> Samples:
    samples: Samples = (shown + step * (symbols.astype(np.int16) - 128)).clip(0, 255).astype(np.uint8)
    return samples


def _correct(tile: Tile, original: Samples, shown: Samples, least_db: float) -> tuple[Tile, int]:
    """A learned tile with a correction that brings it to a PSNR, and the squared error that is left."""
    error = original.astype(np.int16) - shown
    for step in STEPS:
        symbols = (128 + np.sign(error) * ((np.abs(error) + ROUND_UP * step) // step)).astype(np.uint8)
        left = squared_error(original, _add(shown, symbols, step))
        if decibels(left, original.size) >= least_db:
            break
    head = _CORRECTED.pack(len(tile.payload), zlib.crc32(symbols.tobytes()), step)
    payload = head + tile.payload + lossless.pack(symbols)
    return Tile(TileMode.CORRECTED, payload, tile.content_crc), left


# --- one plain tile ---------------------------------------------------------------------------------------------------


def plain_tile(samples: Samples) -> Tile:
    """A tile [h, w, C] without loss: one colour if it has only one, else packed."""
    colour = lossless.is_solid(samples)
    mode, payload = (TileMode.WEBP, lossless.pack(samples)) if colour is None else (TileMode.SOLID, colour)
    return Tile(mode, payload, zlib.crc32(samples.tobytes()))


def decode_plain(tile: Tile, box: TileBox) -> Samples:
    """Samples [h, w, C] of a tile that is not learned.

    Raises:
        VaecCorruptError: (WEBP, ZLIB) the payload cannot be read.
        VaecMismatchError: (SAMPLES_CRC) it does not decode to what was encoded.
        VaecUnsupportedError: (WEBP_MISSING) Pillow has no WebP, (EXTERNAL_MODEL) a model of another library decodes it.
    """
    if tile.mode == TileMode.EXTERNAL:
        raise external.unsupported(tile)
    shape = (box.height, box.width, box.channels)
    if tile.mode == TileMode.SOLID:
        samples = np.broadcast_to(np.frombuffer(tile.payload, np.uint8), shape)
    else:
        samples = (lossless.unpack if tile.mode == TileMode.WEBP else lossless.unpack_zlib)(tile.payload, shape)
    crc = zlib.crc32(samples.tobytes())
    if crc != tile.content_crc:
        raise VaecMismatchError(f"samples have CRC {crc:08x}, the file says {tile.content_crc:08x}", code="SAMPLES_CRC")
    return samples


def _near(original: Samples, least_db: float) -> tuple[Samples, int]:
    """Samples of so few levels that they have just this PSNR, and their squared error."""
    for step in STEPS:
        levels = (np.rint(np.arange(256) / step) * step).clip(0, 255).astype(np.uint8)
        error = squared_error(original, levels[original])
        if decibels(error, original.size) >= least_db:
            break
    return levels[original], error


def _plain_tile_near(original: Samples, near: Samples, error: int) -> tuple[Tile, int]:
    """A plain tile of such samples, and its error; or the exact one, if that is hardly larger."""
    tile, exact = plain_tile(near), plain_tile(original)
    return (exact, 0) if len(exact.payload) <= EXACT_MARGIN * len(tile.payload) else (tile, error)


def _is_flat(samples: Samples) -> bool:
    """Whether in a stripe in the middle of samples [h, w, C] most pixels are like their left neighbours."""
    stripe = samples[len(samples) // 2 :][:STRIPE_PX]
    return bool((stripe[:, 1:] == stripe[:, :-1]).all(2).mean() > FLAT_SHARE) if stripe.shape[1] > 1 else True


def _may_pay(samples: Samples, learned_bytes: int) -> bool:
    """Whether packing samples [h, w, C] may take no more bytes than the network."""
    is_smooth = 8 * learned_bytes < SMOOTH_BPP * samples.shape[0] * samples.shape[1]
    if is_smooth or samples.size <= SMALL_SAMPLES:
        return True
    stripes = [samples[top : top + STRIPE_PX] for top in range(0, len(samples), STRIPE_SPACING_PX)]
    few = np.concatenate(stripes[len(stripes) // 2 :][:2])
    if WAVES_RATIO * lossless.quick_size(few, is_thorough=True) <= lossless.quick_size(few):
        return True  # no guess tells how well waves pack
    sample = np.concatenate(stripes)
    guess = lossless.quick_size(sample) * len(samples) / len(sample)
    return guess <= STRIPES_MARGIN * learned_bytes and lossless.quick_size(samples) <= GUESS_MARGIN * learned_bytes


# --- which of them ----------------------------------------------------------------------------------------------------


def encode_tile(
    samples: Samples, engine: Engine, quality: int, quantize: Callable[[], tuple[Symbols, Array]]
) -> tuple[Tile, Array | None]:
    """Code the samples [h, w, C] of a colour tile in the way that takes fewest bytes.

    Args:
        samples: of the tile.
        engine: computes.
        quality: 1 to 100.
        quantize: gives the symbols of the tile, and the latents [M, h, w] that the decoder will have; called if needed.

    Returns:
        The tile and, if it is learned, the latents that the decoder will have of it.
    """
    if lossless.is_solid(samples) is not None:
        return plain_tile(samples), None
    symbols, y_hat = quantize()
    tile = encode_symbols(engine, symbols, (y_hat.shape[1], y_hat.shape[2]), quality)
    if _is_flat(samples) or _may_pay(samples, len(tile.payload)):
        plain = plain_tile(samples)
        if len(plain.payload) <= len(tile.payload):
            return plain, None
    return tile, y_hat


def settle(tile: Tile, original: Samples, shown: Samples, quality: int) -> tuple[Tile, int]:
    """What a learned tile [h, w, C] becomes, now that it is known what decoders will show of it.

    It stays if that is good enough. Below the floor it is corrected, or stored without the network; and above it as
    well, where that takes no more bytes and shows no less.

    Returns:
        The tile, and the sum of its squared errors.
    """
    error = squared_error(original, shown)
    reached_db, floor_db = decibels(error, original.size), floor_psnr_db(quality)
    if reached_db >= max(floor_db, TRUSTED_DB):
        return tile, error
    least_db = max(floor_db + MARGIN_DB, LEAST_CORRECTED_DB, reached_db)
    near = _near(original, least_db)
    if reached_db >= floor_db:
        if not _may_pay(near[0], len(tile.payload)):
            return tile, error
        plain = _plain_tile_near(original, *near)
        return plain if len(plain[0].payload) <= len(tile.payload) else (tile, error)
    ways = _plain_tile_near(original, *near), _correct(tile, original, shown, least_db)
    return min(ways, key=lambda way: len(way[0].payload))
