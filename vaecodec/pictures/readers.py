"""Opens any picture for reading by rows, with as little memory as its format allows."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vaecodec.errors import VaecImageError
from vaecodec.format import records
from vaecodec.pictures import pillow, pixels, vips
from vaecodec.pictures.pixels import ArrayRows, Rows
from vaecodec.pictures.pnm import PnmRows

Source = pixels.Source | Any


def open_rows(source: Source, *, max_pixels: int | None, overrides: Mapping[str, object] | None = None) -> Rows:
    """Opens a picture; its pixels are read later, by rows if possible.

    Args:
        source: as for `pixels.open_source`; also any object with `shape`, `dtype` and row slices that become arrays,
            such as memory-mapped, zarr and h5py arrays; and `Rows` themselves.
        max_pixels: as for `records.check_size`.
        overrides: as for `pixels.warn_of_losses`, which is called here.

    Returns:
        Its rows. 8-bit PGM and PPM files, and arrays, need no further memory. PNG, JPEG and TIFF files of more than 16
        megapixels need little if pyvips is installed. Pillow decodes all others as a whole.

    Raises:
        VaecError, OSError: as `pixels.open_source`, `records.check_size`, `pixels.to_samples`.
    """
    if isinstance(source, str | os.PathLike):
        return _open_file(source, max_pixels, overrides)
    if isinstance(source, Rows):
        return _checked(source, max_pixels)
    if _is_array_like(source):
        return _checked(ArrayRows(source), max_pixels)
    opened = pixels.open_source(source)
    records.check_size(*pixels.size_of(opened), max_pixels=max_pixels)
    if isinstance(opened, Image.Image):
        rows = ArrayRows(pixels.to_samples(opened), pixels.metadata_of(opened))
        pixels.warn_of_losses(opened, overrides, stacklevel=4)
        return rows
    return ArrayRows(opened)


def _open_file(path: str | os.PathLike[str], max_pixels: int | None, overrides: Mapping[str, object] | None) -> Rows:
    file = pixels.seekable(path)
    if not isinstance(file, str | os.PathLike):  # a pipe, which is in memory now
        return _open_file_with_pillow(pixels.open_image(file), max_pixels, overrides)
    name = os.fspath(file)
    with contextlib.suppress(VaecImageError):
        return _checked(PnmRows(name), max_pixels)
    image = pixels.open_image(name)
    is_big = image.width * image.height >= pillow.BIG_PX
    return _open_file_with_pillow(image, max_pixels, overrides, vips_path=name if is_big else None)


def _open_file_with_pillow(
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


def _checked(rows: Rows, max_pixels: int | None) -> Rows:
    records.check_size(rows.shape[1], rows.shape[0], max_pixels=max_pixels)
    return rows


def _is_array_like(source: Any) -> bool:
    """Whether this is an array of samples, from any library."""
    if isinstance(source, np.ndarray | pixels.Tensor) or not (hasattr(source, "shape") and hasattr(source, "dtype")):
        return False
    shape = tuple(source.shape)
    if source.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and 1 <= shape[2] <= 4)):
        return True
    message = f"array has shape {shape} and dtype {source.dtype}, must be uint8 [H, W] or [H, W, C] with C 1 to 4"
    raise VaecImageError(message, code="SHAPE")
