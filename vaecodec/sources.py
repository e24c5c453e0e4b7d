"""Where .vaec data comes from: bytes, a path or an open binary file; and what can be told of it without its pixels."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from vaecodec import bitstream
from vaecodec.bitstream import DEFAULT_MAX_PIXELS, Info
from vaecodec.errors import VaecFormatError

Source = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


@contextmanager
def open_binary(source: Source) -> Iterator[BinaryIO]:
    """A seekable binary file over the source; closed afterwards only if it was opened here.

    Raises:
        VaecFormatError: (SOURCE) the source is none of bytes, path, file.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield file
    elif hasattr(source, "read"):
        seekable = getattr(source, "seekable", None)
        yield source if seekable and seekable() else io.BytesIO(source.read())
    else:
        raise VaecFormatError(
            f"expected bytes, a path or an open binary file, got {type(source).__name__}", code="SOURCE"
        )


def read_all(source: Source) -> bytes:
    """All bytes of the source, from a file's present position on. Raises as `open_binary`."""
    if isinstance(source, bytes):
        return source
    with open_binary(source) as file:
        return file.read()


def info(source: Source, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Info:
    """Header, tile index and metadata of a .vaec file; reads neither payloads nor weights, and needs no torch.

    Raises:
        VaecError: the header, index or metadata is not valid, or the picture has more than `max_pixels`.
        OSError: the file cannot be read.
    """
    with open_binary(source) as file:
        return bitstream.read_info(file, max_pixels=max_pixels)
