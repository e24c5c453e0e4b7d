"""The records of the .vaec container: layouts, allowed values, the parts of a file, and every check.

The writer and the readers share the checks, so what is written can be read.
"""

import struct
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple, Self

from vaecodec.errors import (
    VaecChecksumError,
    VaecError,
    VaecFormatError,
    VaecImageError,
    VaecLimitError,
    VaecUnsupportedError,
)

MAGIC = b"\x89VAE"
VERSION = 1
HAS_METADATA = 0b1
MAX_SIDE = 2**18
MAX_AREA = 2**28
DEFAULT_MAX_PIXELS = 178_956_970  # Pillow's own default limit
MAX_CHUNKS = 16
MAX_METADATA_BYTES = 8 * 2**20
CHUNK_TYPES = {  # type in the file: (Pillow's name, or ours, limit in bytes)
    b"ICCP": ("icc_profile", 4 * 2**20),
    b"EXIF": ("exif", 2**20),
    b"XMP_": ("xmp", 2**20),
}


class Layout:
    """A little-endian record of fixed width: field names and their `struct` codes, in file order."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields
        self._struct = struct.Struct("<" + "".join(fields.values()))
        self.size_bytes = self._struct.size

    def pack(self, **values: Any) -> bytes:
        """Returns the record as bytes; every field must be given."""
        return self._struct.pack(*(values[name] for name in self.fields))

    def unpack(self, record: bytes) -> dict[str, Any]:
        """Returns the fields of exactly one record by name."""
        return dict(zip(self.fields, self._struct.unpack(record), strict=True))


HEADER = Layout(
    magic="4s",
    version="B",
    flags_incompat="B",
    flags_compat="B",
    pixel_format="B",
    width="I",
    height="I",
    model_id="4s",
    quality="B",
    tile_log2="B",
    reserved="B",
    deblocking_cut="B",
    file_bytes="I",
    header_crc="I",
)
NO_MODEL = bytes(4)
"""The model_id of a file without learned tiles whose encoder had no weights."""

TILE_LOG2_MAX = 12

HEADER_RULES: dict[str, tuple[range, type[VaecError], str]] = {  # field: (allowed values, error, its code)
    "version": (range(1, 2), VaecUnsupportedError, "VERSION"),
    "flags_incompat": (range(1), VaecUnsupportedError, "FEATURE"),
    "reserved": (range(1), VaecUnsupportedError, "RESERVED"),
    "pixel_format": (range(4), VaecFormatError, "PIXEL_FORMAT"),
    "tile_log2": (range(8, TILE_LOG2_MAX + 1), VaecFormatError, "TILE"),
    "deblocking_cut": (range(65), VaecFormatError, "DEBLOCKING"),
    "quality": (range(1, 101), VaecFormatError, "QUALITY"),
}
WIDEST_WITH_LARGE_TILES = 8 << 10
EXTERNAL_HEAD_BYTES = 40
INDEX_ENTRY = Layout(mode_length="I", payload_crc="I", content_crc="I")
CHUNK = Layout(type="4s", length="I", crc="I")


class PixelFormat(IntEnum):
    """Channels of the image, 8 bits each: values of the header field, with Pillow's mode names."""

    L = 0
    RGB = 1
    LA = 2
    RGBA = 3

    @classmethod
    def from_mode(cls, mode: str) -> Self:
        """Returns the format that stores a Pillow mode unchanged; raises VaecImageError (MODE) if there is none."""
        if mode not in cls.__members__:
            raise VaecImageError(f"image mode is {mode!r}, must be one of {', '.join(cls.__members__)}", code="MODE")
        return cls[mode]

    @property
    def mode(self) -> str:
        """Pillow's name of this format."""
        return self.name

    @property
    def channels(self) -> int:
        """Samples per pixel, alpha included."""
        return len(self.name)

    @property
    def has_alpha(self) -> bool:
        """Whether an alpha plane follows the colour plane."""
        return self.name.endswith("A")


class TileMode(IntEnum):
    """How a tile is coded: by the model, with or without a correction, or without the model.

    Encoders write WEBP where earlier ones wrote ZLIB. EXTERNAL is for models of other libraries; modes of this kind are
    numbered downwards from 15, the format's own modes upwards from 0.
    """

    LEARNED = 0
    ZLIB = 1
    SOLID = 2
    WEBP = 3
    CORRECTED = 4
    EXTERNAL = 15

    @property
    def is_learned(self) -> bool:
        """Whether the model is needed."""
        return self in (TileMode.LEARNED, TileMode.CORRECTED)

    @property
    def is_for_colour(self) -> bool:
        """Whether no tile of alpha has it."""
        return self.is_learned or self is TileMode.EXTERNAL


