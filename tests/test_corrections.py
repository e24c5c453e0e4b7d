"""Laws of corrected tiles: they reach what is asked, decode to what encoders claim, and no neighbour sees them."""

from collections.abc import Callable

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_set import MAKERS
from whole_pictures import decode_tiles, encode_tiles

from vaecodec import Codec
from vaecodec.errors import VaecMismatchError
from vaecodec.format import container
from vaecodec.format.records import Header, PixelFormat, Tile, TileBox, TileMode, check_tile
from vaecodec.pictures import pixels
from vaecodec.tiling import tile as tiles
from vaecodec.tiling.tile import choose_mode, corrected, floor_psnr_db, learned_part

LEARNED = Tile(TileMode.LEARNED, b"8 bytes!", 5)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@settings(max_examples=60)
@given(
    st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3]), st.floats(26, 48), st.floats(1, 90),
    st.integers(0, 99),
)  # fmt: skip
def test_a_correction_reaches_its_psnr_and_is_what_it_claims(
    height: int, width: int, channels: int, least_db: float, deviation: float, seed: int
) -> None:
    """Of any error; any part of the tile is that part of the whole; readers accept its length."""
    rng = np.random.default_rng(seed)
    original = noise(height, width, channels, seed=seed)
    shown = (original + rng.normal(0, deviation, original.shape)).clip(0, 255).astype(np.uint8)
    made, error = tiles._correct(LEARNED, original, shown, least_db)
    box = TileBox("colour", 64, 128, height, width, channels)
    check_tile(0, box, made.mode, len(made.payload))
    assert learned_part(made) == LEARNED
    whole = corrected(made, box, shown, box)
    assert error == pixels.squared_error(original, whole)
    assert pixels.psnr_db(original, whole) >= least_db
    top, left = height // 3, width // 2
    part = box._replace(top=64 + top, left=128 + left, height=height - top, width=width - left)
    np.testing.assert_array_equal(corrected(made, box, shown[top:, left:], part), whole[top:, left:])


def test_sums_are_clamped() -> None:
    """Beyond both ends."""
    shown, symbols = np.array([[[250], [4]]], np.uint8), np.array([[[255], [0]]], np.uint8)
    np.testing.assert_array_equal(tiles._add(shown, symbols, 64), [[[255], [0]]])
    np.testing.assert_array_equal(tiles._add(shown, np.array([[[127], [129]]], np.uint8), 3), [[[247], [7]]])


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 pixels."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: 64))


def encoded(codec: Codec, samples: np.ndarray, quality: int) -> tuple[list[Tile], Header, int]:
    channels = samples.shape[2]
    header = Header.of_picture(channels, samples.shape[1], samples.shape[0], codec.engine.model_id, quality)
    return encode_tiles(samples, header, codec.engine)


def mixed(channels: int) -> np.ndarray:
    """A photograph with noise on a part of it, and a part in few colours: tiles of every mode."""
    samples = picture(150, 330, channels)
    samples[:70, 100:200] = (samples[:70, 100:200] + noise(70, 100, channels) / 3.0).clip(0, 255)
    samples[64:128, 192:256] = noise(64, 64, 1) // 128 * 200
    samples[:64, 256:320] = 90
    return samples


def force(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[int], bool]) -> None:
    """Has tiles corrected that would stay learned, by the number of the call."""
    calls = iter(range(10**6))

    def settle_so(tile: Tile, original: np.ndarray, shown: np.ndarray, quality: int) -> tuple[Tile, int]:
        if chosen(next(calls)):
            return tiles._correct(tile, original, shown, 46)
        return choose_mode(tile, original, shown, quality)

    monkeypatch.setattr("vaecodec.tiling.encode.choose_mode", settle_so)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("quality", [30, 90])
