"""TIFF by rows: strips are deflated into a file without a name, then Pillow writes the directory, then they follow."""

import io
import itertools
import shutil
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from vaecodec.pictures.pillow import saving
from vaecodec.pictures.rows import Samples
from vaecodec.runtime.files import spool

STRIP_ROWS = 64
ZLIB_LEVEL = 3
_DEFLATE = 8
_DIFFERENCES = 2  # predictor: each sample less that of the pixel before it
_NOT_PREMULTIPLIED = 2


class TiffSink:
    """Writes a TIFF file in strips of 64 rows. Pillow's own writer fails on EXIF data with more than one directory.

    Args:
        file: where to, from its beginning.
        shape: height, width, channels.
        metadata: any of icc_profile, exif and xmp, as a file holds them.

    Raises:
        VaecImageError: (SAVE) the metadata cannot be written.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], metadata: Mapping[str, bytes]) -> None:
        with saving("TIFF"):
            self._tags = _tags(shape, metadata)
        name = getattr(file, "name", None)
        self._file, self._strips, self._lengths = file, spool(name if isinstance(name, str) else None), list[int]()
        self._rows = np.empty((0, *shape[1:]), np.uint8)  # less than a strip

    def write(self, samples: Samples) -> None:
        """Takes the next rows [h, width, channels]."""
        while len(samples):
            missing = STRIP_ROWS - len(self._rows)
            self._rows = np.concatenate([self._rows, samples[:missing]])
            samples = samples[missing:]
            if len(self._rows) == STRIP_ROWS:
                self._deflate()

    def finish(self) -> None:
        """All rows are written: the file is put together."""
        if len(self._rows):
            self._deflate()
        offsets = itertools.accumulate(self._lengths[:-1], initial=0)  # from the end of the directory
        self._tags[TiffImagePlugin.STRIPOFFSETS] = tuple(offsets)
        self._tags[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(self._lengths)
        self._tags.tagtype[TiffImagePlugin.STRIPOFFSETS] = TiffTags.LONG
        directory = io.BytesIO()
        with saving("TIFF"):
            self._tags.save(directory)
        self._file.write(directory.getvalue())
        self._strips.seek(0)
        shutil.copyfileobj(self._strips, self._file)

    def close(self) -> None:
        """Removes the strips."""
        self._strips.close()

    def _deflate(self) -> None:
        differences = self._rows.copy()
        differences[:, 1:] -= self._rows[:, :-1]
        strip = zlib.compress(differences.data, ZLIB_LEVEL)
        self._strips.write(strip)
        self._lengths.append(len(strip))
        self._rows = self._rows[:0]


def _tags(shape: tuple[int, int, int], metadata: Mapping[str, bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The directory but for the places of the strips."""
    height, width, channels = shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    exif = Image.Exif()
    exif.load(metadata.get("exif", b""))
    for tag in exif:
        tags[tag] = exif.get_ifd(tag) if tag in TiffTags.TAGS_V2_GROUPS else exif[tag]
    for name, tag in (("icc_profile", TiffImagePlugin.ICCPROFILE), ("xmp", TiffImagePlugin.XMP)):
        if name in metadata:
            tags[tag] = metadata[name]
    tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH] = width, height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (8,) * channels
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1  # pixel by pixel
    tags[TiffImagePlugin.COMPRESSION], tags[TiffImagePlugin.PREDICTOR] = _DEFLATE, _DIFFERENCES
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2
    if channels in (2, 4):
        tags[TiffImagePlugin.EXTRASAMPLES] = _NOT_PREMULTIPLIED
    tags[TiffImagePlugin.ROWSPERSTRIP] = STRIP_ROWS
    return tags