class TileBox(NamedTuple):
    """The position of a tile in the image, in pixels, and the number of channels of its plane."""

    plane: Literal["colour", "alpha"]
    top: int
    left: int
    height: int
    width: int
    channels: int

    @property
    def raw_bytes(self) -> int:
        """Size of the uncompressed samples in bytes."""
        return self.height * self.width * self.channels


class Tile(NamedTuple):
    """A coded tile; `content_crc` is the CRC-32 of its integer latents if learned, otherwise of its raw samples."""

    mode: TileMode
    payload: bytes
    content_crc: int


class IndexEntry(NamedTuple):
    """The entry of a tile in the index."""

    mode: TileMode
    payload_bytes: int
    payload_crc: int
    content_crc: int


def tile_log2_for(width: int) -> int:
    """The tile size that encoders choose: smaller for wide pictures, because rows of tiles are held in memory."""
    return 10 if width <= WIDEST_WITH_LARGE_TILES else 9


def plain_tile_log2_for(width: int, height: int) -> int:
    """The tile size that encoders choose if no tile is learned: large, so that repeated content is coded once."""
    if width > 1 << TILE_LOG2_MAX:
        return tile_log2_for(width)
    return max(10, min(TILE_LOG2_MAX, (max(width, height) - 1).bit_length()))


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of the file header that are neither constant nor derived; `write` checks them.

    Attributes:
        pixel_format: channels of the image.
        width: pixels, 1 to 2**18.
        height: pixels, 1 to 2**18, and width * height at most 2**28.
        model_id: first 4 bytes of the SHA-256 of the weights file.
        quality: 1 to 100.
        tile_log2: 8 to 12; a tile has 2**tile_log2 pixels a side, fewer at the right and bottom edges of the image.
        deblocking_cut: 0 to 64, how many 64ths of its smoothing the deblocking filter omits.
    """

    pixel_format: PixelFormat
    width: int
    height: int
    model_id: bytes
    quality: int
    tile_log2: int = 10
    deblocking_cut: int = 0

    @classmethod
    def of_picture(cls, channels: int, width: int, height: int, model_id: bytes, quality: int) -> "Header":
        """The header of a new picture, 1 to 4 channels, of a size that `check_size` accepts."""
        mode = next(mode for mode in PixelFormat if mode.channels == channels)
        return cls(mode, width, height, model_id, quality, tile_log2_for(width))

    @property
    def tile_size(self) -> int:
        """Side of a whole tile in pixels."""
        return 1 << self.tile_log2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles in each plane."""
        return -(-self.height // self.tile_size), -(-self.width // self.tile_size)

    @property
    def tile_count(self) -> int:
        """Tiles of all planes."""
        rows, columns = self.grid
        return rows * columns * (1 + self.pixel_format.has_alpha)

    def boxes(self) -> list[TileBox]:
        """Returns the box of every tile in index order: the colour plane row by row, then the alpha plane likewise."""
        size, channels = self.tile_size, self.pixel_format.channels - self.pixel_format.has_alpha
        colour = [
            TileBox("colour", top, left, min(size, self.height - top), min(size, self.width - left), channels)
            for top in range(0, self.height, size)
            for left in range(0, self.width, size)
        ]
        alpha = [box._replace(plane="alpha", channels=1) for box in colour] if self.pixel_format.has_alpha else []
        return colour + alpha


@dataclass(frozen=True, repr=False)
class Info:
    """A file without its payloads; `metadata` has some of the keys icc_profile, exif and xmp.

    `external` names the model of another library that the file needs, if any.

    Its repr is one line, and a small table in notebooks, without the bytes of the metadata.
    """

    header: Header
    index: tuple[IndexEntry, ...]
    metadata: dict[str, bytes]
    file_bytes: int
    external: str = ""

    def __repr__(self) -> str:
        return f"<Info: {', '.join(text for _, text in self._facts())}>"

    def _repr_html_(self) -> str:
        import html  # deferred: only notebooks need it

        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in self._facts())
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        header, modes = self.header, Counter(entry.mode.name.lower() for entry in self.index)
        bpp = 8 * self.file_bytes / (header.width * header.height)
        facts = [
            ("picture", f"{header.width} x {header.height} {header.pixel_format.mode}"),
            ("quality", f"quality {header.quality}"),
            ("size", f"{self.file_bytes:,} bytes, {bpp:.3f} bpp"),
            ("tiles", "tiles: " + " + ".join(f"{count} {mode}" for mode, count in modes.items())),
        ]
        if self.external:
            facts.append(("model", f"for the model {self.external}"))
        if self.metadata:
            sizes = " + ".join(f"{key} ({len(data):,} bytes)" for key, data in self.metadata.items())
            facts.append(("metadata", sizes))
        return facts


