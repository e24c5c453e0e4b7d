"""Codes one tile: learned, corrected, lossless or as one colour; and the minimum PSNR that each quality guarantees."""

import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

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
from vaecodec.runtime import threads

STRIPE_PX, STRIPE_SPACING_PX = 8, 128  # the lossless size is first estimated from stripes, which is faster
FEW_COLUMNS = 256  # of two stripes, for a thorough estimate
# Maximum ratio of the lossless size, estimated from stripes and from the whole tile, to the learned payload. The
# estimates are too high for content that repeats.
STRIPES_MARGIN, GUESS_MARGIN = 4.0, 1.7
WAVES_RATIO = 2  # if a quick estimate exceeds a thorough one by this factor, it means nothing
FLAT_SHARE = 0.5  # text and drawings: fast to pack, and smaller than any estimate says
SMOOTH_BPP, SMALL_SAMPLES = 0.1, 1 << 16  # below either, packing is fast, and estimates are unreliable
# Minimum PSNR of a tile in dB, by quality. Photographs have about 10 dB more at quality 75 and 4 at 90. What the
# network codes badly (coloured text, noise) reaches it only at low qualities, as in any codec at these sizes.
FLOOR_DB = ((1, 5.0), (75, 26.5), (90, 36.5), (100, 40.0))
TRUSTED_DB = 34.0  # below this, another mode may be cheaper even above the floor
MARGIN_DB, LEAST_CORRECTED_DB = 0.5, 26.0  # tiles in another mode exceed the floor by this, and reach at least that
EXACT_MARGIN = 1.05  # an exact tile may take this many times the bytes of an approximate one
STEPS = (64, 48, 40, 32, 28, 24, 20, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)  # of corrections, and of levels
ROUND_UP = 0.35  # rounding offset of a correction, in steps: below half, because zeros are cheap

_CORRECTED = struct.Struct("<IIB")  # bytes of the learned payload, CRC-32 of the correction's symbols, its step


def floor_psnr_db(quality: int) -> float:
    """The minimum PSNR in dB of every tile at a quality; see `choose_mode`."""
    qualities, floors = zip(*FLOOR_DB, strict=True)
    return float(np.interp(quality, qualities, floors))


# --- one learned tile -------------------------------------------------------------------------------------------------


def encode_latents(engine: Engine, y: Array, quality: int) -> tuple[Tile, Array]:
    """Code the latents y [M, h, w] of one tile; also returns the dequantized latents [M, h, w] of the decoder."""
    symbols, y_hat = coding.quantize(engine, y, quality)
    return encode_symbols(engine, symbols, (y.shape[1], y.shape[2]), quality), y_hat


def encode_symbols(engine: Engine, symbols: Symbols, size: tuple[int, int], quality: int) -> Tile:
    """The tile of `size` (rows, columns) latents that codes these symbols."""
    passes = [Pass(*coded) for coded in coding.coded(engine, symbols, *size, quality)]
    return Tile(TileMode.LEARNED, engine.write(passes), _crc_of(symbols))


def read_symbols(
    engine: Engine, tiles: Sequence[Tile], size: tuple[int, int], qualities: Sequence[int], *, base_only: bool = False
) -> list[Symbols | VaecCorruptError]:
    """Decodes the symbols of learned tiles of `size` (rows, columns) latents; errors are returned in their places.

    Args:
        engine: computes the table indexes.
        tiles: all of one size. A damaged tile does not affect the others.
        size: of each tile.
        qualities: of each tile.
        base_only: stop after the base, which is enough for a small preview; the rest is not checked.

    Returns:
        For each tile its symbols, or a VaecCorruptError if no encoder wrote the payload, or a VaecMismatchError if it
        does not decode to the latents that were encoded.
    """
    readers = [_Reader(engine, tile) for tile in tiles]
    found = coding.read(engine, *size, qualities, [reader.answer for reader in readers], base_only=base_only)
    errors = [
        reader.error or (None if base_only else reader.end(each)) for reader, each in zip(readers, found, strict=True)
    ]
    return [error or each for error, each in zip(errors, found, strict=True)]


class _Reader:
    """Reads one payload; after an error, which is kept in `error`, all symbols are zero."""

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
        """The error, if these are not exactly the symbols that the encoder wrote."""
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
    crc = zlib.crc32(symbols.z.astype("<i2").tobytes(), zlib.crc32(symbols.multiples.tobytes()))
    return zlib.crc32(symbols.y.astype("<i2").tobytes(), crc)


# --- one corrected tile -----------------------------------------------------------------------------------------------


def learned_part(tile: Tile) -> Tile:
    """The learned part of a learned tile, corrected or not.

    Raises:
        VaecCorruptError: (CORRECTION) the payload of a corrected tile has an invalid length or step.
    """
    if tile.mode != TileMode.CORRECTED:
        return tile
    learned_bytes, _, step = _CORRECTED.unpack_from(tile.payload)
    end = _CORRECTED.size + learned_bytes
    if end >= len(tile.payload) or step not in STEPS:
        message = (
            f"corrected tile: {learned_bytes} of {len(tile.payload)} bytes are learned, the step is {step}: invalid"
        )
        raise VaecCorruptError(message, code="CORRECTION")
    return Tile(TileMode.LEARNED, tile.payload[_CORRECTED.size : end], tile.content_crc)


