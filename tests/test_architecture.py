"""The import table is the architecture: who may import whom, and who may touch torch."""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from vaecodec import Codec
from vaecodec.model.native_engine import binding

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import complexity  # noqa: E402

PACKAGE = ROOT / "vaecodec"

# Room: rooms that it may import beside itself, and packages.
TABLE = {
    "errors": (set(), set()),
    "runtime": ({"errors"}, set()),
    "format": ({"errors", "runtime"}, set()),
    "entropy": ({"errors"}, {"PIL", "numpy", "constriction"}),
    "pictures": (
        {"errors", "format", "runtime"},
        {"numpy", "PIL", "pillow_avif", "pillow_heif", "pillow_jxl", "pyvips"},
    ),
    "model": ({"entropy", "errors", "runtime"}, {"numpy", "safetensors"}),
    "model/native_engine": ({"entropy", "errors", "model"}, {"numpy"}),
    "model/torch_engine": ({"entropy", "errors", "model", "runtime"}, {"numpy", "torch"}),
    "tiling": ({"entropy", "errors", "format", "model", "pictures", "runtime"}, {"numpy"}),
    "codec": ({"errors", "format", "model", "pictures", "runtime", "tiling", "training"}, {"PIL", "torch"}),
    "interop": (
        {"codec", "errors", "format", "model", "pictures", "runtime", "tiling", "training"},
        {"PIL", "compressai", "numcodecs", "numpy", "torch", "zarr"},
    ),
    "data": ({"codec", "errors", "format"}, {"torch"}),
    "cli": (
        {"codec", "errors", "format", "model", "pictures", "runtime", "training"},
        {"PIL", "click", "fsspec", "numpy", "pytorch_msssim", "ray", "rich"},
    ),
    "training": ({"entropy", "errors", "model", "pictures"}, {"PIL", "compressai", "numpy", "torch"}),
    "__init__": ({"codec", "errors", "format", "interop", "runtime"}, set()),
    "__main__": ({"cli"}, set()),
}
ENGINES = {"model/native_engine", "model/torch_engine"}  # of the model, the rest does not know them
LOADERS = {"codec", "cli", "interop", "training"}  # may reach into an engine; everyone else sees the protocol
CHOICE = PACKAGE / "model" / "engines.py"  # which engine computes
SERVER = PACKAGE / "cli" / "viewer.py"  # of pages to this machine; it asks nobody
MOST_NAMES = 12


def room_of(path: Path) -> str:
    """The room of a file: its folder in the package, or its own name."""
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) == 1:
        return relative.stem
    engine = "/".join(relative.parts[:2])
    return engine if engine in ENGINES else relative.parts[0]


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, those that only type checkers see included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    """A file imports only the rooms and packages that its room may; an engine only where engines are loaded."""
    room = room_of(path)
    rooms, packages = TABLE[room]
    for name in imports_of(path):
        package, *rest = name.split(".")
        if package != "vaecodec":
            assert package in packages or package in sys.stdlib_module_names, f"{path.name} imports {package}"
        elif name not in ("vaecodec", "vaecodec.__version__"):
            assert rest[0] in {room.split("/")[0], *rooms}, f"{path.name} imports vaecodec.{rest[0]}"
            if "/".join(rest[:2]) in ENGINES:
                assert room in LOADERS | ENGINES or path == CHOICE, f"{path.name} reaches into {'/'.join(rest[:2])}"


def test_the_house_is_small() -> None:
    """No more names stand at the top of the package than fit into a head."""
    names = {path.relative_to(PACKAGE).parts[0] for path in FILES} - {"__init__.py", "__main__.py"}
    assert len(names) <= MOST_NAMES, sorted(names)
    assert {name.removesuffix(".py") for name in names} | ENGINES | {"__init__", "__main__"} == TABLE.keys()


