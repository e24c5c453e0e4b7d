"""Reads quality maps: grey pictures that are white where a picture matters."""

import numpy as np

from vaecodec.errors import VaecError, VaecImageError
from vaecodec.format import records
from vaecodec.pictures import exif, pixels
from vaecodec.pictures.pixels import Samples


def read(quality_map: pixels.Source, max_pixels: int | None = records.DEFAULT_MAX_PIXELS) -> Samples:
    """Reads a map as people see it: uint8 [h, w], turned as its EXIF says; transparency is black.

    Raises:
        VaecImageError: (QUALITY_MAP) it cannot be read.
    """
    try:
        with pixels.opened_source(quality_map) as opened:
            records.check_size(*pixels.size_of(opened), max_pixels=max_pixels)
            samples = pixels.to_samples(opened)
            orientation = exif.orientation(pixels.metadata_of(opened).get("exif", b""))
    except (VaecError, OSError) as error:
        raise VaecImageError(f"quality_map: {error}", code="QUALITY_MAP") from error
    image = pixels.flatten_alpha(pixels.to_image(samples, {}), "black").convert("L")
    return turned(np.asarray(image), orientation)


def turned(stored: Samples, orientation: int | None) -> Samples:
    """A grey picture [h, w] as an EXIF orientation says to show it."""
    if orientation in (5, 6, 7, 8):
        stored = stored.T
    mirrored = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    rows, columns = mirrored.get(orientation or 1, (1, 1))
    return stored[::rows, ::columns]
