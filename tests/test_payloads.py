"""Laws of tiles that are not held in memory: those of an open file are `container.read`'s, of a spool what was put."""

import io
import zlib

import pytest
from conftest import picture
from lossless_codec import damaged, vaec

from vaecodec.errors import VaecChecksumError, VaecLimitError, VaecTruncatedError
from vaecodec.format import container
from vaecodec.format.records import Tile, TileMode
from vaecodec.format.stored_tiles import SpooledTiles, StoredTiles
from vaecodec.runtime import files

DATA = vaec(picture(300, 600, 4))


def test_stored_tiles_are_those_of_the_file() -> None:
    """In any order, counted from either end, and as slices; wherever the file begins in its file."""
    expected = container.read(DATA).tiles
    file = io.BytesIO(b"front" + DATA)
    file.seek(5)
    stored = StoredTiles(file, max_pixels=None)
    assert len(stored) == len(expected) == 12
    assert [stored[number] for number in (3, 0, 11, -1)] == [expected[number] for number in (3, 0, 11, -1)]
    assert (stored[2:5], tuple(stored)) == (list(expected[2:5]), expected)
    with pytest.raises(IndexError):
        stored[12]


def test_only_the_tile_that_is_damaged_is_an_error() -> None:
    """Its CRC is checked when it is read, and the error names it."""
    stored = StoredTiles(io.BytesIO(damaged(DATA, tile=7)), max_pixels=None)
    assert stored[6].mode == TileMode.ZLIB
    with pytest.raises(VaecChecksumError) as caught:
        stored[7]
    assert caught.value.tile == 7


def test_header_and_size_are_checked_at_once() -> None:
    """As by `container.read_info`."""
    with pytest.raises(VaecTruncatedError):
        StoredTiles(io.BytesIO(DATA[:-1]), max_pixels=None)
    with pytest.raises(VaecLimitError):
        StoredTiles(io.BytesIO(DATA), max_pixels=300 * 600 - 1)


@pytest.mark.parametrize("spool_bytes", [1, 1 << 20])
def test_spooled_tiles_are_what_was_set_last(spool_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory or on disk, in any order, and set again with other lengths."""
    monkeypatch.setattr(files, "_SPOOL_BYTES", spool_bytes)
    spooled, expected = SpooledTiles(4), {}
    for step, number in enumerate((2, 0, 3, 2, 1, 0)):
        expected[number] = Tile(TileMode.ZLIB, bytes([step]) * (100 - 7 * step), zlib.crc32(b"%d" % step))
        spooled[number] = expected[number]
        assert all(spooled[each] == tile for each, tile in expected.items())
    assert spooled[1:3] == [expected[1], expected[2]]
    assert (len(spooled), list(spooled)) == (4, [expected[number] for number in range(4)])
    spooled.close()


def test_spooled_tiles_are_empty_until_they_are_set() -> None:
    """All of them are there from the beginning, and setting one changes no other."""
    spooled, empty = SpooledTiles(3), Tile(TileMode.SOLID, b"", 0)
    assert list(spooled) == [empty] * 3
    spooled[1] = Tile(TileMode.ZLIB, b"new", 1)
    assert list(spooled) == [empty, Tile(TileMode.ZLIB, b"new", 1), empty]
    spooled.close()
