"""PPM and PGM by rows: a text header, then raw samples."""

import os
import re
from collections.abc import Generator
from typing import BinaryIO

import numpy as np

from vaecodec.errors import VaecImageError
from vaecodec.pictures.pixels import Samples, SequentialRows

BLOCK_ROWS = 64
_CHANNELS = {b"P5": 1, b"P6": 3}
_SPACE = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"(P[56])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"255\s")
_HEADER_BYTES = 4096  # longer comments are refused


class PnmRows(SequentialRows):
    """A binary PGM or PPM file with 8 bits per sample.

    Raises:
        VaecImageError: (PNM) the file is of another kind.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        with open(path, "rb") as file:
            found = _HEADER.match(file.read(_HEADER_BYTES))
        if not found:
            raise VaecImageError(f"{os.fspath(path)!r} is not a binary PGM or PPM file with maximum 255", code="PNM")
        self._start = found.end()
        self.shape = int(found[3]), int(found[2]), _CHANNELS[found[1]]
        super().__init__()

    def _blocks(self) -> Generator[Samples]:
        height, width, channels = self.shape
        with open(self._path, "rb") as file:
            file.seek(self._start)
            for top in range(0, height, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, height - top)
                data = file.read(rows * width * channels)
                if len(data) < rows * width * channels:
                    return
                yield np.frombuffer(data, np.uint8).reshape(rows, width, channels)


class PnmSink:
    """Writes a PGM or PPM file, which cannot hold metadata."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int]) -> None:
        height, width, channels = shape
        self._file = file
        file.write(b"P%d\n%d %d\n255\n" % (5 if channels == 1 else 6, width, height))

    def write(self, samples: Samples) -> None:
        """Adds the next rows [h, width, channels]."""
        self._file.write(np.ascontiguousarray(samples).data)

    def finish(self) -> None:
        """Does nothing: the file is complete after all rows."""

    def close(self) -> None:
        """Does nothing: there are no resources to free."""
