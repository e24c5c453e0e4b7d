"""Laws of tiles without loss, WebP and zlib: exact return, bounded size, and refusal of every payload not of ours."""

import zlib

import numpy as np
import pytest
import zlib_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_tiles import pack

from vaecodec.entropy import lossless
from vaecodec.entropy.lossless import is_solid
from vaecodec.entropy.lossless import unpack_zlib as unpack
from vaecodec.errors import VaecCorruptError

KINDS = ("noise", "solid", "stripes", "ramp", "sparse", "bytes")


def tile(kind: str, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns, channels = np.indices(shape)
    samples = {
        "noise": rng.integers(0, 256, shape),
        "solid": np.broadcast_to(rng.integers(0, 256, shape[2]), shape),
        "stripes": 255 * ((rows // 2 + columns) % 2),
        "ramp": 3 * rows + 2 * columns + 40 * channels,
        "sparse": 200 * (rng.random(shape) < 0.05),
        "bytes": rng.choice([0, 1, 127, 128, 255], shape),
    }[kind]
    return samples.astype(np.uint8)


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth shapes in correlated colours, and the grain that keeps neighbouring samples from repeating."""
    rng = np.random.default_rng(7)
    rows, columns = np.indices((height, width))
    light = 120 + 60 * np.sin(rows / 17) * np.cos(columns / 23) + rng.normal(0, 3, (height, width))
    tint = rng.normal(0, 1, (height, width, 3)) + np.array([10, 0, -10])
    return np.clip(light[..., None] + tint, 0, 255).astype(np.uint8)


PHOTOGRAPH = photograph(48, 56)
PAYLOAD = pack(PHOTOGRAPH)


def reference_filter(samples: np.ndarray, bits: int) -> bytes:
    """The filters as docs/format.md states them, one sample at a time."""
    height, width, channels = samples.shape
    values = samples.astype(int).tolist()
    if bits & 4:
        values = [[[r - g, g, b - g] for r, g, b in row] for row in values]

    def at(y: int, x: int, c: int) -> int:
        return values[y][x][c] if y >= 0 and x >= 0 else 0

    left, up = bits & 1, (bits >> 1) & 1
    places = [(y, x, c) for y in range(height) for x in range(width) for c in range(channels)]
    if bits & 4:
        places.sort(key=lambda place: place[2])
    return bytes(
        (at(y, x, c) - left * at(y, x - 1, c) - up * at(y - 1, x, c) + left * up * at(y - 1, x - 1, c)) % 256
        for y, x, c in places
    )


@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4)),
    st.integers(0, 2**32 - 1),
)
def test_every_tile_comes_back_exactly(kind: str, shape: tuple[int, int, int], seed: int) -> None:
    """Lossless means lossless, whatever the shape and content."""
    samples = tile(kind, shape, seed)
    restored = unpack(pack(samples), shape)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, samples)


@pytest.mark.parametrize("bits", range(8))
def test_every_filter_is_the_one_in_the_specification(bits: int) -> None:
    """The residual is what docs/format.md says, and unpack reverses each filter, chosen by pack or not."""
    samples = tile("noise", (5, 4, 3))
    residual = reference_filter(samples, bits)
    assert zlib_tiles._filtered(samples, bits).tobytes() == residual
    np.testing.assert_array_equal(unpack(bytes([bits]) + zlib.compress(residual), (5, 4, 3)), samples)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 4), (300, 1, 1), (1, 300, 2), (200, 333, 3), (256, 256, 4)])
@pytest.mark.parametrize("kind", ["noise", "bytes"])
def test_size_is_bounded_for_the_worst_content(kind: str, shape: tuple[int, int, int]) -> None:
    """Noise costs 0.1 % and 64 bytes at most."""
    samples = tile(kind, shape)
    payload = pack(samples)
    assert len(payload) <= samples.size + samples.size // 1000 + 64
    np.testing.assert_array_equal(unpack(payload, shape), samples)


def test_size_is_bounded_even_if_the_strategy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zlib build that inflates noise is outdone by stored blocks."""
    deflated = zlib_tiles._deflated
    monkeypatch.setattr(zlib_tiles, "_deflated", lambda *args, **kwargs: deflated(*args, **kwargs) + bytes(10_000))
    samples = tile("noise", (40, 40, 3))
    payload = pack(samples)
    assert len(payload) <= samples.size + samples.size // 1000 + 64
    np.testing.assert_array_equal(unpack(payload, samples.shape), samples)


def test_choosing_a_filter_pays() -> None:
    """Photographs get the planes and a prediction, repeated strings no filter, both smaller than zlib alone."""
    photo = photograph(128, 160)
    assert pack(photo)[0] > lossless.PLANES
    assert len(pack(photo)) < 0.75 * len(zlib.compress(photo.tobytes(), 9))
    strings = np.tile(tile("noise", (1, 16, 3)), (128, 10, 1))
    strings[::2] = 255 - strings[::2]
    assert len(pack(strings)) <= 1.1 * len(zlib.compress(strings.tobytes(), 9))


def test_pack_is_deterministic_and_reads_any_layout() -> None:
    """Equal samples give equal payloads, however they lie in memory."""
    mirrored = PHOTOGRAPH[::-1, ::-1]
    assert pack(PHOTOGRAPH) == PAYLOAD
    assert pack(mirrored) == pack(mirrored.copy())
    assert pack(np.asfortranarray(PHOTOGRAPH)) == PAYLOAD
    np.testing.assert_array_equal(unpack(memoryview(PAYLOAD), PHOTOGRAPH.shape), PHOTOGRAPH)


def stream(data: bytes) -> bytes:
    return b"\0" + zlib.compress(data)


@pytest.mark.parametrize(
    ("payload", "shape", "message"),
    [
        (b"", (2, 2, 1), "filter byte is missing"),
        (b"\x04" + zlib.compress(bytes(4)), (2, 2, 1), "filter byte is 04, must be 00 to 03"),
        (b"\x08" + zlib.compress(bytes(12)), (2, 2, 3), "filter byte is 08, must be 00 to 07"),
        (b"\0", (2, 2, 1), "ends after 0 bytes"),
        (b"\0rubbish", (2, 2, 1), "damaged"),
        (stream(bytes(5)), (2, 2, 1), "more than 4 bytes"),
        (stream(bytes(3)), (2, 2, 1), "holds 3 bytes"),
        (stream(bytes(4))[:-1], (2, 2, 1), "ends after 4 bytes"),
        (stream(bytes(4)) + b"\0", (2, 2, 1), "followed by 1 bytes"),
        (stream(bytes(4))[:-1] + b"\xff", (2, 2, 1), "damaged .*incorrect data check"),
    ],
    ids=range(10),
)
def test_payloads_that_are_not_ours_are_refused(payload: bytes, shape: tuple[int, int, int], message: str) -> None:
    """Each way to be wrong has its own sentence, all of them VaecCorruptError ZLIB."""
    with pytest.raises(VaecCorruptError, match=message) as caught:
        unpack(payload, shape)
    assert caught.value.code == "ZLIB"


def test_every_truncation_and_flipped_bit_of_the_stream_is_refused_or_harmless() -> None:
    """Damage behind the filter byte never changes a pixel: zlib's own checksum sees it."""
    for cut in range(len(PAYLOAD)):
        with pytest.raises(VaecCorruptError):
            unpack(PAYLOAD[:cut], PHOTOGRAPH.shape)
    for bit in range(8, 8 * len(PAYLOAD), 5):
        damaged = bytearray(PAYLOAD)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            restored = unpack(bytes(damaged), PHOTOGRAPH.shape)
        except VaecCorruptError:
            continue
        np.testing.assert_array_equal(restored, PHOTOGRAPH)


@given(st.binary(max_size=80), st.integers(0, 8))
def test_nothing_but_corrupt_comes_out_of_random_bytes(data: bytes, first: int) -> None:
    """Bytes from anywhere are an error of one kind."""
    with pytest.raises(VaecCorruptError):
        unpack(bytes([first]) + data, (30, 30, 3))


def test_a_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small stream of a huge tile stops one byte after the size that the header allows."""
    inflater_of = zlib.decompressobj
    longest = []

    class Watched:
        def __init__(self) -> None:
            self.inner = inflater_of()

        def decompress(self, data: bytes, limit: int) -> bytes:
            out = self.inner.decompress(data, limit)
            longest.append(len(out))
            return out

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(lossless.zlib, "decompressobj", Watched)
    with pytest.raises(VaecCorruptError, match="more than 48 bytes"):
        unpack(stream(bytes(1 << 22)), (4, 4, 3))
    assert longest == [49]


@given(st.sampled_from(KINDS), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), st.integers(0, 99))
@settings(max_examples=60)
def test_is_solid_finds_the_colour_exactly_if_there_is_only_one(kind: str, shape: tuple, seed: int) -> None:
    """Not None is the same as one distinct pixel."""
    samples = tile(kind, shape, seed)
    pixels = {pixel.tobytes() for row in samples for pixel in row}
    assert is_solid(samples) == (pixels.pop() if len(pixels) == 1 else None)


@pytest.mark.parametrize("function", [pack, is_solid])
@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.zeros((2, 2, 3), np.int16), TypeError, "int16"),
        (np.zeros((2, 2), np.uint8), ValueError, r"\(2, 2\)"),
        (np.zeros((0, 2, 3), np.uint8), ValueError, r"\(0, 2, 3\)"),
    ],
)
def test_arrays_that_are_no_tile_are_refused(function: object, samples: np.ndarray, error: type, message: str) -> None:
    """A caller's mistake is a TypeError or ValueError that shows what was found."""
    with pytest.raises(error, match=message):
        function(samples)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, -1, 3)])
def test_unpack_refuses_a_shape_without_samples(shape: tuple[int, int, int]) -> None:
    """An empty tile cannot occur in a file."""
    with pytest.raises(ValueError, match="at least 1"):
        unpack(PAYLOAD, shape)
