"""The pictures of the long form: crops of photographs, where there are any, and synthetic ones; all of one tile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Samples = NDArray[np.uint8]

SIZES_PX = ((128, 128), (256, 256), (112, 144), (61, 160), (128, 192), (130, 97))
CROPS = 5
PHOTOGRAPH_SHARE = 0.8


def pictures(folder: Path, count: int) -> Iterator[tuple[str, Samples]]:
    """Names and samples [h, w, 3] of `count` pictures, four of five from the folder if it has enough.

    More follow, in case some of these cannot be used.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".webp", ".png", ".jpg"))
    photographs = _crops(paths)
    for _, named in zip(range(int(count * PHOTOGRAPH_SHARE)), photographs, strict=False):
        yield named
    yield from _synthetic()


def _crops(paths: list[Path]) -> Iterator[tuple[str, Samples]]:
    """A crop of every picture, then another of every picture, ...; small pictures whole, and once."""
    number = 0
    for turn in range(CROPS):
        for path in paths:
            with Image.open(path) as image:
                picture = np.asarray(image.convert("RGB"))
            height, width = SIZES_PX[number % len(SIZES_PX)]
            spare_rows, spare_columns = len(picture) - height, picture.shape[1] - width
            if min(spare_rows, spare_columns) < 0 or (turn and max(spare_rows, spare_columns) < height):
                continue
            top, left = spare_rows * turn // CROPS, spare_columns * (CROPS - turn) // CROPS
            number += 1
            yield f"{path.name}+{left}+{top}", picture[top : top + height, left : left + width]


def _synthetic() -> Iterator[tuple[str, Samples]]:
    """Waves, edges and noise, from barely visible to saturated."""
    number = 0
    while True:
        rng = np.random.default_rng(number)
        height, width = SIZES_PX[number % len(SIZES_PX)]
        y, x = np.mgrid[0:height, 0:width] / 64.0
        planes = []
        for _ in range(3):
            a, b, c, d, edge, noise = rng.uniform((0.3, 0.3, 0.3, 0.3, 0, 0.5), (9, 2, 9, 2, 120, 12))
            wave = rng.uniform(5, 140) * np.sin(a * x + 2 * b) * np.cos(c * y + d)
            planes.append(128 + wave + edge * (x + y > a + b) + rng.normal(0, noise, (height, width)))
        yield f"synthetic {number}", np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
        number += 1
