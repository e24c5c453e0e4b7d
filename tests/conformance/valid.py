"""The conformance vectors that decode: sizes, qualities, modes, tilings, metadata that version 1 allows, in small."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import zlib_tiles
from numpy.typing import NDArray
from PIL import Image
from scenes import Samples, drawing, noise, photo

from vaecodec import Codec
from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables
from vaecodec.format import container, records
from vaecodec.format.records import CHUNK, HEADER, INDEX_ENTRY, Header, PixelFormat, Tile, TileMode
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.coding import Code
from vaecodec.model.engine import Engine
from vaecodec.pictures import pixels
from vaecodec.pictures.pixels import ArrayRows
from vaecodec.tiling.canvas import cut, to_rgb
from vaecodec.tiling.decode import Decoder
from vaecodec.tiling.encode import Encoder
from vaecodec.tiling.tile import encode_latents, encode_symbols

EXIF_TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # Orientation 6
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
ICC = bytes(16) + b"RGB " + bytes(108)
NO_MODEL = bytes(4)


class Vector(NamedTuple):
    """A file, what it tests in a few words, and whether its pixels are those of a picture, on which machines agree.

    From latents that no picture has, synthesis computes with numbers so large that float32 is off by some levels.
    """

    data: bytes
    tests: str
    has_picture: bool = True


def build(engine: Engine) -> dict[str, Vector]:
    """All valid vectors by name."""
    return {
        **_sizes(engine), **_qualities(engine), **_modes(engine), **_crafted_latents(engine),
        **_multiples(engine), **_filters(), **_solids(), **_tilings(engine), **_metadata(engine), **_webps(),
        **_corrections(engine),
    }  # fmt: skip


def learned_tile(engine: Engine, samples: Samples, quality: int) -> Tile:
    """The one learned tile of a picture [H, W, C], whatever an encoder would have preferred."""
    rgb = pixels.pad_edge(to_rgb(samples), LATENT_STRIDE)
    return encode_latents(engine, engine.analyze(rgb, quality), quality)[0]


def zlib_tile(samples: Samples, bits: int = 0, *, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> Tile:
    """A tile [h, w, c] packed with the given filter bits, written from docs/format.md alone."""
    values = samples.astype(int)
    if bits & 4:
        red, green, blue = np.moveaxis(values, 2, 0)
        values = np.stack([red - green, green, blue - green])[..., None]
    else:
        values = values[None]
    if bits & 1:
        values[:, :, 1:] -= values[:, :, :-1].copy()
    if bits & 2:
        values[:, 1:] -= values[:, :-1].copy()
    deflater = zlib.compressobj(level, strategy=strategy)
    stream = deflater.compress((values % 256).astype(np.uint8).tobytes()) + deflater.flush()
    return Tile(TileMode.ZLIB, bytes([bits]) + stream, zlib.crc32(samples.tobytes()))


def webp_tile(samples: Samples) -> Tile:
    """A tile [h, w, c] as a WebP file without loss."""
    return Tile(TileMode.WEBP, webp(samples), zlib.crc32(samples.tobytes()))


def webp(samples: Samples, **options: int | bool | list[Image.Image]) -> bytes:
    """A WebP file of samples [h, w, c], one channel as grey RGB."""
    image = Image.fromarray(np.repeat(samples, 3, 2) if samples.shape[2] == 1 else samples)
    file = io.BytesIO()
    image.save(file, "WEBP", **{"lossless": True, "exact": True} | options)
    return file.getvalue()


def corrected_tile(learned: Tile, symbols: Samples, step: int) -> Tile:
    """A learned tile with a correction [h, w, c], written from docs/format.md alone."""
    head = struct.pack("<IIB", len(learned.payload), zlib.crc32(symbols.tobytes()), step)
    return Tile(TileMode.CORRECTED, head + learned.payload + webp(symbols), learned.content_crc)


def correction(samples: Samples, shown: Samples, step: int) -> Samples:
    """Symbols that bring what is shown to within half a step of the samples."""
    return (128 + np.rint((samples.astype(float) - shown) / step)).astype(np.uint8)


def solid_tile(colour: bytes, samples: int) -> Tile:
    """A tile of one colour with so many samples."""
    return Tile(TileMode.SOLID, colour, zlib.crc32(colour * (samples // len(colour))))


def header_of(samples: Samples, *, quality: int = 50, tile_log2: int = 10, model_id: bytes = NO_MODEL) -> Header:
    """The header of a picture [H, W, C]."""
    mode = PixelFormat.from_mode(pixels.MODES[samples.shape[2] - 1])
    return Header(mode, samples.shape[1], samples.shape[0], model_id, quality, tile_log2)


def _learned(engine: Engine, samples: Samples, quality: int, *, tile_log2: int = 10, **metadata: bytes) -> bytes:
    header = header_of(samples, quality=quality, tile_log2=tile_log2, model_id=engine.model_id)
    return container.write(header, [learned_tile(engine, samples, quality)], metadata)


def _encoded(engine: Engine, samples: Samples, quality: int, *, tile_log2: int = 10) -> bytes:
    """As the encoder writes it, but with tiles of another size, and zlib where it now writes WebP."""
    header = header_of(samples, quality=quality, tile_log2=tile_log2, model_id=engine.model_id)
    tiles = [Tile(TileMode.SOLID, b"", 0)] * header.tile_count
    header, _ = Encoder(ArrayRows(samples), header, engine, tiles).run()
    for number, box in enumerate(header.boxes()):
        if tiles[number].mode == TileMode.WEBP:
            tiles[number] = tiles[number]._replace(mode=TileMode.ZLIB, payload=zlib_tiles.pack(cut(samples, box)))
    return container.write(header, tiles)


def _sizes(engine: Engine) -> dict[str, Vector]:
    sides = ((1, 1), (1, 90), (90, 1), (2, 3), (15, 31), (16, 16), (16, 17), (17, 16), (33, 47), (63, 65), (64, 64))
    sizes = [(width, height) for width, height in sides] + [(5, 140), (140, 5)]
    return {
        f"size-{width}x{height}": Vector(
            _learned(engine, photo(height, width, seed=number), 60), f"a learned tile of {width} x {height} pixels"
        )
        for number, (width, height) in enumerate(sizes)
    }


def _qualities(engine: Engine) -> dict[str, Vector]:
    samples = photo(48, 48, seed=20)
    levels = (1, 2, 10, 11, 25, 40, 60, 75, 90, 99, 100)
    return {f"quality-{q}": Vector(_learned(engine, samples, q), f"quality {q}") for q in levels}


def _modes(engine: Engine) -> dict[str, Vector]:
    grey, colour = photo(48, 40, 1, seed=30), photo(48, 40, seed=31)
    mask, opaque = drawing(48, 40, 1), np.full((48, 40, 1), 255, np.uint8)
    model_id = engine.model_id

    def both(colours: Samples, alpha: Samples, colour_tile: Tile, alpha_tile: Tile) -> bytes:
        header = header_of(np.concatenate([colours, alpha], 2), quality=70, model_id=model_id)
        return container.write(header, [colour_tile, alpha_tile])

    learned_grey, learned_colour = learned_tile(engine, grey, 70), learned_tile(engine, colour, 70)
    solid_alpha, solid_red = solid_tile(b"\xff", opaque.size), solid_tile(b"\xc8\x1e\x1e", colour.size)
    return {
        "mode-l": Vector(_learned(engine, grey, 70), "grey: the mean of three learned colours"),
        "mode-la": Vector(both(grey, mask, learned_grey, zlib_tile(mask, 1)), "grey learned, alpha packed"),
        "mode-la-opaque": Vector(both(grey, opaque, learned_grey, solid_alpha), "grey learned, alpha of one value"),
        "mode-rgba": Vector(both(colour, mask, learned_colour, zlib_tile(mask, 2)), "colour learned, alpha packed"),
        "mode-rgba-opaque": Vector(both(colour, opaque, learned_colour, solid_alpha), "colour learned, alpha solid"),
        "mode-rgba-plain": Vector(both(colour, mask, solid_red, zlib_tile(mask)), "one colour behind a mask"),
        "encoder-photo": Vector(_encoded(engine, photo(72, 88, seed=32), 75), "as the encoder writes a photograph"),
        "encoder-drawing": Vector(_encoded(engine, drawing(60, 70), 75), "as the encoder writes a drawing"),
        "encoder-rgba": Vector(_encoded(engine, photo(40, 50, 4, seed=33), 30), "as the encoder writes RGBA"),
        "encoder-eye": Vector(
            _encoded(Codec(None, "cpu", "eye").engine, photo(72, 88, seed=34), 75),
            "as the encoder writes a photograph with the weights for the eye",
        ),
    }


def _crafted_latents(engine: Engine) -> dict[str, Vector]:
    """Latents that no picture has, but that a file may hold."""
    rng = np.random.default_rng(40)

    def few(_: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        return rng.integers(-1, 2, rows.size).astype(np.int32)

    def escaping(tables: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        """About one symbol in 40 just outside of its table, of either sign."""
        radius = tables.radius[rows].astype(np.int32)
        picked = rng.random(radius.size) < 0.025
        return np.where(picked, (radius + rng.integers(1, 4, radius.size)) * rng.choice((-1, 1), radius.size), 0)

    def extreme(tables: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Two symbols a group of the largest magnitude."""
        symbols = np.zeros(rows.size, np.int32)
        coded = np.flatnonzero(rows >= tables.first_coded_row)
        symbols[coded[:1]], symbols[coded[-1:]] = ESCAPE_LIMIT, -ESCAPE_LIMIT
        return symbols

    def none(_: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        return np.zeros(rows.size, np.int32)

    return {
        "latents-none": Vector(_crafted(engine, none, 50), "all symbols are 0"),
        "latents-dense": Vector(_crafted(engine, few, 50), "symbols of -1, 0 and 1 in every row", False),
        "latents-escapes": Vector(_crafted(engine, escaping, 80), "escaped symbols in every group", False),
        "latents-extreme": Vector(_crafted(engine, extreme, 100), "symbols of magnitude 2047", False),
    }


def _crafted(engine: Engine, choose: Code, quality: int) -> bytes:
    def choose_coded(tables: Tables, rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        symbols = choose(tables, rows).astype(np.int32)
        symbols[rows < tables.first_coded_row] = 0
        return symbols

    size = (2, 2)
    (symbols,) = coding.read(engine, *size, [quality], [choose_coded])
    tile = encode_symbols(engine, symbols, size, quality)
    return container.write(Header(PixelFormat.RGB, 32, 32, engine.model_id, quality), [tile])


def _multiples(engine: Engine) -> dict[str, Vector]:
    """Tiles whose quantizer steps differ from block to block."""

    def coded(height: int, width: int, quality: int, multiples: list[int]) -> bytes:
        samples = photo(height, width, seed=45)
        rgb = pixels.pad_edge(samples, LATENT_STRIDE)
        y = engine.analyze(rgb, quality)
        symbols, _ = coding.quantize(engine, y, quality, np.array(multiples, np.uint8))
        header = header_of(samples, quality=quality, model_id=engine.model_id)
        return container.write(header, [encode_symbols(engine, symbols, (y.shape[1], y.shape[2]), quality)])

    return {
        "multiples-all": Vector(coded(66, 68, 60, [1, 4, 2, 3]), "step multiples of 1 to 4, of blocks cut off, too"),
        "multiples-four": Vector(coded(16, 20, 90, [4]), "a step multiple of 4 everywhere"),
    }


def _filters() -> dict[str, Vector]:
    colour, grey, random = photo(12, 17, seed=50), photo(12, 17, 1, seed=51), noise(12, 17, seed=52)
    flat, screen = header_of(colour), drawing(30, 40)
    files = {
        f"filter-rgb-{bits}": Vector(
            container.write(flat, [zlib_tile(colour, bits)]), f"three channels, filter byte {bits}"
        )
        for bits in range(8)
    } | {
        f"filter-grey-{bits}": Vector(
            container.write(header_of(grey), [zlib_tile(grey, bits)]), f"one channel, filter byte {bits}"
        )
        for bits in (1, 2, 3)
    }
    files["zlib-stored"] = Vector(container.write(flat, [zlib_tile(random, level=0)]), "zlib blocks that are stored")
    fixed = zlib_tile(colour, 7, strategy=zlib.Z_FIXED)
    files["zlib-fixed"] = Vector(container.write(flat, [fixed]), "zlib blocks with fixed codes")
    files["zlib-drawing"] = Vector(container.write(header_of(screen), [zlib_tile(screen)]), "repeated strings")
    return files


def _solids() -> dict[str, Vector]:
    example = Header(PixelFormat.RGB, 3, 2, NO_MODEL, 75)
    wide = Header(PixelFormat.L, 700, 300, NO_MODEL, 50, tile_log2=8)
    solids = [solid_tile(bytes([60 + number]), box.raw_bytes) for number, box in enumerate(wide.boxes())]
    pixel = [solid_tile(b"\x10\x20\x30", 3), solid_tile(b"\x80", 1)]
    return {
        "solid-example": Vector(container.write(example, [solid_tile(b"\x12\x34\x56", 18)]), "example of the document"),
        "solid-pixel-rgba": Vector(container.write(Header(PixelFormat.RGBA, 1, 1, NO_MODEL, 1), pixel), "one pixel"),
        "solid-tiles": Vector(container.write(wide, solids), "3 x 2 tiles, each of one grey"),
    }


def _tilings(engine: Engine) -> dict[str, Vector]:
    one, wide, high = photo(32, 32, seed=60), photo(24, 300, seed=61), photo(300, 20, seed=62)
    corner = photo(258, 258, 1, seed=63) // 4 * 4
    mixed = photo(24, 800, seed=64)
    mixed[:, 256:512], mixed[:, 512:768] = (30, 90, 160), drawing(24, 256)
    veiled = np.concatenate([photo(20, 270, seed=65), np.full((20, 270, 1), 255, np.uint8)], 2)
    veiled[:, 256:, 3] = drawing(20, 14, 1)[..., 0]
    return {
        f"tile-log2-{log2}": Vector(_learned(engine, one, 40, tile_log2=log2), f"one tile of 2^{log2} pixels")
        for log2 in (8, 9, 11, 12)
    } | {
        "tiles-row": Vector(_encoded(engine, wide, 50, tile_log2=8), "two learned tiles side by side, no seam"),
        "tiles-column": Vector(_encoded(engine, high, 30, tile_log2=8), "two learned tiles one above the other"),
        "tiles-corner": Vector(_encoded(engine, corner, 20, tile_log2=8), "four tiles, three of them slivers"),
        "tiles-mixed": Vector(_encoded(engine, mixed, 60, tile_log2=8), "all three modes, side by side"),
        "tiles-alpha": Vector(_encoded(engine, veiled, 60, tile_log2=8), "two tiles in each of two planes"),
    }  # fmt: skip


def _webps() -> dict[str, Vector]:
    colour, grey, mask = photo(13, 18, seed=90), photo(12, 17, 1, seed=91), drawing(13, 18, 1)
    screen, random, pixel = drawing(30, 40), noise(12, 17, seed=92), photo(1, 1, seed=93)
    veiled, wide = np.concatenate([colour, mask], 2), drawing(20, 270)

    def file(samples: Samples) -> bytes:
        header = header_of(samples, tile_log2=8)
        return container.write(header, [webp_tile(cut(samples, box)) for box in header.boxes()])

    return {
        "webp-rgb": Vector(file(colour), "WebP without loss, three channels"),
        "webp-grey": Vector(file(grey), "one channel, written as grey RGB"),
        "webp-alpha": Vector(file(veiled), "colour and alpha"),
        "webp-grey-alpha": Vector(file(veiled[..., 2:]), "grey and alpha"),
        "webp-drawing": Vector(file(screen), "few colours, a palette inside of WebP"),
        "webp-noise": Vector(file(random), "as many bytes as samples"),
        "webp-pixel": Vector(file(pixel), "one pixel"),
        "webp-tiles": Vector(file(wide), "two tiles side by side"),
    }


def _corrections(engine: Engine) -> dict[str, Vector]:
    def file(samples: Samples, modes: str, step: int, **options: int) -> bytes:
        """With colour tiles as the letters of `modes` say: c corrected, l learned, w WebP; alpha in WebP."""
        header = header_of(samples, quality=30, tile_log2=8, model_id=engine.model_id)
        boxes = header.boxes()
        modes += "w" * (len(boxes) - len(modes))
        tiles = [
            webp_tile(cut(samples, box)) if mode == "w" else learned_tile(engine, cut(samples, box), 30)
            for mode, box in zip(modes, boxes, strict=True)
        ]
        shown = Decoder(tiles, header, engine).picture()
        for number, box in enumerate(boxes):
            if modes[number] == "c":
                symbols = correction(cut(samples, box), cut(shown, box), step)
                tiles[number] = corrected_tile(tiles[number], symbols, step)
        return container.write(header, tiles)

    colour, wide = photo(24, 30, seed=95), photo(20, 560, seed=96)
    screen, flat = drawing(24, 30), photo(20, 24, seed=97)
    header = header_of(flat, quality=30, model_id=engine.model_id)
    ends = corrected_tile(learned_tile(engine, flat, 30), noise(20, 24, seed=98), 64)
    return {
        "corrected-rgb": Vector(file(colour, "c", 6), "a learned tile and its correction"),
        "corrected-grey": Vector(file(photo(17, 21, 1, seed=94), "c", 3), "of one channel"),
        "corrected-alpha": Vector(file(np.concatenate([colour, screen[..., :1]], 2), "c", 12), "beside alpha"),
        "corrected-drawing": Vector(file(screen, "c", 2), "the smallest step, of what the network serves badly"),
        "corrected-tiles": Vector(file(wide, "lcc", 5), "neighbours see the latents alone"),
        "corrected-beside-webp": Vector(file(wide, "cwl", 9), "beside a tile that has no latents"),
        "corrected-clamped": Vector(container.write(header, [ends]), "sums beyond both ends, and symbols 0 and 255"),
    }


def _metadata(engine: Engine) -> dict[str, Vector]:
    plain = _learned(engine, photo(24, 32, seed=70), 50)

    def holding(*chunks: tuple[bytes, bytes]) -> bytes:
        return with_chunks(plain, b"".join(chunk(kind, data) for kind, data in chunks))

    unknown = [(b"TEST", b"ignored"), (b"TEST", b""), (b"A_09", b"x")]
    return {
        "meta-exif": Vector(holding((b"EXIF", EXIF_TURNED)), "an orientation, which does not turn the pixels"),
        "meta-xmp": Vector(holding((b"XMP_", XMP)), "an XMP packet"),
        "meta-icc": Vector(holding((b"ICCP", ICC)), "an ICC profile"),
        "meta-thumbnail": Vector(
            holding((b"THMB", _learned(engine, photo(3, 4, seed=71), 50))), "an unknown chunk that holds a picture"
        ),
        "meta-all": Vector(holding((b"XMP_", XMP), (b"EXIF", EXIF_TURNED), (b"ICCP", ICC)), "all three, in any order"),
        "meta-unknown": Vector(holding(*unknown, (b"XMP_", XMP)), "unknown chunks, one of them twice, are ignored"),
        "meta-sixteen": Vector(holding(*[(b"MORE", bytes([n])) for n in range(16)]), "as many chunks as there may be"),
        "flags-compat": Vector(resealed(plain, flags_compat=0b11111110), "unknown compatible flags are ignored"),
    }


def chunk(kind: bytes, data: bytes) -> bytes:
    """A metadata chunk."""
    head = kind + len(data).to_bytes(4, "little")
    return CHUNK.pack(type=kind, length=len(data), crc=zlib.crc32(data, zlib.crc32(head))) + data


def with_chunks(plain: bytes, chunks: bytes) -> bytes:
    """A file without metadata, and these bytes behind its payloads."""
    return resealed(plain + chunks, flags_compat=1, file_bytes=len(plain) + len(chunks))


def resealed(data: bytes, *, index: bytes | None = None, **fields: int | bytes) -> bytes:
    """The file with other header fields or another tile index, and the header's CRC computed anew."""
    changed = HEADER.unpack(data[: HEADER.size_bytes]) | fields
    count = records.Header(
        PixelFormat(data[7]), *(int.from_bytes(data[at : at + 4], "little") for at in (8, 12)), NO_MODEL, 50, data[21]
    ).tile_count
    index_end = HEADER.size_bytes + count * INDEX_ENTRY.size_bytes
    index = data[HEADER.size_bytes : index_end] if index is None else index
    head = HEADER.pack(**changed)[:-4]
    return head + zlib.crc32(index, zlib.crc32(head)).to_bytes(4, "little") + index + data[index_end:]
