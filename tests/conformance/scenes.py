"""The pictures behind the conformance vectors: numpy's random numbers only, so that they can be made again anywhere."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8]


def photo(height: int, width: int, channels: int = 3, *, seed: int = 0) -> Samples:
    """A picture [height, width, channels] with the spectrum of a photograph: bilinear noise in five octaves."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, channels), 128.0)
    for cell_px in (64, 32, 16, 8, 4):
        shared = _octave(rng, height, width, cell_px)[..., None]
        own = np.stack([_octave(rng, height, width, cell_px) for _ in range(channels)], -1)
        total += cell_px**0.7 * (2.2 * shared + 0.8 * own)
    return np.clip(total, 0, 255).round().astype(np.uint8)


def drawing(height: int, width: int, channels: int = 3) -> Samples:
    """Checks, one-pixel lines and a frame, in few colours [height, width, channels]."""
    y, x = np.mgrid[0:height, 0:width]
    ink = (y // 4 + x // 4) % 2 + 2 * (y % 11 == 3) + 3 * (x % 13 == 5)
    palette = np.array([[250, 250, 240], [20, 40, 90], [200, 30, 30], [0, 0, 0], [30, 160, 60], [255, 200, 0]])
    colours = np.concatenate([palette, palette[:, :1]], 1)[:, :channels]
    return colours[np.minimum(ink, 5)].astype(np.uint8)


def noise(height: int, width: int, channels: int = 3, *, seed: int = 0) -> Samples:
    """Independent samples [height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def _octave(rng: np.random.Generator, height: int, width: int, cell_px: int) -> NDArray[np.float64]:
    """Noise on a grid of `cell_px`, bilinear in between."""
    knots = rng.normal(size=(height // cell_px + 2, width // cell_px + 2))
    y, x = np.arange(height) / cell_px, np.arange(width) / cell_px
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None], (x - left)[None]
    upper = knots[top][:, left] * (1 - right) + knots[top][:, left + 1] * right
    lower = knots[top + 1][:, left] * (1 - right) + knots[top + 1][:, left + 1] * right
    return upper * (1 - down) + lower * down