def test_every_file_says_what_lives_there() -> None:
    """The first line of every file is a sentence about it."""
    for path in FILES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert docstring.splitlines()[0].rstrip().endswith((".", ":", ",")), path


def test_nothing_at_run_time_unpickles_evaluates_or_downloads() -> None:
    """No pickle, eval, shell or network call outside training."""
    forbidden = re.compile(
        r"torch\.load|import pickle|pickle\.load|(?<![.\w])(eval|exec)\(|shell=True|urllib|requests|https?:"
    )
    for path in FILES:
        if room_of(path) != "training" and path != SERVER:
            assert not forbidden.search(path.read_text()), path


def test_the_document_shows_this_table() -> None:
    """docs/architecture.md has every room with its imports, column by column."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/]+?)/?` \|[^|]*(?:\|[^|]*?\|[^|]*)?\| ([^|]*)\| ([^|]*)\|$", text, re.MULTILINE)
    shown = {room: tuple(set(re.findall(r"\w+", cell)) for cell in cells) for room, *cells in rows}
    assert shown == {room: sides for room, sides in TABLE.items() if not room.startswith("_")}


def test_the_document_counts_what_the_shipped_network_computes(shipped: Codec) -> None:
    """Operations, parameters and margins, in docs/architecture.md and in the record, are those of the weights."""
    counted = complexity.count()
    assert json.loads((ROOT / "benchmarks" / "results" / "complexity.json").read_text()) == counted
    parts = counted["kmac_per_pixel"]
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = dict(re.findall(r"^\| ([a-z-]+(?: network| and context)?)[^|]*\|[^|]*\| ([\d.]+) \|$", text, re.MULTILINE))
    assert table == {
        "analysis": f"{parts['analysis']:.1f}",
        "hyper-analysis": f"{parts['hyper_analysis']:.1f}",
        "scale network": f"{parts['scale_network']:.1f}",
        "hyper-synthesis and context": f"{parts['hyper_synthesis'] + parts['context']:.1f}",
        "synthesis": f"{parts['synthesis']:.1f}",
    }
    engine, numbers = shipped.engine, ("four", "five", "six", "seven", "eight")
    for claim in (
        f"{counted['parameters'] / 1e6:.1f} M parameters",
        f"A decoder runs {counted['decode_kmac_per_pixel']:.1f}, an encoder {counted['encode_kmac_per_pixel']:.1f}",
        f"({numbers[engine.arch.analysis_margin - 4]} latents around\na tile in analysis, "
        f"{numbers[engine.arch.synthesis_margin - 4]} in synthesis)",
        f"{numbers[engine.arch.analysis_blocks - 4]} blocks of {engine.arch.analysis_channels} channels",
        f"There are {engine.arch.latent_channels} latents",
    ):
        assert claim in text, claim
    card = (ROOT / "pretrained" / "README.md").read_text()
    decoded, encoded = (f"{counted[f'{way}_kmac_per_pixel']:.1f}" for way in ("decode", "encode"))
    assert f"decoding {decoded} kMAC per pixel, encoding {encoded}" in card
    assert f"{counted['parameters'] / 1e6:.1f} M; file" in card


@pytest.mark.skipif(not binding.is_available(), reason="counts the path through the native engine")
def test_one_tile_goes_through_few_files() -> None:
    """Whoever reads the path of a warm encode or decode, array in, array out, reads at most 14 files."""
    codec, picture = Codec(device="cpu", engine="native"), np.tile(np.arange(64, dtype=np.uint8)[:, None, None], 3)
    picture = np.repeat(picture, 64, 1)
    data = codec.encode(picture)
    codec.decode(data, output="numpy")
    for work in (lambda: codec.encode(picture), lambda: codec.decode(data, output="numpy")):
        assert 8 < len(_files_of(work)) <= 14


def _files_of(work: Callable[[], object]) -> set[Path]:
    """The files of the package whose functions a call calls."""
    seen: set[Path] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            seen.add(path)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen
