"""The native engine equals torch's: integers exactly, floats within rounding, its own bits everywhere."""

import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import picture
from numpy.typing import NDArray
from whole_pictures import decode_tiles, encode_tiles

from vaecodec.entropy import coder
from vaecodec.entropy.tables import ESCAPE_LIMIT, Pass, Tables, from_pmfs
from vaecodec.errors import VaecCorruptError, VaecModelError
from vaecodec.format.records import Header, TileMode
from vaecodec.model import coding, weights
from vaecodec.model.architecture import HYPER_STRIDE
from vaecodec.model.coding import hyper_size
from vaecodec.model.native_engine import NativeEngine, binding
from vaecodec.model.scales import IntegerLayer
from vaecodec.model.torch_engine import engine as torch_engine
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.model.weights import Weights
from vaecodec.tiling.tile import decode_symbols, encode_symbols, read_symbols

library = importlib.import_module("vaecodec.model.native_engine.binding")  # not its function of the same name

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the native library is not built: make core")

QUALITIES = (1, 37, 75, 100)
SIZES = ((64, 96), (16, 16), (48, 16), (176, 208))


class Engines(NamedTuple):
    """Both, with the same weights."""

    native: NativeEngine
    torch: TorchEngine


@pytest.fixture(scope="module", params=["shipped", "tiny"])
def stored(request: pytest.FixtureRequest, tiny_weights: Path) -> Weights:
    """The shipped weights, and such whose widths are no multiples of a vector."""
    return weights.load(tiny_weights if request.param == "tiny" else None)


@pytest.fixture(scope="module")
def both(stored: Weights) -> Engines:
    """The native engine has two threads."""
    return Engines(NativeEngine(stored, threads=2), torch_engine.load(stored, "cpu"))


@pytest.fixture(scope="module")
def tiny_stored(tiny_weights: Path) -> Weights:
    """The tiny weights."""
    return weights.load(tiny_weights)


@pytest.fixture(scope="module")
def engine(tiny_stored: Weights) -> NativeEngine:
    """The tiny weights at work on two threads."""
    return NativeEngine(tiny_stored, threads=2)


def is_coarse(level: str) -> bool:
    """Whether encoders analyze in bfloat16 there."""
    return level.endswith("bf16")


@pytest.fixture(autouse=True)
def use_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Sets the instruction set; at first one that analyzes in float32, as torch, the reference, does here."""
    before = library.is_available() and library.use_level()
    if before:
        library.use_level([level for level in library.levels() if not is_coarse(level)][-1])
    monkeypatch.setattr(torch_engine, "has_fast_bfloat16", lambda _: False)
    yield library.use_level
    if before:
        library.use_level(before)


def assert_close(found: NDArray[np.float32], expected: torch.Tensor | NDArray[np.float32]) -> None:
    wanted = np.asarray(expected)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


def assert_same_picture(found: NDArray[np.uint8], expected: torch.Tensor) -> None:
    """At most one level apart, in at most 0.1 % of samples; one sample of a very small picture."""
    distance = np.abs(found.astype(int) - expected.numpy().astype(int))
    assert distance.max() <= 1
    assert np.count_nonzero(distance) <= max(1, distance.size // 1000)


def latents_of(engine: TorchEngine, size: tuple[int, int], quality: int) -> torch.Tensor:
    return engine.analyze(picture(*size, seed=quality), quality)


# --- the library and its weights --------------------------------------------------------------------------------------


def test_a_library_that_is_missing_or_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each fault has its code, an instruction set that the environment names and that is not here, too."""
    (tmp_path / "broken.so").write_bytes(b"no library")
    changes: dict[str, Callable[[], None]] = {
        "NATIVE_LEVEL": lambda: monkeypatch.setenv(library.LEVEL_VARIABLE, "mmx"),
        "NATIVE_VERSION": lambda: monkeypatch.setattr(library, "ABI_VERSION", 999),
        "NATIVE_MISSING": lambda: monkeypatch.setattr(library, "library_path", lambda: tmp_path / "none.so"),
    }
    try:
        for code, change in changes.items():
            change()
            library.library.cache_clear()
            with pytest.raises(VaecModelError) as caught:
                library.library()
            assert caught.value.code == code
            assert not library.is_available()
        monkeypatch.setattr(library, "library_path", lambda: tmp_path / "broken.so")
        assert not library.is_available()
    finally:
        monkeypatch.undo()
        library.library.cache_clear()


