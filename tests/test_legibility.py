"""The legibility benchmark: its reader reads what is legible and nothing else, and the document shows its record."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import legibility, lettering  # noqa: E402
from vaecodec import Codec  # noqa: E402


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a few characters."""
    monkeypatch.setattr(lettering, "WIDTH_PX", 192)
    monkeypatch.setattr(lettering, "HEIGHT_PX", 96)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("scene", lettering.SCENES)
@pytest.mark.parametrize("size_px", [9, 16])
def test_originals_are_read_without_an_error(scene: str, size_px: int) -> None:
    """Ink on any of the grounds, moved by a pixel or inverted, is read as what was drawn."""
    sheet = lettering.draw_sheet(size_px, rng())
    assert sheet.characters.size >= 50
    picture = lettering.SCENES[scene](sheet.ink, rng())
    for shown in (picture, np.roll(picture, 1, 0), 255 - picture):
        assert (lettering.read(shown, sheet) == sheet.characters).all()


@pytest.mark.usefixtures("small")
def test_what_is_gone_is_not_read() -> None:
    """A blank sheet gives no character, noise the right one by chance only, and a blurred sheet errors."""
    sheet = lettering.draw_sheet(9, rng())
    blank = np.full((96, 192, 3), 200, np.uint8)
    assert (lettering.read(blank, sheet) == -1).all()
    noise = rng().integers(0, 256, (96, 192, 3), np.uint8)
    assert (lettering.read(noise, sheet) == sheet.characters).mean() < 0.1
    coarse = lettering.page(sheet.ink, rng())[::8, ::8].repeat(8, 0).repeat(8, 1)
    assert (lettering.read(coarse, sheet) == sheet.characters).mean() < 0.5


@pytest.mark.usefixtures("small")
def test_a_measurement_counts_both_codecs_at_equal_bytes(tiny: Codec) -> None:
    """There is a row for the original and one a quality; the JPEG is not larger, unless it cannot be smaller."""
    original, *rows = legibility.measure(tiny, "scan", 16, (1, 60, 95))
    assert original["quality"] is None
    assert original["errors"] == 0
    assert [row["quality"] for row in rows] == [1, 60, 95]
    for row in rows:
        assert row["jpeg_bpp"] <= row["bpp"] or row["jpeg_quality"] == 1
        assert 0 <= row["digit_errors"] <= row["digits"] <= row["characters"] == original["characters"]
        assert row["digit_errors"] <= row["errors"] <= row["characters"]


def test_the_fonts_of_pillow_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the font inside Pillow is taken, and named."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    name, font = lettering.font_of(12)
    assert "DejaVu" not in name
    assert font.size == 12


def test_the_document_is_what_the_script_writes(tmp_path: Path) -> None:
    """Run on the committed record, it leaves docs/reliability.md as it is; one without its markers is not touched."""
    copy, before = tmp_path / "copy.md", (ROOT / "docs" / "reliability.md").read_text()
    copy.write_text(before)
    assert legibility.main(["--tables-only", "--docs", str(copy)]) == 0
    assert copy.read_text() == before
    copy.write_text(f"{legibility.END} {legibility.BEGIN}")
    with pytest.raises(ValueError, match="must have"):
        legibility.main(["--tables-only", "--docs", str(copy)])
    assert copy.read_text() == f"{legibility.END} {legibility.BEGIN}"
