"""Reads and writes pictures with Pillow, in memory but by rows, with the metadata that each format can hold."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vaecodec.errors import VaecImageError
from vaecodec.pictures import exif, fidelity, pixels
from vaecodec.pictures.metadata import METADATA_KEYS, NAMES, as_info
from vaecodec.pictures.pixels import ArrayRows, Rows, Samples

ICO_MAX_PX = 256
BIG_PX = 1 << 24  # from this size on, files are read and written by rows instead of in memory, if possible

# Lossless if the format can: Pillow's own defaults would lose quality a second time. (JPEG's quality follows that of
# the decoded file, if that is lossy.)
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 90},
    "HEIF": {"quality": 90},
    "JPEG": {"quality": 98, "optimize": True},
    "JXL": {"lossless": True},
    "MPO": {"quality": 98},
    "WEBP": {"lossless": True, "exact": True},  # exact: keep colours under transparent pixels too
}

LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JXL")
_KNOWN_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "PPM")  # for other formats, the written file is checked

JPEG_FORMATS = ("JPEG", "MPO")
SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")
_SUBSAMPLINGS = {False: "4:2:0", True: "4:4:4"}

_OPAQUE_FORMATS = ("JPEG", "MPO", "PPM")
_SEGMENT_BYTES = 65533  # of JPEG
_XMP_HEAD_BYTES = 29
_MAX_ICC_BYTES = 255 * (_SEGMENT_BYTES - 14)
_OPAQUE = 255


class PillowRows:
    """Rows of a Pillow image whose mode is stored unchanged; Pillow takes 4 bytes per pixel for RGB, 1 for L."""

    def __init__(self, image: Image.Image, metadata: dict[str, bytes]) -> None:
        self._image, self.metadata = image, metadata
        self.shape = image.height, image.width, len(image.mode)

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels]."""
        return np.atleast_3d(np.asarray(self._image.crop((0, top, self.shape[1], bottom))))

    def close(self) -> None:
        """Closes the image."""
        self._image.close()


class PillowSink:
    """Collects a picture in memory, at 4 bytes per pixel for RGB, and writes it with Pillow.

    Args:
        file: open for writing.
        shape: height, width, channels.
        metadata: as for `pixels.to_image`.
        format: Pillow's name of the format.
        quality: as for `save`, like subsampling.
    """

    def __init__(
        self, file: BinaryIO, shape: tuple[int, int, int], metadata: Mapping[str, bytes], format: str, *,
        quality: int | None = None, subsampling: str | None = None,
    ) -> None:  # fmt: skip
        height, width, channels = shape
        self._file, self._format, self._top = file, format, 0
        self._quality, self._subsampling = quality, subsampling
        self._image = Image.new(pixels.MODES[channels - 1], (width, height))
        self._image.info.update(as_info(metadata))

    def write(self, samples: Samples) -> None:
        """Adds the next rows [h, width, channels]."""
        self._image.paste(pixels.to_image(samples, {}), (0, self._top))
        self._top += len(samples)

    def finish(self) -> None:
        """Writes the file, after all rows; raises as `save`."""
        save(self._image, self._file, self._format, quality=self._quality, subsampling=self._subsampling)

    def close(self) -> None:
        """Frees the picture."""
        self._image.close()


def save(
    image: Image.Image, file: BinaryIO, format: str, *, quality: int | None = None, subsampling: str | None = None
) -> None:
    """Writes a picture with the metadata in its `info`, losslessly if the format can; warns of what it cannot hold.

    Args:
        image: its `info` is emptied.
        file: open for writing.
        format: Pillow's name of the format.
        quality: 1 to 100, for `LOSSY_FORMATS`.
        subsampling: JPEG's chroma subsampling; by default "4:2:0", and "4:4:4" from `fidelity.FULL_COLOUR_FROM` on.

    Raises:
        VaecImageError: (SAVE) the format cannot hold the picture.
        OSError: the file cannot be written.
    """
    metadata = {key: image.info[key] for key in METADATA_KEYS if key in image.info}
    image.info = {}  # some of Pillow's writers take metadata from there by themselves
    image = _without_useless_alpha(image, format)
    kept = _fitting_metadata(metadata, format)
    options = _SAVE_OPTIONS.get(format, {}) | kept
    if quality is not None:
        options = options | {"quality": quality, "lossless": False}
    if format in JPEG_FORMATS:
        options["subsampling"] = subsampling or _SUBSAMPLINGS[options["quality"] >= fidelity.FULL_COLOUR_FROM]
    if "xmp" in kept and format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", kept["xmp"].decode(errors="replace"))
    if format in ("PNG", "JPEG", "MPO", "BMP") and "exif" in kept:
        options |= _resolution_of(kept["exif"])
    if format == "ICO" and max(image.size) <= ICO_MAX_PX:
        options["sizes"] = [image.size]
    lost = [NAMES[key] for key in metadata if key not in kept]
    with saving(format):
        if format in _KNOWN_FORMATS:
            image.save(file, format, **options)
        else:
            written = io.BytesIO()
            image.save(written, format, **options)
            lost += _losses(image, written, format, kept)
            file.write(written.getvalue())
    warn_cannot_hold(format, lost)