def test_an_unknown_instruction_set_is_refused(use_level: Callable[[str], str]) -> None:
    """With the names of those that are there."""
    with pytest.raises(VaecModelError, match="baseline"):
        use_level("mmx")


def test_weights_that_do_not_fit_are_refused(tiny_stored: Weights) -> None:
    """By the library itself: whoever makes `Weights` without `load` has not checked them."""
    name = "synthesis.body_in.bias"
    values = tiny_stored.floats[name]
    for changed in (values[:-1], values + np.float32(np.inf), np.zeros(values.shape, np.int64)):
        with pytest.raises(VaecModelError) as caught:
            NativeEngine(replace(tiny_stored, floats={**tiny_stored.floats, name: changed}))
        assert caught.value.code == "MODEL_VALUES"
    for arch in (replace(tiny_stored.arch, latent_channels=2048), replace(tiny_stored.arch, scale_channels=7)):
        with pytest.raises(VaecModelError, match="architecture"):
            NativeEngine(replace(tiny_stored, arch=arch))


# --- integers ---------------------------------------------------------------------------------------------------------


def any_z(channels: int, rows: int, columns: int, seed: int) -> NDArray[np.int16]:
    """Hyper-latents: small, large and at the ends of their dtype."""
    rng = np.random.default_rng(seed)
    shape = (int(np.prod(hyper_size(rows, columns))), channels)
    z = rng.integers(-12, 13, shape)
    return np.where(rng.random(shape) < 0.05, rng.integers(-32768, 32768, shape), z).astype(np.int16)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 9), (8, 4), (17, 30)])
