"""Laws of the examples on latents and of the script that records docs/uses.md: what is measured, and what is told."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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
    picture = np.arange(70 * 100 * 3, dtype=np.uint32).reshape(70, 100, 3)
    tiles = example("sources").tiles_of(picture, 32)
    assert [tile[0, 0, 0] for tile in tiles] == [picture[top, left, 0] for top in (0, 32) for left in (0, 32, 64)]
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
def test_noise_is_odd(tiny_weights: Path, tmp_path: Path) -> None:
    """Every kind of odd picture is scored, and noise costs more bits than photographs."""
    path = tmp_path / "found.json"
    results = example("odd_pictures").main(["--model", str(tiny_weights), "--json", str(path)])
    assert list(results) == ["noise", "text", "other domains", "drawings"]
    assert results["noise"]["auc_bits"] > 0.8
    assert json.loads(path.read_text())["photographs"]["tiles"] > 50


# --- what is recorded and told ----------------------------------------------------------------------------------------


def test_the_document_shows_the_recorded_figures() -> None:
    """Every table of docs/uses.md is what the recorded JSON says."""
    text = uses.DOCUMENT.read_text(encoding="utf-8")
    for name, table in uses.TABLES.items():
        record = json.loads((uses.RESULTS / f"{name}.json").read_text())
        assert uses.between_markers(text, name, table(record)) == text


def test_the_document_has_its_pictures() -> None:
    """Every picture that the document shows lies beside it."""
    text = uses.DOCUMENT.read_text(encoding="utf-8")
    shown = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(shown) == 4
    assert all((uses.DOCUMENT.parent / path).is_file() for path in shown)


def test_text_is_put_between_its_markers_only() -> None:
    """What stands around the markers stays; what stood between is replaced."""
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    assert uses.between_markers(text, "x", "new\n") == text.replace("old", "new")
    assert uses.between_markers(text, "y", "new\n") == text.replace("<!-- y -->\n", "<!-- y -->\nnew\n")


@pytest.mark.parametrize("text", ["", "<!-- x -->\n", "<!-- /x --><!-- x -->\n", "<!-- x -->\n" * 2 + "<!-- /x -->"])
def test_markers_must_be_there_once(text: str) -> None:
    """A document without its markers is refused rather than overwritten."""
    with pytest.raises(ValueError, match="once each"):
        uses.between_markers(text, "x", "new")


def test_unknown_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that is misspelt is told, before anything is measured."""
    with pytest.raises(SystemExit):
        uses.main(["documents"])
    assert "unknown step documents" in capsys.readouterr().err


# --- denoising --------------------------------------------------------------------------------------------------------


def test_noise_has_its_deviation() -> None:
    """Noise of 10 levels on grey leaves 28.13 dB; another seed gives other noise."""
    clean = np.full((128, 128, 3), 128, np.uint8)
    given = denoising.noisy(clean, 10, 0)
    assert psnr_db(clean, given) == pytest.approx(28.13, abs=0.1)
    assert not np.array_equal(given, denoising.noisy(clean, 10, 1))


def test_the_best_quality_is_that_of_the_nearest_pictures() -> None:
    """Of all qualities the one with the highest mean PSNR against the clean pictures, with its mean rate."""
    clean = [np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 50, np.uint8)]

    def code(picture: np.ndarray, quality: int) -> tuple[np.ndarray, int]:
        return picture + np.uint8(abs(quality - 30) + 1), 32 * quality

    assert denoising.best(code, (10, 30, 60), clean, clean) == (pytest.approx(48.13, abs=0.01), 30, 30.0)


def test_a_restorer_is_kept_when_the_codec_is_measured_anew() -> None:
    """What was recorded of weights that took long to train stays beside new figures, on the same pictures only."""
    best = {"psnr_db": 30.0, "quality": 30, "bpp": 0.4}
    earlier = {"dataset": "a", "restorer": "00ff", "restorer_steps": 9, "rows": [{"deviation": 5, "restorer": best}]}
    anew = {"dataset": "a", "model": "1234", "rows": [{"deviation": 5, "noisy_db": 34.0}]}
    kept = denoising.with_restorer_of(earlier, anew)
    assert kept["rows"] == [{"deviation": 5, "noisy_db": 34.0, "restorer": best}]
    assert (kept["model"], kept["restorer"], kept["restorer_steps"]) == ("1234", "00ff", 9)
    assert denoising.with_restorer_of(earlier, anew | {"dataset": "b"}) == anew | {"dataset": "b"}
    assert denoising.with_restorer_of(anew, anew) == anew


def test_non_local_means_takes_noise_away() -> None:
    """The filter that codecs are compared with works as it should on an even picture."""
    clean = np.full((48, 48, 3), 90, np.uint8)
    given = denoising.noisy(clean, 15, 0)
    assert psnr_db(clean, denoising.non_local_means(given, 15)) > psnr_db(clean, given) + 8
