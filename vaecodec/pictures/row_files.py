"""Opens a picture file for reading by rows, with as little memory as its format allows."""

import contextlib
import os
from collections.abc import Mapping

from PIL import Image

from vaecodec.errors import VaecImageError
from vaecodec.format import records
from vaecodec.pictures import pillow, pixels, vips
from vaecodec.pictures.pixels import Rows
from vaecodec.pictures.pnm import PnmRows


def open_file(
    path: str | os.PathLike[str], *, max_pixels: int | None, overrides: Mapping[str, object] | None = None
) -> Rows:
    """Opens the picture file at a path; its pixels are read later, by rows if possible.

    8-bit PGM and PPM files need no further memory. PNG, JPEG and TIFF files of more than 16 megapixels need little if
    pyvips is installed. Pillow decodes all others as a whole. Arguments and errors are as for `pixels.open_rows`.
    """
    file = pixels.seekable(path)
    if not isinstance(file, str | os.PathLike):  # a pipe, which is in memory now
        return _open_with_pillow(pixels.open_image(file), max_pixels, overrides)
    name = os.fspath(file)
    with contextlib.suppress(VaecImageError):
        return pixels.checked_rows(PnmRows(name), max_pixels)
    image = pixels.open_image(name)
    is_big = image.width * image.height >= pillow.BIG_PX
    return _open_with_pillow(image, max_pixels, overrides, vips_path=name if is_big else None)


def _open_with_pillow(
    image: Image.Image, max_pixels: int | None, overrides: Mapping[str, object] | None, vips_path: str | None = None
) -> Rows:
    """The rows of an image, which is closed when it is no longer needed, or of its file if libvips can read it."""
    try:
        records.check_size(*image.size, max_pixels=max_pixels)
        by_rows = vips.open_rows(vips_path, image, overrides) if vips_path else None
        if by_rows is None:
            return pillow.rows_of(image, overrides)
    except BaseException:
        image.close()
        raise
    image.close()
    return by_rows
