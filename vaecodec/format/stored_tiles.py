"""Tiles that are not held in memory: those of an open file, read on access, and those of a file being written."""

import io
import itertools
import os
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, NoReturn, cast, overload

from vaecodec.errors import VaecError
from vaecodec.format.container import read_info, read_tile
from vaecodec.format.records import HEADER, INDEX_ENTRY, Tile, TileMode
from vaecodec.runtime.files import spool


class _Tiles(Sequence[Tile]):
    """A sequence of tiles that are fetched one by one."""

    def _fetch(self, number: int) -> Tile:
        raise NotImplementedError

    @overload
    def __getitem__(self, number: int) -> Tile: ...
    @overload
    def __getitem__(self, number: slice) -> list[Tile]: ...
    def __getitem__(self, number: int | slice) -> Tile | list[Tile]:
        where = range(len(self))[number]  # handles negative numbers and raises IndexError, like a list
        return self._fetch(where) if isinstance(where, int) else [self._fetch(each) for each in where]


class StoredTiles(_Tiles):
    """The tiles of an open .vaec file; each is read, and its CRC checked, on access.

    Args:
        file: seekable, positioned at the start of the .vaec data.
        max_pixels: as for `check_size`.

    Attributes:
        info: header, index and metadata of the file.

    Raises:
        VaecError: on construction as `container.read_info`; on access to a tile as `container.read`.
    """

    def __init__(self, file: BinaryIO, *, max_pixels: int | None) -> None:
        start = file.tell()
        self._file, self.info = file, read_info(file, max_pixels=max_pixels)
        index = self.info.index
        first = start + HEADER.size_bytes + len(index) * INDEX_ENTRY.size_bytes
        self._offsets = list(itertools.accumulate((entry.payload_bytes for entry in index), initial=first))

    @property
    def modes(self) -> list[TileMode]:
        """The mode of every tile."""
        return [entry.mode for entry in self.info.index]

    def __len__(self) -> int:
        return len(self.info.index)

    def _fetch(self, number: int) -> Tile:
        self._file.seek(self._offsets[number])
        return cast(Tile, read_tile(self._file, number, self.info.index[number], _raise))


class SpooledTiles(_Tiles):
    """Tiles of a file being written; their payloads are in a `files.spool`.

    Args:
        count: number of tiles; they are empty until they are set.
        target: path of the file that they are for, if it has one.
    """

    def __init__(self, count: int, target: str | os.PathLike[str] | None = None) -> None:
        self._spool = spool(target)
        self._places = [_Place(TileMode.SOLID, 0, 0, 0)] * count

    def __len__(self) -> int:
        return len(self._places)

    def _fetch(self, number: int) -> Tile:
        place = self._places[number]
        self._spool.seek(place.offset)
        return Tile(place.mode, self._spool.read(place.payload_bytes), place.content_crc)

    def __setitem__(self, number: int, tile: Tile) -> None:
        """Sets a tile. The space of a replaced tile is not reused; replacements are rare."""
        offset = self._spool.seek(0, io.SEEK_END)
        self._spool.write(tile.payload)
        self._places[number] = _Place(tile.mode, offset, len(tile.payload), tile.content_crc)

    def close(self) -> None:
        """Removes the temporary file."""
        self._spool.close()


class _Place(NamedTuple):
    """The position of a payload in the spool, and the other fields of its tile."""

    mode: TileMode
    offset: int
    payload_bytes: int
    content_crc: int


def _raise(error: VaecError) -> NoReturn:
    raise error
