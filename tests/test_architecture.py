"""The import table is the architecture: who may import whom, and who may touch torch."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from vaecodec import Codec

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import complexity  # noqa: E402

PACKAGE = ROOT / "vaecodec"

# room: (rooms it may import, third-party packages it may import). docs/architecture.md shows the same table.
TABLE = {
    "errors": (set(), set()),
    "files": (set(), set()),
    "forks": (set(), set()),
    "memory": ({"errors"}, set()),
    "records": ({"errors"}, set()),
    "checks": ({"errors", "records"}, set()),
    "bitstream": ({"checks", "errors", "records"}, set()),
    "sources": ({"bitstream", "errors"}, set()),
    "metadata": ({"errors"}, {"PIL"}),
    "pixels": ({"errors", "metadata"}, {"numpy", "PIL"}),
    "targets": ({"errors"}, set()),
    "entropy": ({"errors", "entropy"}, {"numpy", "constriction"}),
    "model": ({"errors", "entropy", "files", "forks", "memory", "model"}, {"numpy", "torch", "safetensors"}),
    "rows": ({"errors"}, {"numpy"}),
    "canvas": ({"bitstream", "memory", "pixels"}, {"numpy"}),
    "grid": ({"bitstream", "canvas"}, {"numpy"}),
    "tile": ({"bitstream", "entropy", "errors", "pixels"}, {"numpy"}),
    "decoder": (
        {"batches", "bitstream", "canvas", "errors", "grid", "memory", "pixels", "tile"}, {"numpy"}
    ),
    "encoder": ({"bitstream", "canvas", "grid", "pixels", "rows", "tile"}, set()),
    "tiles": ({"bitstream", "canvas", "decoder", "encoder", "errors", "grid", "rows", "tile"}, {"numpy"}),
    "together": ({"bitstream", "canvas", "decoder", "entropy", "errors", "tile"}, {"numpy"}),
    "latents": ({"bitstream", "entropy", "errors", "pixels", "tiles"}, {"numpy"}),
    "thumbnails": ({"bitstream", "errors", "pixels", "rows"}, {"numpy"}),
    "payloads": ({"bitstream", "errors", "files"}, set()),
    "rasters": ({"bitstream", "errors", "files", "metadata", "pixels", "rasters", "rows"}, {"numpy", "PIL", "pyvips"}),
    "streaming": (
        {
            "bitstream", "errors", "files", "memory", "metadata", "payloads", "pixels", "rasters", "rows", "sources",
            "targets", "thumbnails", "tiles",
        },
        {"numpy"},
    ),
    "exploring": (
        {"bitstream", "errors", "latents", "memory", "pixels", "sources", "streaming", "targets"}, {"numpy", "PIL"}
    ),
    "batches": ({"errors"}, {"torch"}),
    "batch_codec": (
        {
            "batches", "bitstream", "errors", "exploring", "memory", "pixels", "sources", "streaming", "tiles",
            "together",
        },
        set(),
    ),
    "codec": (
        {
            "batch_codec", "bitstream", "errors", "memory", "metadata", "model", "pixels", "rasters", "rows", "sources",
            "streaming", "targets", "thumbnails", "tiles",
        },
        {"numpy", "PIL"},
    ),
    "pillow_plugin": ({"bitstream", "codec", "errors", "sources"}, {"PIL"}),
    "data": ({"bitstream", "codec", "errors", "sources"}, set()),
    "transcode": (
        {"bitstream", "codec", "errors", "files", "pixels", "transcode"}, {"numpy", "PIL", "fsspec", "ray"}
    ),
    "pages": ({"pages"}, {"numpy", "PIL"}),
    "cli": (
        {
            "", "bitstream", "cli", "codec", "errors", "files", "metadata", "model", "pages", "pixels", "rasters",
            "sources", "training", "transcode",
        },
        {"PIL", "click", "numpy", "rich", "pytorch_msssim", "ssimulacra2"},
    ),
    "__init__": ({"bitstream", "codec", "errors", "forks", "pillow_plugin", "sources"}, set()),
    "__main__": ({"cli"}, set()),
    "training": (
        {"entropy", "errors", "model", "pixels", "tiles", "training"}, {"numpy", "torch", "PIL"}
    ),
}  # fmt: skip


def room_of(path: Path) -> str:
    """The room of a file: its folder in the package, or its own name."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports_of(path: Path) -> set[tuple[str, str]]:
    """(package, room) of every import in a file, except those that only type checkers see."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], ".".join(alias.name.split(".")[1:2])) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            package, *rest = (node.module or "").split(".")
            if package == "vaecodec" and not rest:
                found |= {(package, alias.name) for alias in node.names}
            else:
                found.add((package, rest[0] if rest else ""))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    """A file imports only the rooms and packages that its room may."""
    rooms, packages = TABLE[room_of(path)]
    for package, room in imports_of(path):
        if package == "vaecodec":
            name = room if (PACKAGE / f"{room}.py").exists() or (PACKAGE / room).is_dir() else ""
            assert name in rooms, f"{path.name} imports vaecodec.{room}"
        elif package not in sys.stdlib_module_names:
            assert package in packages, f"{path.name} imports {package}"


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
        if room_of(path) != "training":
            assert not forbidden.search(path.read_text()), path


def test_the_document_shows_this_table() -> None:
    """docs/architecture.md lists every room."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    missing = [room for room in TABLE if not room.startswith("_") and f"| `{room}" not in text]
    assert not missing


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
    network, numbers = shipped.network, ("four", "five", "six", "seven", "eight")
    for claim in (
        f"{counted['parameters'] / 1e6:.1f} M parameters",
        f"A decoder runs {counted['decode_kmac_per_pixel']:.1f}, an encoder {counted['encode_kmac_per_pixel']:.1f}",
        f"({numbers[network.analysis_margin - 4]} latents around\na tile in analysis, "
        f"{numbers[network.synthesis_margin - 4]} in synthesis)",
        f"{numbers[network.vae.arch.analysis_blocks - 4]} blocks of {network.vae.arch.analysis_channels} channels",
        f"There are {network.vae.arch.latent_channels} latents",
    ):
        assert claim in text, claim
    card = (ROOT / "pretrained" / "README.md").read_text()
    decoded, encoded = (f"{counted[f'{way}_kmac_per_pixel']:.1f}" for way in ("decode", "encode"))
    assert f"decoding {decoded} kMAC per pixel, encoding {encoded}" in card
    assert f"{counted['parameters'] / 1e6:.1f} M; file" in card
