"""Sources of .vaec data (bytes, a path or an open binary file), and `info`, which reads everything but the pixels."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from vaecodec.errors import VaecFormatError
from vaecodec.format import container
from vaecodec.format.records import DEFAULT_MAX_PIXELS, HEADER, Info

_CHUNK_BYTES = 1 << 24

Source = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


@contextmanager
def open_binary(source: Source) -> Iterator[BinaryIO]:
    """Opens the source as a seekable binary file; closes it afterwards only if it was opened here.

    Raises:
        VaecFormatError: (SOURCE) the source is neither bytes nor a path nor a file.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield file if file.seekable() else io.BytesIO(_claimed(file))  # a pipe can be read only once
    elif hasattr(source, "read"):
        seekable = getattr(source, "seekable", None)
        yield source if seekable and seekable() else io.BytesIO(_claimed(source))
    else:
        raise VaecFormatError(
            f"expected bytes, a path or an open binary file, got {type(source).__name__}", code="SOURCE"
        )


def read_all(source: Source) -> bytes:
    """The bytes of the source, starting at a file's current position; raises as `open_binary`.

    Reads at most one byte more than the header says, and only the first bytes of a file that is not .vaec, so that
    neither a huge file nor an endless device fills the memory before it is refused.
    """
    if isinstance(source, bytes):
        return source
    with open_binary(source) as file:
        return _claimed(file)


def _claimed(file: BinaryIO) -> bytes:
    """Implements `read_all` for a file, which may be a pipe or a device."""
    parts = [file.read(HEADER.size_bytes)]
    if len(parts[0]) == HEADER.size_bytes and container.is_vaec(parts[0]):
        left_bytes = HEADER.unpack(parts[0])["file_bytes"] + 1 - HEADER.size_bytes
        while left_bytes > 0 and (part := file.read(min(left_bytes, _CHUNK_BYTES))):
            parts.append(part)
            left_bytes -= len(part)
    return b"".join(parts)


def info(source: Source, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Info:
    """Header, tile index and metadata of a .vaec file; reads neither payloads nor weights, and needs no torch.

    Args:
        source: bytes, a path or an open binary file.
        max_pixels: refuse larger pictures; None applies only the format's limits.

    Raises:
        VaecError: the header, index or metadata is invalid, or the picture has more than `max_pixels`.
        OSError: the file cannot be read.

    Example:
        >>> vaecodec.info("photo.vaec").header.quality
        60
    """
    with open_binary(source) as file:
        return container.read_info(file, max_pixels=max_pixels)
