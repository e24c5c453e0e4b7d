"""Functions of any bytes, one for each part of a reader, that raise if a law is broken."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fuzz.laws import BrokenLawError, Judge, parse
from fuzz.mutators import FORGED, Mutant
from fuzz.parts import LEARNED, WEBP, reseal
from vaecodec import Codec
from vaecodec.entropy import coder, lossless
from vaecodec.entropy.tables import Pass, Tables, from_pmfs
from vaecodec.errors import VaecCorruptError
from vaecodec.format import container, records
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.model.native_engine import binding
from vaecodec.model.native_engine.binding import is_available

MAX_PIXELS = 2**14
TILED = Header(PixelFormat.RGBA, 300, 260, b"none", 50, tile_log2=8)
PLAIN = Header(PixelFormat.RGB, 3, 2, b"none", 50)


def header(data: bytes) -> None:
    """A whole file; also with its CRCs computed anew, so that what is behind them is reached."""
    parse(data)
    parse(reseal(data))


def index(data: bytes) -> None:
    """The tile index of a file of eight tiles, and payloads behind it."""
    front = container.write(TILED, [Tile(TileMode.SOLID, bytes(box.channels), 0) for box in TILED.boxes()])[:32]
    parse(reseal(front + data))


def metadata(data: bytes) -> None:
    """Everything behind the payload of a small file; its chunks are sealed if the first byte is odd."""
    front = bytearray(container.write(PLAIN, [Tile(TileMode.SOLID, b"rgb", 0)]))
    front[6] = records.HAS_METADATA
    whole = reseal(bytes(front) + data[1:])
    if data[:1] and data[0] % 2 == 0:
        whole = whole[: len(front)] + data[1:]
    parse(whole)


def entropy(data: bytes) -> None:
    """A payload, learned or lossless by its first byte: no symbols but those whose payload this is."""
    kind, payload = data[:1], data[1:]
    try:
        if kind and kind[0] % 4 == LEARNED:
            _check_symbols(payload)
        else:
            shape = (5, 3, 3 if kind and kind[0] % 4 == 1 else 1)
            is_webp = bool(kind) and kind[0] % 4 == WEBP
            samples = (lossless.unpack if is_webp else lossless.unpack_zlib)(payload, shape)
            if samples.shape != shape or samples.dtype != np.uint8:
                raise BrokenLawError(f"tile is {samples.shape} {samples.dtype}, must be {shape} uint8")
    except VaecCorruptError:
        pass


def plugin(data: bytes) -> None:
    """A whole file through Pillow, with and without its CRCs computed anew."""
    _judge().open(Mutant(data, FORGED, True))
    _judge().open(Mutant(reseal(data), FORGED, True))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header, "index": index, "metadata": metadata, "entropy": entropy, "plugin": plugin,
}  # fmt: skip


def load_weights() -> None:
    """Loads what `plugin` loads with the first learned tile."""
    _judge().codec.engine  # noqa: B018


def _check_symbols(payload: bytes) -> None:
    """There is exactly one payload for given symbols, so what is accepted must be what an encoder writes of it.

    The native engine, where it is, reads the same symbols, or finds the same fault.
    """
    found, code = _read(coder.Decoder, payload)
    if is_available():
        ours, own_code = _read(binding.Decoder, payload)
        if own_code != code or [each.tolist() for each in ours] != [each.tolist() for each in found]:
            raise BrokenLawError(f"payload {payload.hex()} gives {code}, of the native engine {own_code}")
    if code:
        return
    written = coder.encode([Pass(*each, symbols) for each, symbols in zip(_passes(), found, strict=True)])
    if written != payload:
        raise BrokenLawError(f"payload {payload.hex()} was accepted, its symbols are coded as {written.hex()}")


def _read(decoder_of: Callable[[bytes], Any], payload: bytes) -> tuple[list[np.ndarray], str]:
    """The symbols of the passes that could be read, and the code of the fault that ended it."""
    found = []
    try:
        decoder = decoder_of(payload)
        for tables, rows in _passes():
            found.append(decoder.read(tables, rows))
        decoder.finish()
    except VaecCorruptError as error:
        return found, error.code
    return found, ""


@cache
def _passes() -> tuple[tuple[Tables, np.ndarray], ...]:
    """Two passes of few symbols under narrow and wide rows, the lowest of which is skipped in the second."""
    pmfs = [np.exp(-np.abs(np.arange(-radius, radius + 1)) / scale) for radius, scale in ((1, 0.2), (4, 2.0), (40, 30))]
    rows = np.array([0, 1, 2, 2, 1, 0, 2, 1], np.uint8)
    return tuple((from_pmfs(pmfs, [0.05, 0.5, 20.0], first_coded_row=first), rows) for first in (0, 1))


@cache
def _judge() -> Judge:
    return Judge(Codec(None, "cpu"), (), max_pixels=MAX_PIXELS)
