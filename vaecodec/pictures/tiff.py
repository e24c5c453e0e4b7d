"""TIFF by rows: strips are deflated into a temporary file; then Pillow writes the directory, and the strips follow."""

import io
import itertools
import shutil
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from vaecodec.pictures.pillow import saving
from vaecodec.pictures.pixels import Samples
from vaecodec.runtime.files import spool

STRIP_ROWS = 64
ZLIB_LEVEL = 3
_DEFLATE = 8
_DIFFERENCES = 2  # predictor: differences from the previous pixel
_NOT_PREMULTIPLIED = 2
_INTEROP = 0xA005
# Tags that describe the layout of the original file, or point into it: strips, tiles, tables, further directories,
# thumbnails; and tags about samples that do not apply here.
_PLACES = {
    254, 255, 259, 263, 264, 265, 266, 273, 279, 280, 281, 288, 289, 290, 291, 292, 293, 297, 301, 317, 318, 319, 320,
    321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 338, 339, 340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519,
    520, 521, 529, 530, 531, 532, 34377, 37724, 50740,
}  # fmt: skip


class TiffSink:
    """Writes a TIFF file in strips of 64 rows. Pillow's own writer fails on EXIF data with more than one directory.

    Args:
        file: open for writing, at its beginning.
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
        self._rows = np.empty((0, *shape[1:]), np.uint8)  # rows that do not fill a strip yet

    def write(self, samples: Samples) -> None:
        """Adds the next rows [h, width, channels]."""
        while len(samples):
            missing = STRIP_ROWS - len(self._rows)
            self._rows = np.concatenate([self._rows, samples[:missing]])
            samples = samples[missing:]
            if len(self._rows) == STRIP_ROWS:
                self._deflate()

    def finish(self) -> None:
        """Assembles the file, after all rows."""
        if len(self._rows):
            self._deflate()
        offsets = itertools.accumulate(self._lengths[:-1], initial=0)  # relative to the end of the directory
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


def _directory(exif: Image.Exif, tag: int) -> dict[int, object]:
    """A subdirectory, without entries that are offsets into the old file."""
    return {key: value for key, value in exif.get_ifd(tag).items() if key != _INTEROP}


def _tags(shape: tuple[int, int, int], metadata: Mapping[str, bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The directory, without the positions of the strips."""
    height, width, channels = shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    exif = Image.Exif()
    exif.load(metadata.get("exif", b""))
    for tag in exif:
        if tag in TiffTags.TAGS_V2_GROUPS:
            tags[tag] = _directory(exif, tag)
        elif tag not in _PLACES:
            tags[tag] = exif[tag]
    for name, tag in (("icc_profile", TiffImagePlugin.ICCPROFILE), ("xmp", TiffImagePlugin.XMP)):
        if name in metadata:
            tags[tag] = metadata[name]
    tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH] = width, height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (8,) * channels
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1  # interleaved channels
    tags[TiffImagePlugin.COMPRESSION], tags[TiffImagePlugin.PREDICTOR] = _DEFLATE, _DIFFERENCES
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2
    if channels in (2, 4):
        tags[TiffImagePlugin.EXTRASAMPLES] = _NOT_PREMULTIPLIED
    tags[TiffImagePlugin.ROWSPERSTRIP] = STRIP_ROWS
    return tags
