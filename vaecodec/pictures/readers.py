"""Opening any picture to be read by rows, with as little memory as its kind allows."""

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
    """Opens a picture; its pixels are read later, and by rows if it can be.

    Args:
        source: what `pixels.open_source` takes; besides, anything with `shape`, `dtype` and slices of rows that become
            arrays: memory-mapped arrays, and those of zarr and h5py; and `Rows` themselves.
        max_pixels: as for `records.check_size`.
        overrides: as for `pixels.warn_of_losses`, which warns here.

    Returns:
        Its rows. PGM and PPM with 8 bits, and arrays, need no memory of their own. PNG, JPEG and TIFF of more than 16
        megapixels need little where pyvips is installed. All else is decoded by Pillow as a whole.

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
    if not isinstance(file, str | os.PathLike):  # a pipe: memory has all of it
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
    """The rows of an image that is closed when it is not needed, or of its file, if libvips reads that."""
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
    """Whether this is an array of samples of a library that we need not know."""
    if isinstance(source, np.ndarray | pixels.Tensor) or not (hasattr(source, "shape") and hasattr(source, "dtype")):
        return False
    shape = tuple(source.shape)
    if source.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and 1 <= shape[2] <= 4)):
        return True
    message = f"array has shape {shape} and dtype {source.dtype}, must be uint8 [H, W] or [H, W, C] with C 1 to 4"
    raise VaecImageError(message, code="SHAPE")
