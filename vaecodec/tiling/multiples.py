"""From a quality map to the step multiples that an encoder uses."""

import numpy as np
from numpy.typing import NDArray

from vaecodec.model.architecture import HYPER_STRIDE, LATENT_STRIDE
from vaecodec.model.coding import MOST_MULTIPLE
from vaecodec.pictures.pixels import Samples
from vaecodec.pictures.quality_map import turned

BLOCK_PX = LATENT_STRIDE * HYPER_STRIDE
QUALITIES_BELOW = 33
"""How far below the picture's quality the file of a black map is, by its size and its SSIMULACRA2 at quality 75."""


def step_multiples(seen: Samples, height: int, width: int, orientation: int | None = None) -> NDArray[np.uint8]:
    """Step multiples of the blocks of 64 x 64 pixels of a picture of height x width pixels.

    Args:
        seen: uint8 [h, w], the map, which is stretched over the picture as people see it.
        height: of the picture as stored, pixels.
        width: likewise.
        orientation: of the picture, as EXIF counts.

    Returns:
        uint8 [ceil(height / 64), ceil(width / 64)], for the picture as stored: 1 where the map is white on average, 4
        where it is black, and in between a power of 4 with the darkness as exponent, rounded.
    """
    grey = turned(seen, {6: 8, 8: 6}.get(orientation or 1, orientation)).astype(np.float32)
    means = _shares(height, grey.shape[0]) @ grey @ _shares(width, grey.shape[1]).T
    return np.rint(MOST_MULTIPLE ** (1 - means.clip(0, 255) / 255)).astype(np.uint8)


def _shares(picture_px: int, map_px: int) -> NDArray[np.float32]:
    """The share of each pixel of a side of the map in each block of that side of the picture: [blocks, map_px]."""
    edges = np.arange(0, picture_px + BLOCK_PX, BLOCK_PX).clip(max=picture_px) * (map_px / picture_px)
    pixel = np.arange(map_px)
    overlaps = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shares = overlaps.clip(0)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)
