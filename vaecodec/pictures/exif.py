"""Reads and edits EXIF blocks as bytes, without moving anything, because maker notes contain offsets into the block."""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

PREFIX = b"Exif\0\0"
"""The prefix of a block in JPEG, which Pillow's readers leave in place."""

ORIENTATION = 0x112
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x11A, 0x11B, 0x128
_INCH, _CENTIMETRE = 2, 3
_CM_PER_INCH = 2.54
_THUMBNAIL_AT, _THUMBNAIL_BYTES = 0x201, 0x202
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_ENTRY_BYTES = 12
_MAX_ENTRIES = 4096  # more is nonsense
_EMPTY = b"II*\0\x08\0\0\0\0\0\0\0\0\0"


class _Entry(NamedTuple):
    tag: int
    kind: int
    length: int
    place: int  # of its four bytes of value or offset

    def packed(self, order: str, data: bytes) -> bytes:
        return struct.pack(order + "HHI", self.tag, self.kind, self.length) + data[self.place : self.place + 4]


class _Directory:
    """A directory of a block: its entries, and the position of the offset of the next directory.

    Raises:
        ValueError: there is no valid directory.
    """

    def __init__(self, data: bytes, place: int | None = None) -> None:
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4], "")
        if not self.order:
            raise ValueError("no EXIF block")
        self.data = data
        try:
            self.place = self.number(4) if place is None else place
            (count,) = struct.unpack_from(self.order + "H", data, self.place)
            first = self.place + 2
            self.next_place = first + _ENTRY_BYTES * count
            if count > _MAX_ENTRIES or self.next_place > len(data):
                raise ValueError("damaged EXIF block")
            places = range(first, self.next_place, _ENTRY_BYTES)
            layout = struct.Struct(self.order + "HHI")
            self.entries = [_Entry._make([*layout.unpack_from(data, at), at + 8]) for at in places]
            self.next = self.number(self.next_place) if self.next_place + 4 <= len(data) else 0
        except struct.error as error:
            raise ValueError("damaged EXIF block") from error

    def number(self, place: int) -> int:
        """The four bytes at a position, as a number."""
        number: int = struct.unpack_from(self.order + "I", self.data, place)[0]
        return number

    def value(self, tag: int) -> float | None:
        """The first value of an entry, if it is a number; otherwise None."""
        entry = next((entry for entry in self.entries if entry.tag == tag and entry.length), None)
        try:
            if entry is None:
                return None
            if entry.kind == _SHORT:
                return float(struct.unpack_from(self.order + "H", self.data, entry.place)[0])
            if entry.kind == _LONG:
                return float(self.number(entry.place))
            if entry.kind == _RATIONAL:
                above, below = struct.unpack_from(self.order + "II", self.data, self.number(entry.place))
                return float(above / below) if below else None
        except struct.error:
            return None
        return None


def without_prefix(data: bytes) -> bytes:
    """The block without its prefix, which some programs write twice."""
    while data.startswith(PREFIX):
        data = data[len(PREFIX) :]
    return data


def orientation(exif: bytes) -> int | None:
    """The orientation in a block, 1 to 8; None if it is missing or invalid."""
    try:
        found = _Directory(exif).value(ORIENTATION)
    except ValueError:
        return None
    return int(found) if found is not None and found in range(1, 9) else None


def resolution_dpi(exif: bytes) -> tuple[float, float] | None:
    """The horizontal and vertical resolution in a block, in pixels per inch; None if there is none."""
    try:
        directory = _Directory(exif)
    except ValueError:
        return None
    across, down = directory.value(_X_RESOLUTION), directory.value(_Y_RESOLUTION)
    unit = directory.value(_RESOLUTION_UNIT) or _INCH
    if not across or not down or unit not in (_INCH, _CENTIMETRE):
        return None
    scale = _CM_PER_INCH if unit == _CENTIMETRE else 1.0
    return across * scale, down * scale


def with_resolution(exif: bytes, dpi: Sequence[float]) -> bytes:
    """The block with a resolution added; unchanged if it has one, or cannot be read.

    Args:
        exif: the block, without prefix; b"" makes a new one.
        dpi: horizontal and vertical, in pixels per inch.
    """
    try:
        directory = _Directory(exif or _EMPTY)
    except ValueError:
        return exif
    if directory.value(_X_RESOLUTION) is not None:
        return exif
    order, data = directory.order, directory.data + bytes(len(directory.data) % 2)
    entries = {entry.tag: entry.packed(order, data) for entry in directory.entries}
    start = len(data)
    for number, tag in enumerate((_X_RESOLUTION, _Y_RESOLUTION)):
        entries[tag] = struct.pack(order + "HHII", tag, _RATIONAL, 1, start + 8 * number)
    entries[_RESOLUTION_UNIT] = struct.pack(order + "HHIHH", _RESOLUTION_UNIT, _SHORT, 1, _INCH, 0)
    values = b"".join(struct.pack(order + "II", *_ratio(value)) for value in dpi[:2])
    # Maker notes must not move, so the first directory is rewritten at the end.
    head = data[:4] + struct.pack(order + "I", start + len(values))
    listed = b"".join(entry for _, entry in sorted(entries.items()))
    tail = struct.pack(order + "H", len(entries)) + listed + struct.pack(order + "I", directory.next)
    return head + data[8:] + values + tail


def without_thumbnail(exif: bytes) -> bytes:
    """The block without its thumbnail and the thumbnail's directory; everything else stays in place."""
    try:
        directory = _Directory(exif)
        if not directory.next:
            return exif
        second = _Directory(exif, directory.next)
    except ValueError:
        return exif
    data = bytearray(exif)
    data[directory.next_place : directory.next_place + 4] = bytes(4)
    start, count = second.value(_THUMBNAIL_AT), second.value(_THUMBNAIL_BYTES)
    spans = [(second.place, second.next_place + 4)]
    if start and count:
        spans.append((int(start), int(start + count)))
    for first, last in sorted(spans, reverse=True):
        last = min(last, len(data))
        if last == len(data):
            del data[first:]
        else:
            data[first:last] = bytes(max(0, last - first))
    return bytes(data)


def _ratio(value: float) -> tuple[int, int]:
    """A resolution as a fraction of two integers; exact for PNG's pixels per metre."""
    nearest = round(value)
    if math.isclose(value, nearest, abs_tol=0.01):
        return nearest, 1
    return round(value * 1000), 1000