def corrected(tile: Tile, box: TileBox, shown: Samples, part: TileBox) -> Samples:
    """Adds the correction to a part of a tile: samples [h, w, C], given those that the network shows there.

    Raises:
        VaecCorruptError: (CORRECTION, WEBP) the correction cannot be read.
        VaecMismatchError: (CORRECTION_CRC) the correction does not match its CRC.
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
    """The learned tile with a correction that reaches a PSNR, and the remaining squared error."""
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
    """A lossless tile [h, w, C]: one colour if it has only one, otherwise WebP."""
    colour = lossless.is_solid(samples)
    mode, payload = (TileMode.WEBP, lossless.pack(samples)) if colour is None else (TileMode.SOLID, colour)
    return Tile(mode, payload, zlib.crc32(samples.tobytes()))


def decode_plain(tile: Tile, box: TileBox) -> Samples:
    """Samples [h, w, C] of a tile that is not learned.

    Raises:
        VaecCorruptError: (WEBP, ZLIB) the payload cannot be read.
        VaecMismatchError: (SAMPLES_CRC) the samples do not match their CRC.
        VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP; (EXTERNAL_MODEL) only a model of another
            library decodes the tile.
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
    """The samples with as few levels as this PSNR allows, and their squared error."""
    for step in STEPS:
        levels = (np.rint(np.arange(256) / step) * step).clip(0, 255).astype(np.uint8)
        error = squared_error(original, levels[original])
        if decibels(error, original.size) >= least_db:
            break
    return levels[original], error


def _plain_tile_near(original: Samples, near: Samples, error: int) -> tuple[Tile, int]:
    """A plain tile of approximate samples, and its squared error; the exact tile if that is hardly larger."""
    tile, exact = plain_tile(near), plain_tile(original)
    return (exact, 0) if len(exact.payload) <= EXACT_MARGIN * len(tile.payload) else (tile, error)


def _is_flat(samples: Samples) -> bool:
    """Whether most pixels of a stripe in the middle of samples [h, w, C] equal their left neighbours."""
    stripe = samples[len(samples) // 2 :][:STRIPE_PX]
    return bool((stripe[:, 1:] == stripe[:, :-1]).all(2).mean() > FLAT_SHARE) if stripe.shape[1] > 1 else True


def _guessed(samples: Samples, engine: Engine) -> AbstractContextManager[Callable[[], float]]:
    """Guesses in a thread, if the engine leaves one; the result is 0 where packing is fast."""
    if samples.size <= SMALL_SAMPLES or _is_flat(samples):
        return nullcontext(lambda: 0.0)
    work = partial(_guess, samples)
    return threads.beside(work) if engine.helpers else nullcontext(work)


def _guess(samples: Samples) -> float:
    """The lossless size in bytes of samples [h, w, C], roughly, from stripes; 0 for what cannot be guessed."""
    if samples.size <= SMALL_SAMPLES:
        return 0
    stripes = [samples[top : top + STRIPE_PX] for top in range(0, len(samples), STRIPE_SPACING_PX)]
    left = max(0, samples.shape[1] - FEW_COLUMNS) // 2
    few = np.concatenate(stripes[len(stripes) // 2 :][:2])[:, left : left + FEW_COLUMNS]
    if WAVES_RATIO * lossless.quick_size(few, is_thorough=True) <= lossless.quick_size(few):
        return 0  # no estimate works for smooth waves
    sample = np.concatenate(stripes)
    return lossless.quick_size(sample) * len(samples) / len(sample)


def _may_pay(samples: Samples, learned_bytes: int, guess: float) -> bool:
    """Whether packing samples [h, w, C] may take no more bytes than the network, given what `_guess` returns."""
    if not guess or 8 * learned_bytes < SMOOTH_BPP * samples.shape[0] * samples.shape[1]:
        return True
    return guess <= STRIPES_MARGIN * learned_bytes and lossless.quick_size(samples) <= GUESS_MARGIN * learned_bytes


# --- choosing the mode ------------------------------------------------------------------------------------------------


def encode_tile(
    samples: Samples, engine: Engine, quality: int, quantize: Callable[[], tuple[Symbols, Array]]
) -> tuple[Tile, Array | None]:
    """Code the samples [h, w, C] of a colour tile in the mode that takes the fewest bytes.

    Args:
        samples: of the tile.
        engine: codes the latents.
        quality: 1 to 100.
        quantize: returns the symbols of the tile, and its dequantized latents [M, h, w]; called only if needed.

    Returns:
        The tile and, if it is learned, the dequantized latents of the decoder.
    """
    if lossless.is_solid(samples) is not None:
        return plain_tile(samples), None
    with _guessed(samples, engine) as guess:
        symbols, y_hat = quantize()
        tile = encode_symbols(engine, symbols, (y_hat.shape[1], y_hat.shape[2]), quality)
        if not _may_pay(samples, len(tile.payload), guess()):
            return tile, y_hat
    plain = plain_tile(samples)
    return (plain, None) if len(plain.payload) <= len(tile.payload) else (tile, y_hat)


def choose_mode(tile: Tile, original: Samples, shown: Samples, quality: int) -> tuple[Tile, int]:
    """Makes the final choice for a learned tile [h, w, C], given what decoders will show.

    The tile is kept if that is good enough. Below the minimum PSNR it is corrected, or stored without the network.
    Above it, it is stored without the network if that takes no more bytes and is no worse.

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
        if not _may_pay(near[0], len(tile.payload), _guess(near[0])):
            return tile, error
        plain = _plain_tile_near(original, *near)
        return plain if len(plain[0].payload) <= len(tile.payload) else (tile, error)
    ways = _plain_tile_near(original, *near), _correct(tile, original, shown, least_db)
    return min(ways, key=lambda way: len(way[0].payload))
