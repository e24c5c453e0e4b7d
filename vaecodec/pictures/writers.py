"""Opening a picture file to be written, a big one by rows where its format allows."""

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
    """A picture file in the making."""

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
    """Begins a picture file.

    Args:
        file: where to.
        format: Pillow's name of it. TIFF, and from `pillow.BIG_PX` on PNG and PPM (with PGM; neither has alpha), are
            written by rows; others, and what is smaller, Pillow writes as a whole.
        shape: height, width, channels.
        metadata: any of icc_profile, exif and xmp, as a .vaec file holds them.
        quality: as for `save`, as is subsampling.

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
    """Writes a picture in memory, of a mode that is stored, as `open_sink` says, with the metadata in its `info`.

    Args:
        image: the picture.
        file: where to.
        format: Pillow's name of it.
        quality: of one of `LOSSY_FORMATS`, 1 to 100.
        subsampling: of JPEG's colour: one of `SUBSAMPLINGS`.

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
        raise VaecImageError(f"quality is {quality!r}, but {format} is not lossy: leave it out", code="ARGUMENT")
    if quality is not None and (isinstance(quality, bool) or quality not in range(1, 101)):
        raise VaecImageError(f"quality is {quality!r}, allowed are whole numbers 1..100", code="ARGUMENT")
    if subsampling is not None and (format not in pillow.JPEG_FORMATS or subsampling not in SUBSAMPLINGS):
        allowed = ", ".join(SUBSAMPLINGS)
        raise VaecImageError(f"subsampling is {subsampling!r} of {format}: JPEG has {allowed}", code="ARGUMENT")


def quality_after(format: str, vaec_quality: int) -> int | None:
    """The quality at which a format keeps what a lossy .vaec file shows, in no more bytes than need be.

    None where the format has a quality of its own for this, or none at all.
    """
    return fidelity.jpeg_quality_for(vaec_quality) if format in pillow.JPEG_FORMATS else None


def check_format(format: str) -> str:
    """Pillow's name of a format, in upper case; raises VaecImageError (FORMAT) if Pillow does not write it."""
    Image.init()
    if format.upper() not in Image.SAVE or format.upper() == "VAEC":
        message = f"format is {format!r}, must be one that Pillow writes: 'PNG', 'TIFF', 'PPM', ..."
        raise VaecImageError(message, code="FORMAT")
    return format.upper()


def format_of(target: object) -> str:
    """Pillow's name of the format of a picture file, told by its suffix.

    Raises:
        VaecImageError: (SUFFIX) Pillow writes no such format, or the target is no path.
    """
    name = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    from vaecodec.pictures import originals  # deferred, as by `pixels`

    originals.register_for(name)
    suffix = os.path.splitext(name)[1].lower()
    format = Image.registered_extensions().get(suffix)
    if format not in Image.SAVE or format == "VAEC":
        message = f"suffix is {suffix!r}, must be that of a format that Pillow writes (.png, .tif, .ppm, ...)"
        raise VaecImageError(f"{message}, unless format is given", code="SUFFIX")
    return format
