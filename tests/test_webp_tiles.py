"""Laws of WebP tiles and of encoding without loss: exact return, bounded size, and refusal of all that is damaged."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_set import MAKERS
from PIL import Image, features
from test_lossless import KINDS, tile

from vaecodec import Codec, VaecUnsupportedError
from vaecodec.cli import main
from vaecodec.entropy import lossless
from vaecodec.entropy.lossless import pack, unpack
from vaecodec.errors import VaecCorruptError, VaecImageError
from vaecodec.format import container
from vaecodec.format.records import NO_MODEL, TileBox, TileMode, check_tile

SAMPLES = tile("bytes", (9, 14, 3))
PAYLOAD = pack(SAMPLES)


@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
    st.integers(0, 2**32 - 1),
)
def test_every_tile_comes_back_exactly_in_an_allowed_length(kind: str, shape: tuple[int, int, int], seed: int) -> None:
    """Whatever the shape and content; readers accept the length."""
    samples = tile(kind, shape, seed)
    payload = pack(samples)
    restored = unpack(memoryview(payload), shape)
    assert (restored.dtype, restored.shape) == (np.uint8, shape)
    np.testing.assert_array_equal(restored, samples)
    check_tile(0, TileBox("colour", 0, 0, *shape), TileMode.WEBP, len(payload))
    assert pack(np.asfortranarray(samples)) == payload


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 700, 3), (700, 1, 1), (256, 256, 1), (333, 200, 3)])
@pytest.mark.parametrize("kind", ["noise", "bytes"])
def test_size_is_bounded_for_the_worst_content(kind: str, shape: tuple[int, int, int]) -> None:
    """Noise costs 0.1 % and 500 bytes at most, half of what the format allows."""
    assert len(pack(tile(kind, shape))) <= 1.001 * np.prod(shape) + 500


def code_of(payload: bytes, bit: int) -> str | None:
    """The error of a payload with this bit flipped; None if it decodes to the right shape."""
    damaged = bytearray(payload)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        restored = unpack(bytes(damaged), SAMPLES.shape)
    except VaecCorruptError as error:
        return error.code
    return None if restored.shape == SAMPLES.shape else "SHAPE"


def test_every_truncation_and_flipped_bit_is_refused_or_noticed() -> None:
    """Damage is refused with the code WEBP; or other samples come out, which CRCs tell, of the right shape."""
    for cut in range(len(PAYLOAD)):
        with pytest.raises(VaecCorruptError) as caught:
            unpack(PAYLOAD[:cut], SAMPLES.shape)
        assert caught.value.code == "WEBP"
    codes = [code_of(PAYLOAD, bit) for bit in range(8 * len(PAYLOAD))]
    assert set(codes) <= {"WEBP", None}
    assert set(codes[: 8 * 25]) == {"WEBP"}, "each bit of the head is checked"


@given(st.binary(max_size=80))
def test_nothing_but_corrupt_comes_out_of_random_bytes(data: bytes) -> None:
    """Bytes from anywhere are an error of one kind, also behind a head that is right."""
    head = struct.pack("<4sI4s4sI", b"RIFF", len(data) + 12, b"WEBP", b"VP8L", len(data))
    for payload in (data, head + data, PAYLOAD[:25] + data):
        with pytest.raises(VaecCorruptError) as caught:
            unpack(payload, (30, 30, 3))
        assert caught.value.code == "WEBP"


@pytest.mark.parametrize("shape", [(9, 13, 3), (14, 9, 3), (10, 14, 3), (1, 126, 3)])
def test_another_size_is_refused_before_anything_is_decoded(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a large picture in few bytes: no bomb is inflated."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("was decoded"))
    with pytest.raises(VaecCorruptError, match="pixels"):
        unpack(PAYLOAD, shape)
    with pytest.raises(VaecCorruptError, match="pixels"):
        unpack(pack(np.zeros((5000, 5000, 1), np.uint8)), SAMPLES.shape)


@pytest.mark.parametrize("function", [pack, lossless.quick_size])
@pytest.mark.parametrize(
    ("samples", "error"),
    [(np.zeros((2, 2, 3), np.int16), TypeError), (np.zeros((2, 2), np.uint8), ValueError),
     (np.zeros((0, 2, 3), np.uint8), ValueError)],
)  # fmt: skip
def test_arrays_that_are_no_tile_are_refused(function: object, samples: np.ndarray, error: type) -> None:
    """A caller's mistake is a TypeError or ValueError."""
    with pytest.raises(error):
        function(samples)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("message", "expected"), [("encoding error 1", MemoryError), ("encoding error 2", MemoryError), ("5", ValueError)]
)
def test_memory_that_runs_out_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, message: str, expected: type[Exception]
) -> None:
    """libwebp's own words for it are a MemoryError; others stay as they are."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError(message)

    monkeypatch.setattr(lossless, "_save", fail)
    with pytest.raises(expected):
        pack(SAMPLES)


# --- without WebP -----------------------------------------------------------------------------------------------------


def test_without_webp_both_directions_say_so(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """VaecUnsupportedError WEBP_MISSING, and the doctor tells; what needs no WebP works."""
    data, solid = tiny.encode(SAMPLES, lossless=True), np.full((30, 40, 3), 9, np.uint8)
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "webp" and check(name))
    for act in (lambda: tiny.decode(data), lambda: tiny.encode(SAMPLES, lossless=True), lambda: pack(SAMPLES)):
        with pytest.raises(VaecUnsupportedError) as caught:
            act()
        assert caught.value.code == "WEBP_MISSING"
    assert np.array_equal(tiny.decode(tiny.encode(solid), output="numpy"), solid)
    monkeypatch.setattr("vaecodec.cli.doctor.Codec", Codec)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code and "built without WebP" in result.output


# --- lossless=True ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4), st.sampled_from(KINDS), st.integers(0, 9))
def test_lossless_pictures_come_back_without_weights(
    height: int, width: int, channels: int, kind: str, seed: int
) -> None:
    """Any size, all four formats; the file names no model."""
    samples = tile(kind, (height, width, channels), seed)
    codec = Codec("missing.safetensors")
    data = codec.encode(samples, lossless=True)
    decoded = codec.decode(data, output="numpy")
    np.testing.assert_array_equal(decoded.reshape(samples.shape), samples)
    assert container.read(data).header.model_id == NO_MODEL
    assert codec.encode(samples, lossless=True) == data


@pytest.mark.parametrize("size", [(3, 4100), (4099, 2), (1300, 1030)])
def test_lossless_pictures_of_several_tiles(size: tuple[int, int], tmp_path: Path) -> None:
    """Up to 4096 pixels a side they are one tile; more become several; `encode_file` writes the same file."""
    samples = tile("stripes", (*size, 4))
    samples[::7, ::5, 1] = 77
    data = Codec("missing.safetensors").encode(samples, lossless=True)
    stream = container.read(data)
    assert len(stream.tiles) == (2 if max(size) <= 4096 else 4 if size[0] > 4096 else 10)
    np.testing.assert_array_equal(Codec("missing.safetensors").decode(data, output="numpy"), samples)
    Codec("missing.safetensors").encode_file(samples, tmp_path / "a.vaec", lossless=True)
    assert (tmp_path / "a.vaec").read_bytes() == data


def test_palettes_and_bits_become_colours_without_loss() -> None:
    """Of a palette its colours, of one bit its greys."""
    codec = Codec("missing.safetensors")
    picture = Image.fromarray(MAKERS["red on blue"](60, 90))
    for image, mode in ((picture.quantize(7), "RGB"), (picture.convert("1"), "L")):
        decoded = codec.decode(codec.encode(image, lossless=True))
        assert np.array_equal(np.asarray(decoded), np.asarray(image.convert(mode)))


def test_lossless_excludes_a_quality_and_targets(tiny: Codec) -> None:
    """Even on the command line."""
    for wish in ({"quality": 50}, {"target_bytes": 900}, {"target_psnr": 30.0}):
        with pytest.raises(VaecImageError, match="cannot be combined"):
            tiny.encode(SAMPLES, lossless=True, **wish)
    assert CliRunner().invoke(main, ["encode", "--lossless", "-q", "5", "a.png", "a.vaec"]).exit_code == 2


def test_lossless_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds every sample."""
    monkeypatch.setattr("vaecodec.codec.Codec", Codec)
    Image.fromarray(SAMPLES).save(tmp_path / "a.png")
    arguments = ["encode", "--lossless", str(tmp_path / "a.png"), str(tmp_path / "a.vaec")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert np.array_equal(Codec().decode(tmp_path / "a.vaec", output="numpy"), SAMPLES)


@pytest.mark.parametrize("name", ["black on white", "red on blue", "grid lines", "colour lines"])
def test_lossless_screens_take_what_webp_takes(name: str) -> None:
    """At most 2 % and 200 bytes more than Pillow's WebP of the whole picture, also beyond one tile of 1024 pixels."""
    samples, file = MAKERS[name](700, 1300), io.BytesIO()
    Image.fromarray(samples).save(file, "WEBP", lossless=True)
    data = Codec("missing.safetensors").encode(samples, lossless=True)
    assert len(data) <= 1.02 * len(file.getvalue()) + 200
