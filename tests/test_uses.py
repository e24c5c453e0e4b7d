"""Laws of the examples on latents and of the script that records docs/uses.md: what is measured, and what is told."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from benchmarks import denoising, uses
from vaecodec.pictures.pixels import psnr_db

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    """A file of examples/ as a module."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


# --- the examples -----------------------------------------------------------------------------------------------------


def test_tiles_are_whole_and_apart() -> None:
    """Every tile lies inside, row by row, and what does not fit is left out."""
    numbered = np.arange(70 * 100 * 3, dtype=np.uint32).reshape(70, 100, 3)
    tiles = example("sources").tiles_of(numbered, 32)
    assert [tile[0, 0, 0] for tile in tiles] == [numbered[top, left, 0] for top in (0, 32) for left in (0, 32, 64)]
    assert {tile.shape for tile in tiles} == {(32, 32, 3)}


def test_surfaces_are_trained_and_tested_on_other_places() -> None:
    """No tile of the upper half, however turned or mirrored, is one of the lower half; three kinds, equally many."""
    classify = example("classify")
    (upper, labels), (lower, expected) = classify.surfaces("upper"), classify.surfaces("lower")
    assert not {np.sort(tile, None).tobytes() for tile in upper} & {np.sort(tile, None).tobytes() for tile in lower}
    assert np.array_equal(np.bincount(labels), np.bincount(expected))
    assert len(set(np.bincount(labels))) == 1 and len(np.bincount(labels)) == 3


@pytest.mark.slow
def test_the_classifier_tells_its_figures(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sets are measured and printed, and the JSON holds what is printed; surfaces are told well above chance."""
    path = tmp_path / "found.json"
    results = example("classify").main(["--model", str(tiny_weights), "--digits", "80", "--json", str(path)])
    assert json.loads(path.read_text()) == {"quality": 50, **results}
    assert results["digits"]["pictures"] == 80
    assert 0 <= results["digits"]["latents_accuracy"] <= 1
    assert results["surfaces"]["latents_accuracy"] > 0.8
    assert f"{results['surfaces']['latents_accuracy']:.1%}" in capsys.readouterr().out


@pytest.mark.slow
def test_noise_is_odd(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of odd picture is scored, and noise costs more bits than photographs."""
    path, odd_pictures = tmp_path / "found.json", example("odd_pictures")
    monkeypatch.setattr(odd_pictures, "FEW", 8)
    results = odd_pictures.main(["--model", str(tiny_weights), "--json", str(path)])
    assert list(results) == ["noise", "text", "other domains", "drawings"]
    assert results["noise"]["auc_bits"] > 0.8
    assert json.loads(path.read_text())["photographs"]["tiles"] > 30


def test_the_demonstration_shows_a_picture_beside_jpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each quality, in which a higher one is nearer to the picture; and a sheet of three crops."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(96, 128)).save("own.png")
    monkeypatch.setattr(sys, "argv", ["demo.py", "own.png"])
    demo = example("demo")
    demo.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "|" in line][1:]
    assert [int(row[0]) for row in rows] == list(demo.QUALITIES)
    assert [float(row[3]) for row in rows] == sorted({float(row[3]) for row in rows})
    with Image.open("out/demo.png") as sheet:
        assert sheet.width > 3 * 2 * 95 and sheet.height > 2 * 95


# --- what is recorded and told ----------------------------------------------------------------------------------------


def test_the_document_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on the committed records, it leaves docs/uses.md as it is; one without its markers it does not touch."""
    document, before = tmp_path / "uses.md", uses.DOCUMENT.read_text(encoding="utf-8")
    document.write_text(before, encoding="utf-8")
    shown = [line.split("](")[1].rstrip(")") for line in before.splitlines() if line.startswith("![")]
    assert len(shown) == 4 and all((uses.DOCUMENT.parent / path).is_file() for path in shown)
    monkeypatch.setattr(uses, "DOCUMENT", document)
    uses.main(["document"])
    assert document.read_text(encoding="utf-8") == before
    for broken in ("", before * 2):
        document.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match="once each"):
            uses.main(["document"])
        assert document.read_text(encoding="utf-8") == broken


def test_unknown_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that is misspelt is told, before anything is measured."""
    with pytest.raises(SystemExit):
        uses.main(["documents"])
    assert "unknown step documents" in capsys.readouterr().err


# --- denoising --------------------------------------------------------------------------------------------------------


def test_noise_and_what_takes_it_away_are_measured(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of 15 levels on grey leaves 24.6 dB, of which the filter and both codecs take most away.

    What was recorded of weights that took long to train stays beside new figures, on the same pictures only.
    """
    for number in range(2):
        Image.new("RGB", (80, 64), (128, 128, 128)).save(tmp_path / f"{number}.png")
    found, out = denoising.datasets.find(str(tmp_path)), tmp_path / "found.json"
    monkeypatch.setattr(denoising, "CROP_PX", 64)
    monkeypatch.setattr(denoising, "DEVIATIONS", (15,))
    arguments = ["--model", str(tiny_weights), "--out", str(out)]
    monkeypatch.setattr(denoising.datasets, "find", lambda name: found)
    denoising.main([*arguments, "--restorer", str(tiny_weights), "--steps", "9"])
    first = json.loads(out.read_text())
    (row,) = first["rows"]
    clean = np.full((64, 64, 3), 128, np.uint8)
    assert row["noisy_db"] == pytest.approx(psnr_db(clean, denoising.noisy(clean, 15, 0)), abs=0.1)
    assert row["noisy_db"] == pytest.approx(24.6, abs=0.2)
    assert row["non_local_means_db"] > row["noisy_db"] + 8
    for codec in ("jpeg", "vaecodec"):
        assert row[codec]["psnr_db"] > row["noisy_db"] + 3 and row[codec]["bpp"] > 0
    assert row["restorer"] == row["vaecodec"] and first["restorer_steps"] == 9
    denoising.main(arguments)
    assert json.loads(out.read_text()) == first
    found = found.first(1)
    denoising.main(arguments)
    assert "restorer" not in json.loads(out.read_text())
