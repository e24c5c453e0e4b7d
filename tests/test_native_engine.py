"""The native engine equals today's torch network: integers exactly, floats within rounding, its own bits everywhere."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from vaecodec.model.network import Latents, Network
from vaecodec.model.symbols import Symbols

from vaecodec import Codec, VaecCorruptError, VaecModelError
from vaecodec.cli import conformance
from vaecodec.entropy import coder
from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables, from_pmfs
from vaecodec.model import network as torch_network
from vaecodec.model import quantization, transforms
from vaecodec.model import weights as torch_weights
from vaecodec.model.native_engine import (
    NativeEngine,
    is_available,
    levels,
    library,
    nearest,
    rans,
    use_level,
    weights,
    worthwhile,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not is_available(), reason="the native library is not built: make core")

QUALITIES = (1, 37, 75, 100)
SIZES = ((64, 96), (16, 16), (48, 16), (176, 208))


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    """The shipped weights, on two threads."""
    return NativeEngine(threads=2)


@pytest.fixture(scope="module")
def tiny_engine(tiny_weights: Path) -> NativeEngine:
    """Weights whose widths are no multiples of a vector."""
    return NativeEngine(tiny_weights, threads=2)


@pytest.fixture(params=["shipped", "tiny"])
def both(request: pytest.FixtureRequest) -> tuple[NativeEngine, Network]:
    """A native engine and the torch network of the same weights."""
    name = {"shipped": "engine", "tiny": "tiny_engine"}[request.param]
    return request.getfixturevalue(name), request.getfixturevalue(request.param).network


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch analyzes in bfloat16 where it can; here it is a reference."""
    monkeypatch.setattr(torch_network, "has_fast_bfloat16", lambda _: False)


@pytest.fixture
def any_level() -> Iterator[Callable[[str], str]]:
    """Sets the instruction set, and puts it back."""
    before = use_level()
    yield use_level
    use_level(before)


def assert_close(found: NDArray[np.float32], expected: torch.Tensor) -> None:
    wanted = expected.numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


