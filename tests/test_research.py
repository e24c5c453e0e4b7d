"""The notebook for researchers runs as it is, the figure is drawn from the records, and the page names all of them."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from PIL import Image
from torch import Tensor, nn

import vaecodec
from vaecodec.format import container

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

NOTEBOOK = ROOT / "examples" / "research.ipynb"
RECORDS = sorted((ROOT / "benchmarks" / "results" / "training").glob("*.json"))


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last, in its own folder, with its own assertions; nothing of a run is kept in it."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    client = nbclient.NotebookClient(
        notebook, timeout=600, startup_timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "payload" in said and "more bytes without the context" in said and "What is the context worth?" in said


def test_the_figure_is_drawn_from_the_records(tmp_path: Path) -> None:
    """By one command, wherever it is asked for."""
    pytest.importorskip("matplotlib")
    from benchmarks import ablations

    assert ablations.main(["--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as figure:
        assert figure.width > 800
        with Image.open(ROOT / "docs" / "pictures" / "ablations.png") as committed:
            assert committed.size == figure.size


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_ablation_is_told(path: Path) -> None:
    """Each record has a question and its numbers, and a page that names it."""
    found = json.loads(path.read_text())
    assert path.stem == "learning" or found["question"]
    pages = [(ROOT / "docs" / name).read_text() for name in ("training.md", "research.md")]
    assert any(re.search(rf"\b{path.name}\b", page) for page in pages) or path.stem == "learning"


def code_of_the_page() -> dict[str, Any]:
    """What the page's blocks of code define."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "research.md").read_text(), re.DOTALL):
        exec(block, names)
    return names


def test_bits_of_the_page_are_those_of_the_file() -> None:
    """The sum over z and the groups of y is the payload, but for its last words."""
    image = Image.fromarray(picture(96, 128))
    (tile,) = container.read(vaecodec.Codec().encode(image, 60)).tiles
    bits = code_of_the_page()["payload_bits"](image, 60)
    assert len(bits) >= 5
    assert sum(bits) / 8 == pytest.approx(len(tile.payload), abs=8 + 0.01 * len(tile.payload))


def test_a_changed_part_is_trained_and_compared(tmp_path: Path) -> None:
    """The page's loop takes steps with any part in place of one; its comparison tells two curves apart."""
    pytest.importorskip("bjontegaard")
    for number in range(2):
        Image.fromarray(picture(128, 128, seed=number)).save(tmp_path / f"{number}.png")
    names, seen = code_of_the_page(), list[str]()

    class NoContext(nn.Module):
        def forward(self, first_half: Tensor, features: Tensor, mean: Tensor) -> Tensor:
            seen.append("called")
            return mean

    def change(model: nn.Module) -> None:
        model.vae.context = NoContext()

    length = {"steps": 1, "patch_px": 64, "final_patch_px": 64, "batch": 1}
    without = names["trained"](change, tmp_path, tmp_path, **length)
    whole = names["trained"](lambda model: None, tmp_path, tmp_path, **length)
    assert seen and names["difference"](whole, without) > 2
