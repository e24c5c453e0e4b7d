"""Laws of heat maps and of the HTML page: what they show, that nothing is loaded, that the slider moves."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaecodec.cli import page
from vaecodec.cli.heatmap import LEGEND_MIN_PX, LEGEND_PX, heat_map
from vaecodec.cli.page import Shown, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shown(name: str = "a.png", size: tuple[int, int] = (200, 120), psnr_db: float = 31.25, seed: int = 0) -> Shown:
    """A picture and a blurred one in its place."""
    original = Image.fromarray(picture(size[1], size[0], seed=seed))
    decoded = original.reduce(4).resize(size)
    bits = np.arange(-(-size[1] // 16) * -(-size[0] // 16), dtype=np.float32).reshape(-(-size[1] // 16), -1)
    return Shown(name, original, decoded, 12345, 40, psnr_db, bits)


@given(st.integers(1, 300), st.integers(1, 90), st.sampled_from(["L", "LA", "RGB", "RGBA", "P"]))
def test_heat_maps_have_the_size_of_the_picture(width: int, height: int, mode: str) -> None:
    """Any size and mode has a map; a legend stands below it where there is room."""
    image = Image.fromarray(picture(height, width)).convert(mode)
    found = heat_map(image, np.zeros((-(-height // 16), -(-width // 16))))
    assert found.mode == "RGB"
    assert found.size == (width, height + LEGEND_PX * (width >= LEGEND_MIN_PX))


def test_more_bits_are_lighter() -> None:
    """Brightness rises with the bits, wherever the picture itself is even."""
    image = Image.new("L", (16 * 8, 16), 128)
    found = np.asarray(heat_map(image, np.arange(8.0)[None] ** 2).convert("L"), int)
    steps = found[0, 8::16]
    assert (np.diff(steps) > 0).all()


def test_heat_maps_refuse_bits_of_another_picture() -> None:
    """The number of blocks must be that of the picture."""
    with pytest.raises(ValueError, match=re.escape("(2, 2)")):
        heat_map(Image.new("RGB", (32, 17)), np.zeros((3, 2)))


def test_the_page_tells_bytes_quality_and_psnr() -> None:
    """The table has a row for each picture, in order, and infinity is called exact."""
    html = render([shown("a.png"), shown("b.png", psnr_db=float("inf"))], title="T", version="1.2", model="00ff00ff")
    rows = re.findall(r"<tr>(<td>.*)</tr>", html)
    assert [re.findall(r"<td>(.*?)</td>", row) for row in rows] == [
        ["a.png", "200 x 120", "40", "12,345", "4.115", "31.25 dB"],
        ["b.png", "200 x 120", "40", "12,345", "4.115", "exact"],
    ]
    assert "vaecodec 1.2, model 00ff00ff" in html


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """Every picture is inside, and the page forbids the browser to load anything."""
    html = render([shown()], title="T", version="1", model="0")
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"https?:|<link|@import|url\(", html)
    assert "default-src 'none'" in html


def test_names_cannot_smuggle_html_into_the_page() -> None:
    """File names and titles are shown as they are, never read as HTML."""
    html = render([shown('<script>x</script>"&.png')], title="<b>$title</b>", version="1", model="0")
    assert "<script>x" not in html
    assert "<b>$title" not in html
    assert "&lt;script&gt;x&lt;/script&gt;&quot;&amp;.png" in html


def test_large_pictures_are_shown_smaller_with_all_their_bits() -> None:
    """Nothing larger than 1280 pixels is put into the page; the rate map keeps its sum."""
    large = shown(size=(2000, 700))
    html = render([large], title="T", version="1", model="0")
    assert "Shown at 1280 x 448 pixels." in html
    pooled = page._pooled(large.bits, (1280, 448))
    assert pooled.shape == (28, 80)
    assert pooled.sum() == large.bits.sum()


def test_transparent_pictures_are_shown_on_white() -> None:
    """What is fully transparent is white in the page, whatever colour lies below."""
    hidden = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert page._opaque(hidden).getcolors() == [(16, (255, 255, 255))]


@given(st.integers(1, 500), st.integers(1, 300))
def test_crops_lie_inside_the_picture(width: int, height: int) -> None:
    """Every picture has a crop, none reaches beyond it, and no two overlap."""
    boxes = page._busiest(Image.new("RGB", (width, height)), (160, 120), 2)
    assert 1 <= len(boxes) <= 2
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    if len(boxes) == 2:
        (a, b), areas = boxes, [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
        across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert max(0, across) * max(0, down) == 0 < min(areas)


def test_crops_are_where_the_detail_is() -> None:
    """The first crop is the one that holds the only texture."""
    samples = np.full((240, 480), 100, np.uint8)
    samples[130:230, 340:460] = np.random.default_rng(0).integers(0, 256, (100, 120), np.uint8)
    assert page._busiest(Image.fromarray(samples), (160, 120), 2)[0] == (320, 120, 480, 240)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_slider_moves_in_a_browser(tmp_path: Path) -> None:
    """In headless Chromium the page fits a narrow screen, all pictures load, and the slider moves the line."""
    probe = """<script>window.addEventListener("load", () => {
      const slider = document.querySelector(".slider"), input = slider.querySelector("input");
      input.value = 25;
      input.dispatchEvent(new Event("input"));
      const line = slider.querySelector(".line").getBoundingClientRect(), box = slider.getBoundingClientRect();
      document.title = JSON.stringify({
        share: (line.left + line.width / 2 - box.left) / box.width,
        wide: document.documentElement.scrollWidth - window.innerWidth,
        loaded: [...document.images].every(image => image.naturalWidth > 0),
      });
    });</script>"""
    page = tmp_path / "page.html"
    page.write_text(render([shown(size=(900, 120)), shown("b" * 80)], title="T", version="1", model="0") + probe)
    result = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,900",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", result.stdout)[1]
    assert re.fullmatch(r'\{"share":0\.2[45]\d*,"wide":(0|-\d+),"loaded":true\}', title), title