@dataclass(frozen=True)
class Bitstream:
    """A parsed file. Only after a partial read may tiles be None; `damage` then holds the errors."""

    header: Header
    tiles: tuple[Tile | None, ...]
    metadata: dict[str, bytes]
    damage: tuple[VaecError, ...]


_CHUNK_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def check_size(width: int, height: int, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> None:
    """Refuses a size that the format or the caller does not allow.

    Args:
        width: pixels.
        height: pixels.
        max_pixels: the caller's limit on width * height; None applies only the limits of the format.

    Raises:
        VaecFormatError: (ZERO_DIM) a side is below 1.
        VaecLimitError: (FORMAT_DIM) the size exceeds the format's limits, or (MAX_PIXELS) `max_pixels`.
    """
    found = f"width x height is {width} x {height}"
    if width < 1 or height < 1:
        raise VaecFormatError(f"{found}, must be at least 1 x 1", code="ZERO_DIM")
    if max(width, height) > MAX_SIDE or width * height > MAX_AREA:
        raise VaecLimitError(f"{found}, must be at most {MAX_SIDE} a side, {MAX_AREA} in all", code="FORMAT_DIM")
    if max_pixels is not None and width * height > max_pixels:
        raise VaecLimitError(f"{found}, must be at most {max_pixels} pixels (max_pixels)", code="MAX_PIXELS")


def check_fields(fields: Mapping[str, Any], *names: str) -> None:
    """Refuses a header field outside its range, with the error and code of its entry in `HEADER_RULES`."""
    for name in names:
        allowed, error, code = HEADER_RULES[name]
        if fields[name] not in allowed:
            hint = ": a newer vaecodec may read this file" if error is VaecUnsupportedError else ""
            raise error(f"{name} is {fields[name]}, must be {_in_words(allowed)}{hint}", code=code)


def _in_words(allowed: range) -> str:
    span = f"{allowed[0]} to {allowed[-1]}" if len(allowed) > 1 else f"{allowed[0]}"
    return span if allowed.step == 1 else f"{span} in steps of {allowed.step}"


def check_crc(what: str, found: int, stored: int, *, code: str, tile: int | None = None) -> None:
    """Raises VaecChecksumError with this code if a computed CRC-32 differs from the stored one."""
    if found != stored:
        message = f"CRC-32 of {what} is {found:#010x}, must be {stored:#010x}: the file is damaged"
        raise VaecChecksumError(message, code=code, tile=tile)


def check_tile(number: int, box: TileBox, mode: int, payload_bytes: int) -> None:
    """Refuses an index entry with an invalid mode (TILE_MODE) or payload length (TILE_LEN)."""
    if mode not in tuple(TileMode) or (TileMode(mode).is_for_colour and box.plane == "alpha"):
        message = f"mode of {box.plane} tile {number} is {mode}, must be 0 to 4 or 15, of alpha 1 to 3"
        raise VaecFormatError(message, code="TILE_MODE", tile=number)
    raw_bytes = box.raw_bytes
    allowed = {
        TileMode.LEARNED: range(4, raw_bytes + 65, 4),
        TileMode.ZLIB: range(9, raw_bytes + raw_bytes // 1000 + 65),
        TileMode.SOLID: range(box.channels, box.channels + 1),
        TileMode.WEBP: range(26, raw_bytes + raw_bytes // 1000 + 1025),
        TileMode.CORRECTED: range(40, 2 * raw_bytes + raw_bytes // 1000 + 1099),
        TileMode.EXTERNAL: range(EXTERNAL_HEAD_BYTES + 9, 4 * raw_bytes + 65537),
    }[TileMode(mode)]
    if payload_bytes not in allowed:
        message = f"payload of tile {number} has {payload_bytes} bytes, must have {_in_words(allowed)}"
        raise VaecFormatError(message, code="TILE_LEN", tile=number)


def check_chunk(kind: bytes, data_bytes: int, seen: Collection[bytes]) -> None:
    """Refuses a metadata chunk with an invalid type or length (META, META_LIMIT), given the preceding types."""
    if not set(kind) <= set(_CHUNK_ALPHABET):
        raise VaecFormatError(f"metadata chunk type is {kind!r}, must be of A-Z, 0-9 and _", code="META")
    if kind in CHUNK_TYPES and kind in seen:
        raise VaecFormatError(f"metadata chunk {kind!r} occurs twice, must occur once", code="META")
    if len(seen) == MAX_CHUNKS:
        raise VaecLimitError(f"metadata has more than {MAX_CHUNKS} chunks", code="META_LIMIT")
    if kind in CHUNK_TYPES and data_bytes > CHUNK_TYPES[kind][1]:
        message = f"metadata chunk {kind!r} has {data_bytes} bytes, must have at most {CHUNK_TYPES[kind][1]}"
        raise VaecLimitError(message, code="META_LIMIT")
