"""The engine is a seam: symbols are read with whatever stands behind the protocol, and torch's engine keeps to it."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from exactness.numpy_engine import NumpyEngine

from vaecodec import Codec
from vaecodec.cli import conformance
from vaecodec.format import container
from vaecodec.format.records import Tile, TileBox, TileMode
from vaecodec.model import weights
from vaecodec.model.architecture import Architecture, float_shapes
from vaecodec.model.engine import Engine
from vaecodec.model.native_engine.binding import is_available
from vaecodec.model.torch_engine import engine as torch_engine
from vaecodec.tiling.canvas import Rect
from vaecodec.tiling.tile import decode_symbols, read_symbols

ROOT = Path(__file__).parents[1]
VALID = conformance.manifest()["valid"]
# That of the weights for the eye is the only one of another model.
LEARNED = [name for name, facts in VALID.items() if "learned" in facts["tiles"] and name != "encoder-eye"]
MEMBERS = sorted(name for name in vars(Engine) if not name.startswith("_"))


@pytest.fixture(scope="module")
def numpy_engine() -> NumpyEngine:
    """The weights of the conformance vectors in int64."""
    return NumpyEngine(weights.load(tune="psnr"))


def learned_tiles(name: str) -> Iterator[tuple[Tile, TileBox, int]]:
    """Of a vector: each learned tile, where it lies, and the quality."""
    stream = container.read((conformance.folder() / "vectors" / f"{name}.vaec").read_bytes())
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        if tile and tile.mode == TileMode.LEARNED:
            yield tile, box, stream.header.quality


def test_most_vectors_are_learned() -> None:
    """So that the law below says something."""
    assert len(LEARNED) > 40


@pytest.mark.parametrize("name", LEARNED)
def test_an_engine_in_numpy_reads_the_symbols(name: str, numpy_engine: NumpyEngine) -> None:
    """Of every learned tile those that have the stored CRC, and of the base alone the same: as torch's engine does."""
    torch_engine = Codec(None, "cpu", "psnr", "torch").engine
    for tile, box, quality in learned_tiles(name):
        size = Rect.of(box).latents.size
        symbols = decode_symbols(numpy_engine, tile, size, quality)  # raises if their CRC is another
        (base,) = read_symbols(numpy_engine, [tile], size, [quality], base_only=True)
        for found, of_base, expected in zip(
            symbols, base, decode_symbols(torch_engine, tile, size, quality), strict=True
        ):
            assert np.array_equal(found, expected)
            assert np.array_equal(of_base, expected[:, : of_base.shape[1]] if of_base.ndim == 2 else expected)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it gets an error
from exactness.numpy_engine import NumpyEngine
from vaecodec.format import container
from vaecodec.model import weights
from vaecodec.tiling.tile import decode_symbols
stream = container.read(open(sys.argv[1], "rb").read())
(tile,), header = stream.tiles, stream.header
size = -(-header.height // 16), -(-header.width // 16)
print(decode_symbols(NumpyEngine(weights.load(tune="psnr")), tile, size, header.quality).y.shape)
"""


def test_reading_symbols_takes_no_torch() -> None:
    """Weights, format, entropy coder and the walk over symbols work where torch is not installed."""
    path = conformance.folder() / "vectors" / "size-33x47.vaec"
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path)]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"({3 * 3}, {Architecture().latent_channels})"


@pytest.mark.parametrize("kind", ["native", "torch", "numpy"])
def test_engines_have_what_the_protocol_names(kind: str, numpy_engine: NumpyEngine) -> None:
    """Every member, and methods with the same parameters."""
    if kind == "native" and not is_available():
        pytest.skip("the native library is not built: make core")
    engine = numpy_engine if kind == "numpy" else Codec(None, "cpu", engine=kind).engine
    for name in MEMBERS:
        found, declared = getattr(engine, name), vars(Engine)[name]
        assert callable(found) == callable(declared), name
        if callable(found) and found.__name__ != "_missing":
            expected = [*inspect.signature(declared).parameters][1:]  # without self
            assert [*inspect.signature(found).parameters] == expected, name


@pytest.mark.parametrize("arch", [Architecture(), TINY], ids=["default", "tiny"])
def test_the_schema_is_what_the_network_has(arch: Architecture) -> None:
    """The names and shapes that weights files are checked against are those of the modules, in plain data."""
    state = torch_engine.empty(arch).state_dict()
    assert float_shapes(arch) == {name: tuple(values.shape) for name, values in state.items()}


LOADED = """
import sys
from vaecodec.model import weights
from vaecodec.model.torch_engine import engine
engine.load(weights.load(), "cpu")
print([name for name in ("sympy", "mpmath") if name in sys.modules])
"""


def test_loading_does_not_import_sympy() -> None:
    """Torch does on its meta device for some functions, which takes half a second."""
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
