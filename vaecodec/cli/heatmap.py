"""Draws bits per block as a heat map over the picture."""

import contextlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

BLOCK_PX = 16
HEAT = 0.7  # share of the colour; the rest is the picture in grey
PERCENTILE = 99.0  # a few extreme blocks must not leave the rest of the map dark
LEGEND_PX, FONT_PX, MARGIN_PX = 34, 14, 8
LEGEND_MIN_PX = 260  # narrower maps have no room for a legend
# Dark to light in even steps of brightness, so the order is visible without colour vision too.
COLOURS = ((12, 10, 45), (92, 22, 118), (186, 50, 92), (243, 128, 42), (255, 238, 150))


def heat_map(image: Image.Image, bits: NDArray[np.floating]) -> Image.Image:
    """The picture in grey under its heat map, with a legend below if there is room for it.

    Args:
        image: the picture, W x H pixels, any mode; the map is rotated as its EXIF says, and keeps its ICC profile.
        bits: [ceil(H / 16), ceil(W / 16)], bits per block of 16x16 pixels, at least 0.

    Returns:
        An RGB image of W x H pixels, 34 higher with the legend. The lightest colour marks the 99th percentile of the
        blocks and everything above.

    Raises:
        ValueError: the shape of `bits` does not fit the picture.
    """
    blocks = -(-image.height // BLOCK_PX), -(-image.width // BLOCK_PX)
    if bits.shape != blocks:
        raise ValueError(f"bits has shape {bits.shape}, must be {blocks} for {image.width} x {image.height} pixels")
    top = max(float(np.percentile(bits, PERCENTILE)), 1.0)
    heat = _colours(np.clip(bits / top, 0, 1)).repeat(BLOCK_PX, 0).repeat(BLOCK_PX, 1)[: image.height, : image.width]
    grey = np.asarray(image.convert("L"), np.float64)[..., None]
    mixed = Image.fromarray((HEAT * heat + (1 - HEAT) * grey).round().astype(np.uint8))
    mixed.info = image.info.copy()
    mixed = upright(mixed)
    return _with_legend(mixed, f"{top:.0f} or more bits per block of {BLOCK_PX} x {BLOCK_PX}")


def upright(image: Image.Image) -> Image.Image:
    """The picture rotated as its EXIF says, with its ICC profile if that is for RGB, and no other metadata."""
    icc_profile = image.info.get("icc_profile")
    with contextlib.suppress(Exception):  # Pillow's reader of EXIF fails in many ways
        image = ImageOps.exif_transpose(image)
    image.info = {"icc_profile": icc_profile} if icc_profile and icc_profile[16:20] == b"RGB " else {}
    return image


def _colours(shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours [..., 3] for shares in 0..1, interpolated linearly in COLOURS."""
    anchors = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(shares, anchors, channel) for channel in zip(*COLOURS, strict=True)], -1)


def _with_legend(picture: Image.Image, text: str) -> Image.Image:
    if picture.width < LEGEND_MIN_PX:
        return picture
    sheet = Image.new("RGB", (picture.width, picture.height + LEGEND_PX), "white")
    sheet.info = picture.info
    sheet.paste(picture)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    middle = picture.height + LEGEND_PX // 2
    text_px = round(draw.textlength(text, font))
    draw.text((MARGIN_PX, middle), "0", "black", font, anchor="lm")
    draw.text((picture.width - MARGIN_PX, middle), text, "black", font, anchor="rm")
    left, right = 3 * MARGIN_PX, picture.width - text_px - 2 * MARGIN_PX
    if right > left:
        bar = _colours(np.linspace(0, 1, right - left)).round().astype(np.uint8)
        sheet.paste(Image.fromarray(bar[None].repeat(FONT_PX, 0)), (left, middle - FONT_PX // 2))
    return sheet