def test_table_indexes_are_exactly_those_of_torch(both: Engines, rows: int, columns: int) -> None:
    """Of several tiles, all channels and the base; hyper-latents of ordinary size are summed in another way."""
    z = [any_z(both.native.arch.hyper_channels, rows, columns, seed) // (1 + seed % 2 * 40) for seed in range(4)]
    for channels in (None, both.native.arch.base_channels):
        expected = both.torch.table_indexes(z, rows, columns, QUALITIES, channels)
        np.testing.assert_array_equal(both.native.table_indexes(z, rows, columns, QUALITIES, channels), expected)


def test_scales_of_large_integers_are_exact_too(tiny_stored: Weights, use_level: Callable[[str], str]) -> None:
    """Weights whose sums exceed 32 bits take another way through the library."""
    first, *rest = tiny_stored.scales.layers
    ends = np.array([-32768, -20000, 9, 30000, 32767], np.int16)
    wild = [
        IntegerLayer(
            np.random.default_rng(layer.weight.size).choice(ends, layer.weight.shape), factor * layer.bias, shift
        )
        for layer, factor, shift in zip(rest, (1, 1, 0), (12, 16, 17), strict=True)
    ]
    offset = np.full_like(tiny_stored.scales.row_offset, 32 * 256)
    scales = replace(tiny_stored.scales, layers=(first, *wild), row_offset=offset)
    scales.prove_exact()
    changed = replace(tiny_stored, scales=scales)
    engine, rows, columns = NativeEngine(changed, threads=1), 12, 20
    z = [any_z(engine.arch.hyper_channels, rows, columns, seed) for seed in range(4)]
    expected = torch_engine.load(changed, "cpu").table_indexes(z, rows, columns, QUALITIES)
    assert len(np.unique(expected)) > 20
    for name in library.levels():
        use_level(name)
        engine.self_test()
        np.testing.assert_array_equal(engine.table_indexes(z, rows, columns, QUALITIES), expected, name)


def random_tables(rng: np.random.Generator, rows: int, first: int) -> Tables:
    widths = rng.integers(1, 40, rows)
    widths[-1] = 511
    return from_pmfs([rng.random(2 * w + 1) ** 6 for w in widths], list(rng.random(rows) * 0.2), first_coded_row=first)


def random_passes(rng: np.random.Generator) -> list[Pass]:
    passes = []
    for _ in range(rng.integers(1, 4)):
        tables = random_tables(rng, int(rng.integers(2, 20)), int(rng.integers(0, 2)))
        indexes = rng.integers(0, tables.rows, int(rng.integers(0, 700))).astype(np.uint8)
        spread = np.where(rng.random(indexes.size) < 0.1, ESCAPE_LIMIT, 4)
        symbols = np.clip(np.rint(rng.normal(0, spread)), -ESCAPE_LIMIT, ESCAPE_LIMIT).astype(np.int32)
        symbols[indexes < tables.first_coded_row] = 0
        passes.append(Pass(tables, indexes, symbols))
    return passes


def outcome(decoder_of: Callable[[bytes], Any], payload: bytes, passes: list[Pass]) -> str | list[bytes]:
    """The symbols of all passes, or the code of what is wrong with the payload."""
    try:
        decoder = decoder_of(payload)
        symbols = [decoder.read(each.tables, each.indexes).tobytes() for each in passes]
        decoder.finish()
        return symbols
    except VaecCorruptError as error:
        return error.code


def test_payloads_are_byte_for_byte_those_of_the_coder() -> None:
    """And are read back."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        passes = random_passes(rng)
        payload = binding.encode(passes)
        assert payload == coder.encode(passes)
        assert outcome(binding.Decoder, payload, passes) == [each.symbols.tobytes() for each in passes]


def test_damaged_payloads_are_refused_with_the_same_codes() -> None:
    """Cut, lengthened, with bits flipped, and made up; what is read nevertheless is the same."""
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(400):
        passes = random_passes(rng)
        damaged = bytearray(coder.encode(passes))
        kind = rng.integers(5)
        if kind == 0:
            damaged = damaged[: rng.integers(0, len(damaged) + 1)]
        elif kind == 1:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        elif kind == 2:
            damaged += bytes(4 * int(rng.integers(1, 3)))
        elif kind == 3:
            damaged = bytearray(rng.bytes(4 * int(rng.integers(0, 200))))
        expected = outcome(coder.Decoder, bytes(damaged), passes)
        assert outcome(binding.Decoder, bytes(damaged), passes) == expected
        seen.add(expected if isinstance(expected, str) else "read")
    assert seen == {"CODER_WORDS", "CODER_STATE", "ESCAPE_RANGE", "CODER_END", "read"}


def test_indexes_and_symbols_out_of_range_are_refused() -> None:
    """As by the coder, before the library sees them."""
    tables = random_tables(np.random.default_rng(0), 4, 1)
    row = np.ones(1, np.uint8)
    with pytest.raises(ValueError, match="indexes"):
        binding.Decoder(b"VAE\x01").read(tables, 4 * row)
    with pytest.raises(TypeError):
        binding.Decoder(b"VAE\x01").read(tables, np.ones(3))
    for indexes, symbol in ((row, 2048), (0 * row, 1)):
        with pytest.raises(ValueError, match="symbols"):
            binding.encode([Pass(tables, indexes, np.array([symbol]))])
    with pytest.raises(ValueError, match="out of range"):
        binding.rdoq(np.zeros(1, np.float32), 4 * row, tables)


def test_quantization_is_that_of_the_model() -> None:
    """Ties, escapes, skipped rows, and residuals beyond all tables; NaN is refused."""
    rng = np.random.default_rng(3)
    tables = random_tables(rng, 12, 3)
    indexes = rng.integers(0, 12, 60_000).astype(np.uint8)
    residual = rng.normal(0, rng.choice([0.3, 2, 30, 4000], indexes.size)).astype(np.float32)
    residual[::7] = np.rint(residual[::7]) + 0.5
    residual[:2] = np.inf, -np.inf
    np.testing.assert_array_equal(binding.rdoq(residual, indexes, tables), coding.rdoq(residual, indexes, tables))
    residual[5] = np.nan
    with pytest.raises(VaecModelError) as caught:
        binding.rdoq(residual, indexes, tables)
    assert caught.value.code == "MODEL_VALUES"


# --- floats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_analysis(both: Engines, size: tuple[int, int], quality: int) -> None:
    """Latents, and hyper-latents, of sizes that are and are not multiples of 64 pixels."""
    y = latents_of(both.torch, size, quality)
    found = both.native.analyze(picture(*size, seed=quality), quality)
    assert found.transpose(1, 2, 0).flags.c_contiguous
    assert_close(found, y)
    for ours, theirs in zip(
        both.native.hyper_analyze(y.numpy(), quality), both.torch.hyper_analyze(y, quality), strict=True
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_symbols_are_chosen_coded_and_read_as_by_torch(both: Engines, size: tuple[int, int], quality: int) -> None:
    """All but a symbol or two that lie on the edge of rounding; payloads of given symbols exactly."""
    native, y = both.native, latents_of(both.torch, size, quality)
    grid = (y.shape[1], y.shape[2])
    expected, y_hat = coding.quantize(both.torch, y, quality)
    found, own_y_hat = coding.quantize(native, y.numpy(), quality)
    np.testing.assert_array_equal(found.z, expected.z)
    np.testing.assert_array_equal(found.indexes, expected.indexes)
    assert np.count_nonzero(found.y != expected.y) <= max(1, expected.y.size // 10_000)
    if np.array_equal(found.y, expected.y):
        assert_close(own_y_hat, y_hat)

    tile = encode_symbols(both.torch, expected, grid, quality)
    assert encode_symbols(native, expected, grid, quality) == tile
    for ours, theirs in zip(decode_symbols(native, tile, grid, quality), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (base,) = read_symbols(native, [tile], grid, [quality], base_only=True)
    np.testing.assert_array_equal(base.y, expected.y[:, : native.arch.base_channels])
    for symbols in (expected, base):
        ours, theirs = (coding.dequantize(engine, [symbols], *grid, [quality]) for engine in both)
        assert_close(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
def test_synthesis(both: Engines, size: tuple[int, int]) -> None:
    """Several tiles of several qualities and deblocking cuts, and previews at every scale."""
    y_hat = torch.stack([coding.quantize(both.torch, latents_of(both.torch, size, q), q)[1] for q in QUALITIES])
    cuts = [0, 17, 40, 64]
    pixels, is_finite = both.native.synthesize(y_hat.numpy(), QUALITIES, cuts)
    assert is_finite == [True] * 4
    assert_same_picture(pixels, both.torch.synthesize(y_hat, QUALITIES, cuts)[0])
    of_base = y_hat[1, : both.native.arch.base_channels]
    for latents, scale in ((y_hat[1], 2), (y_hat[1], 4), (y_hat[1], 8), (of_base, 8)):
        assert_same_picture(both.native.preview(latents.numpy(), scale), both.torch.preview(latents, scale))


@pytest.mark.parametrize("growth", [0, 3, 12])
def test_deblocking_cuts_fit_the_original(both: Engines, growth: int) -> None:
    """Originals without and with a grid of their own; the whole picture and a part of it."""
    grid = np.add.outer(np.arange(112) // 16 % 2, np.arange(144) // 16 % 2)[..., None]
    pixels = np.clip(picture(112, 144) + growth * grid, 0, 255).astype(np.uint8)
    _, y_hat = coding.quantize(both.torch, latents_of(both.torch, (112, 144), 60), 60)
    for inside in ((slice(0, 112), slice(0, 144)), (slice(16, 85), slice(32, 133))):
        expected, cut, is_finite = both.torch.synthesize_like(y_hat, 60, pixels[inside], inside)
        found, own_cut, own_is_finite = both.native.synthesize_like(y_hat.numpy(), 60, pixels[inside], inside)
        assert own_is_finite == is_finite
        assert abs(own_cut - cut) <= 1
        if own_cut == cut:
            assert_same_picture(found, expected)


def test_latents_out_of_the_range_of_numbers_are_noticed(engine: NativeEngine) -> None:
    """Of the tile at fault only."""
    y_hat = np.zeros((3, engine.arch.latent_channels, 2, 3), np.float32)
    y_hat[1, 5, 1, 1] = 3e38
    y_hat[2, 7, 0, 0] = np.nan
    assert engine.synthesize(y_hat, [50] * 3, [0] * 3)[1] == [True, False, False]
    inside = (slice(0, 32), slice(0, 48))
    assert engine.synthesize_like(y_hat[2], 50, np.zeros((32, 48, 3), np.uint8), inside)[2] is False


def test_sizes_that_do_not_fit_are_refused(engine: NativeEngine) -> None:
    """Before anything is read."""
    latents, z = engine.arch.latent_channels, np.zeros((1, engine.arch.hyper_channels), np.int16)
    acts: list[Callable[[], object]] = [
        lambda: engine.analyze(np.zeros((20, 16, 3), np.uint8), 50),
        lambda: engine.analyze(np.zeros((16, 16, 3), np.uint8), 101),
        lambda: engine.table_indexes([np.repeat(z, 2, 0)], HYPER_STRIDE, HYPER_STRIDE, [50]),
        lambda: engine.table_indexes([z], HYPER_STRIDE, HYPER_STRIDE, [0]),
        lambda: engine.table_indexes([z], HYPER_STRIDE, HYPER_STRIDE, [50], latents + 1),
        lambda: engine.synthesize(np.zeros((1, latents - 1, 2, 2), np.float32), [50], [0]),
        lambda: engine.synthesize(np.zeros((1, latents, 2, 2), np.float32), [50], [65]),
        lambda: engine.preview(np.zeros((engine.arch.base_channels - 1, 2, 2), np.float32), 8),
        lambda: engine.preview(np.zeros((latents, 2, 2), np.float32), 16),
    ]
    for act in acts:
        with pytest.raises(ValueError, match="do not fit"):
            act()
    with pytest.raises(ValueError, match="symbols have shapes"):
        engine.predict([z], 4, 4, [50], lambda *_: [np.zeros((16, 3), np.int16)], channels=latents)
    with pytest.raises(ValueError, match="original has shape"):
        engine.synthesize_like(
            np.zeros((latents, 2, 2), np.float32), 50, np.zeros((9, 9, 3), np.uint8), (slice(0, 8), slice(0, 9))
        )


def test_arrays_of_latents_lie_by_position(engine: NativeEngine) -> None:
    """Zeros, and neighbours joined along either axis; the mean of colours rounds to the nearest."""
    latents = engine.arch.latent_channels
    left, right = engine.zeros(2, 3), engine.zeros(2, 4) + 1
    joined = engine.concat([left, right], 2)
    assert joined.shape == (latents, 2, 7)
    assert joined.transpose(1, 2, 0).flags.c_contiguous
    assert engine.concat([left, left], 1).shape == (latents, 4, 3)
    assert engine.concat([np.zeros((2, 3, 3), np.uint8)] * 2, 1).shape == (2, 6, 3)
    assert engine.to_numpy(joined) is joined
    pixels = picture(16, 48)
    assert np.array_equal(engine.grey(pixels), TorchEngine.grey(torch.from_numpy(pixels)))


# --- the same bits everywhere -----------------------------------------------------------------------------------------


def digest_of(engine: NativeEngine, pixels: NDArray[np.uint8], y: NDArray[np.float32], quality: int) -> str:
    """Of everything that the engine computes on the way from latents to pixels."""
    size = pixels.shape
    symbols, y_hat = coding.quantize(engine, y, quality)
    again = coding.dequantize(engine, [symbols], *y.shape[1:], [quality])
    shown, _ = engine.synthesize(again, [quality], [9])
    like, cut, _ = engine.synthesize_like(y_hat, quality, pixels, (slice(0, size[0]), slice(0, size[1])))
    small = [engine.preview(y_hat, scale) for scale in (2, 4, 8)]
    parts = [*engine.hyper_analyze(y, quality), *symbols, y_hat, again, shown, like, *small]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + str(cut).encode()).hexdigest()


@pytest.mark.parametrize("size", [(48, 80), (112, 208)])
def test_bits_are_the_same_on_all_instruction_sets_and_numbers_of_threads(
    stored: Weights, use_level: Callable[[str], str], size: tuple[int, int]
) -> None:
    """Of everything; where encoders analyze in bfloat16, their latents are others, near those in float32."""
    engines = [NativeEngine(stored, threads) for threads in (1, 2, 3)]
    pixels = picture(*size)
    y = engines[0].analyze(pixels, 70)
    found = {}
    for name in library.levels():
        use_level(name)
        for engine in engines:
            found[name, engine.threads] = digest_of(engine, pixels, y, 70)
        ours, *others = [engine.analyze(pixels, 70) for engine in engines]
        assert all(np.array_equal(each, ours) for each in others)
        assert np.linalg.norm(ours - y) <= (0.02 if is_coarse(name) else 0) * np.linalg.norm(y)
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (4, 9), (13, 18)])
def test_the_base_alone(both: Engines, size: tuple[int, int]) -> None:
    """Of what only other channels need, a preview computes nothing."""
    (rows, columns), count = size, both.native.arch.base_channels
    rng, grid = np.random.default_rng(4), hyper_size(rows, columns)
    z = rng.integers(-2, 3, (grid[0] * grid[1], both.native.arch.hyper_channels), np.int16)
    symbols = rng.integers(-3, 4, (rows * columns, count), np.int16)
    ours, theirs = (engine.predict([z], rows, columns, [60], lambda *_: [symbols], count) for engine in both)
    assert_close(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiles_are_coded_and_shown_alike_by_one_thread_and_by_several(tiny_stored: Weights, channels: int) -> None:
    """Some threads code or read tiles, each alone, while others look at those before."""
    samples = picture(520, 700, channels)
    samples[:256, 256:512] = 90  # a tile that is not learned, between others that are
    found = []
    for engine in (NativeEngine(tiny_stored, threads) for threads in (1, 2, 5)):
        header = replace(Header.of_picture(channels, 700, 520, engine.model_id, 60), tile_log2=8)
        tiles, header, error = encode_tiles(samples, header, engine)
        shown = [decode_tiles(tiles, header, engine, scale=scale)[0].tobytes() for scale in (1, 2, 8)]
        found.append((header, error, tiles, shown))
    assert {TileMode.SOLID, TileMode.LEARNED} <= {tile.mode for tile in tiles}
    assert all(each == found[0] for each in found)


# --- without torch, in threads and in forked processes ----------------------------------------------------------------


def run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it gets an error
import numpy as np
from vaecodec import Codec
codec = Codec(sys.argv[1], engine="native")
data = codec.encode(np.indices((32, 48)).sum(0).astype(np.uint8), 50)
print(codec.decode(data).size)
"""


def test_it_works_where_torch_is_not_installed(tiny_weights: Path) -> None:
    """Loading, encoding and decoding import none of it."""
    assert run(WITHOUT_TORCH, str(tiny_weights)) == "(48, 32)\n"


FORKS = """
import os, sys
from pathlib import Path
import numpy as np
from vaecodec.model import weights
from vaecodec.model.native_engine import NativeEngine
engine = NativeEngine(weights.load(Path(sys.argv[1])), threads=3)
y = np.random.default_rng(0).normal(size=(1, engine.arch.latent_channels, 20, 30)).astype(np.float32)
before = engine.synthesize(y, [50], [0])[0]
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(engine.synthesize(y, [50], [0])[0], before) else 1)
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_forked_processes_go_on(tiny_weights: Path) -> None:
    """The threads of the parent are not there; new ones are started."""
    assert run(FORKS, str(tiny_weights)) == "done\n"


def test_threads_of_the_caller_may_share_an_engine(engine: NativeEngine) -> None:
    """Whoever finds the pool busy works alone, as does whoever asks for it, and he alone."""
    y = np.random.default_rng(0).normal(size=(1, engine.arch.latent_channels, 12, 13)).astype(np.float32)
    expected = engine.synthesize(y, [50], [0])[0]

    def alone(_: int) -> tuple[int, NDArray[np.uint8]]:
        engine.use_one_thread()
        return engine.threads, engine.synthesize(y, [50], [0])[0]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: engine.synthesize(y, [50], [0])[0], range(40)))
        apart = list(pool.map(alone, range(8)))
    assert all(np.array_equal(expected, each) for each in results)
    assert all(threads == 1 and np.array_equal(expected, each) for threads, each in apart)
    assert engine.threads == 2
