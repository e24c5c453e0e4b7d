"""Opens picture files for writing, large ones by rows if the format allows it."""

import os
from collections.abc import Mapping
from contextlib import closing
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from vaecodec.errors import VaecImageError
from vaecodec.pictures import fidelity, pillow
from vaecodec.pictures.metadata import METADATA_KEYS, NAMES
from vaecodec.pictures.pillow import LOSSY_FORMATS as LOSSY_FORMATS
from vaecodec.pictures.pillow import SUBSAMPLINGS as SUBSAMPLINGS
from vaecodec.pictures.pixels import Samples
from vaecodec.pictures.png import PngSink
from vaecodec.pictures.pnm import PnmSink
from vaecodec.pictures.tiff import TiffSink


class Sink(Protocol):
    """A picture file that is being written."""

    def write(self, samples: Samples) -> None:
        """Write the next rows [h, width, channels]."""
        ...

    def finish(self) -> None:
        """Complete the file: all rows are written."""
        ...

    def close(self) -> None:
        """Free memory and temporary files, finished or not; the file written to stays open."""
        ...


def open_sink(
    file: BinaryIO, format: str, shape: tuple[int, int, int], metadata: Mapping[str, bytes], *,
    quality: int | None = None, subsampling: str | None = None,
) -> Sink:  # fmt: skip
    """Starts writing a picture file.

    Args:
        file: open for writing.
        format: Pillow's name of the format. TIFF is written by rows, as are PNG and PPM (and PGM; neither has alpha)
            from `pillow.BIG_PX` up. Pillow writes all others as a whole.
        shape: height, width, channels.
        metadata: any of icc_profile, exif and xmp, as in a .vaec file.
        quality: as for `save`, like subsampling.

    Raises:
        VaecImageError: (SAVE) the metadata cannot be written.
    """
    is_big = shape[0] * shape[1] >= pillow.BIG_PX
    if format == "TIFF":
        return TiffSink(file, shape, metadata)
    if format == "PNG" and is_big:
        return PngSink(file, shape, metadata)
    if format == "PPM" and is_big and shape[2] in (1, 3):
        pillow.warn_cannot_hold(format, [NAMES[key] for key in METADATA_KEYS if key in metadata])
        return PnmSink(file, shape)
    return pillow.PillowSink(file, shape, metadata, format, quality=quality, subsampling=subsampling)


def save(
    image: Image.Image, file: BinaryIO, format: str, *, quality: int | None = None, subsampling: str | None = None
) -> None:
    """Writes a picture in memory, with the metadata in its `info`, in the way that `open_sink` describes.

    Args:
        image: the picture, of mode L, LA, RGB or RGBA.
        file: open for writing.
        format: Pillow's name of the format.
        quality: 1 to 100, for `LOSSY_FORMATS`.
        subsampling: JPEG's chroma subsampling, one of `SUBSAMPLINGS`.

    Raises:
        VaecImageError: (SAVE) the format cannot hold the picture.
    """
    if format != "TIFF":
        pillow.save(image, file, format, quality=quality, subsampling=subsampling)
        return
    samples = np.atleast_3d(np.asarray(image))
    sink = TiffSink(file, samples.shape, {key: image.info[key] for key in METADATA_KEYS if key in image.info})
    with closing(sink):
        sink.write(samples)
        sink.finish()


def check_quality(format: str, quality: int | None, subsampling: str | None) -> None:
    """Refuses a quality or subsampling that a format does not have; raises VaecImageError (ARGUMENT)."""
    if quality is not None and format not in LOSSY_FORMATS:
        raise VaecImageError(f"quality is {quality!r}, but {format} is lossless: omit quality", code="ARGUMENT")
    if quality is not None and (isinstance(quality, bool) or quality not in range(1, 101)):
        raise VaecImageError(f"quality is {quality!r}, must be a whole number, 1..100", code="ARGUMENT")
    if subsampling is not None and (format not in pillow.JPEG_FORMATS or subsampling not in SUBSAMPLINGS):
        allowed = ", ".join(SUBSAMPLINGS)
        raise VaecImageError(
            f"subsampling is {subsampling!r} for {format}: must be JPEG with {allowed}", code="ARGUMENT"
        )


def quality_after(format: str, vaec_quality: int) -> int | None:
    """The quality at which a format matches a lossy .vaec file.

    None if the format has its own default for this, or no quality.
    """
    return fidelity.jpeg_quality_for(vaec_quality) if format == "JPEG" else None


def check_format(format: str) -> str:
    """Pillow's name of a format, in upper case; raises VaecImageError (FORMAT) if Pillow does not write it."""
    Image.init()
    if format.upper() not in Image.SAVE or format.upper() == "VAEC":
        message = f"format is {format!r}, must be a format that Pillow writes: 'PNG', 'TIFF', 'PPM', ..."
        raise VaecImageError(message, code="FORMAT")
    return format.upper()


def format_of(target: object) -> str:
    """Pillow's name of the format for the suffix of a picture file.

    Raises:
        VaecImageError: (SUFFIX) Pillow writes no such format, or the target is not a path.
    """
    name = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    from vaecodec.pictures import originals  # deferred, as by `pixels`

    originals.register_for(name)
    suffix = os.path.splitext(name)[1].lower()
    format = Image.registered_extensions().get(suffix)
    if format not in Image.SAVE or format == "VAEC":
        message = f"suffix is {suffix!r}, must be that of a format that Pillow writes (.png, .tif, .ppm, ...)"
        raise VaecImageError(f"{message}: rename it, or give format", code="SUFFIX")
    return format
