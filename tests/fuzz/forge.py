"""Forged files: every CRC right, the content hostile. What an attacker who has this very codec can make."""

import random
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fuzz.mutators import FORGED, Mutant
from fuzz.parts import CORRECTED, CORRECTION, LEARNED, WEBP, ZLIB, Entry, Parts, assemble, reseal, sound_entry
from vaecodec import Codec
from vaecodec.entropy import lossless
from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables
from vaecodec.format import container
from vaecodec.format.records import Header, PixelFormat, Tile, TileBox, TileMode
from vaecodec.model import coding
from vaecodec.tiling.tile import STEPS, encode_symbols

if TYPE_CHECKING:
    from vaecodec.model.engine import Engine

STYLES = ("limit", "alternating", "wide", "just escaped", "sparse", "zero")


def forge(rng: random.Random, seed: Parts, codec: Codec) -> Mutant:
    """Puts hostile content into a tile of a file, or changes the quality that its latents are read at, and seals it.

    The result is valid: it must decode to a picture of the size that it claims, or synthesis must refuse it.
    """
    header = container.read(seed.data).header
    quality = rng.choice((1, header.quality, 100))
    boxes = header.boxes()
    entries = tuple(
        _learned(rng, box, quality, codec.engine)
        if entry.mode == LEARNED
        else _corrected(rng, box, quality, codec.engine)
        if entry.mode == CORRECTED
        else _packed(rng, box)
        if rng.random() < 0.3
        else entry
        for entry, box in zip(seed.entries, boxes, strict=True)
    )
    data = reseal(assemble(seed, header={"quality": quality}, entries=entries))
    return Mutant(data, FORGED, True)


def bomb() -> bytes:
    """Makes a file of less than 4 kB that stands for 2^28 pixels of one colour, and decodes to them."""
    header = Header(PixelFormat.RGB, 2**14, 2**14, bytes(4), 50)
    tile = Tile(TileMode.SOLID, b"rgb", zlib.crc32(b"rgb" * header.tile_size**2))
    return container.write(header, [tile] * header.tile_count)


def learned_payload(
    engine: "Engine", size: tuple[int, int], *, quality: int, style: str, rng: np.random.Generator
) -> tuple[bytes, int]:
    """Codes hostile symbols for a tile of [rows, columns] latents; returns the payload and its content CRC."""

    def answer(tables: Tables, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        return hostile_symbols(rng, tables, indexes, style)

    (symbols,) = coding.read(engine, *size, [quality], [answer])
    tile = encode_symbols(engine, symbols, size, quality)
    return tile.payload, tile.content_crc


def hostile_symbols(rng: np.random.Generator, tables: Tables, rows: NDArray[np.uint8], style: str) -> NDArray[np.int32]:
    """int32 [n]: symbols that the tables allow and that no picture has.

    Args:
        rng: decides what is random.
        tables: of the symbols.
        rows: int [n], theirs.
        style: one of `STYLES`.
    """
    count = rows.size
    radius = tables.radius.astype(np.int32)[rows]
    values = {
        "limit": lambda: np.full(count, rng.choice((-ESCAPE_LIMIT, ESCAPE_LIMIT))),
        "alternating": lambda: np.where(np.arange(count) % 2, -ESCAPE_LIMIT, ESCAPE_LIMIT),
        "wide": lambda: rng.integers(-ESCAPE_LIMIT, ESCAPE_LIMIT + 1, count),
        "just escaped": lambda: (radius + 1) * rng.choice((-1, 1), count),
        "sparse": lambda: np.where(rng.random(count) < 0.01, ESCAPE_LIMIT, 0),
        "zero": lambda: np.zeros(count),
    }
    symbols = values[style]().astype(np.int32)
    symbols[rows < tables.first_coded_row] = 0
    return symbols


def _learned(rng: random.Random, box: TileBox, quality: int, engine: "Engine") -> Entry:
    """A learned tile of hostile latents, of as many as the longest payload of the tile holds."""
    size = -(-box.height // 16), -(-box.width // 16)
    for style in (rng.choice(STYLES), "zero"):
        numbers = np.random.default_rng(rng.getrandbits(32))
        payload, crc = learned_payload(engine, size, quality=quality, style=style, rng=numbers)
        if len(payload) <= box.raw_bytes + 64:
            break
    return sound_entry(LEARNED, payload, crc)


def _corrected(rng: random.Random, box: TileBox, quality: int, engine: "Engine") -> Entry:
    """A learned tile of hostile latents, with a correction of random symbols and any step."""
    learned = _learned(rng, box, quality, engine)
    symbols = np.frombuffer(rng.randbytes(box.raw_bytes), np.uint8).reshape(box.height, box.width, box.channels)
    head = CORRECTION.pack(len(learned.payload), zlib.crc32(symbols.tobytes()), rng.choice(STEPS))
    return sound_entry(CORRECTED, head + learned.payload + lossless.pack(symbols), learned.content_crc)


def _packed(rng: random.Random, box: TileBox) -> Entry:
    """A WebP tile of random samples, or a zlib tile of random residuals in any filter and any number of blocks."""
    residual = rng.choice((rng.randbytes(box.raw_bytes), bytes(box.raw_bytes), b"\xff" * box.raw_bytes))
    if rng.random() < 0.5:
        samples = np.frombuffer(residual, np.uint8).reshape(box.height, box.width, box.channels)
        return sound_entry(WEBP, lossless.pack(samples), zlib.crc32(residual))
    bits = rng.randrange(8 if box.channels == 3 else 4)
    payload = bytes([bits]) + zlib.compress(residual, rng.randrange(10))
    shape = (box.height, box.width, box.channels)
    return sound_entry(ZLIB, payload, zlib.crc32(lossless.unpack_zlib(payload, shape).tobytes()))
