"""The conformance vectors that must be refused: one fault each, everything else sealed, so that just this is found."""

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image
from scenes import drawing, noise, photo
from valid import (
    XMP,
    Vector,
    chunk,
    corrected_tile,
    header_of,
    learned_tile,
    resealed,
    solid_tile,
    webp,
    webp_tile,
    with_chunks,
    zlib_tile,
)

from vaecodec.entropy import coder
from vaecodec.entropy.tables import Pass, Tables
from vaecodec.format import container
from vaecodec.format.records import HEADER, Tile, TileMode
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.engine import Engine

LEARNED, ZLIB, SOLID, WEBP, CORRECTED = range(5)


class Fault(NamedTuple):
    """A file that must be refused, what is wrong with it, and the error: class and code as in docs/format.md."""

    data: bytes
    tests: str
    error: str
    code: str


def build(engine: Engine, valid: Mapping[str, Vector]) -> dict[str, Fault]:
    """All must-fail vectors by name; most are made of the valid ones."""
    return {
        **_heads(valid["size-33x47"].data), **_lengths(valid["size-33x47"].data), **_index(valid),
        **_metadata(valid), **_plain_payloads(), **_learned_payloads(engine), **_webps(), **_corrections(engine),
    }  # fmt: skip


def _with_byte(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def _heads(good: bytes) -> dict[str, Fault]:
    unsupported, malformed, limit = "VaecUnsupportedError", "VaecFormatError", "VaecLimitError"
    side, area = {"width": 2**18 + 1, "height": 1}, {"width": 2**14 + 1, "height": 2**14}
    return {
        "bad-magic": Fault(_with_byte(good, 0, 0x88), "another magic", malformed, "BAD_MAGIC"),
        "bad-version": Fault(resealed(good, version=2), "a later version", unsupported, "VERSION"),
        "bad-version-0": Fault(resealed(good, version=0), "no version", unsupported, "VERSION"),
        "bad-feature": Fault(resealed(good, flags_incompat=0x80), "an unknown feature", unsupported, "FEATURE"),
        "bad-reserved": Fault(resealed(good, reserved=1), "a reserved bit", unsupported, "RESERVED"),
        "bad-width": Fault(resealed(good, width=0), "no columns", malformed, "ZERO_DIM"),
        "bad-height": Fault(resealed(good, height=0), "no rows", malformed, "ZERO_DIM"),
        "bad-side": Fault(resealed(good, **side), "a side too long", limit, "FORMAT_DIM"),
        "bad-area": Fault(resealed(good, **area), "too many pixels", limit, "FORMAT_DIM"),
        "bad-area-wraps": Fault(
            resealed(good, width=2**16, height=2**16), "as many pixels as wrap 32 bits around to 0", limit, "FORMAT_DIM"
        ),
        "bad-pixel-format": Fault(resealed(good, pixel_format=4), "an unknown format", malformed, "PIXEL_FORMAT"),
        "bad-tile-small": Fault(resealed(good, tile_log2=7), "tiles too small", malformed, "TILE"),
        "bad-tile-large": Fault(resealed(good, tile_log2=13), "tiles too large", malformed, "TILE"),
        "bad-quality-0": Fault(resealed(good, quality=0), "quality 0", malformed, "QUALITY"),
        "bad-quality-101": Fault(resealed(good, quality=101), "quality 101", malformed, "QUALITY"),
        "bad-deblocking": Fault(resealed(good, deblocking_cut=65), "more than all left out", malformed, "DEBLOCKING"),
        "bad-header": Fault(_with_byte(good, 20, good[20] - 1), "a header changed", "VaecChecksumError", "HEADER_CRC"),
        "bad-index": Fault(_with_byte(good, 40, good[40] ^ 4), "an index changed", "VaecChecksumError", "HEADER_CRC"),
        "bad-model": Fault(resealed(good, model_id=b"none"), "other weights", "VaecModelError", "MODEL_MISSING"),
    }  # fmt: skip


def _lengths(good: bytes) -> dict[str, Fault]:
    short, malformed = "VaecTruncatedError", "VaecFormatError"
    return {
        "short-empty": Fault(b"", "no bytes at all", malformed, "BAD_MAGIC"),
        "short-magic": Fault(good[:3], "part of the magic", malformed, "BAD_MAGIC"),
        "short-header": Fault(good[: HEADER.size_bytes - 1], "part of the header", short, "SHORT_HEADER"),
        "short-index": Fault(good[: HEADER.size_bytes + 11], "part of the index", short, "SHORT_FILE"),
        "short-payload": Fault(good[:-1], "the last byte is missing", short, "SHORT_FILE"),
        "long-byte": Fault(good + b"\0", "a byte too many", malformed, "TRAILING_DATA"),
        "long-twice": Fault(good + good, "a file behind the file", malformed, "TRAILING_DATA"),
    }


def _index(valid: Mapping[str, Vector]) -> dict[str, Fault]:
    learned, solid, masked = (valid[name].data for name in ("size-33x47", "solid-example", "mode-rgba"))
    word = int.from_bytes(learned[32:36], "little")

    def entry(data: bytes, mode: int, length: int, tile: int = 0) -> bytes:
        """The file with another mode and length of one tile."""
        start, end = 32, 32 + 12 * len(container.read(data).tiles)
        at = start + 12 * tile
        index = data[start:at] + struct.pack("<I", mode << 28 | length) + data[at + 4 : end]
        return resealed(data, index=index)

    malformed = "VaecFormatError"
    return {
        "index-mode": Fault(entry(learned, WEBP, word), "a mode that others have", "VaecMismatchError", "WEBP"),
        "index-mode-5": Fault(entry(learned, 5, word), "an unknown mode", malformed, "TILE_MODE"),
        "index-alpha": Fault(entry(masked, LEARNED, 64, tile=1), "a learned alpha tile", malformed, "TILE_MODE"),
        "index-alpha-corrected": Fault(
            entry(masked, CORRECTED, 64, tile=1), "a corrected alpha tile", malformed, "TILE_MODE"
        ),
        "index-webp": Fault(entry(learned, WEBP, 25), "too short for a WebP file", malformed, "TILE_LEN"),
        "index-corrected": Fault(entry(learned, CORRECTED, 39), "too short for a correction", malformed, "TILE_LEN"),
        "index-learned": Fault(entry(learned, LEARNED, word - 2), "no whole number of words", malformed, "TILE_LEN"),
        "index-learned-0": Fault(entry(learned, LEARNED, 0), "a learned tile of nothing", malformed, "TILE_LEN"),
        "index-zlib": Fault(entry(learned, ZLIB, 2**28 - 1), "a packed tile of 256 MB", malformed, "TILE_LEN"),
        "index-solid": Fault(entry(solid, SOLID, 4), "four samples for three channels", malformed, "TILE_LEN"),
        "index-gap": Fault(entry(learned, LEARNED, word - 4), "bytes that belong to nothing", malformed, "PAYLOAD_SUM"),
        "index-beyond": Fault(entry(learned, LEARNED, word + 4), "payloads end too late", malformed, "PAYLOAD_SUM"),
    }


def _metadata(valid: Mapping[str, Vector]) -> dict[str, Fault]:
    plain, held = valid["solid-example"].data, valid["meta-xmp"].data
    xmp, other = chunk(b"XMP_", XMP), chunk(b"TEST", b"ignored")
    retyped = xmp.replace(b"XMP_", b"XMPX")
    malformed, damaged = "VaecFormatError", "VaecChecksumError"
    return {
        "meta-none": Fault(with_chunks(plain, b""), "the flag is set, no chunk follows", malformed, "META"),
        "meta-unasked": Fault(resealed(held, flags_compat=0), "a chunk without the flag", malformed, "PAYLOAD_SUM"),
        "meta-short": Fault(with_chunks(plain, xmp[:11]), "part of a chunk's head", malformed, "META"),
        "meta-beyond": Fault(with_chunks(plain, xmp[:-1]), "a chunk that ends too late", malformed, "META"),
        "meta-type": Fault(with_chunks(plain, chunk(b"xmp ", XMP)), "a type in small letters", malformed, "META"),
        "meta-twice": Fault(with_chunks(plain, xmp + xmp), "a known type comes twice", malformed, "META"),
        "meta-many": Fault(with_chunks(plain, 17 * chunk(b"MORE", b"")), "17 chunks", "VaecLimitError", "META_LIMIT"),
        "meta-crc": Fault(with_chunks(plain, _flipped(xmp)), "a flipped bit", damaged, "META_CRC"),
        "meta-crc-unknown": Fault(with_chunks(plain, _flipped(other)), "one in an unknown chunk", damaged, "META_CRC"),
        "meta-retyped": Fault(with_chunks(plain, retyped), "a chunk under another type", damaged, "META_CRC"),
    }


def _plain_payloads() -> dict[str, Fault]:
    samples = drawing(9, 11)
    good, grey = zlib_tile(samples), zlib_tile(samples[..., :1])
    residuals = samples.tobytes()
    mismatch, solid = "VaecMismatchError", solid_tile(b"\x12\x34\x56", samples.size)
    flipped = _flipped(container.write(header_of(samples), [good]))

    def fault(payload: bytes, tests: str, code: str = "ZLIB", *, of: Tile = good) -> Fault:
        source = samples[..., :1] if of is grey else samples
        file = container.write(header_of(source), [Tile(of.mode, payload, of.content_crc)])
        return Fault(file, tests, mismatch, code)

    return {
        "zlib-filter": fault(b"\x08" + good.payload[1:], "an unknown filter bit"),
        "zlib-planes": fault(b"\x04" + grey.payload[1:], "colour planes of a single channel", of=grey),
        "zlib-damaged": fault(_flipped(good.payload), "a wrong checksum inside of the stream"),
        "zlib-unfinished": fault(good.payload[:-4], "a stream without its end"),
        "zlib-short": fault(b"\0" + zlib.compress(residuals[:-1]), "a sample too few"),
        "zlib-long": fault(b"\0" + zlib.compress(residuals + b"\0"), "a sample too many"),
        "zlib-trailing": fault(good.payload + b"\0", "a byte behind the stream"),
        "zlib-samples": fault(b"\x01" + good.payload[1:], "another filter, hence other samples", "SAMPLES_CRC"),
        "solid-samples": fault(b"\x12\x34\x57", "another colour", "SAMPLES_CRC", of=solid),
        "zlib-crc": Fault(flipped, "a flipped bit of the payload", "VaecChecksumError", "TILE_CRC"),
    }  # fmt: skip


def _webps() -> dict[str, Fault]:
    samples = photo(9, 12, seed=82)
    good, grey = webp_tile(samples), samples[..., :1]
    alpha = np.concatenate([samples, drawing(9, 12, 1)], 2)
    frames = [Image.fromarray(picture) for picture in (drawing(9, 12), samples[::-1])]

    def fault(payload: bytes, tests: str, code: str = "WEBP", *, crc: int = good.content_crc) -> Fault:
        file = container.write(header_of(samples), [Tile(TileMode.WEBP, payload, crc)])
        return Fault(file, tests, "VaecMismatchError", code)

    behind = good.payload + b"\0\0"
    return {
        "webp-truncated": fault(good.payload[:-8], "a WebP file without its end"),
        "webp-cut": fault(_sized(good.payload[:-8]), "the same with lengths that agree"),
        "webp-trailing": fault(behind, "bytes behind the WebP file"),
        "webp-trailing-riff": fault(_sized(behind, chunk=len(good.payload) - 20), "bytes behind its only chunk"),
        "webp-chunk": fault(_sized(good.payload + b"XMP \4\0\0\0<x/>", chunk=len(good.payload) - 20), "a second chunk"),
        "webp-lossy": fault(webp(samples, lossless=False, quality=50), "lossy WebP"),
        "webp-animated": fault(webp(samples, save_all=True, append_images=frames), "an animation"),
        "webp-with-alpha": fault(webp(alpha), "a picture with alpha"),
        "webp-extended": fault(webp(samples, exif=b"II*\0\x08\0\0\0\0\0"), "the extended form, with metadata"),
        "webp-wide": fault(webp(photo(9, 13, seed=82)), "a column too many"),
        "webp-turned": fault(webp(np.swapaxes(samples, 0, 1)), "height and width exchanged"),
        "webp-version": fault(_with_byte(good.payload, 24, good.payload[24] | 0x20), "an unknown version"),
        "webp-signature": fault(_with_byte(good.payload, 20, 0x2E), "another signature"),
        "webp-zlib": fault(zlib_tile(samples).payload, "the payload of a zlib tile"),
        "webp-samples": fault(webp(samples[::-1]), "other samples", "SAMPLES_CRC"),
        "webp-grey-samples": fault(webp(np.repeat(grey, 3, 2)), "grey in place of colours", "SAMPLES_CRC"),
        "webp-crc": Fault(
            _flipped(container.write(header_of(samples), [good])), "a flipped bit", "VaecChecksumError", "TILE_CRC"
        ),
    }


def _sized(data: bytes, *, chunk: int | None = None) -> bytes:
    """A WebP file whose lengths are those of its bytes; of its chunk the one given."""
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data[:16] + struct.pack("<I", len(data) - 20 if chunk is None else chunk) + data[20:]


def _corrections(engine: Engine) -> dict[str, Fault]:
    samples, symbols = photo(20, 28, seed=83), noise(20, 28, seed=84) // 32 + 124
    header = header_of(samples, quality=30, model_id=engine.model_id)
    learned = learned_tile(engine, samples, 30)
    good = corrected_tile(learned, symbols, 5)
    start = 9 + len(learned.payload)

    def fault(payload: bytes, tests: str, code: str, *, crc: int = learned.content_crc) -> Fault:
        file = container.write(header, [Tile(TileMode.CORRECTED, payload, crc)])
        return Fault(file, tests, "VaecMismatchError", code)

    def headed(learned_bytes: int, step: int = 5) -> bytes:
        return struct.pack("<I", learned_bytes) + good.payload[4:8] + bytes([step]) + good.payload[9:]

    words = learned.payload
    swapped = good.payload[:9] + words[4:8] + words[:4] + words[8:] + good.payload[start:]
    flipped = _with_byte(good.payload, 4, good.payload[4] ^ 1)
    return {
        "corrected-length": fault(headed(2**32 - 1), "a learned part longer than all", "CORRECTION"),
        "corrected-all": fault(headed(len(good.payload) - 9), "a learned part that is all", "CORRECTION"),
        "corrected-none": fault(headed(0), "a learned part of nothing", "CODER_WORDS"),
        "corrected-short": fault(headed(len(words) - 4), "a learned part without its last word", "CODER_END"),
        "corrected-step-0": fault(headed(len(words), 0), "a step of 0", "CORRECTION"),
        "corrected-step-1": fault(headed(len(words), 1), "a step of 1", "CORRECTION"),
        "corrected-step-13": fault(headed(len(words), 13), "a step between those that are allowed", "CORRECTION"),
        "corrected-step-255": fault(headed(len(words), 255), "the largest number as a step", "CORRECTION"),
        "corrected-swapped": fault(swapped, "two words of the learned part exchanged", "CODER_END"),
        "corrected-latents": fault(good.payload, "other latents than the index says", "LATENT_CRC", crc=1),
        "corrected-symbols": fault(flipped, "other symbols than their CRC says", "CORRECTION_CRC"),
        "corrected-webp": fault(good.payload[:-8], "a correction without its end", "WEBP"),
        "corrected-lossy": fault(
            good.payload[:start] + webp(symbols, lossless=False, quality=50), "a lossy correction", "WEBP"
        ),
        "corrected-size": fault(
            good.payload[:start] + webp(np.swapaxes(symbols, 0, 1)), "a correction of another size", "WEBP"
        ),
        "corrected-trailing": fault(good.payload + b"\0\0", "bytes behind the correction", "WEBP"),
        "corrected-model": Fault(
            container.write(header_of(samples, quality=30, model_id=b"none"), [good]), "other weights",
            "VaecModelError", "MODEL_MISSING",
        ),
    }  # fmt: skip


def _learned_payloads(engine: Engine) -> dict[str, Fault]:
    samples = photo(40, 56, seed=80)
    header = header_of(samples, quality=60, model_id=engine.model_id)
    good, other = (learned_tile(engine, picture, 60) for picture in (samples, photo(40, 56, seed=81)))
    words = [good.payload[at : at + 4] for at in range(0, len(good.payload), 4)]

    def fault(payload: bytes, tests: str, code: str) -> Fault:
        file = container.write(header, [Tile(TileMode.LEARNED, payload, good.content_crc)])
        return Fault(file, tests, "VaecMismatchError", code)

    whole = container.write(header, [good])
    return {
        "learned-crc": Fault(_flipped(whole), "a flipped bit of the payload", "VaecChecksumError", "TILE_CRC"),
        "learned-state": fault(b"".join([*words, bytes(4)]), "a last word of 0", "CODER_STATE"),
        "learned-swapped": fault(b"".join([words[1], words[0], *words[2:]]), "two words exchanged", "CODER_END"),
        "learned-short": fault(b"".join(words[1:]), "the last word to be read is missing", "CODER_END"),
        "learned-long": fault(b"".join([b"\1\0\0\0", *words]), "a word is left over", "CODER_END"),
        "learned-escape": fault(*_needless_escape(engine), "ESCAPE_RANGE"),
        "learned-latents": Fault(
            container.write(header, [good._replace(content_crc=good.content_crc ^ 1)]),
            "a stream that decodes to other latents than the index says", "VaecMismatchError", "LATENT_CRC",
        ),
        "learned-other": fault(other.payload, "the payload of another picture", "LATENT_CRC"),
    }  # fmt: skip


class _Needless(Tables):
    """Tables that escape a symbol of 0, which no encoder may do."""

    def columns(self, rows: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Tables.columns`, except for the first symbol."""
        columns, escaped = super().columns(rows, symbols)
        columns[0], escaped[0] = 2 * self.radius[rows[0]] + 1, True
        return columns, escaped


def _needless_escape(engine: Engine) -> tuple[bytes, str]:
    size, quality = (-(-40 // LATENT_STRIDE), -(-56 // LATENT_STRIDE)), 60
    (symbols,) = coding.read(engine, *size, [quality], [lambda _, indexes: np.zeros(indexes.size, np.int32)])
    first, *others = (Pass(*coded) for coded in coding.coded(engine, symbols, *size, quality))
    tables = _Needless(first.tables.radius, first.tables.counts, first.tables.first_coded_row)
    return coder.encode([first._replace(tables=tables), *others]), "an escape for a symbol that needs none"


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
