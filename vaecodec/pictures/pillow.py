"""Pillow's formats: pictures that it holds in memory, read and written by rows, and how each format keeps metadata."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vaecodec.errors import VaecImageError
from vaecodec.pictures import pixels
from vaecodec.pictures.metadata import METADATA_KEYS, as_info
from vaecodec.pictures.rows import ArrayRows, Rows, Samples

BIG_PX = 1 << 24  # from here on, what Pillow would hold in memory is worth avoiding: files are read and written by rows

# Lossless where the format can: Pillow's own defaults would lose quality a second time.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 90},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},  # exact: also the colours of what is transparent
}


class PillowRows:
    """Rows of a Pillow image of a mode that is stored as it is; in RGB Pillow takes 4 bytes a pixel, in L one."""

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
    """Collects a picture in memory, in RGB 4 bytes a pixel, and lets Pillow write it.

    Args:
        file: where to.
        shape: height, width, channels.
        metadata: as `pixels.to_image` takes it.
        format: Pillow's name of it.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], metadata: Mapping[str, bytes], format: str) -> None:
        height, width, channels = shape
        self._file, self._format, self._top = file, format, 0
        self._image = Image.new(pixels.MODES[channels - 1], (width, height))
        self._image.info.update(as_info(metadata))

    def write(self, samples: Samples) -> None:
        """Takes the next rows [h, width, channels]."""
        self._image.paste(pixels.to_image(samples, {}), (0, self._top))
        self._top += len(samples)

    def finish(self) -> None:
        """All rows are written; raises as `save`."""
        save(self._image, self._file, self._format)

    def close(self) -> None:
        """Lets the picture go."""
        self._image.close()


def save(image: Image.Image, file: BinaryIO, format: str) -> None:
    """Writes a picture with the metadata in its `info`, as far as the format can hold it, without loss if it can.

    Args:
        image: its `info` is emptied.
        file: where to.
        format: one of Pillow's.

    Raises:
        VaecImageError: (SAVE) the format cannot hold the picture.
        OSError: the file cannot be written.
    """
    metadata = {key: image.info[key] for key in METADATA_KEYS if key in image.info}
    image.info = {}  # some of Pillow's writers take metadata from there unasked
    options = _SAVE_OPTIONS.get(format, {}) | metadata
    if "xmp" in metadata and format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata["xmp"].decode(errors="replace"))
    with saving(format):
        if format == "PPM" and "A" in image.mode:  # which Pillow would drop
            raise ValueError("it has no transparency")
        image.save(file, format, **options)


@contextmanager
def saving(format: str) -> Iterator[None]:
    """Makes VaecImageError (SAVE) of what Pillow's writers raise: they fail in many ways."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's error, not the format's
            raise
        raise VaecImageError(f"cannot write it as {format}: {error}", code="SAVE") from error


def rows_of(image: Image.Image) -> Rows:
    """The rows of an image that was opened for this, and is closed when it is not needed; raises as `to_samples`."""
    metadata = pixels.metadata_of(image)  # loads it
    if image.mode in pixels.MODES and "transparency" not in image.info:
        return PillowRows(image, metadata)
    with image:
        return ArrayRows(pixels.to_samples(image), metadata)
