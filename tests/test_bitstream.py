"""Laws of the container: files come back as written, and nothing that is not one of ours is accepted."""

import io
import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaecodec.errors import (
    VaecChecksumError,
    VaecError,
    VaecFormatError,
    VaecImageError,
    VaecLimitError,
    VaecTruncatedError,
    VaecUnsupportedError,
)
from vaecodec.format import records
from vaecodec.format.container import is_vaec, read, read_info, write
from vaecodec.format.records import Bitstream, Header, IndexEntry, Info, PixelFormat, Tile, TileMode, check_size

FORMAT = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
MIB = 2**20

# The header once more, written from docs/format.md: field, offset and struct code.
FIELDS = {
    "magic": (0, "4s"),
    "version": (4, "<B"),
    "flags_incompat": (5, "<B"),
    "flags_compat": (6, "<B"),
    "pixel_format": (7, "<B"),
    "width": (8, "<I"),
    "height": (12, "<I"),
    "quality": (20, "<B"),
    "tile_log2": (21, "<B"),
    "reserved": (22, "<B"),
    "deblocking_cut": (23, "<B"),
    "file_bytes": (24, "<I"),
}
CHUNK_TYPES = {"icc_profile": b"ICCP", "exif": b"EXIF", "xmp": b"XMP_"}


# --- files to test with -----------------------------------------------------------------------------------------------


def tiles_for(header: Header, *modes: TileMode) -> list[Tile]:
    """Tiles that take turns in the modes given; alpha tiles are never learned."""
    tiles = []
    rng = random.Random(1)
    for number, box in enumerate(header.boxes()):
        mode = TileMode.ZLIB if box.plane == "alpha" and not modes[number % len(modes)] else modes[number % len(modes)]
        lengths = {TileMode.LEARNED: 12, TileMode.ZLIB: 21, TileMode.SOLID: box.channels, TileMode.WEBP: 28}
        payload = rng.randbytes(lengths[mode])
        tiles.append(Tile(mode, payload, rng.getrandbits(32)))
    return tiles


METADATA = {"icc_profile": b"a profile", "exif": b"II*\0", "xmp": b"<x/>"}
PLAIN = Header(PixelFormat.RGB, 3, 2, b"\1\2\3\4", 75)
ALPHA = Header(PixelFormat.LA, 5, 4, b"abcd", 1)
TILED = Header(PixelFormat.RGBA, 700, 300, b"\xff\0\xff\0", 100, tile_log2=8)
SMALL_FILES = {
    "metadata": write(PLAIN, tiles_for(PLAIN, TileMode.LEARNED), METADATA),
    "alpha": write(ALPHA, tiles_for(ALPHA, TileMode.SOLID)),
    "tiled": write(TILED, tiles_for(TILED, TileMode.LEARNED, TileMode.SOLID, TileMode.ZLIB, TileMode.WEBP)),
}


def patched(data: bytes, **fields: int | bytes) -> bytes:
    """The file with other header fields and the old CRCs."""
    changed = bytearray(data)
    for name, value in fields.items():
        offset, code = FIELDS[name]
        struct.pack_into(code, changed, offset, value)
    return bytes(changed)


