"""Sheets of random characters on three backgrounds, and a reader that knows font, size and position."""

import string
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Mask = NDArray[np.float64]

ALPHABET = string.digits + string.ascii_letters
DIGITS = len(string.digits)
WIDTH_PX, HEIGHT_PX = 768, 512
SHIFTS_PX = (-1, 0, 1)


@dataclass(frozen=True)
class Sheet:
    """A grid of characters: their indexes in ALPHABET [rows, columns], and the ink on each pixel [H, W]."""

    characters: NDArray[np.intp]
    ink: Mask
    glyphs: Mask  # [62, h, w], the ink of each character in a cell


def font_of(size_px: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """DejaVu Sans if matplotlib is installed, otherwise Pillow's font; with its name."""
    try:
        from matplotlib import get_data_path

        font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)
    except (ImportError, OSError):
        built_in = ImageFont.load_default(size_px)
        if not isinstance(built_in, ImageFont.FreeTypeFont):
            sys.exit("Pillow was built without FreeType, which fonts of a chosen size need: install Pillow from PyPI")
        font = built_in
    return " ".join(filter(None, font.getname())), font


def draw_sheet(size_px: int, rng: np.random.Generator) -> Sheet:
    """Random characters in cells just large enough for any of them, plus a margin of one pixel."""
    _, font = font_of(size_px)
    boxes = np.array([font.getbbox(character, anchor="ls") for character in ALPHABET])
    left, top = boxes[:, :2].min(0).tolist()
    right, bottom = boxes[:, 2:].max(0).tolist()
    width, height = int(right - left) + 2, int(bottom - top) + 2
    glyphs = np.stack([_ink(character, font, (1 - left, 1 - top), (width, height)) for character in ALPHABET])
    rows, columns = HEIGHT_PX // height, WIDTH_PX // width
    characters = rng.integers(0, len(ALPHABET), (rows, columns))
    ink = np.zeros((HEIGHT_PX, WIDTH_PX))
    ink[: rows * height, : columns * width] = glyphs[characters].transpose(0, 2, 1, 3).reshape(rows * height, -1)
    return Sheet(characters, ink, glyphs)


def read(picture: Picture, sheet: Sheet) -> NDArray[np.intp]:
    """The most similar character [rows, columns] for each cell of a picture [H, W, 3]; -1 for a blank cell.

    Similarity is the absolute correlation of brightness with the glyph's ink, maximized over nine shifts by up to
    a pixel.
    """
    brightness = np.pad(picture.mean(2), 1, mode="edge")
    count, height, width = sheet.glyphs.shape
    rows, columns = sheet.characters.shape
    templates = _normalized(sheet.glyphs.reshape(count, -1))
    best = np.zeros((rows * columns, count))
    for down in SHIFTS_PX:
        for right in SHIFTS_PX:
            area = brightness[1 + down : 1 + down + rows * height, 1 + right : 1 + right + columns * width]
            cells = area.reshape(rows, height, columns, width).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
            best = np.maximum(best, np.abs(_normalized(cells) @ templates.T))
    found = np.where(best.max(1) > 0, best.argmax(1), -1)
    return found.reshape(rows, columns)


def page(ink: Mask, rng: np.random.Generator) -> Picture:
    """Black on white."""
    return _grey(255 * (1 - ink))


def scan(ink: Mask, rng: np.random.Generator) -> Picture:
    """Dark grey on uneven paper, with the noise of a camera."""
    light = 1 + 0.12 * _clouds(ink.shape, rng, falloff=2.0)
    return _grey((215 - 150 * ink) * light + rng.normal(0, 3, ink.shape))


def sign(ink: Mask, rng: np.random.Generator) -> Picture:
    """Bright letters in front of a texture with the spectrum of a photograph."""
    colours = [105 + 25 * _clouds(ink.shape, rng, falloff=1.2) for _ in range(3)]
    return np.stack([_levels(colour + 90 * ink) for colour in colours], 2)


SCENES: dict[str, Callable[[Mask, np.random.Generator], Picture]] = {"page": page, "scan": scan, "sign": sign}


def _ink(character: str, font: ImageFont.FreeTypeFont, origin: tuple[float, float], size: tuple[int, int]) -> Mask:
    image = Image.new("L", size)
    ImageDraw.Draw(image).text(origin, character, fill=255, font=font, anchor="ls")
    return np.asarray(image) / 255


def _normalized(vectors: Mask) -> Mask:
    """Rows with mean 0 and length 1; constant rows as zeros."""
    centred = vectors - vectors.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-9)


def _clouds(shape: tuple[int, ...], rng: np.random.Generator, *, falloff: float) -> Mask:
    """Noise of variance 1 whose amplitudes fall with the frequency to the power of `falloff`."""
    frequencies = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequencies[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) / frequencies**falloff, shape)
    return noise / noise.std()


def _levels(values: Mask) -> Picture:
    levels: Picture = np.clip(values, 0, 255).round().astype(np.uint8)
    return levels


def _grey(values: Mask) -> Picture:
    return np.repeat(_levels(values)[..., None], 3, 2)
