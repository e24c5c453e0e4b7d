"""PNG by rows: Pillow handles everything except the pixels, on a one-pixel picture with the same metadata."""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from vaecodec.errors import VaecImageError
from vaecodec.pictures import pixels
from vaecodec.pictures.pillow import save
from vaecodec.pictures.pixels import Samples

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZLIB_LEVEL = 3  # three times as fast as 6, for 2 % more bytes
PIECE_BYTES = 1 << 20
BLOCK_ROWS = 64
MAX_CHUNK_BYTES = 64 << 20  # about as much text as Pillow takes
_AVERAGE = b"\3"  # the best filter for photographs
_LENGTH = struct.Struct(">I")
_SIZE = struct.Struct(">II")


def metadata_of(
    path: str | os.PathLike[str], channels: int, overrides: Mapping[str, object] | None = None
) -> dict[str, bytes]:
    """Metadata of a PNG file, as from `pixels.metadata_of`, before or after its pixels, which are skipped.

    Args:
        path: path of the file.
        channels: channels of its 8-bit samples.
        overrides: as for `pixels.warn_of_losses`, which is called here.

    Raises:
        VaecImageError: (READ) the file is damaged.
        OSError: the file is damaged, or cannot be read.
    """
    small = io.BytesIO(SIGNATURE)
    small.seek(len(SIGNATURE))
    with open(path, "rb") as file:
        for kind, chunk in _chunks(file):
            if kind == b"IHDR":
                small.write(_chunk(kind, _SIZE.pack(1, 1) + chunk[16:-4]))
            elif kind == b"IDAT":
                small.write(_chunk(kind, zlib.compress(bytes(1 + channels))))
            else:
                small.write(chunk)
    small.seek(0)
    image = pixels.open_image(small)
    pixels.warn_of_losses(image, overrides, stacklevel=7)
    return pixels.metadata_of(image)


class PngSink:
    """Writes a PNG file.

    Args:
        file: open for writing.
        shape: height, width, channels.
        metadata: as for `pixels.to_image`.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], metadata: Mapping[str, bytes]) -> None:
        height, width, channels = shape
        small = io.BytesIO()
        save(pixels.to_image(np.zeros((1, 1, channels), np.uint8), metadata), small, "PNG")
        self._file, self._behind, self._above = file, list[bytes](), np.zeros((1, width * channels), np.uint8)
        self._channels, self._deflater, self._piece = channels, zlib.compressobj(ZLIB_LEVEL), bytearray()
        small.seek(0)
        file.write(SIGNATURE)
        for kind, chunk in _chunks(small):
            if kind == b"IHDR":
                file.write(_chunk(kind, _SIZE.pack(width, height) + chunk[16:-4]))
            elif kind == b"IDAT":
                self._behind.append(b"")
            elif self._behind:
                self._behind.append(chunk)
            else:
                file.write(chunk)

    def write(self, samples: Samples) -> None:
        """Adds the next rows [h, width, channels]."""
        for top in range(0, len(samples), BLOCK_ROWS):
            self._filter(samples[top : top + BLOCK_ROWS].reshape(-1, self._above.shape[1]))

    def finish(self) -> None:
        """Writes the rest of the file, after all rows."""
        self._piece += self._deflater.flush()
        self._file.write(_chunk(b"IDAT", self._piece))
        self._file.write(b"".join(self._behind))

    def close(self) -> None:
        """Does nothing: there are no resources to free."""

    def _filter(self, rows: Samples) -> None:
        above = np.concatenate([self._above, rows[:-1]])
        left = np.zeros_like(rows)
        left[:, self._channels :] = rows[:, : -self._channels]
        # The mean of two bytes, rounded down, without overflow.
        rest = rows - ((left >> 1) + (above >> 1) + (left & above & 1))
        filters = np.full((len(rows), 1), _AVERAGE[0], np.uint8)
        self._deflate(np.concatenate([filters, rest], 1).data)
        self._above = rows[-1:].copy()

    def _deflate(self, data: memoryview) -> None:
        self._piece += self._deflater.compress(data)
        if len(self._piece) >= PIECE_BYTES:
            self._file.write(_chunk(b"IDAT", self._piece))
            self._piece.clear()


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The type of each chunk, and its bytes with the CRC; pixel chunks yield one entry, without its content."""
    is_first_pixels = True
    file.seek(len(SIGNATURE))
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        kind, length = head[4:], int.from_bytes(head[:4])
        if kind == b"IDAT":
            file.seek(length + 4, io.SEEK_CUR)
            if is_first_pixels:
                yield kind, b""
            is_first_pixels = False
            continue
        rest = file.read(min(length, MAX_CHUNK_BYTES) + 4)
        if len(head) < 8 or len(rest) < length + 4:
            raise VaecImageError(f"PNG file ends, or has more than {MAX_CHUNK_BYTES} bytes, in a chunk", code="READ")
        yield kind, head + rest


def _chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    return b"".join((_LENGTH.pack(len(data)), kind, data, _LENGTH.pack(zlib.crc32(data, zlib.crc32(kind)))))
