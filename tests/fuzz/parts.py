"""A .vaec file as loose parts, taken apart and sealed by docs/format.md alone: what mutators change, laws look at."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADER = struct.Struct("<4s4BII4s4BII")
HEADER_FIELDS = (
    *("magic", "version", "flags_incompat", "flags_compat", "pixel_format", "width", "height"),
    *("model_id", "quality", "tile_log2", "reserved", "deblocking_cut", "file_bytes", "header_crc"),
)
ENTRY = struct.Struct("<III")
CHUNK = struct.Struct("<4sII")
LENGTH_MASK = 2**28 - 1
LEARNED, ZLIB, SOLID, WEBP, CORRECTED = range(5)
CORRECTION = struct.Struct("<IIB")  # learned bytes, CRC-32 of the symbols, step
CHANNELS = (1, 3, 2, 4)  # of each pixel format
MAX_TILES = 10_230


class Entry(NamedTuple):
    """A record of the tile index, and the payload that it stands for."""

    mode_length: int
    payload_crc: int
    content_crc: int
    payload: bytes

    @property
    def mode(self) -> int:
        return self.mode_length >> 28


class Chunk(NamedTuple):
    """A record of metadata, and the data behind it."""

    kind: bytes
    length: int
    crc: int
    data: bytes


class Claim(NamedTuple):
    """What a header says of the picture, in pixels and samples, whether or not it is true."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True)
class Parts:
    """A file taken apart; `data` is the whole, and assembling the unchanged parts gives it back.

    Attributes:
        data: the file.
        header: the fields of the header by name.
        entries: one for each tile.
        chunks: the metadata.
    """

    data: bytes
    header: dict[str, int | bytes]
    entries: tuple[Entry, ...]
    chunks: tuple[Chunk, ...]


def take_apart(data: bytes) -> Parts:
    """Takes a valid file apart; what comes of any other is unspecified."""
    header = dict(zip(HEADER_FIELDS, HEADER.unpack_from(data), strict=True))
    count = tile_count(data)
    at = HEADER.size + ENTRY.size * count
    entries = []
    for number in range(count):
        mode_length, payload_crc, content_crc = ENTRY.unpack_from(data, HEADER.size + ENTRY.size * number)
        end = at + (mode_length & LENGTH_MASK)
        entries.append(Entry(mode_length, payload_crc, content_crc, data[at:end]))
        at = end
    chunks = []
    while at < len(data):
        kind, length, crc = CHUNK.unpack_from(data, at)
        at += CHUNK.size + length
        chunks.append(Chunk(kind, length, crc, data[at - length : at]))
    return Parts(data, header, tuple(entries), tuple(chunks))


def assemble(
    parts: Parts,
    *,
    header: Mapping[str, int | bytes] | None = None,
    entries: tuple[Entry, ...] | None = None,
    chunks: tuple[Chunk, ...] | None = None,
) -> bytes:
    """Puts a file together from its parts, some of them exchanged; every CRC and length stays as the parts have it."""
    fields = parts.header if header is None else {**parts.header, **header}
    entries = parts.entries if entries is None else entries
    chunks = parts.chunks if chunks is None else chunks
    return b"".join(
        (
            HEADER.pack(*fields.values()),
            *(ENTRY.pack(*entry[:3]) for entry in entries),
            *(entry.payload for entry in entries),
            *(CHUNK.pack(*chunk[:3]) + chunk.data for chunk in chunks),
        )
    )


def sound_entry(mode: int, payload: bytes, content_crc: int) -> Entry:
    """An entry whose length and payload CRC are right."""
    return Entry(mode << 28 | len(payload), zlib.crc32(payload), content_crc, payload)


def sound_chunk(kind: bytes, data: bytes) -> Chunk:
    """A chunk whose length and CRC are right."""
    return Chunk(kind, len(data), zlib.crc32(data, zlib.crc32(struct.pack("<4sI", kind, len(data)))), data)


def reseal(data: bytes, *, lengthens: bool = True) -> bytes:
    """Computes every CRC anew, as far as the file's own fields say where they lie; the content CRCs stay.

    Args:
        data: any bytes.
        lengthens: also write the length of the file into its header.
    """
    if len(data) < HEADER.size:
        return data
    sealed = bytearray(data)
    if lengthens:
        struct.pack_into("<I", sealed, 24, len(sealed))
    at = index_end = HEADER.size + ENTRY.size * tile_count(data)
    if index_end > len(sealed):
        return bytes(sealed)
    for entry in range(HEADER.size, index_end, ENTRY.size):
        length = struct.unpack_from("<I", sealed, entry)[0] & LENGTH_MASK
        struct.pack_into("<I", sealed, entry + 4, zlib.crc32(sealed[at : at + length]))
        at += length
    while at + CHUNK.size <= len(sealed):
        length = struct.unpack_from("<I", sealed, at + 4)[0]
        crc = zlib.crc32(sealed[at + CHUNK.size : at + CHUNK.size + length], zlib.crc32(sealed[at : at + 8]))
        struct.pack_into("<I", sealed, at + 8, crc)
        at += CHUNK.size + length
    struct.pack_into("<I", sealed, 28, zlib.crc32(sealed[HEADER.size : index_end], zlib.crc32(sealed[:28])))
    return bytes(sealed)


def tile_count(data: bytes) -> int:
    """Tiles that the header of any 32 bytes or more stands for, and MAX_TILES + 1 if no file can have so many."""
    pixel_format, width, height, tile_log2 = struct.unpack_from("<7xBII5xB", data)
    side = 1 << min(tile_log2, 31)
    count = -(-width // side) * -(-height // side) * (2 if pixel_format in (2, 3) else 1)
    return min(count, MAX_TILES + 1)


def claim(data: bytes) -> Claim:
    """What the header of any 32 bytes or more says of the picture."""
    pixel_format, width, height = struct.unpack_from("<7xBII", data)
    return Claim(height, width, CHANNELS[pixel_format] if pixel_format < len(CHANNELS) else 0)
