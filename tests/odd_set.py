"""The odd set: pictures that no camera takes, made by code, some of them from the sample photograph of matplotlib."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Samples = NDArray[np.uint8]
HEIGHT, WIDTH = 384, 512
SAMPLE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def odd_set(height: int = HEIGHT, width: int = WIDTH) -> dict[str, Samples]:
    """All pictures [height, width, 3] by name; those of the photograph may be smaller."""
    return {name: make(height, width) for name, make in MAKERS.items()}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _grid(height: int, width: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    y, x = np.mgrid[:height, :width]
    return y, x


def _grey(values: NDArray[np.generic]) -> Samples:
    return np.repeat(values[..., None].clip(0, 255).astype(np.uint8), 3, 2)


def _bytes(values: NDArray[np.generic]) -> Samples:
    return values.clip(0, 255).astype(np.uint8)


def _text(paper: tuple[int, int, int], ink: tuple[int, int, int]) -> Callable[[int, int], Samples]:
    def make(height: int, width: int) -> Samples:
        image = Image.new("RGB", (width, height), paper)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
        for top in range(4, height, 22):
            draw.text((6, top), "The quick brown fox jumps over the lazy dog 0123456789 " * 3, fill=ink, font=font)
        return np.asarray(image)

    return make


def photograph(height: int, width: int) -> Samples:
    """The sample photograph, at half of its size so that no JPEG shows: 300 x 256 pixels, or a corner of it."""
    with Image.open(SAMPLE) as image:
        return np.asarray(image.convert("RGB").reduce(2))[:height, :width]


def _grainy(height: int, width: int) -> Samples:
    photo = photograph(height, width)
    return _bytes(photo + _rng().normal(0, 15, photo.shape))


def _caption(height: int, width: int) -> Samples:
    image = Image.fromarray(photograph(height, width))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for top in range(10, height, 90):
        draw.text((10, top), "Red caption on a photograph, 2026", fill=(255, 0, 0), font=font)
    return np.asarray(image)


def _colour_lines(height: int, width: int) -> Samples:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours[np.arange(width) % 6], (height, width, 3)))


def _grid_lines(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    return _grey(np.where((x % 16 == 0) | (y % 16 == 0), 0, 255))


def _checks(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    return _grey((y + x) % 2 * 255)


def _colour_checks(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    return _bytes(np.where(((y // 2 + x // 2) % 2)[..., None] == 1, [255, 0, 0], [0, 160, 0]))


def _gradient(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    return _bytes(np.dstack([255 * x / width, 240 * y / height, 224 * (x + y) / (height + width)]))


def _blobs(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    waves = [np.sin(x / 9.0), np.sin(y / 7.0 + 2), np.sin((x + y) / 11.0 + 4)]
    return _bytes(128 + 127 * np.dstack(waves))


def _rings(height: int, width: int) -> Samples:
    y, x = _grid(height, width)
    return _grey(128 + 127 * np.sin(((x - width / 2) ** 2 + (y - height / 2) ** 2) / 120))


def _dither(height: int, width: int) -> Samples:
    return _grey((_rng().random((height, width)) < np.arange(width) / width) * 255)


MAKERS: dict[str, Callable[[int, int], Samples]] = {
    "photograph": photograph,
    "grainy photograph": _grainy,
    "caption": _caption,
    "black on white": _text((255, 255, 255), (0, 0, 0)),
    "red on blue": _text((0, 0, 255), (255, 0, 0)),
    "green on red": _text((200, 0, 0), (0, 200, 0)),
    "colour noise": lambda height, width: _rng().integers(0, 256, (height, width, 3)).astype(np.uint8),
    "grey noise": lambda height, width: _grey(_rng().integers(0, 256, (height, width))),
    "soft noise": lambda height, width: _bytes(128 + _rng().normal(0, 12, (height, width, 3))),
    "colour lines": _colour_lines,
    "grid lines": _grid_lines,
    "checkerboard": _checks,
    "colour checkerboard": _colour_checks,
    "gradient": _gradient,
    "blobs": _blobs,
    "rings": _rings,
    "dither": _dither,
}
