"""What a .vaec file may say: the checks that its writer and its readers share, each with its error and code."""

from collections.abc import Collection, Mapping
from typing import Any

from vaecodec.errors import VaecChecksumError, VaecFormatError, VaecLimitError, VaecUnsupportedError
from vaecodec.format.records import (
    CHUNK_TYPES,
    DEFAULT_MAX_PIXELS,
    HEADER_RULES,
    MAX_AREA,
    MAX_CHUNKS,
    MAX_SIDE,
    TileBox,
    TileMode,
)

_CHUNK_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def check_size(width: int, height: int, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> None:
    """Refuses a size that the format or the caller does not allow.

    Args:
        width: pixels.
        height: pixels.
        max_pixels: the caller's limit on width * height; None leaves the limits of the format.

    Raises:
        VaecFormatError: a side below 1 (ZERO_DIM).
        VaecLimitError: beyond the format (FORMAT_DIM) or beyond `max_pixels` (MAX_PIXELS).
    """
    found = f"width x height is {width} x {height}"
    if width < 1 or height < 1:
        raise VaecFormatError(f"{found}, must be at least 1 x 1", code="ZERO_DIM")
    if max(width, height) > MAX_SIDE or width * height > MAX_AREA:
        raise VaecLimitError(f"{found}, must be at most {MAX_SIDE} a side, {MAX_AREA} in all", code="FORMAT_DIM")
    if max_pixels is not None and width * height > max_pixels:
        raise VaecLimitError(f"{found}, must be at most {max_pixels} pixels (max_pixels)", code="MAX_PIXELS")


def check_fields(fields: Mapping[str, Any], *names: str) -> None:
    """Refuses a header with a field outside its rule: the error and code that `records.HEADER_RULES` has for it."""
    for name in names:
        allowed, error, code = HEADER_RULES[name]
        if fields[name] not in allowed:
            hint = ": a newer vaecodec may read this file" if error is VaecUnsupportedError else ""
            raise error(f"{name} is {fields[name]}, must be {_in_words(allowed)}{hint}", code=code)


def _in_words(allowed: range) -> str:
    span = f"{allowed[0]} to {allowed[-1]}" if len(allowed) > 1 else f"{allowed[0]}"
    return span if allowed.step == 1 else f"{span} in steps of {allowed.step}"


def check_crc(what: str, found: int, stored: int, *, code: str, tile: int | None = None) -> None:
    """Refuses what does not have the CRC-32 that is stored for it (VaecChecksumError with this code)."""
    if found != stored:
        message = f"CRC-32 of {what} is {found:#010x}, must be {stored:#010x}: the file is damaged"
        raise VaecChecksumError(message, code=code, tile=tile)


def check_tile(number: int, box: TileBox, mode: int, payload_bytes: int) -> None:
    """Refuses an index entry that no encoder writes: its mode (TILE_MODE) or its payload's length (TILE_LEN)."""
    if mode > max(TileMode) or (mode == TileMode.LEARNED and box.plane == "alpha"):
        message = f"mode of {box.plane} tile {number} is {mode}, must be 0 (colour only), 1 or 2"
        raise VaecFormatError(message, code="TILE_MODE", tile=number)
    raw_bytes = box.raw_bytes
    allowed = {
        TileMode.LEARNED: range(4, raw_bytes + 65, 4),
        TileMode.ZLIB: range(9, raw_bytes + raw_bytes // 1000 + 65),
        TileMode.SOLID: range(box.channels, box.channels + 1),
    }[TileMode(mode)]
    if payload_bytes not in allowed:
        message = f"payload of tile {number} has {payload_bytes} bytes, must have {_in_words(allowed)}"
        raise VaecFormatError(message, code="TILE_LEN", tile=number)


def check_chunk(kind: bytes, data_bytes: int, seen: Collection[bytes]) -> None:
    """Refuses a metadata chunk by its type or length (META, META_LIMIT), given the types before it."""
    if not set(kind) <= set(_CHUNK_ALPHABET):
        raise VaecFormatError(f"metadata chunk type is {kind!r}, must be of A-Z, 0-9 and _", code="META")
    if kind in CHUNK_TYPES and kind in seen:
        raise VaecFormatError(f"metadata chunk {kind!r} comes twice, must come once", code="META")
    if len(seen) == MAX_CHUNKS:
        raise VaecLimitError(f"metadata has more than {MAX_CHUNKS} chunks", code="META_LIMIT")
    if kind in CHUNK_TYPES and data_bytes > CHUNK_TYPES[kind][1]:
        message = f"metadata chunk {kind!r} has {data_bytes} bytes, must have at most {CHUNK_TYPES[kind][1]}"
        raise VaecLimitError(message, code="META_LIMIT")
