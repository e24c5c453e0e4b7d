"""PNG, JPEG and TIFF by rows with libvips, if pyvips is installed (extra [big]): needs memory for a few rows only.

Used only for files that libvips is known to decode to exactly the same samples as Pillow; Pillow reads the others.
"""

import os
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from vaecodec.errors import VaecImageError
from vaecodec.pictures import pixels, png
from vaecodec.pictures.pixels import Samples, SequentialRows

BLOCK_ROWS = 64
FORMATS = ("PNG", "JPEG", "TIFF")
_TIFF_ALLOWED: dict[int, tuple[Any, ...]] = {  # tag: allowed values; None if missing
    TiffImagePlugin.COMPRESSION: (None, 1, 5, 8, 32773, 32946),  # none, LZW, deflate, PackBits, deflate
    TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: (1, 2),  # grey from black to white, RGB
    TiffImagePlugin.PLANAR_CONFIGURATION: (None, 1),
    TiffImagePlugin.EXTRASAMPLES: (None, 2, (2,)),  # unassociated alpha
    TiffImagePlugin.SAMPLEFORMAT: (None, 1, (1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)),
    274: (None, 1),  # orientation: Pillow rotates a TIFF when it is loaded
}


class VipsRows(SequentialRows):
    """A picture file read by libvips; `open_rows` decides for which files this is safe."""

    def __init__(self, path: str, shape: tuple[int, int, int], metadata: dict[str, bytes]) -> None:
        self._path, self.shape = path, shape
        super().__init__(metadata)

    def _blocks(self) -> Generator[Samples]:
        import pyvips  # optional, and slow to load

        height, width, channels = self.shape
        try:
            region = pyvips.Region.new(_opened(self._path))
            for top in range(0, height, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, height - top)
                data = region.fetch(0, top, width, rows)
                yield np.frombuffer(data, np.uint8).reshape(rows, width, channels)
        except pyvips.Error as error:
            reason = " ".join(str(error).split())
            raise VaecImageError(f"the picture cannot be read: it is damaged ({reason})", code="READ") from error


def open_rows(path: str, image: Image.Image, overrides: Mapping[str, object] | None = None) -> VipsRows | None:
    """The rows of a picture file; None if libvips is missing, or may decode the file differently from Pillow.

    Args:
        path: path of the file.
        image: the same file, opened by Pillow and not loaded.
        overrides: as for `pixels.warn_of_losses`, which is called here.

    Raises:
        VaecImageError: (READ) the file is damaged.
    """
    if image.format not in FORMATS or image.mode not in pixels.MODES or "transparency" in image.info:
        return None
    if getattr(image, "n_frames", 1) > 1 or (image.format == "TIFF" and not _is_plain_tiff(image)):
        return None
    try:
        import pyvips  # optional

        opened = _opened(path)
    except (ImportError, OSError):  # pyvips or libvips is missing
        return None
    except pyvips.Error:
        return None
    shape = image.height, image.width, len(image.mode)
    if (opened.height, opened.width, opened.bands) != shape or opened.format != "uchar":
        return None
    if image.format == "PNG":
        return VipsRows(path, shape, png.metadata_of(path, shape[2], overrides))
    from vaecodec.pictures import carried  # deferred, as by `pixels`

    pixels.warn_of_losses(image, overrides, is_loaded=False, stacklevel=6)
    return VipsRows(path, shape, carried.carried_metadata(image, image.mode))


def _opened(path: str) -> Any:
    import pyvips  # optional

    return pyvips.Image.new_from_file(os.fspath(path), access="sequential", fail_on="error")


def _is_plain_tiff(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    has_bytes = tags.get(TiffImagePlugin.BITSPERSAMPLE) in ((8,), (8,) * len(image.mode))
    return has_bytes and all(tags.get(tag) in allowed for tag, allowed in _TIFF_ALLOWED.items())
