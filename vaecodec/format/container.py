"""The .vaec container: header, tile index, payloads and metadata to and from bytes.

`docs/format.md` specifies it, and a test compares that page with the layouts in `records`. The writer and the readers
share every check, so what is written can be read. Nothing is allocated from a field before its checks have passed.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO, NoReturn, TypeAlias

from vaecodec.errors import VaecChecksumError, VaecError, VaecFormatError, VaecLimitError, VaecTruncatedError
from vaecodec.format import external
from vaecodec.format.records import (
    CHUNK,
    CHUNK_TYPES,
    DEFAULT_MAX_PIXELS,
    HAS_METADATA,
    HEADER,
    HEADER_RULES,
    INDEX_ENTRY,
    MAGIC,
    MAX_AREA,
    MAX_CHUNKS,
    MAX_METADATA_BYTES,
    MAX_SIDE,
    VERSION,
    Bitstream,
    Header,
    IndexEntry,
    Info,
    Layout,
    PixelFormat,
    Tile,
    TileBox,
    TileMode,
    check_chunk,
    check_crc,
    check_fields,
    check_size,
    check_tile,
    tile_log2_for,
)

__all__ = [
    "CHUNK",
    "CHUNK_TYPES",
    "DEFAULT_MAX_PIXELS",
    "HAS_METADATA",
    "HEADER",
    "HEADER_RULES",
    "INDEX_ENTRY",
    "MAGIC",
    "MAX_AREA",
    "MAX_CHUNKS",
    "MAX_METADATA_BYTES",
    "MAX_SIDE",
    "VERSION",
    "Assembled",
    "Bitstream",
    "Header",
    "IndexEntry",
    "Info",
    "Layout",
    "PixelFormat",
    "Tile",
    "TileBox",
    "TileMode",
    "assemble",
    "check_size",
    "is_vaec",
    "read",
    "read_info",
    "read_tile",
    "tile_log2_for",
    "write",
]

_LENGTH_BITS = 28

Report: TypeAlias = Callable[[VaecError], None]


def is_vaec(prefix: bytes) -> bool:
    """Whether a file that starts with these bytes (at least 4) claims to be .vaec, of any version.

    Example:
        >>> is_vaec(b"not a .vaec file")
        False
    """
    return prefix[: len(MAGIC)] == MAGIC


class Assembled:
    """A complete file as a sequence of byte strings.

    Attributes:
        info: the result of `read_info` for this file.
    """

    def __init__(self, front: bytes, tiles: Sequence[Tile], tail: bytes, info: Info) -> None:
        self._front, self._tiles, self._tail, self.info = front, tiles, tail, info

    def __len__(self) -> int:
        return self.info.file_bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self._front
        yield from (tile.payload for tile in self._tiles)
        yield self._tail


def write(header: Header, tiles: Sequence[Tile], metadata: Mapping[str, bytes] | None = None) -> bytes:
    """Returns the bytes of a file; `read` is the inverse. Arguments and errors as for `assemble`."""
    return b"".join(assemble(header, tiles, metadata))


def assemble(header: Header, tiles: Sequence[Tile], metadata: Mapping[str, bytes] | None = None) -> Assembled:
    """Assembles a file.

    Args:
        header: size, format and model of the image.
        tiles: one for each of `header.boxes()`, in that order; read now, and again when the file is written.
        metadata: any of icc_profile, exif and xmp, stored as given.

    Raises:
        VaecFormatError: no reader would accept a field, a tile or a metadata key.
        VaecLimitError: the image or a metadata item is larger than the format allows.
    """
    check_size(header.width, header.height, max_pixels=None)
    fields = asdict(header) | {"magic": MAGIC, "version": VERSION, "flags_incompat": 0, "reserved": 0}
    check_fields(fields, *HEADER_RULES)
    if len(header.model_id) != 4:
        raise VaecFormatError(f"model_id has {len(header.model_id)} bytes, must have 4", code="MODEL_ID")
    if len(tiles) != header.tile_count:
        raise VaecFormatError(f"tile count is {len(tiles)}, must be {header.tile_count}", code="TILE_COUNT")
    index, packed, model = list[IndexEntry](), bytearray(), ""
    for number, (box, tile) in enumerate(zip(header.boxes(), tiles, strict=True)):
        check_tile(number, box, tile.mode, len(tile.payload))
        entry = IndexEntry(tile.mode, len(tile.payload), zlib.crc32(tile.payload), tile.content_crc)
        mode_length = entry.mode << _LENGTH_BITS | entry.payload_bytes
        packed += INDEX_ENTRY.pack(
            mode_length=mode_length, payload_crc=entry.payload_crc, content_crc=entry.content_crc
        )
        index.append(entry)
        if tile.mode == TileMode.EXTERNAL:
            model = model or external.told_by(tile.payload[: external.PREFIX_BYTES])
    metadata = dict(metadata or {})
    tail = _write_metadata(metadata)
    payload_bytes = sum(entry.payload_bytes for entry in index)
    fields["flags_compat"] = HAS_METADATA if metadata else 0
    fields["file_bytes"] = HEADER.size_bytes + len(packed) + payload_bytes + len(tail)
    header_crc = _record_crc(HEADER.pack(**fields, header_crc=0), packed)
    front = HEADER.pack(**fields, header_crc=header_crc) + packed
    return Assembled(front, tiles, tail, Info(header, tuple(index), metadata, fields["file_bytes"], model))


def read_info(file: BinaryIO, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Info:
    """Reads and checks header, tile index and metadata, and skips the payloads.

    Args:
        file: seekable, positioned at the start of the .vaec data, which must extend to the end of the file. Its
            position afterwards is unspecified.
        max_pixels: as for `check_size`.

    Raises:
        VaecError: with the class and code that docs/format.md lists for the failed check.
    """
    return _read_info(file, max_pixels, _raise)


def read(
    data: bytes | bytearray | memoryview, *, max_pixels: int | None = DEFAULT_MAX_PIXELS, partial: bool = False
) -> Bitstream:
    """Parses a file and checks everything except the content of the payloads.

    Args:
        data: the whole file.
        max_pixels: as for `check_size`.
        partial: keep what is left of a damaged file. A tile that is cut off or fails its CRC becomes None, and an error
            in `damage` names it. Damaged metadata is dropped. Dropped metadata and truncation are recorded in `damage`
            too. Errors in header and index are still raised.

    Raises:
        VaecError: with the class and code that docs/format.md lists for the failed check.
    """
    damage: list[VaecError] = []
    report: Report = damage.append if partial else _raise
    file = io.BytesIO(data)
    info = _read_info(file, max_pixels, report)
    file.seek(HEADER.size_bytes + len(info.index) * INDEX_ENTRY.size_bytes)
    tiles = tuple(read_tile(file, number, entry, report) for number, entry in enumerate(info.index))
    return Bitstream(info.header, tiles, info.metadata, tuple(damage))


def _read_info(file: BinaryIO, max_pixels: int | None, report: Report) -> Info:
    start = file.tell()
    found_bytes = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    head = file.read(HEADER.size_bytes)
    header, fields = _parse_header(head)
    index_end = HEADER.size_bytes + header.tile_count * INDEX_ENTRY.size_bytes
    _check_length(found_bytes, fields["file_bytes"], index_end, report)
    index_bytes = _take(file, index_end - HEADER.size_bytes, "tile index")
    check_crc("header and tile index", _record_crc(head, index_bytes), fields["header_crc"], code="HEADER_CRC")
    check_fields(fields, "quality", "deblocking_cut")
    check_size(header.width, header.height, max_pixels=max_pixels)
    index = _parse_index(index_bytes, header.boxes())
    payloads_end = index_end + sum(entry.payload_bytes for entry in index)
    metadata_bytes = fields["file_bytes"] - payloads_end
    has_metadata = bool(fields["flags_compat"] & HAS_METADATA)
    if metadata_bytes < 0 or (metadata_bytes and not has_metadata):
        message = f"payloads end at byte {payloads_end}, must end at file_bytes ({fields['file_bytes']})"
        raise VaecFormatError(message, code="PAYLOAD_SUM")
    file.seek(start + payloads_end)
    metadata = _read_metadata(file, metadata_bytes, report) if has_metadata else {}
    return Info(header, index, metadata, fields["file_bytes"], _external(file, start + index_end, index))


def _external(file: BinaryIO, place: int, index: Sequence[IndexEntry]) -> str:
    """What the first tile that a model of another library decodes tells of it; payloads begin at `place`."""
    for entry in index:
        if entry.mode == TileMode.EXTERNAL:
            file.seek(place)
            return external.told_by(file.read(min(external.PREFIX_BYTES, entry.payload_bytes)))
        place += entry.payload_bytes
    return ""


def _parse_header(head: bytes) -> tuple[Header, dict[str, Any]]:
    """Makes the checks that need only the header."""
    if not is_vaec(head):
        raise VaecFormatError(f"magic is {head[:4].hex()!r}, must be {MAGIC.hex()!r}", code="BAD_MAGIC")
    if len(head) < HEADER.size_bytes:
        message = f"file has {len(head)} bytes, must have at least {HEADER.size_bytes}"
        raise VaecTruncatedError(message, code="SHORT_HEADER")
    fields = HEADER.unpack(head)
    check_fields(fields, "version", "flags_incompat", "reserved")
    check_size(fields["width"], fields["height"], max_pixels=None)
    check_fields(fields, "pixel_format", "tile_log2")
    names = ("width", "height", "model_id", "quality", "tile_log2", "deblocking_cut")
    return Header(PixelFormat(fields["pixel_format"]), *(fields[name] for name in names)), fields


def _parse_index(index_bytes: bytes, boxes: list[TileBox]) -> tuple[IndexEntry, ...]:
    entries = []
    for number, box in enumerate(boxes):
        start = number * INDEX_ENTRY.size_bytes
        fields = INDEX_ENTRY.unpack(index_bytes[start : start + INDEX_ENTRY.size_bytes])
        mode, payload_bytes = divmod(fields["mode_length"], 1 << _LENGTH_BITS)
        check_tile(number, box, mode, payload_bytes)
        entries.append(IndexEntry(TileMode(mode), payload_bytes, fields["payload_crc"], fields["content_crc"]))
    return tuple(entries)


def read_tile(file: BinaryIO, number: int, entry: IndexEntry, report: Report) -> Tile | None:
    """Reads a payload and checks its CRC.

    Args:
        file: positioned at the start of the payload.
        number: of the tile.
        entry: its entry in the index.
        report: called with an error of the tile; if it does not raise, the tile is None.
    """
    what = f"payload of tile {number}"
    try:
        payload = _take(file, entry.payload_bytes, what, tile=number)
        check_crc(what, zlib.crc32(payload), entry.payload_crc, code="TILE_CRC", tile=number)
    except VaecError as error:
        report(error)
        return None
    return Tile(entry.mode, payload, entry.content_crc)


def _write_metadata(metadata: Mapping[str, bytes]) -> bytes:
    kinds = {name: kind for kind, (name, _) in CHUNK_TYPES.items()}
    chunks = bytearray()
    for name, data in metadata.items():
        if name not in kinds:
            raise VaecFormatError(f"metadata key is {name!r}, must be one of {', '.join(kinds)}", code="META")
        check_chunk(kinds[name], len(data), ())
        crc = _record_crc(CHUNK.pack(type=kinds[name], length=len(data), crc=0), data)
        chunks += CHUNK.pack(type=kinds[name], length=len(data), crc=crc) + data
    return bytes(chunks)


def _read_metadata(file: BinaryIO, left_bytes: int, report: Report) -> dict[str, bytes]:
    """Reads the chunks in the last `left_bytes` of the file; only after a failed CRC does it continue with the next."""
    metadata: dict[str, bytes] = {}
    seen: list[bytes] = []
    try:
        if left_bytes > MAX_METADATA_BYTES:
            message = f"metadata has {left_bytes} bytes, must have at most {MAX_METADATA_BYTES}"
            raise VaecLimitError(message, code="META_LIMIT")
        while left_bytes or not seen:
            kind, data, is_intact = _read_chunk(file, left_bytes, seen)
            left_bytes -= CHUNK.size_bytes + len(data)
            seen.append(kind)
            if not is_intact:
                message = f"metadata chunk {kind!r} does not match its CRC-32: the file is damaged"
                report(VaecChecksumError(message, code="META_CRC"))
            elif kind in CHUNK_TYPES:
                metadata[CHUNK_TYPES[kind][0]] = data
    except VaecError as error:
        report(error)
    return metadata


def _read_chunk(file: BinaryIO, left_bytes: int, seen: list[bytes]) -> tuple[bytes, bytes, bool]:
    if left_bytes < CHUNK.size_bytes:
        message = f"metadata has {left_bytes} bytes left, a chunk must have at least {CHUNK.size_bytes}"
        raise VaecFormatError(message, code="META")
    head = _take(file, CHUNK.size_bytes, "metadata")
    fields = CHUNK.unpack(head)
    kind, length = fields["type"], fields["length"]
    if length > left_bytes - CHUNK.size_bytes:
        message = f"length of metadata chunk {kind!r} is {length}, must be at most {left_bytes - CHUNK.size_bytes}"
        raise VaecFormatError(message, code="META")
    check_chunk(kind, length, seen)
    data = _take(file, length, "metadata")
    return kind, data, _record_crc(head, data) == fields["crc"]


def _check_length(found_bytes: int, file_bytes: int, index_end: int, report: Report) -> None:
    found = f"file has {found_bytes} bytes"
    if found_bytes < index_end:
        raise VaecTruncatedError(f"{found}, must have {index_end} for its tile index", code="SHORT_FILE")
    if found_bytes > file_bytes:
        # The message omits the actual length, because only one byte beyond `file_bytes` may have been read.
        message = f"file has more than {file_bytes} bytes (file_bytes), must end there"
        raise VaecFormatError(message, code="TRAILING_DATA")
    if found_bytes < file_bytes:
        report(VaecTruncatedError(f"{found}, must have {file_bytes} (file_bytes)", code="SHORT_FILE"))


def _record_crc(record: bytes, content: bytes | bytearray) -> int:
    """CRC-32 of a record without its last field, which stores this CRC, and of the content that follows."""
    return zlib.crc32(content, zlib.crc32(record[:-4]))


def _take(file: BinaryIO, count_bytes: int, what: str, tile: int | None = None) -> bytes:
    found = file.read(count_bytes)
    if len(found) < count_bytes:
        message = f"file ends after {len(found)} of {count_bytes} bytes of the {what}"
        raise VaecTruncatedError(message, code="SHORT_FILE", tile=tile)
    return found


def _raise(error: VaecError) -> NoReturn:
    raise error