def assert_same_picture(found: NDArray[np.uint8], expected: torch.Tensor | NDArray[np.uint8]) -> None:
    """At most one level apart, in at most 0.1 % of samples; one sample of a very small picture."""
    distance = np.abs(found.astype(int) - np.asarray(expected).astype(int))
    assert distance.max() <= 1
    assert np.count_nonzero(distance) <= max(1, distance.size // 1000)


def latents_of(network: Network, size: tuple[int, int], quality: int, seed: int = 0) -> Latents:
    return network.to_steps(network.analyze(picture(*size, seed=seed), quality), quality)


def by_position(z: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(z.permute(1, 2, 0).flatten(0, 1).numpy())


# --- weights ----------------------------------------------------------------------------------------------------------


def test_widths_and_schema_are_those_of_the_torch_network(tiny: Codec) -> None:
    """Two lists of the same facts must not drift apart."""
    assert [(f.name, f.default) for f in fields(weights.Architecture)] == [
        (f.name, f.default) for f in fields(transforms.Architecture)
    ]
    for arch in (transforms.Architecture(), tiny.network.vae.arch):
        floats, integers = torch_weights._schema_of(arch)
        own_floats, own_integers = weights.schema(weights.Architecture(**asdict(arch)))
        assert own_floats == floats
        assert own_integers == {name: (str(dtype).removeprefix("torch."), s) for name, (dtype, s) in integers.items()}
    assert (weights.FORMAT, weights.DEFAULT_SHA256) == (torch_weights.FORMAT, torch_weights.DEFAULT_SHA256)


def test_facts_of_a_weights_file(both: tuple[NativeEngine, Network]) -> None:
    """Identity, widths, margins and tables."""
    engine, network = both
    assert engine.model_id == network.model_id
    assert asdict(engine.arch) == asdict(network.vae.arch)
    assert engine.analysis_margin == network.analysis_margin
    assert engine.synthesis_margin == network.synthesis_margin
    for ours, theirs in ((engine.hyper_tables, network.hyper_tables), (engine.latent_tables, network.latent_tables)):
        assert [t.first_coded_row for t in ours] == [t.first_coded_row for t in theirs]
        assert all(np.array_equal(a.counts, b.counts) for a, b in zip(ours, theirs, strict=True))


def rewrite(source: Path, target: Path, **changes: object) -> Path:
    """A weights file with some tensors changed, by functions of them; __ stands for a dot."""
    with safe_open(source, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(source)
    for name, change in changes.items():
        key = name.replace("__", ".")
        tensors[key] = change(tensors[key].copy())  # type: ignore[operator]
    save_file(tensors, target, metadata)
    return target


def test_bad_weights_are_refused_as_by_torch(tiny_weights: Path, tmp_path: Path) -> None:
    """The same codes."""
    changes = {
        "scales__shift": lambda t: t * 0, "scales__0__bias": lambda t: t + (1 << 53),
        "latent_gain__log_gain": lambda t: t + np.inf, "hyper_tables__counts": lambda t: t + 1,
        "synthesis__body_in__bias": lambda t: t[:-1],
    }  # fmt: skip
    for name, change in changes.items():
        path = rewrite(tiny_weights, tmp_path / "bad.safetensors", **{name: change})
        with pytest.raises(VaecModelError) as theirs:
            torch_weights.load(path, "cpu")
        with pytest.raises(VaecModelError) as ours:
            NativeEngine(path)
        assert ours.value.code == theirs.value.code, name
    with pytest.raises(VaecModelError, match="cannot read"):
        NativeEngine(tmp_path / "none.safetensors")


def test_a_library_that_is_missing_or_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each with its code."""
    module = sys.modules[library.__module__]
    try:
        library.cache_clear()
        monkeypatch.setattr(module, "ABI_VERSION", 999)
        with pytest.raises(VaecModelError) as error:
            library()
        assert error.value.code == "NATIVE_VERSION"
        monkeypatch.setattr(module, "library_path", lambda: tmp_path / "none.so")
        with pytest.raises(VaecModelError) as error:
            library()
        assert error.value.code == "NATIVE_MISSING"
        assert not is_available()
    finally:
        monkeypatch.undo()
        library.cache_clear()


# --- integers ---------------------------------------------------------------------------------------------------------


def any_z(engine: NativeEngine, rows: int, columns: int, seed: int) -> NDArray[np.int16]:
    """Hyper-latents: small, large and at the ends of their dtype."""
    rng = np.random.default_rng(seed)
    shape = (-(-rows // 4) * -(-columns // 4), engine.arch.hyper_channels)
    z = rng.integers(-12, 13, shape)
    z = np.where(rng.random(shape) < 0.05, rng.integers(-32768, 32768, shape), z)
    return z.astype(np.int16)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 9), (8, 4), (17, 30)])
def test_table_rows_are_exactly_those_of_torch(both: tuple[NativeEngine, Network], rows: int, columns: int) -> None:
    """Of several tiles, all channels and the base."""
    engine, network = both
    z = [any_z(engine, rows, columns, seed) for seed in range(4)]
    for channels in (engine.arch.latent_channels, engine.arch.base_channels):
        expected = network._table_rows(z, rows, columns, QUALITIES, channels)
        np.testing.assert_array_equal(engine.table_indexes(z, rows, columns, QUALITIES, channels), expected)


def test_scales_of_large_integers_are_exact_too(tiny_weights: Path, tmp_path: Path, any_level: Callable) -> None:
    """Weights whose sums exceed 32 bits take another way through the library."""

    def wild(weight: NDArray[np.int16]) -> NDArray[np.int16]:
        return np.random.default_rng(weight.size).choice(
            np.array([-32768, -20000, 9, 30000, 32767], np.int16), weight.shape
        )

    path = rewrite(
        tiny_weights, tmp_path / "wild.safetensors",
        scales__1__weight=wild, scales__2__weight=wild, scales__3__weight=wild,
        scales__shift=lambda t: np.array([t[0], 12, 16, 17], np.int32),
        scales__row_offset=lambda t: np.full_like(t, 32 * 256), scales__3__bias=np.zeros_like,
    )  # fmt: skip
    engine, network = NativeEngine(path, threads=1), torch_weights.load(path, "cpu")
    z = [any_z(engine, 12, 20, seed) for seed in range(4)]
    expected = network._table_rows(z, 12, 20, QUALITIES, engine.arch.latent_channels)
    assert len(np.unique(expected)) > 20
    for name in levels():
        any_level(name)
        found = engine.table_indexes(z, 12, 20, QUALITIES, engine.arch.latent_channels)
        np.testing.assert_array_equal(found, expected, name)


def random_tables(rng: np.random.Generator, rows: int, first: int) -> Tables:
    widths = rng.integers(1, 40, rows)
    widths[-1] = 511
    return from_pmfs([rng.random(2 * w + 1) ** 6 for w in widths], list(rng.random(rows) * 0.2), first_coded_row=first)


def random_passes(rng: np.random.Generator) -> list[coder.Pass]:
    passes = []
    for _ in range(rng.integers(1, 4)):
        tables = random_tables(rng, int(rng.integers(2, 20)), int(rng.integers(0, 2)))
        rows = rng.integers(0, tables.rows, int(rng.integers(0, 700))).astype(np.uint8)
        spread = np.where(rng.random(rows.size) < 0.1, ESCAPE_LIMIT, 4)
        symbols = np.clip(np.rint(rng.normal(0, spread)), -ESCAPE_LIMIT, ESCAPE_LIMIT).astype(np.int32)
        symbols[rows < tables.first_coded_row] = 0
        passes.append(coder.Pass(tables, rows, symbols))
    return passes


def test_payloads_are_byte_for_byte_those_of_the_coder() -> None:
    """And are read back."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        passes = random_passes(rng)
        payload = coder.encode(passes)
        assert rans.encode(passes) == payload
        decoder = rans.Decoder(payload)
        for tables, rows, symbols in passes:
            np.testing.assert_array_equal(decoder.read(tables, rows), symbols)
        decoder.finish()


def outcome(decoder_of: Callable, payload: bytes, passes: list[coder.Pass]) -> str | list[bytes]:
    try:
        decoder = decoder_of(payload)
        symbols = [decoder.read(tables, rows).tobytes() for tables, rows, _ in passes]
        decoder.finish()
        return symbols
    except VaecCorruptError as error:
        return error.code


def test_damaged_payloads_are_refused_with_the_same_codes() -> None:
    """Cut, lengthened, with bits flipped, and made up."""
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
        assert outcome(rans.Decoder, bytes(damaged), passes) == expected
        seen.add(expected if isinstance(expected, str) else "read")
    assert seen == {"CODER_WORDS", "CODER_STATE", "ESCAPE_RANGE", "CODER_END", "read"}


def test_rows_and_symbols_out_of_range_are_refused() -> None:
    """As by the coder: before the library sees them; and by the library itself."""
    tables = random_tables(np.random.default_rng(0), 4, 0)
    with pytest.raises(ValueError, match="rows lie"):
        rans.Decoder(b"VAE\x01").read(tables, np.array([4], np.uint8))
    with pytest.raises(TypeError):
        rans.Decoder(b"VAE\x01").read(tables, np.zeros(3))
    with pytest.raises(ValueError, match="symbols lie"):
        rans.encode([coder.Pass(tables, np.zeros(1, np.uint8), np.array([2048]))])
    with pytest.raises(ValueError, match="native engine"):
        rans.Decoder(b"VAE\x01").read_group(
            tables, 0, rans.Grid(2, 2, 8), np.full((4, 8), 4, np.uint8), np.zeros((4, 8), np.int16)
        )
    with pytest.raises(ValueError, match="no such group"):
        rans.Decoder(b"VAE\x01").read_group(
            tables, 0, rans.Grid(3, 2, 8), np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.int16)
        )


def test_quantization_is_that_of_torch() -> None:
    """Ties, escapes, skipped rows, and residuals beyond all tables."""
    rng = np.random.default_rng(3)
    tables = random_tables(rng, 12, 3)
    rows = rng.integers(0, 12, 60_000).astype(np.uint8)
    residual = rng.normal(0, rng.choice([0.3, 2, 30, 4000], rows.size)).astype(np.float32)
    residual[::7] = np.rint(residual[::7]) + 0.5
    for ours, theirs in ((nearest, quantization.nearest), (worthwhile, quantization.worthwhile)):
        expected = theirs(torch.from_numpy(residual), rows, tables)
        np.testing.assert_array_equal(ours(residual, rows, tables), expected)
        residual_with_nan = np.append(residual, np.float32(np.nan))
        with pytest.raises(VaecModelError) as error:
            ours(residual_with_nan, np.append(rows, np.uint8(0)), tables)
        assert error.value.code == "MODEL_VALUES"


# --- floats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_analysis(both: tuple[NativeEngine, Network], size: tuple[int, int], quality: int) -> None:
    """Latents, and hyper-latents, of sizes that are and are not multiples of 64 pixels."""
    engine, network = both
    pixels = picture(*size)
    y = network.analyze(pixels, quality)
    found = engine.analyze(pixels, quality)
    assert found.transpose(1, 2, 0).flags.c_contiguous
    assert_close(found, y)
    steps, z = engine.hyper_analyze(y.numpy(), quality)
    expected = network.to_steps(y, quality)
    assert_close(steps, expected.y)
    assert_close(z, expected.z.permute(1, 2, 0).flatten(0, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_symbols_are_chosen_coded_and_read_as_by_torch(
    both: tuple[NativeEngine, Network], size: tuple[int, int], quality: int
) -> None:
    """All but a symbol or two that lie on the edge of rounding; payloads of given symbols exactly."""
    engine, network = both
    latents = latents_of(network, size, quality)
    rows, columns = latents.y.shape[1:]
    expected, y_hat = network.choose(latents, quality)
    found, own_y_hat = engine.choose(latents.y.numpy(), by_position(latents.z), quality)
    np.testing.assert_array_equal(found.z, expected.z)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert np.count_nonzero(found.y != expected.y) <= max(1, expected.y.size // 10_000)
    if np.array_equal(found.y, expected.y):
        assert_close(own_y_hat, y_hat)

    payload = coder.encode([coder.Pass(*coded) for coded in network.coded(expected, rows, columns, quality)])
    assert engine.write_symbols(expected, rows, columns, quality) == payload
    read = engine.read_symbols(payload, rows, columns, quality)
    for ours, theirs in zip(read, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    base = engine.read_symbols(payload, rows, columns, quality, base_only=True)
    np.testing.assert_array_equal(base.y, expected.y[:, : engine.arch.base_channels])
    decoder = engine.Decoder(payload)
    walked = network.walk_latents(rows, columns, quality, decoder.read)
    decoder.finish()
    np.testing.assert_array_equal(walked.y, expected.y)

    assert_close(
        engine.dequantize([read], rows, columns, [quality])[0],
        network.dequantize([expected], rows, columns, [quality])[0],
    )
    of_base = Symbols(*base)
    assert_close(
        engine.dequantize([base], rows, columns, [quality])[0],
        network.dequantize([of_base], rows, columns, [quality])[0],
    )


@pytest.mark.parametrize("size", SIZES)
def test_synthesis(both: tuple[NativeEngine, Network], size: tuple[int, int]) -> None:
    """Several tiles of several qualities and deblocking cuts."""
    engine, network = both
    found = [network.choose(latents_of(network, size, q, seed=q), q)[1] for q in QUALITIES]
    y_hat = torch.stack(found)
    cuts = [0, 17, 40, 64]
    expected, faults = network.synthesize_together(y_hat, QUALITIES, cuts)
    pixels, is_finite = engine.synthesize(y_hat.numpy(), QUALITIES, cuts)
    assert is_finite == [True] * 4
    assert faults == [None] * 4
    assert_same_picture(pixels, expected)
    for scale in (2, 4, 8):
        assert_same_picture(engine.preview(found[1].numpy(), scale), network.preview(found[1], scale))
    base = found[1][: engine.arch.base_channels]
    assert_same_picture(engine.preview(base.numpy(), 8), network.preview(base, 8))


@pytest.mark.parametrize("growth", [0, 3, 12])
def test_deblocking_cuts_fit_the_original(both: tuple[NativeEngine, Network], growth: int) -> None:
    """Originals without and with a grid of their own; the whole picture and a part of it."""
    engine, network = both
    pixels = picture(112, 144).astype(int)
    pixels[:, :] += growth * ((np.arange(112) // 16 % 2)[:, None, None] + (np.arange(144) // 16 % 2)[None, :, None])
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    _, y_hat = network.choose(latents_of(network, (112, 144), 60), 60)
    for inside in ((slice(0, 112), slice(0, 144)), (slice(16, 85), slice(32, 133))):
        expected, cut = network.synthesize_like(y_hat, 60, pixels[inside], inside)
        found, own_cut = engine.synthesize_like(y_hat.numpy(), 60, pixels[inside], inside)
        assert own_cut is not None
        assert abs(own_cut - cut) <= 1
        if own_cut == cut:
            assert_same_picture(found, expected)


def test_latents_out_of_the_range_of_numbers_are_noticed(engine: NativeEngine) -> None:
    """Of the tile at fault only."""
    y_hat = np.zeros((3, engine.arch.latent_channels, 2, 3), np.float32)
    y_hat[1, 5, 1, 1] = 3e38
    y_hat[2, 7, 0, 0] = np.nan
    assert engine.synthesize(y_hat, [50] * 3, [0] * 3)[1] == [True, False, False]
    assert (
        engine.synthesize_like(y_hat[2], 50, np.zeros((32, 48, 3), np.uint8), (slice(0, 32), slice(0, 48)))[1] is None
    )


def test_sizes_that_do_not_fit_are_refused(engine: NativeEngine) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match="do not fit"):
        engine.analyze(np.zeros((20, 16, 3), np.uint8), 50)
    with pytest.raises(ValueError, match="do not fit"):
        engine.analyze(np.zeros((16, 16, 3), np.uint8), 101)
    with pytest.raises(ValueError, match="do not fit"):
        engine.table_indexes([np.zeros((2, 96), np.int16)], 4, 4, [50], 384)
    with pytest.raises(ValueError, match="do not fit"):
        engine.synthesize(np.zeros((1, 383, 2, 2), np.float32), [50], [0])
    with pytest.raises(ValueError, match="do not fit"):
        engine.preview(np.zeros((47, 2, 2), np.float32), 8)
    with pytest.raises(ValueError, match="symbols have shapes"):
        engine.predict(
            [np.zeros((1, 96), np.int16)], 4, 4, [50], lambda *_: [np.zeros((16, 3), np.int16)], channels=384
        )


def test_arrays_of_latents_lie_by_position(engine: NativeEngine) -> None:
    """Zeros, and neighbours joined along either axis."""
    left, right = engine.zeros(2, 3), engine.zeros(2, 4) + 1
    joined = engine.concat([left, right], 2)
    assert joined.shape == (384, 2, 7)
    assert joined.transpose(1, 2, 0).flags.c_contiguous
    assert engine.concat([left, left], 1).shape == (384, 4, 3)
    assert engine.concat([np.zeros((2, 3, 3), np.uint8)] * 2, 1).shape == (2, 6, 3)
    assert engine.to_numpy(joined) is joined


# --- whole files ------------------------------------------------------------------------------------------------------


class Adapted(Network):
    """The torch network with its work done by a native engine."""

    def __init__(self, network: Network, engine: NativeEngine) -> None:
        self.__dict__.update(network.__dict__)
        self.engine = engine

    def _table_rows(self, z, rows, columns, qualities, channels):  # type: ignore[no-untyped-def]
        return self.engine.table_indexes(z, rows, columns, qualities, channels)

    def dequantize(self, symbols, rows, columns, qualities):  # type: ignore[no-untyped-def]
        return torch.from_numpy(self.engine.dequantize(symbols, rows, columns, qualities))

    def synthesize_together(self, y_hat, qualities, deblocking_cuts):  # type: ignore[no-untyped-def]
        pixels, is_finite = self.engine.synthesize(y_hat.numpy(), qualities, deblocking_cuts)
        return torch.from_numpy(pixels), [None if ok else torch_network._not_finite() for ok in is_finite]

    def preview(self, y_hat, scale):  # type: ignore[no-untyped-def]
        return torch.from_numpy(self.engine.preview(y_hat.numpy(), scale))


@pytest.mark.parametrize("name", conformance.manifest()["valid"])
def test_conformance_vectors_decode(
    shipped: Codec, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """To the pictures of the manifest, by the native engine and the native coder."""
    adapted = Adapted(shipped.network, engine)
    monkeypatch.setattr(Codec, "network", property(lambda _: adapted))
    monkeypatch.setattr(coder, "Decoder", rans.Decoder)
    conformance.check_valid(shipped, name, conformance.manifest()["valid"][name])


# --- the same bits everywhere -----------------------------------------------------------------------------------------


def digest_of(engine: NativeEngine, size: tuple[int, int], quality: int) -> str:
    """Of everything that the engine computes on the way from pixels to pixels."""
    pixels = picture(*size)
    y = engine.analyze(pixels, quality)
    steps, z = engine.hyper_analyze(y, quality)
    symbols, y_hat = engine.choose(steps, z, quality)
    rows, columns = y.shape[1:]
    again = engine.dequantize([symbols], rows, columns, [quality])
    shown, _ = engine.synthesize(again, [quality], [9])
    like, cut = engine.synthesize_like(y_hat, quality, pixels, (slice(0, size[0]), slice(0, size[1])))
    small = [engine.preview(y_hat, scale) for scale in (2, 4, 8)]
    parts = [y, steps, z, *symbols, y_hat, again, shown, like, *small]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + str(cut).encode()).hexdigest()


@pytest.mark.parametrize("size", [(48, 80), (112, 208)])
def test_bits_are_the_same_on_all_instruction_sets_and_numbers_of_threads(
    tiny_weights: Path, any_level: Callable, size: tuple[int, int]
) -> None:
    """Of the shipped weights and of such whose widths are odd."""
    for path in (None, tiny_weights):
        engine, found = NativeEngine(path), {}
        for name in levels():
            any_level(name)
            for threads in (1, 2, 3):
                engine.threads = threads
                found[name, threads] = digest_of(engine, size, 70)
        assert len(set(found.values())) == 1, found


def test_an_unknown_instruction_set_is_refused(any_level: Callable) -> None:
    """With the names of those that are there."""
    with pytest.raises(VaecModelError, match="baseline"):
        any_level("mmx")


# --- without torch, and in forked processes ---------------------------------------------------------------------------


def run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_works_where_torch_is_not_installed(tiny_weights: Path) -> None:
    """Loading, encoding and decoding import none of it."""
    script = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from vaecodec.model.native_engine import NativeEngine
engine = NativeEngine(Path(sys.argv[1]))
y = engine.analyze(np.zeros((32, 48, 3), np.uint8), 50)
symbols, _ = engine.choose(*engine.hyper_analyze(y, 50), 50)
payload = engine.write_symbols(symbols, 2, 3, 50)
read = engine.read_symbols(payload, 2, 3, 50)
print(engine.synthesize(engine.dequantize([read], 2, 3, [50]), [50], [0])[0].shape)
"""
    assert run(script, str(tiny_weights)) == "(1, 32, 48, 3)\n"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there are no forks here")
def test_forked_processes_go_on(tiny_weights: Path) -> None:
    """The threads of the parent are not there; new ones are started."""
    script = """
import os, sys
from pathlib import Path
import numpy as np
from vaecodec.model.native_engine import NativeEngine
engine = NativeEngine(Path(sys.argv[1]), threads=3)
y = np.random.default_rng(0).normal(size=(1, engine.arch.latent_channels, 20, 30)).astype(np.float32)
before = engine.synthesize(y, [50], [0])[0]
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(engine.synthesize(y, [50], [0])[0], before) else 1)
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    assert run(script, str(tiny_weights)) == "done\n"


def test_threads_of_the_caller_may_share_an_engine(tiny_engine: NativeEngine) -> None:
    """Whoever finds the pool busy works alone."""
    from concurrent.futures import ThreadPoolExecutor

    y = np.random.default_rng(0).normal(size=(1, tiny_engine.arch.latent_channels, 12, 13)).astype(np.float32)
    expected = tiny_engine.synthesize(y, [50], [0])[0]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tiny_engine.synthesize(y, [50], [0])[0], range(40)))
    assert all(np.array_equal(expected, each) for each in results)