def reseal(data: bytes) -> bytes:
    """The file with every CRC computed anew, as far as its own fields say where they lie."""
    sealed = bytearray(data)
    if len(sealed) < 32:
        return data
    _, pixel_format, width, height, tile_log2 = struct.unpack_from("<7sBII5xB", sealed)
    side = 1 << min(tile_log2, 31)
    tile_count = -(-width // side) * -(-height // side) * (2 if pixel_format in (2, 3) else 1)
    at = index_end = 32 + 12 * tile_count
    if index_end > len(sealed):
        return data
    for entry in range(32, index_end, 12):
        length = struct.unpack_from("<I", sealed, entry)[0] % 2**28
        struct.pack_into("<I", sealed, entry + 4, zlib.crc32(sealed[at : at + length]))
        at += length
    while at + 12 <= len(sealed):
        length = struct.unpack_from("<I", sealed, at + 4)[0]
        crc = zlib.crc32(sealed[at : at + 8] + sealed[at + 12 : at + 12 + length])
        struct.pack_into("<I", sealed, at + 8, crc)
        at += 12 + length
    struct.pack_into("<I", sealed, 28, zlib.crc32(sealed[:28] + sealed[32:index_end]))
    return bytes(sealed)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of metadata, whatever its type and length."""
    head = struct.pack("<4sI", kind, len(data))
    return head + struct.pack("<I", zlib.crc32(head + data)) + data


def with_metadata(*chunks: bytes) -> bytes:
    """A small file with these bytes as its metadata."""
    data = write(PLAIN, tiles_for(PLAIN, TileMode.LEARNED)) + b"".join(chunks)
    return reseal_header(patched(data, flags_compat=1, file_bytes=len(data)))


def reseal_header(data: bytes) -> bytes:
    """The one-tile file with its header CRC alone computed anew."""
    return data[:28] + struct.pack("<I", zlib.crc32(data[:28] + data[32:44])) + data[32:]


def with_entry(header: Header, mode: int, payload: bytes) -> bytes:
    """A file whose first tile has any mode and payload, and whose others are solid."""
    payloads = [payload] + [bytes(box.channels) for box in header.boxes()[1:]]
    modes = [mode] + [2] * (len(payloads) - 1)
    index = b"".join(struct.pack("<III", m << 28 | len(p), 0, 0) for m, p in zip(modes, payloads, strict=True))
    head = struct.pack("<4s4BII4s4BII", b"\x89VAE", 1, 0, 0, header.pixel_format, header.width, header.height,
                       header.model_id, header.quality, header.tile_log2, 0, 0, 0, 0)  # fmt: skip
    data = head + index + b"".join(payloads)
    return reseal(patched(data, file_bytes=len(data)))


def failure(act: Callable[[], object]) -> tuple[type[VaecError], str]:
    """Class and code of the error that must come."""
    with pytest.raises(VaecError) as caught:
        act()
    return caught.type, caught.value.code


def failure_of(act: Callable[..., object], *arguments: object) -> tuple[type[VaecError], str, int | None] | None:
    """The error that may come, or None; quicker than `failure`."""
    try:
        act(*arguments)
    except VaecError as error:
        return type(error), error.code, error.tile
    return None


@st.composite
def files(draw: st.DrawFn) -> tuple[Header, list[Tile], dict[str, bytes]]:
    """Anything that can be written, with up to 18 tiles."""
    header = Header(
        draw(st.sampled_from(PixelFormat)),
        draw(st.integers(1, 700)),
        draw(st.integers(1, 700)),
        draw(st.binary(min_size=4, max_size=4)),
        draw(st.integers(1, 100)),
        draw(st.integers(8, 12)),
    )
    tiles = []
    for box in header.boxes():
        mode = draw(st.sampled_from([mode for mode in TileMode if box.plane == "colour" or not mode.is_for_colour]))
        lengths = {0: (1, 16), 1: (9, 65), 2: (box.channels, box.channels), 3: (26, 90), 4: (40, 90), 15: (49, 99)}[
            mode
        ]
        length = draw(st.integers(*lengths)) * (4 if mode == TileMode.LEARNED else 1)
        payload = draw(st.randoms(use_true_random=False)).randbytes(length)
        tiles.append(Tile(mode, payload, draw(st.integers(0, 2**32 - 1))))
    return header, tiles, draw(st.dictionaries(st.sampled_from(list(CHUNK_TYPES)), st.binary(max_size=40)))


# --- geometry ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(PixelFormat), st.integers(1, 900), st.integers(1, 900), st.integers(8, 12))
def test_boxes_cover_each_plane_once_in_reading_order(
    pixel_format: PixelFormat, width: int, height: int, tile_log2: int
) -> None:
    """Every pixel of every plane lies in exactly one box, and boxes go row by row, colour before alpha."""
    header = Header(pixel_format, width, height, bytes(4), 50, tile_log2)
    boxes = header.boxes()
    for plane in ("colour", "alpha") if pixel_format.has_alpha else ("colour",):
        hits = np.zeros((height, width), np.uint8)
        for box in boxes:
            if box.plane == plane:
                hits[box.top : box.top + box.height, box.left : box.left + box.width] += 1
        assert (hits == 1).all()
    assert all(max(box.height, box.width) <= header.tile_size for box in boxes)
    assert [(box.plane == "alpha", box.top, box.left) for box in boxes] == sorted(
        (box.plane == "alpha", box.top, box.left) for box in boxes
    )
    assert sum(box.raw_bytes for box in boxes) == width * height * pixel_format.channels
    assert header.tile_count == len(boxes) == header.grid[0] * header.grid[1] * (1 + pixel_format.has_alpha)


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_pixel_formats_are_what_pillow_means_by_these_modes(pixel_format: PixelFormat) -> None:
    """Mode, channels and alpha agree with Pillow's image of that mode, and from_mode is the inverse of mode."""
    bands = Image.new(pixel_format.mode, (1, 1)).getbands()
    assert (pixel_format.channels, pixel_format.has_alpha) == (len(bands), "A" in bands)
    assert PixelFormat.from_mode(pixel_format.mode) is pixel_format


@pytest.mark.parametrize("mode", ["CMYK", "P", "rgb", "", "mode"])
def test_other_modes_have_no_pixel_format(mode: str) -> None:
    """A mode that the format cannot store is an image error."""
    assert failure(lambda: PixelFormat.from_mode(mode)) == (VaecImageError, "MODE")


# --- there and back ---------------------------------------------------------------------------------------------------


@given(files())
def test_what_is_written_is_read(file: tuple[Header, list[Tile], dict[str, bytes]]) -> None:
    """read and read_info return exactly what write was given, partial or not."""
    header, tiles, metadata = file
    data = write(header, tiles, metadata)
    expected = Bitstream(header, tuple(tiles), metadata, ())
    assert read(data) == read(data, partial=True) == expected
    index = tuple(IndexEntry(t.mode, len(t.payload), zlib.crc32(t.payload), t.content_crc) for t in tiles)
    assert read_info(io.BytesIO(data)) == Info(header, index, metadata, len(data))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_can_be_read(kind: Callable[[bytes], bytes]) -> None:
    """The type of the buffer does not matter, and payloads come back as bytes."""
    found = read(kind(SMALL_FILES["metadata"]))
    assert found == read(SMALL_FILES["metadata"])
    assert type(found.tiles[0].payload) is bytes


@pytest.mark.parametrize("data", SMALL_FILES.values(), ids=SMALL_FILES)
def test_a_second_writer_agrees(data: bytes) -> None:
    """The CRCs of a written file are those that a reading of docs/format.md gives."""
    assert reseal(data) == data


class Spy(io.BytesIO):
    """A file that remembers which of its bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.touched: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        found = super().read(size)
        self.touched.update(range(start, start + len(found)))
        return found


def test_read_info_reads_everything_but_payloads() -> None:
    """read_info touches every byte of header, index and metadata, from where the file stands, and none of a payload."""
    data = SMALL_FILES["metadata"]
    file = Spy(b"prefix" + data)
    file.seek(6)
    info = read_info(file)
    payloads = set(range(6 + 44, 6 + 44 + info.index[0].payload_bytes))
    assert file.touched == set(range(6, 6 + len(data))) - payloads
    assert info.metadata == METADATA


@pytest.mark.parametrize(
    ("prefix", "answer"),
    [(b"", False), (b"\x89VA", False), (b"\x89VAE", True), (b"\x89VAE\xff\xff", True), (b"\x89PNG", False)],
)
def test_is_vaec_looks_at_the_magic_alone(prefix: bytes, answer: bool) -> None:
    """The first 4 bytes decide, whatever the version."""
    assert is_vaec(prefix) is answer


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "max_pixels"),
    [
        (1, 1, 1),
        (2**18, 2**10, None),
        (2**14, 2**14, None),
        (13_377, 13_377, 13_377**2),
        (178_956_970 // 970, 970, 178_956_970),
    ],
)
def test_largest_sizes_are_allowed(width: int, height: int, max_pixels: int | None) -> None:
    """Limits are inclusive."""
    check_size(width, height, max_pixels=max_pixels)


@pytest.mark.parametrize(
    ("width", "height", "max_pixels", "error", "code"),
    [
        (0, 1, None, VaecFormatError, "ZERO_DIM"),
        (1, 0, None, VaecFormatError, "ZERO_DIM"),
        (2**18 + 1, 1, None, VaecLimitError, "FORMAT_DIM"),
        (1, 2**18 + 1, None, VaecLimitError, "FORMAT_DIM"),
        (2**14, 2**14 + 1, None, VaecLimitError, "FORMAT_DIM"),
        (2**16, 2**16, None, VaecLimitError, "FORMAT_DIM"),
        (3, 2, 5, VaecLimitError, "MAX_PIXELS"),
    ],
)
def test_other_sizes_are_refused(
    width: int, height: int, max_pixels: int | None, error: type[VaecError], code: str
) -> None:
    """Each limit has its own code; products are not taken modulo 2**32."""
    assert failure(lambda: check_size(width, height, max_pixels=max_pixels)) == (error, code)


def test_the_default_limit_is_that_of_pillow() -> None:
    """Without a limit of the caller's, the largest size that Pillow opens is the largest here."""
    limit = 2 * Image.MAX_IMAGE_PIXELS
    assert limit == records.DEFAULT_MAX_PIXELS
    check_size(limit // 2048, 2048)
    assert failure(lambda: check_size(limit // 2048 + 1, 2048)) == (VaecLimitError, "MAX_PIXELS")


# --- what a reader refuses --------------------------------------------------------------------------------------------


def put(offset: int, code: str, value: int | bytes) -> Callable[[bytes], bytes]:
    """An edit that writes one number."""

    def edit(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into(code, changed, offset, value)
        return bytes(changed)

    return edit


def field(name: str, value: int | bytes) -> Callable[[bytes], bytes]:
    """An edit of one header field."""
    return put(*FIELDS[name], value)


VICTIM = write(PLAIN, [Tile(TileMode.LEARNED, b"12 byte long", 5)], METADATA)
# Every rule in the order of docs/format.md, with an edit of VICTIM that breaks it.
RULES: list[tuple[str, type[VaecError], Callable[[bytes], bytes]]] = [
    ("BAD_MAGIC", VaecFormatError, field("magic", b"\x89VAF")),
    ("SHORT_HEADER", VaecTruncatedError, lambda data: data[:31]),
    ("VERSION", VaecUnsupportedError, field("version", 2)),
    ("FEATURE", VaecUnsupportedError, field("flags_incompat", 0x80)),
    ("RESERVED", VaecUnsupportedError, field("reserved", 0x80)),
    ("ZERO_DIM", VaecFormatError, field("width", 0)),
    ("FORMAT_DIM", VaecLimitError, field("height", 2**18 + 1)),
    ("PIXEL_FORMAT", VaecFormatError, field("pixel_format", 4)),
    ("TILE", VaecFormatError, field("tile_log2", 13)),
    ("SHORT_FILE", VaecTruncatedError, lambda data: data[:43]),
    ("TRAILING_DATA", VaecFormatError, field("file_bytes", 32)),
    ("SHORT_FILE", VaecTruncatedError, field("file_bytes", len(VICTIM) + 1)),
    ("HEADER_CRC", VaecChecksumError, field("flags_compat", 0x81)),
    ("QUALITY", VaecFormatError, field("quality", 101)),
    ("DEBLOCKING", VaecFormatError, field("deblocking_cut", 65)),
    ("MAX_PIXELS", VaecLimitError, lambda data: data),
    ("TILE_MODE", VaecFormatError, put(35, "<B", 5 << 4)),
    ("TILE_LEN", VaecFormatError, put(32, "<B", 13)),
    ("PAYLOAD_SUM", VaecFormatError, field("flags_compat", 0)),
    ("META", VaecFormatError, put(56, "4s", b"iccp")),
    ("META_CRC", VaecChecksumError, put(len(VICTIM) - 1, "<B", 0)),
    ("TILE_CRC", VaecChecksumError, put(55, "<B", 0)),
]
CODES = [code for code, _, _ in RULES]
RULE_IDS = [f"{number}-{code}" for number, code in enumerate(CODES)]


def read_broken(*rules: int) -> tuple[type[VaecError], str]:
    """The error of a file that breaks these rules; all those behind HEADER_CRC under a valid CRC."""
    sealed = CODES.index("HEADER_CRC")
    data = VICTIM
    for number in reversed(rules):
        data = RULES[number][2](reseal_header(data) if number == sealed else data)
    data = reseal_header(data) if min(rules) > sealed else data
    max_pixels = PLAIN.width * PLAIN.height - (CODES.index("MAX_PIXELS") in rules)
    return failure(lambda: read(data, max_pixels=max_pixels))


@pytest.mark.parametrize("number", range(len(RULES)), ids=RULE_IDS)
def test_each_rule_has_its_error(number: int) -> None:
    """A file that breaks one rule is refused with the class and code of that rule."""
    assert read_broken(number) == (RULES[number][1], RULES[number][0])


@pytest.mark.parametrize("number", range(len(RULES)), ids=RULE_IDS)
def test_the_first_broken_rule_is_reported(number: int) -> None:
    """A file that breaks a rule and all later ones is refused for the first of them."""
    assert read_broken(*range(number, len(RULES))) == (RULES[number][1], RULES[number][0])


@pytest.mark.parametrize("bit", range(8))
def test_flags_split_features_into_needed_and_ignorable(bit: int) -> None:
    """Any incompatible flag refuses the file; an unknown compatible one changes nothing."""
    data = SMALL_FILES["tiled"]
    assert failure(lambda: read(reseal(patched(data, flags_incompat=1 << bit)))) == (VaecUnsupportedError, "FEATURE")
    if bit > 0:
        assert read(reseal(patched(data, flags_compat=1 << bit))) == read(data)


@pytest.mark.parametrize("quality", [0, 101, 255])
def test_quality_is_1_to_100(quality: int) -> None:
    """Reader and writer refuse the same qualities."""
    data = reseal(patched(SMALL_FILES["alpha"], quality=quality))
    header = Header(PixelFormat.L, 1, 1, bytes(4), quality)
    assert failure(lambda: read(data)) == (VaecFormatError, "QUALITY")
    assert failure(lambda: write(header, tiles_for(header, TileMode.SOLID))) == (VaecFormatError, "QUALITY")


@pytest.mark.parametrize("tile_log2", [0, 7, 13, 255])
def test_tile_log2_is_8_to_12(tile_log2: int) -> None:
    """Reader and writer refuse the same tile sizes."""
    header = Header(PixelFormat.L, 1, 1, bytes(4), 50, tile_log2)
    assert failure(lambda: read(patched(SMALL_FILES["alpha"], tile_log2=tile_log2))) == (VaecFormatError, "TILE")
    assert failure(lambda: write(header, [Tile(TileMode.SOLID, b"1", 0)])) == (VaecFormatError, "TILE")


@pytest.mark.parametrize("cut", [65, 255])
def test_deblocking_cut_is_0_to_64(cut: int) -> None:
    """Reader and writer refuse the same cuts, and agree on the others."""
    header = Header(PixelFormat.L, 1, 1, bytes(4), 50, deblocking_cut=cut)
    solid = [Tile(TileMode.SOLID, b"1", 0)]
    assert failure(lambda: read(reseal(patched(SMALL_FILES["alpha"], deblocking_cut=cut)))) == (
        VaecFormatError, "DEBLOCKING",
    )  # fmt: skip
    assert failure(lambda: write(header, solid)) == (VaecFormatError, "DEBLOCKING")
    for allowed in (0, 64):
        header = Header(PixelFormat.L, 1, 1, bytes(4), 50, deblocking_cut=allowed)
        assert read(write(header, solid)).header == header


GRID = [
    Header(pixel_format, width, height, bytes(4), 50, 8)
    for pixel_format in PixelFormat
    for width, height in ((1, 1), (8, 4), (37, 27))
]


@pytest.mark.parametrize("header", GRID, ids=lambda header: f"{header.pixel_format.mode}-{header.width}")
@pytest.mark.parametrize("mode", [*range(7), 14, 15])
def test_writer_and_reader_allow_the_same_tiles(header: Header, mode: int) -> None:
    """Whatever mode and payload length a tile has, both accept it or both refuse it as docs/format.md says."""
    box = header.boxes()[0]
    raw = box.raw_bytes
    shortest, longest, step = {
        TileMode.LEARNED: (4, raw + 64, 4),
        TileMode.ZLIB: (9, raw + raw // 1000 + 64, 1),
        TileMode.SOLID: (box.channels, box.channels, 1),
        TileMode.WEBP: (26, raw + raw // 1000 + 1024, 1),
        TileMode.CORRECTED: (40, 2 * raw + raw // 1000 + 1098, 1),
        TileMode.EXTERNAL: (49, 4 * raw + 65536, 1),
    }.get(mode, (1, 0, 1))
    near_ends = {0, raw, *range(shortest - 2, shortest + 9), *range(longest - 9, longest + 9)}
    for length in sorted(length for length in near_ends if length >= 0):
        payload = bytes(length)
        others = [Tile(TileMode.SOLID, bytes(b.channels), 0) for b in header.boxes()[1:]]
        tiles = [Tile(mode, payload, 0), *others]
        data = with_entry(header, mode, payload)
        if shortest <= length <= longest and length % step == 0:
            assert read(data).tiles[0].payload == payload
            assert write(header, tiles) == data
        else:
            expected = (VaecFormatError, "TILE_MODE" if 4 < mode < 15 else "TILE_LEN", 0)
            assert failure_of(read, data) == failure_of(write, header, tiles) == expected


def test_alpha_is_never_learned() -> None:
    """Reader and writer refuse a learned alpha tile, corrected or not, and name it."""
    solid, expected = Tile(TileMode.SOLID, b"1", 0), (VaecFormatError, "TILE_MODE", 1)
    for mode, payload in ((TileMode.LEARNED, b"12345678"), (TileMode.CORRECTED, bytes(40))):
        data = bytearray(write(ALPHA, [solid, Tile(TileMode.WEBP, bytes(40), 0)]))
        data[44:48] = struct.pack("<I", mode << 28 | 40)
        learned = Tile(mode, payload, 0)
        assert failure_of(read, reseal(bytes(data))) == failure_of(write, ALPHA, [solid, learned]) == expected


def test_payloads_may_not_reach_beyond_the_file() -> None:
    """Payloads that end after file_bytes are refused, with metadata flagged or without."""
    data = with_entry(PLAIN, TileMode.LEARNED, bytes(8))[:-4]
    for flags in (0, 1):
        short = reseal(patched(data, file_bytes=len(data), flags_compat=flags))
        assert failure(lambda data=short: read(data)) == (VaecFormatError, "PAYLOAD_SUM")


# --- what a writer refuses besides ------------------------------------------------------------------------------------


def test_writer_refuses_a_wrong_number_of_tiles() -> None:
    """There is one tile for each box, no more and no fewer."""
    tiles = tiles_for(TILED, TileMode.SOLID)
    for wrong in (tiles[:-1], [*tiles, tiles[0]], []):
        assert failure(lambda wrong=wrong: write(TILED, wrong)) == (VaecFormatError, "TILE_COUNT")


@pytest.mark.parametrize("model_id", [b"", b"abc", b"abcde"])
def test_writer_refuses_other_model_ids_than_4_bytes(model_id: bytes) -> None:
    """A model id is neither padded nor cut."""
    header = Header(PixelFormat.L, 1, 1, model_id, 50)
    assert failure(lambda: write(header, tiles_for(header, TileMode.SOLID))) == (VaecFormatError, "MODEL_ID")


def test_writer_refuses_sizes_and_formats_that_readers_refuse() -> None:
    """The header of a written file passes the reader's checks, but no limit of a caller's applies."""
    for width, height, code in ((0, 1, "ZERO_DIM"), (2**18 + 1, 1, "FORMAT_DIM"), (2**15, 2**14, "FORMAT_DIM")):
        header = Header(PixelFormat.L, width, height, bytes(4), 50)
        assert failure(lambda header=header: write(header, []))[1] == code
    header = Header(4, 1, 1, bytes(4), 50)
    assert failure(lambda: write(header, [])) == (VaecFormatError, "PIXEL_FORMAT")
    huge = Header(PixelFormat.L, 2**14, 2**14, bytes(4), 50, 12)
    assert read(write(huge, tiles_for(huge, TileMode.SOLID)), max_pixels=None).header == huge


def test_writer_refuses_unknown_metadata() -> None:
    """Only the three kinds that have a chunk type can be stored."""
    tiles = tiles_for(PLAIN, TileMode.SOLID)
    assert failure(lambda: write(PLAIN, tiles, {"comment": b"x"})) == (VaecFormatError, "META")


# --- metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "limit_bytes"), [("icc_profile", 4 * MIB), ("exif", MIB), ("xmp", MIB)], ids=CHUNK_TYPES
)
def test_each_kind_of_metadata_has_its_limit(key: str, limit_bytes: int) -> None:
    """Reader and writer allow exactly the limit and refuse one byte more."""
    tiles = tiles_for(PLAIN, TileMode.LEARNED)
    assert read(write(PLAIN, tiles, {key: bytes(limit_bytes)})).metadata == {key: bytes(limit_bytes)}
    too_long = bytes(limit_bytes + 1)
    assert failure(lambda: write(PLAIN, tiles, {key: too_long})) == (VaecLimitError, "META_LIMIT")
    data = with_metadata(chunk(CHUNK_TYPES[key], too_long))
    assert failure(lambda: read(data)) == (VaecLimitError, "META_LIMIT")


BAD_METADATA = {
    "none": ([], VaecFormatError, "META"),
    "half a head": ([chunk(b"EXIF", b"")[:11]], VaecFormatError, "META"),
    "cut": ([chunk(b"EXIF", b"12")[:-1]], VaecFormatError, "META"),
    "left over": ([chunk(b"EXIF", b"12"), b"\0"], VaecFormatError, "META"),
    "lower case": ([chunk(b"eXIF", b"")], VaecFormatError, "META"),
    "blank": ([chunk(b"XMP ", b"")], VaecFormatError, "META"),
    "twice": ([chunk(b"XMP_", b"1"), chunk(b"XMP_", b"1")], VaecFormatError, "META"),
    "17 chunks": ([chunk(b"OWN1", b"")] * 17, VaecLimitError, "META_LIMIT"),
    "8 MiB + 1": ([chunk(b"OWN1", bytes(8 * MIB - 11))], VaecLimitError, "META_LIMIT"),
    "bad crc": ([chunk(b"EXIF", b"12")[:-1] + b"3"], VaecChecksumError, "META_CRC"),
    "bad crc of an unknown type": ([chunk(b"OWN1", b"12")[:-1] + b"3"], VaecChecksumError, "META_CRC"),
    "other type": ([b"EXIG" + chunk(b"EXIF", b"12")[4:]], VaecChecksumError, "META_CRC"),
}


@pytest.mark.parametrize(("chunks", "error", "code"), BAD_METADATA.values(), ids=BAD_METADATA)
def test_bad_metadata_is_refused(chunks: list[bytes], error: type[VaecError], code: str) -> None:
    """Each rule for chunks has its error, in read and read_info; a partial read notes it and drops the chunk."""
    data = with_metadata(*chunks)
    assert failure(lambda: read(data)) == failure(lambda: read_info(io.BytesIO(data))) == (error, code)
    found = read(data, partial=True)
    assert found.tiles == tuple(tiles_for(PLAIN, TileMode.LEARNED))
    assert [(type(loss), loss.code, loss.tile) for loss in found.damage] == [(error, code, None)]


def test_unknown_chunks_are_skipped() -> None:
    """Chunks of other types, even repeated, empty and as many as the limits allow, change nothing."""
    own = [chunk(b"OWN1", b"x" * 100)] * 14 + [chunk(b"A_09", b"")]
    assert read(with_metadata(*own, chunk(b"EXIF", b"data"))).metadata == {"exif": b"data"}
    assert read(with_metadata(chunk(b"OWN1", bytes(8 * MIB - 12)))).metadata == {}


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", SMALL_FILES.values(), ids=SMALL_FILES)
def test_every_flipped_bit_is_noticed(data: bytes) -> None:
    """No file that differs from a valid one in a single bit is accepted."""
    accepted = []
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read(damaged)
        except VaecError:
            continue
        accepted.append(bit)
    assert accepted == []


@pytest.mark.parametrize("data", SMALL_FILES.values(), ids=SMALL_FILES)
def test_every_cut_and_every_addition_is_noticed(data: bytes) -> None:
    """No beginning of a valid file is accepted, nor a valid file with something behind it, by read or read_info."""
    for end in range(len(data)):
        error = failure(lambda end=end: read(data[:end]))
        assert error == failure(lambda end=end: read_info(io.BytesIO(data[:end])))
        assert error[0] is (VaecFormatError if end < 4 else VaecTruncatedError)
    assert failure(lambda: read(data + b"\0")) == (VaecFormatError, "TRAILING_DATA")


def mutant(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The file with one of the accidents and attacks that are known."""
    changed = bytearray(data)
    at, end = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        value = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 2**16, 2**18, 2**28 - 1, 2**28, 2**31, 2**32 - 1])
        at = min(at // 4 * 4, len(data) - 4)
        struct.pack_into("<I", changed, at, value)
    elif kind == 2:
        changed[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
    elif kind == 3:
        del changed[at:]
    elif kind == 4:
        changed[at:at] = rng.randbytes(rng.randint(1, 20))
    elif kind == 5:
        del changed[min(at, end) : max(at, end)]
    elif kind == 6:
        changed[at:at] = data[min(at, end) : max(at, end)]
    else:
        changed[at:] = other[end:]
    return bytes(changed)


def test_mutants_give_nothing_but_vaec_errors() -> None:
    """Any file is accepted or refused by a VaecError; strict, partial and header-only reading agree on which."""
    rng = random.Random(20)
    seeds = list(SMALL_FILES.values())
    accepted = damaged = 0
    for number in range(20_000):
        data = mutant(rng, rng.choice(seeds), rng.choice(seeds))
        if number % 2:
            data = reseal(patched(data, file_bytes=len(data)) if len(data) >= 32 and rng.random() < 0.7 else data)
        try:
            found = read(data, partial=True)
        except VaecError:
            assert failure_of(read, data) is not None
            continue
        first = found.damage[0] if found.damage else None
        assert failure_of(read, data) == (first and (type(first), first.code, first.tile))
        assert found.damage or failure_of(read_info, io.BytesIO(data)) is None
        assert [n for n, t in enumerate(found.tiles) if t is None] == [
            loss.tile for loss in found.damage if loss.tile is not None
        ]
        accepted += not found.damage
        damaged += bool(found.damage)
    assert accepted > 500 < damaged


@pytest.mark.parametrize("tile_log2", [8, 12])
def test_a_header_alone_allocates_nothing(tile_log2: int) -> None:
    """A header that claims 2**28 pixels but brings no tile index costs neither memory nor time."""
    head = patched(SMALL_FILES["tiled"][:32], width=2**14, height=2**14, tile_log2=tile_log2, file_bytes=2**32 - 1)
    tracemalloc.start()
    start_s = time.thread_time()
    for partial in (False, True):
        error = failure_of(lambda partial=partial: read(head, max_pixels=None, partial=partial))
        assert error == (VaecTruncatedError, "SHORT_FILE", None)
    assert failure_of(read_info, io.BytesIO(head)) == (VaecTruncatedError, "SHORT_FILE", None)
    elapsed_s, (_, peak_bytes) = time.thread_time() - start_s, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 30_000
    assert elapsed_s < 0.5  # a few ms are usual


# --- partial reading --------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(files(), st.data())
def test_a_damaged_tile_costs_only_itself(
    file: tuple[Header, list[Tile], dict[str, bytes]], data: st.DataObject
) -> None:
    """Partial reading loses the tile whose payload changed, names it, and returns all others and the metadata."""
    header, tiles, metadata = file
    lost = data.draw(st.integers(0, len(tiles) - 1))
    damaged = bytearray(write(header, tiles, metadata))
    damaged[32 + 12 * len(tiles) + sum(len(tile.payload) for tile in tiles[:lost])] ^= 1
    found = read(damaged, partial=True)
    expected = [None if number == lost else tile for number, tile in enumerate(tiles)]
    assert (found.header, list(found.tiles), found.metadata) == (header, expected, metadata)
    assert [(type(loss), loss.code, loss.tile) for loss in found.damage] == [(VaecChecksumError, "TILE_CRC", lost)]
    assert failure(lambda: read(damaged)) == (VaecChecksumError, "TILE_CRC")


@settings(max_examples=50)
@given(files(), st.data())
def test_a_cut_costs_only_what_is_behind_it(
    file: tuple[Header, list[Tile], dict[str, bytes]], data: st.DataObject
) -> None:
    """Partial reading of a file's beginning returns each tile and chunk that is whole, and names each lost tile."""
    header, tiles, metadata = file
    whole = write(header, tiles, metadata)
    index_end = 32 + 12 * len(tiles)
    cut = data.draw(st.integers(index_end, len(whole) - 1))
    ends = [index_end + sum(len(tile.payload) for tile in tiles[: number + 1]) for number in range(len(tiles))]
    found = read(whole[:cut], partial=True)
    assert list(found.tiles) == [tile if end <= cut else None for tile, end in zip(tiles, ends, strict=True)]
    assert [loss.tile for loss in found.damage if loss.tile is not None] == [
        n for n, end in enumerate(ends) if end > cut
    ]
    assert {(type(loss), loss.code) for loss in found.damage} == {(VaecTruncatedError, "SHORT_FILE")}
    chunk_ends = [
        ends[-1] + sum(12 + len(value) for value in list(metadata.values())[: n + 1]) for n in range(len(metadata))
    ]
    assert found.metadata == dict(list(metadata.items())[: sum(end <= cut for end in chunk_ends)])


def test_a_damaged_chunk_costs_only_itself() -> None:
    """Partial reading goes on behind a chunk whose data changed."""
    data = bytearray(with_metadata(chunk(b"ICCP", b"a profile"), chunk(b"EXIF", b"II*\0")))
    data[data.index(b"profile")] ^= 1
    found = read(data, partial=True)
    assert found.metadata == {"exif": b"II*\0"}
    assert [loss.code for loss in found.damage] == ["META_CRC"]


@pytest.mark.parametrize("code", [c for c in CODES[: CODES.index("META")] if c != "SHORT_FILE"])
def test_partial_reading_needs_header_and_index(code: str) -> None:
    """Errors of header and index are raised, partial or not."""
    number = CODES.index(code)
    data = RULES[number][2](VICTIM)
    data = data if number <= CODES.index("HEADER_CRC") else reseal_header(data)
    max_pixels = PLAIN.width * PLAIN.height - (code == "MAX_PIXELS")
    assert failure(lambda: read(data, max_pixels=max_pixels, partial=True)) == (RULES[number][1], code)


# --- docs/format.md ---------------------------------------------------------------------------------------------------


def tables(heading: str) -> list[list[list[str]]]:
    """The cells of every table under a heading of docs/format.md, without the head rows."""
    section = FORMAT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in b.splitlines()[2:]] for b in blocks]


@pytest.mark.parametrize(
    ("heading", "layout"),
    [("Header", records.HEADER), ("Tile index", records.INDEX_ENTRY), ("Metadata", records.CHUNK)],
)
def test_document_lists_the_fields(heading: str, layout: records.Layout) -> None:
    """The tables of docs/format.md and the layouts have the same fields, offsets, sizes and types."""
    codes = {"u8": "B", "u16": "H", "u32": "I", "bytes4": "4s"}
    offset, expected = 0, []
    for name, code in layout.fields.items():
        expected.append((offset, struct.calcsize("<" + code), name, code))
        offset += struct.calcsize("<" + code)
    rows = tables(heading)[0]
    assert [(int(row[0]), int(row[1]), row[2], codes[row[3]]) for row in rows] == expected


def test_document_lists_the_allowed_values() -> None:
    """The ranges of docs/format.md are those that the reader applies."""
    allowed = {row[2]: row[5] for row in tables("Header")[0]}
    for name, (values, _, _) in records.HEADER_RULES.items():
        assert [int(word) for word in allowed[name].split(" to ")] == sorted({values[0], values[-1]})
    assert [(int(row[0]), row[1]) for row in tables("Tile payloads")[0]] == [
        (mode.value, mode.name) for mode in TileMode
    ]
    chunk_limits = {row[0].encode(): int(row[2].split()[-2]) for row in tables("Metadata")[1]}
    assert chunk_limits == {kind: limit for kind, (_, limit) in records.CHUNK_TYPES.items()}
    limits = [records.MAX_SIDE, records.MAX_AREA, records.MAX_CHUNKS, records.MAX_METADATA_BYTES]
    assert [int(re.findall(r"(?<!\^)\b\d\d+", row[1])[0]) for row in tables("Limits")[0]] == limits


def test_document_lists_the_checks_in_order() -> None:
    """Classes, codes and order of docs/format.md are those of RULES; META_LIMIT has tests of its own."""
    of_container = tables("What a decoder MUST reject")[0][:25]
    rows = [(code, error) for _, _, error, code in of_container if code != "META_LIMIT"]
    rows = [row for number, row in enumerate(rows) if row != rows[number - 1]]
    assert rows == [(code, error.__name__) for code, error, _ in RULES]


def test_document_states_the_largest_tile_count() -> None:
    """No image within the limits has more tiles than docs/format.md says."""
    headers = [Header(PixelFormat.RGBA, w, min(2**18, 2**28 // w), bytes(4), 1, 8) for w in range(1, 2**18, 256)]
    assert max(header.tile_count for header in headers) == 10_230
    assert "a file has at most 10230 tiles" in FORMAT


def test_worked_example_is_what_the_writer_writes() -> None:
    """The hex dump of docs/format.md is, byte for byte, the file that it describes, at the offsets that it names."""
    pixel = bytes([0x12, 0x34, 0x56])
    header = Header(PixelFormat.RGB, 3, 2, bytes(4), 75)
    expected = write(header, [Tile(TileMode.SOLID, pixel, zlib.crc32(pixel * 6))])
    rows = tables("Worked example")[0]
    assert bytes.fromhex("".join(row[1] for row in rows)) == expected
    for row in rows:
        assert expected[int(row[0]) :].startswith(bytes.fromhex(row[1]))
