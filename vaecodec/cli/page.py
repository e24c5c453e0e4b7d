"""One self-contained HTML page: pictures before and after coding with a slider, bytes, quality, rate map, crops."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec.cli.heatmap import heat_map, upright

TEMPLATE = Path(__file__).with_name("page.html")
SLIDER_MAX_PX = 1280  # wider or taller pictures are downscaled, so the page stays small enough to send
CROP_PX = (160, 120)
CROPS = 2

Box = tuple[int, int, int, int]


class Shown(NamedTuple):
    """A picture and its decoded .vaec file.

    Attributes:
        name: of the picture.
        original: the picture before coding.
        decoded: the decoded picture, of the same size.
        file_bytes: size of the .vaec file.
        quality: of the .vaec file.
        psnr_db: of `decoded`; infinite if lossless.
        bits: [ceil(H / 16), ceil(W / 16)] bits per block.
    """

    name: str
    original: Image.Image
    decoded: Image.Image
    file_bytes: int
    quality: int
    psnr_db: float
    bits: NDArray[np.floating]

    @property
    def psnr_text(self) -> str:
        """PSNR as text."""
        return f"{self.psnr_db:.2f} dB" if math.isfinite(self.psnr_db) else "exact"


def render(shown: Sequence[Shown], *, title: str, version: str, model: str) -> str:
    """The page as HTML, without any external script, font or picture.

    Args:
        shown: the pictures, in order.
        title: of the page.
        version: of the package.
        model: the weights, as eight hex digits.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        version=escape(version),
        model=escape(model),
        rows="\n".join(map(_row, shown)),
        pictures="\n".join(map(_section, shown)),
    )


def slider(before: Image.Image, after: Image.Image, captions: tuple[str, str]) -> str:
    """HTML of two pictures of equal size on top of each other, with a dividing line that the reader moves.

    Args:
        before: shown left of the line.
        after: shown right of the line.
        captions: of both.
    """
    left, right = map(escape, captions)
    return f"""<div class="slider"><img src="{_inline(before)}" alt="{left}">
<img class="over" src="{_inline(after)}" alt="{right}"><div class="line"></div>
<b>{left}</b><b>{right}</b>
<input type="range" min="0" max="100" value="50" step="0.1"
aria-label="{left} to the left, {right} to the right"></div>"""


def _row(shown: Shown) -> str:
    width, height = shown.original.size
    cells = (
        shown.name, f"{width} x {height}", str(shown.quality), f"{shown.file_bytes:,}",
        f"{8 * shown.file_bytes / (width * height):.3f}", shown.psnr_text,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _section(shown: Shown) -> str:
    stored = _fitted(_opaque(shown.original))
    heat = _figure(heat_map(stored, _pooled(shown.bits, stored.size)), "Where the bits of the file go.")
    original, decoded = (upright(_opaque(image)) for image in (shown.original, shown.decoded))
    before, after = _fitted(original), _fitted(decoded)
    scale = "" if before.size == original.size else f" Shown at {before.width} x {before.height} pixels."
    caption = f"quality {shown.quality}: {shown.file_bytes:,} bytes, {shown.psnr_text}"
    boxes = _busiest(original, CROP_PX, CROPS)
    crops = "\n".join(
        _figure(image.crop(box), f"{name}, at {box[0]}, {box[1]}")
        for box in boxes for name, image in (("original", original), (f"quality {shown.quality}", decoded))
    )  # fmt: skip
    return f"""<h2>{escape(shown.name)}</h2>
{slider(before, after, ("original", caption))}
<p class="note">Move the line: the original is left of it.{scale}</p>
<h3>Rate map</h3>
{heat}
<h3>Crops of the busiest places</h3>
<div class="crops">{crops}</div>"""


def _opaque(image: Image.Image) -> Image.Image:
    """The picture as RGB on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    sheet = Image.new("RGBA", image.size, "white")
    sheet.alpha_composite(image.convert("RGBA"))
    sheet.info = {key: image.info[key] for key in image.info.keys() & {"icc_profile", "exif"}}
    return sheet.convert("RGB")


def _fitted(image: Image.Image) -> Image.Image:
    if max(image.size) <= SLIDER_MAX_PX:
        return image
    shrunk = image.copy()
    shrunk.thumbnail((SLIDER_MAX_PX, SLIDER_MAX_PX), Image.Resampling.LANCZOS)
    return shrunk


def _pooled(bits: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Bits per block of a picture downscaled to W x H: each block sums the bits of the pixels that it covers."""
    rows, columns = -(-size[1] // 16), -(-size[0] // 16)
    if bits.shape == (rows, columns):
        return bits
    down = np.arange(bits.shape[0]) * rows // bits.shape[0]
    across = np.arange(bits.shape[1]) * columns // bits.shape[1]
    pooled = np.zeros((rows, columns))
    np.add.at(pooled, (down[:, None], across[None, :]), bits)
    return pooled


def _busiest(image: Image.Image, size: tuple[int, int], count: int) -> list[Box]:
    """Up to `count` disjoint boxes of a size with the most detail; the whole picture if it is smaller."""
    width, height = min(size[0], image.width), min(size[1], image.height)
    grey = np.asarray(image.convert("L"), np.int64)
    detail = np.zeros_like(grey)
    detail[1:] += np.abs(np.diff(grey, axis=0))
    detail[:, 1:] += np.abs(np.diff(grey, axis=1))
    boxes = [
        (left, top, left + width, top + height)
        for top in range(0, image.height - height + 1, height)
        for left in range(0, image.width - width + 1, width)
    ]
    return sorted(boxes, key=lambda box: -int(detail[box[1] : box[3], box[0] : box[2]].sum()))[:count]


def _figure(image: Image.Image, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{_inline(image)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _inline(image: Image.Image) -> str:
    """The picture as a lossless data URL."""
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, icc_profile=image.info.get("icc_profile"))
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
