"""A damaged file is never shown as a picture: every single bit, every truncation, and crafted payloads."""

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import picture

from vaecodec import Codec
from vaecodec.errors import VaecError, VaecMismatchError
from vaecodec.format import container
from vaecodec.format.records import Tile, TileMode


@pytest.fixture(scope="module")
def small_files(shipped: Codec) -> list[bytes]:
    """Two small files of the shipped model: a learned tile with metadata, and a learned tile with alpha."""
    files = [
        shipped.encode(picture(64, 80, seed=1), 60, xmp=b"<x/>"),
        shipped.encode(picture(48, 64, 4, seed=2), 30),
    ]
    assert all(TileMode.LEARNED in {tile.mode for tile in container.read(data).tiles if tile} for data in files)
    return files


def single_bit_flips(data: bytes) -> Iterator[bytes]:
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        yield bytes(damaged)


def accepted(codec: Codec, files: Iterator[bytes]) -> int:
    count = 0
    for data in files:
        try:
            codec.decode(data, output="numpy")
            count += 1
        except VaecError:
            pass
    return count


def test_every_bit_flip_and_truncation_is_rejected(shipped: Codec, small_files: list[bytes]) -> None:
    """Nothing but VaecError comes out, whichever single bit is flipped and wherever the file is cut."""
    for data in small_files:
        assert shipped.decode(data, output="numpy") is not None
        assert accepted(shipped, single_bit_flips(data)) == 0
        assert accepted(shipped, (data[:length] for length in range(len(data)))) == 0
        assert accepted(shipped, (data + extra for extra in (b"\0", data))) == 0


def test_resealed_payload_damage_is_rejected(tiny: Codec) -> None:
    """With the payload's CRC recomputed, the coder's end check and the latents' CRC still refuse every flip."""
    stream = container.read(tiny.encode(picture(64, 64, seed=3), 70))
    (tile,) = stream.tiles
    assert tile is not None
    assert tile.mode == TileMode.LEARNED
    rng = np.random.default_rng(0)
    for position in rng.choice(len(tile.payload) * 8, 60, replace=False).tolist():
        payload = bytearray(tile.payload)
        payload[position // 8] ^= 1 << position % 8
        with pytest.raises(VaecMismatchError):
            tiny.decode(container.write(stream.header, [Tile(tile.mode, bytes(payload), tile.content_crc)]))


def test_random_payloads_are_rejected_in_bounded_time(tiny: Codec) -> None:
    """Bytes that no encoder wrote cost no more than a picture does, and end in an error."""
    header = container.read(tiny.encode(picture(64, 64, seed=4), 70)).header
    rng = np.random.default_rng(1)
    for length in (4, 64, 4096, 64 * 64 * 3):
        crafted = Tile(TileMode.LEARNED, rng.bytes(length), 0)
        with pytest.raises(VaecMismatchError):
            tiny.decode(container.write(header, [crafted]))