@contextmanager
def saving(format: str) -> Iterator[None]:
    """Turns the errors of Pillow's writers, which fail in many ways, into VaecImageError (SAVE)."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's error, not the format's
            raise
        raise VaecImageError(f"cannot write it as {format}: {error}", code="SAVE") from error


def rows_of(image: Image.Image, overrides: Mapping[str, object] | None = None) -> Rows:
    """The rows of an image, which is closed when it is no longer needed; raises as `to_samples`.

    Args:
        image: the image.
        overrides: as for `pixels.warn_of_losses`.
    """
    metadata = pixels.metadata_of(image)  # loads it
    pixels.warn_of_losses(image, overrides, stacklevel=6)
    if image.mode in pixels.MODES and "transparency" not in image.info:
        return PillowRows(image, metadata)
    with image:
        return ArrayRows(pixels.to_samples(image), metadata)


# --- what a format can hold; the rest is refused, or named in one warning ---------------------------------------------


def _without_useless_alpha(image: Image.Image, format: str) -> Image.Image:
    """The picture without alpha if the format has none and the picture is opaque.

    Raises:
        VaecImageError: (SAVE) the picture is not opaque.
    """
    if format not in _OPAQUE_FORMATS or "A" not in image.getbands():
        return image
    if image.getchannel("A").getextrema() != (_OPAQUE, _OPAQUE):
        hint = "use --background COLOR (flatten_alpha) to remove it, or a format such as png or webp"
        raise VaecImageError(f"cannot write it as {format}, which has no transparency: {hint}", code="SAVE")
    return image.convert(image.mode.removesuffix("A"))


def _fitting_metadata(metadata: Mapping[str, bytes], format: str) -> dict[str, bytes]:
    """The metadata that fits into the format."""
    if format == "PPM":
        return {}
    if format not in JPEG_FORMATS:
        return dict(metadata)
    limits = {"exif": _SEGMENT_BYTES, "xmp": _SEGMENT_BYTES - _XMP_HEAD_BYTES, "icc_profile": _MAX_ICC_BYTES}
    return {key: data for key, data in metadata.items() if len(data) <= limits[key]}


def _resolution_of(block: bytes) -> dict[str, Any]:
    """The resolution in EXIF, as an option of Pillow's writers."""
    dpi = exif.resolution_dpi(block.removeprefix(exif.PREFIX))
    return {"dpi": dpi} if dpi else {}


def _losses(image: Image.Image, written: io.BytesIO, format: str, metadata: Mapping[str, bytes]) -> list[str]:
    """Names of what a written file does not hold of a picture and its metadata.

    Raises:
        VaecImageError: (SAVE) the file has another size.
    """
    written.seek(0)
    try:
        with pixels.open_image(written) as found:
            size, info = found.size, dict(found.info)
            shown = found.convert(image.mode) if size == image.size and format not in LOSSY_FORMATS else None
    except (OSError, ValueError):  # Pillow writes formats that it does not read, such as PDF
        return ["content that Pillow can read back, so the result is not verified"]
    if size != image.size:
        found_size, wanted = (f"{width} x {height}" for width, height in (size, image.size))
        raise VaecImageError(f"cannot write it as {format}: its size would be {found_size}, not {wanted}", code="SAVE")
    lost = [NAMES[key] for key in metadata if not info.get(key)]
    if shown is not None:
        psnr_db = pixels.psnr_db(np.atleast_3d(np.asarray(image)), np.atleast_3d(np.asarray(shown)))
        lost += [f"all of its colours ({psnr_db:.1f} dB are left)"] if np.isfinite(psnr_db) else []
    return lost


def warn_cannot_hold(format: str, lost: list[str]) -> None:
    """Warns, once, of what a format cannot hold."""
    if lost:
        warnings.warn(f"{format} cannot hold {', '.join(lost)}", UserWarning, stacklevel=4)
