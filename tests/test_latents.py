"""Laws of what latents give beside files: features, bits by block, blends, draws from the prior, scores."""

import zlib

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaecodec import Codec
from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables, from_pmfs, ideal_bits, symbol_bits
from vaecodec.errors import VaecChecksumError, VaecImageError, VaecLimitError, VaecModelError
from vaecodec.format import container, records
from vaecodec.format.records import TileMode
from vaecodec.model import coding
from vaecodec.pictures import pixels
from vaecodec.tiling import explore
from vaecodec.tiling.tile import decode_symbols, encode_latents

pytestmark = pytest.mark.engines("native", "torch")

FLOAT_ERROR = 2e-3  # of latents in steps: sums in float32


def learned(tiny: Codec, samples: np.ndarray, quality: int) -> bytes:
    """A file whose every tile is learned, whatever that costs."""
    engine = tiny.engine
    header = records.Header(
        records.PixelFormat.RGB, samples.shape[1], samples.shape[0], engine.model_id, quality, tile_log2=8
    )
    coded = [encode_latents(engine, y, quality)[0] for y in explore.analyze_tiles(samples, header, engine)]
    return container.write(header, coded)


# --- features ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 100), st.integers(0, 9))
def test_features_have_the_shape_that_is_promised(
    tiny: Codec, height: int, width: int, quality: int, seed: int
) -> None:
    """One vector of y a block of 16x16 pixels, one of z a block of 64x64, both float32 and finite."""
    found = tiny.explore.features(picture(height, width, seed=seed), quality)
    assert found.quality == quality
    assert found.y.shape == (32, -(-height // 16), -(-width // 16))
    assert found.z.shape == (8, -(-height // 64), -(-width // 64))
    for values in (found.y, found.z):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


@settings(max_examples=15)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100), st.integers(0, 9))
def test_features_of_a_file_are_those_of_its_picture_quantized(
    tiny: Codec, height: int, width: int, quality: int, seed: int
) -> None:
    """Over tile borders too, a file's y is less than 1.5 quantizer steps from its picture's, mostly half; z is half."""
    samples = picture(height, width, seed=seed)
    data = learned(tiny, samples, quality)
    exact, stored = tiny.explore.features(samples, quality), tiny.explore.features_from_bytes(data)
    assert stored.quality == quality
    assert stored.y.shape == exact.y.shape
    coded = coded_places(tiny, data, exact.y.shape)
    distance = np.abs(stored.y - exact.y)[coded]
    assert distance.max(initial=0) <= 1.5 + FLOAT_ERROR
    assert (distance <= 0.5 + FLOAT_ERROR).mean() > 0.8 if distance.size else True
    if max(height, width) <= 256:  # one tile: hyper-latents see zeros beyond a tile's edge
        assert stored.z.shape == exact.z.shape
        assert np.array_equal(stored.z, stored.z.round())
        assert np.abs(stored.z - exact.z).max() <= 0.5 + FLOAT_ERROR


def coded_places(tiny: Codec, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Mask [M, h, w] of the latents that are coded at all, and not at the limit of what can be."""
    stream, mask = container.read(data), np.zeros(shape, bool)
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        rows, columns = -(-box.height // 16), -(-box.width // 16)
        symbols = decode_symbols(tiny.engine, tile, (rows, columns), stream.header.quality)
        part = np.zeros(symbols.y.shape, bool)
        found = list(coding.coded(tiny.engine, symbols, rows, columns, stream.header.quality))[coding.SIDE_PASSES :]
        for group, coded in zip(coding.groups(rows, columns, shape[0]), found, strict=True):
            is_coded = coded.indexes >= coded.tables.first_coded_row
            group.put(part, is_coded & (np.abs(coded.symbols) < ESCAPE_LIMIT))
        top, left = box.top // 16, box.left // 16
        mask[:, top : top + rows, left : left + columns] = part.reshape(rows, columns, -1).transpose(2, 0, 1)
    return mask


def test_tiles_that_are_kept_without_loss_have_features_too(tiny: Codec) -> None:
    """A file of one colour has the features of its picture, although it holds no latents."""
    flat = np.full((40, 70, 3), 90, np.uint8)
    data = tiny.encode(flat, 60)
    assert {tile.mode for tile in container.read(data).tiles} == {TileMode.SOLID}
    exact, stored = tiny.explore.features(flat, 60), tiny.explore.features_from_bytes(data)
    assert np.allclose(stored.y, exact.y, atol=FLOAT_ERROR)
    assert np.allclose(stored.z, exact.z, atol=FLOAT_ERROR)


def test_alpha_and_grey_do_not_change_features(tiny: Codec) -> None:
    """Alpha is ignored, and a grey picture has the features of the same picture as RGB."""
    grey = picture(50, 40, 1)
    alpha = np.random.default_rng(0).integers(0, 256, grey.shape, np.uint8)
    expected = tiny.explore.features(np.repeat(grey, 3, 2), 50)
    for samples in (grey, np.concatenate([grey, alpha], 2), np.concatenate([grey] * 3 + [alpha], 2)):
        assert np.array_equal(tiny.explore.features(samples, 50).y, expected.y)


def test_features_are_read_without_synthesis(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents are read from a file without making its pixels."""
    data = tiny.encode(picture(64, 64), 50)
    assert container.read(data).tiles[0].mode == TileMode.LEARNED

    def synthesize(*_: object) -> None:
        raise AssertionError("pixels were synthesized")

    monkeypatch.setattr(type(tiny.engine), "synthesize", synthesize)
    tiny.explore.features_from_bytes(data)
    with pytest.raises(AssertionError):
        tiny.decode(data)


def test_features_of_damaged_or_foreign_files_are_refused(tiny: Codec) -> None:
    """A flipped bit is a checksum error; a file of other weights is a model error."""
    data = bytearray(tiny.encode(picture(64, 64), 50))
    foreign = bytearray(data)
    data[-1] ^= 1
    with pytest.raises(VaecChecksumError):
        tiny.explore.features_from_bytes(bytes(data))
    header = container.read(bytes(foreign)).header
    other = records.Header(header.pixel_format, header.width, header.height, b"none", header.quality)
    foreign_data = container.write(other, container.read(bytes(foreign)).tiles)
    with pytest.raises(VaecModelError, match="6e6f6e65") as caught:  # the id that the file asks for
        tiny.explore.features_from_bytes(foreign_data)
    assert caught.value.code == "MODEL_MISSING"


# --- bits by block ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(1, 400), st.integers(0, 99))
def test_bits_of_symbols_sum_to_the_ideal(first_row: int, count: int, seed: int) -> None:
    """`symbol_bits` is `ideal_bits` symbol by symbol, escapes and skipped rows included."""
    rng = np.random.default_rng(seed)
    pmfs = [np.exp(-np.abs(np.arange(-r, r + 1)) / (1 + r)) for r in rng.integers(1, 40, 64)]
    tables = from_pmfs(pmfs, [1e-3] * 64, first_coded_row=first_row)
    rows = rng.integers(0, 64, count)
    symbols = np.where(rows < first_row, 0, rng.integers(-60, 61, count)).astype(np.int32)
    bits = symbol_bits(tables, rows, symbols)
    assert bits.shape == (count,)
    assert (bits >= 0).all()
    assert bits.sum() == pytest.approx(ideal_bits(tables, rows, symbols))


@settings(max_examples=15)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100), st.integers(0, 9))
def test_the_rate_map_sums_to_the_payloads(tiny: Codec, height: int, width: int, quality: int, seed: int) -> None:
    """The bits of all blocks are those of the payloads, within 0.1 % and 16 bytes a learned tile."""
    data = learned(tiny, picture(height, width, seed=seed), quality)
    payloads = [len(tile.payload) for tile in container.read(data).tiles]
    found = tiny.explore.rate_map_from_bytes(data)
    assert found.shape == (-(-height // 16), -(-width // 16))
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert 8 * sum(payloads) == pytest.approx(found.sum(), rel=2e-3, abs=8 * 16 * len(payloads))
    assert found.sum() == pytest.approx(bits_of(tiny, data), rel=1e-4)


def bits_of(tiny: Codec, data: bytes) -> float:
    """What an ideal coder would spend on all symbols of a file."""
    stream, bits = container.read(data), []
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        size = -(-box.height // 16), -(-box.width // 16)
        symbols = decode_symbols(tiny.engine, tile, size, stream.header.quality)
        bits += [ideal_bits(*coded) for coded in coding.coded(tiny.engine, symbols, *size, stream.header.quality)]
    return sum(bits)


def test_the_rate_map_shows_where_the_detail_is(tiny: Codec) -> None:
    """Blocks of noise in a flat picture take several times the bits of any other."""
    samples = np.full((128, 128, 3), 120, np.uint8)
    samples[64:96, 32:64] = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = tiny.explore.rate_map_from_bytes(learned(tiny, samples, 75))
    noisy = np.zeros(found.shape, bool)
    noisy[4:6, 2:4] = True
    assert found[noisy].min() > 4 * found[~noisy].max()


def test_the_rate_map_of_plain_tiles_is_even(tiny: Codec) -> None:
    """Payloads without latents, alpha among them, are spread evenly, and none is forgotten."""
    samples = picture(48, 80, 4)
    samples[..., :3] = 7
    data = tiny.encode(samples, 50)
    found = tiny.explore.rate_map(samples, 50)
    payloads = sum(len(tile.payload) for tile in container.read(data).tiles)
    assert np.allclose(found, 8 * payloads / found.size)


def test_the_rate_map_of_plain_tiles_needs_no_weights() -> None:
    """A file without learned tiles is mapped although its model is missing."""
    header = records.Header(records.PixelFormat.L, 16, 16, b"none", 50)
    tile = records.Tile(TileMode.SOLID, b"\x07", zlib.crc32(b"\x07" * 256))
    found = Codec("missing.safetensors", "cpu").explore.rate_map_from_bytes(container.write(header, [tile]))
    assert found == pytest.approx(8)


# --- score ------------------------------------------------------------------------------------------------------------


def test_the_score_is_the_rate_of_learned_coding(tiny: Codec) -> None:
    """Bits per pixel are those of the rate map of a file whose tiles are all learned."""
    samples = picture(100, 90)
    whole = container.read(learned(tiny, samples, 50))
    expected = explore.block_bits(whole, tiny.engine).sum() / (100 * 90)
    assert tiny.explore.anomaly_score(samples, 50) == pytest.approx(expected, rel=1e-5)


def test_noise_has_a_higher_score_than_a_picture(tiny: Codec) -> None:
    """What the model was not made for costs more bits, and lossless coding does not hide it."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    assert tiny.explore.anomaly_score(noise) > 2 * tiny.explore.anomaly_score(picture(96, 96))


# --- blends -----------------------------------------------------------------------------------------------------------


def test_a_blend_starts_and_ends_with_what_files_show(tiny: Codec) -> None:
    """The ends of an interpolation are the two pictures as files of that quality show them."""
    a, b = picture(80, 100, seed=1), picture(80, 100, seed=2)
    shown = tiny.explore.interpolate(a, b, 3, quality=60, output="numpy")
    assert len(shown) == 3
    for end, original in ((shown[0], a), (shown[-1], b)):
        assert np.array_equal(end, tiny.decode(tiny.encode(original, 60), output="numpy"))


def test_a_blend_lies_between(tiny: Codec) -> None:
    """The middle is nearer to both ends than they are to each other."""
    a, b = picture(80, 100, seed=1), picture(80, 100, seed=2)
    first, middle, last = (np.asarray(image) for image in tiny.explore.interpolate(a, b, 3, quality=90))
    apart = pixels.psnr_db(first, last)
    assert min(pixels.psnr_db(first, middle), pixels.psnr_db(middle, last)) > apart + 3


def test_blends_need_equal_sizes_and_two_steps(tiny: Codec) -> None:
    """Pictures of different sizes, and fewer steps than pictures, are refused."""
    with pytest.raises(VaecImageError, match="80 x 64 and 64 x 64") as error:
        tiny.explore.interpolate(picture(64, 80), picture(64, 64), 3)
    assert error.value.code == "SIZE"
    with pytest.raises(VaecImageError, match="steps is 1") as error:
        tiny.explore.interpolate(picture(64, 64), picture(64, 64), 1)
    assert error.value.code == "ARGUMENT"


# --- draws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100), st.sampled_from([0.0, 0.5, 1.0, 1.5]))
def test_draws_of_any_size_are_pictures_and_repeat(
    tiny: Codec, width: int, height: int, quality: int, temperature: float
) -> None:
    """A draw has the size asked for, and the same seed gives the same picture."""
    options = {"seed": 7, "quality": quality, "temperature": temperature, "output": "numpy"}
    drawn = tiny.explore.sample((width, height), **options)
    assert drawn.shape == (height, width, 3)
    assert np.array_equal(drawn, tiny.explore.sample((width, height), **options))


def test_seeds_differ_unless_nothing_is_random(tiny: Codec) -> None:
    """Another seed draws another picture, but for temperature 0."""
    for temperature, differs in ((1.0, True), (0.0, False)):
        a, b = (np.asarray(tiny.explore.sample((64, 64), seed=seed, temperature=temperature)) for seed in (1, 2))
        assert (a != b).any() == differs


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_symbols_are_drawn_from_their_table(temperature: float) -> None:
    """Frequencies of drawn symbols are the table's probabilities raised to 1 / temperature."""
    pmf = np.array([1.0, 2, 4, 8, 5, 2, 1]) / 23
    tables = from_pmfs([np.ones(3), pmf], [1e-6, 1e-6], first_coded_row=1)
    rows = np.array([1] * 40_000 + [0] * 100)
    symbols = explore._drawn(tables, rows, np.random.default_rng(0), temperature)
    expected = pmf ** (1 / temperature)
    frequencies = np.bincount(symbols[rows == 1] + 3, minlength=7) / 40_000
    assert np.abs(frequencies - expected / expected.sum()).max() < 0.01
    assert not symbols[rows == 0].any()


def test_a_draw_costs_what_the_model_expects(tiny: Codec) -> None:
    """A picture drawn at temperature 1 takes about the bits of the entropy of its tables, a tamer one fewer."""
    engine, expected = tiny.engine, 0.0

    def entropy(tables: Tables, of: np.ndarray) -> np.ndarray:
        nonlocal expected
        symbols = explore._drawn(tables, of, rng, 1.0)
        shares = tables.counts / 2**24
        each = -(shares * np.log2(np.maximum(shares, 2**-24))).sum(1)
        expected += each[of][of >= tables.first_coded_row].sum()
        return symbols

    rng = np.random.default_rng(3)
    coding.read(engine, 16, 16, [50], [entropy])
    wild, tame = (
        8 * sum(len(tile.payload) for tile in explore.draw(256, 256, 50, engine, seed=3, temperature=temperature))
        for temperature in (1.0, 0.5)
    )
    assert wild == pytest.approx(expected, rel=0.1)
    assert tame < wild


@pytest.mark.parametrize(("seed", "temperature"), [(-1, 1.0), (0, -0.1), (0, float("inf")), (0, float("nan"))])
def test_draws_need_sensible_arguments(tiny: Codec, seed: int, temperature: float) -> None:
    """A negative seed and a temperature that is negative or no number are refused."""
    with pytest.raises(VaecImageError, match="must be finite and at least 0") as error:
        tiny.explore.sample((16, 16), seed=seed, temperature=temperature)
    assert error.value.code == "ARGUMENT"


def test_draws_have_the_limits_of_the_format(tiny: Codec) -> None:
    """No size is drawn that could not be decoded."""
    with pytest.raises(VaecLimitError):
        tiny.explore.sample((2**18 + 1, 1))


@pytest.mark.parametrize("quality", [0, 101, 50.5])
def test_quality_is_checked_everywhere(tiny: Codec, quality: float) -> None:
    """Each of these takes whole numbers from 1 to 100, as encoding does."""
    image = Image.fromarray(picture(20, 20))
    for use in (
        lambda: tiny.explore.sample((16, 16), quality=quality),
        lambda: tiny.explore.interpolate(image, image, 2, quality=quality),
        lambda: tiny.explore.features(image, quality),
        lambda: tiny.explore.rate_map(image, quality),
        lambda: tiny.explore.anomaly_score(image, quality),
    ):
        with pytest.raises(VaecImageError, match="quality is") as error:
            use()
        assert error.value.code == "ARGUMENT"