def test_decoders_show_what_the_encoder_claims(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch, channels: int, quality: int
) -> None:
    """Beside tiles of all modes, also those that turn plain after all: error, floor, regions, previews, tensors."""
    force(monkeypatch, lambda call: call % 3 == 0)
    samples = mixed(channels)
    coded, header, squared_error = encoded(tiny, samples, quality)
    modes = {tile.mode for tile in coded}
    assert {TileMode.CORRECTED, TileMode.WEBP} <= modes
    shown, _ = decode_tiles(coded, header, tiny.engine)
    colours = np.s_[..., : min(channels, 3)]
    assert squared_error == pixels.squared_error(samples[colours], shown[colours])
    for box in header.boxes():
        if box.plane == "colour":
            part = np.s_[box.top : box.top + box.height, box.left : box.left + box.width, : box.channels]
            assert pixels.psnr_db(samples[part], shown[part]) >= floor_psnr_db(quality)
    data = container.write(header, coded)
    for left, top, right, bottom in ((0, 0, 330, 150), (10, 20, 90, 60), (50, 60, 200, 131), (329, 149, 330, 150)):
        region = tiny.decode_region(data, (left, top, right, bottom), output="numpy")
        difference = np.abs(
            region.reshape(bottom - top, right - left, channels) - shown[top:bottom, left:right].astype(int)
        )
        assert difference.max() <= 1 and np.count_nonzero(difference) <= max(4, 1e-3 * difference.size)
    assert np.array_equal(tiny.decode(data, output="torch").permute(1, 2, 0).numpy(), shown)
    assert tiny.decode_batch([data, data], output="numpy")[1].reshape(shown.shape).tobytes() == shown.tobytes()


@pytest.mark.usefixtures("small_tiles")
def test_neighbours_and_previews_see_latents_alone(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture beside corrected tiles, and small previews, are those of a file without corrections."""
    force(monkeypatch, lambda call: call == 1)
    coded, header, _ = encoded(tiny, picture(64, 192), 60)
    assert [tile.mode for tile in coded] == [TileMode.LEARNED, TileMode.CORRECTED, TileMode.LEARNED]
    plain = container.write(header, [learned_part(tile) for tile in coded])
    data = container.write(header, coded)
    with_it, without = (tiny.decode(each, output="numpy") for each in (data, plain))
    assert np.array_equal(with_it[:, :64], without[:, :64]) and np.array_equal(with_it[:, 128:], without[:, 128:])
    assert not np.array_equal(with_it, without)
    for scale in (1 / 2, 1 / 8):
        assert np.array_equal(*(tiny.decode(each, scale=scale, output="numpy") for each in (data, plain)))
    assert np.array_equal(tiny.explore.features_from_bytes(data).y, tiny.explore.features_from_bytes(plain).y)


@pytest.mark.usefixtures("small_tiles")
def test_a_damaged_correction_costs_its_tile(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey where it is, with a warning; the neighbours are as before. Without partial decoding it is an error."""
    force(monkeypatch, lambda call: call == 1)
    coded, header, _ = encoded(tiny, picture(64, 192), 60)
    shown, _ = decode_tiles(coded, header, tiny.engine)
    payload = coded[1].payload
    coded[1] = coded[1]._replace(payload=payload[:4] + bytes([payload[4] ^ 1]) + payload[5:])
    with pytest.raises(VaecMismatchError) as caught:
        tiny.decode(container.write(header, coded))
    assert (caught.value.code, caught.value.tile) == ("CORRECTION_CRC", 1)
    with pytest.warns(UserWarning, match="tile 1"):
        decoded = tiny.decode(container.write(header, coded), output="numpy", on_error="partial")
    assert (decoded[:, 64:128] == 128).all()
    assert np.array_equal(decoded[:, :64], shown[:, :64]) and np.array_equal(decoded[:, 128:], shown[:, 128:])


@pytest.mark.parametrize("name", ["red on blue", "colour noise", "grainy photograph", "colour lines"])
def test_the_shipped_encoder_keeps_its_promise_and_its_word(shipped: Codec, name: str) -> None:
    """The error that it claims is that of the decoded picture, at qualities where the network alone falls short."""
    samples = MAKERS[name](100, 130)
    for quality in (40, 95):
        header = Header(PixelFormat.RGB, samples.shape[1], samples.shape[0], shipped.engine.model_id, quality)
        coded, header, squared_error = encode_tiles(samples, header, shipped.engine)
        shown = shipped.decode(container.write(header, coded), output="numpy")
        assert squared_error == pixels.squared_error(samples, shown)
        assert pixels.psnr_db(samples, shown) >= floor_psnr_db(quality)
