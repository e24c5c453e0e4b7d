"""Estimates the SSIMULACRA2 score of lossy files, and derives matching qualities.

Every curve is a mean over photographs; `benchmarks/fidelity.py` measures them. Update `VAEC` when the weights change.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Curve = dict[float, float]

VAEC: Curve = {
    1: -19, 10: 5, 20: 26, 30: 41, 40: 54, 50: 64, 60: 72.5, 70: 79.5, 75: 82.5, 80: 85, 90: 88.5, 100: 91,
}  # fmt: skip
"""Score by quality of .vaec files, with the default weights."""
JPEG: Curve = {
    1: -60, 10: -11, 20: 29.5, 30: 45.5, 40: 54, 50: 59.5, 60: 63.5, 70: 69, 80: 74.5, 85: 78, 90: 82, 95: 86, 98: 88,
    100: 88.5,
}  # fmt: skip
"""Score by quality of libjpeg, with 4:2:0 colour."""
_BITS: dict[str, Curve] = {  # a pixel
    "WEBP": {0.2: 0, 0.46: 41, 0.68: 55, 1.05: 70, 1.99: 82, 3.83: 86.5},
    "AVIF": {0.05: 0, 0.2: 22, 0.4: 53, 0.6: 64.5, 0.87: 73.5, 1.61: 82.5, 2.31: 85.5},
}
_BITS["HEIF"] = _BITS["AVIF"]

ADDED_LOSS = 0.85
"""Loss that recoding a lossy picture may add, as a share of its existing loss. The pictures look alike, and it saves a
fifth of a JPEG. A smaller share would not be visible next to the first loss, and every point costs bytes."""
LOWEST, HIGHEST = 20, 95
FULL_COLOUR_FROM = 96  # JPEG quality from which on 4:4:4 colour is worth its bytes
_LARGEST_JPEG = 98
_HEAD_BYTES = 1 << 16

# The luminance table of JPEG's standard (T.81, K.1), in zigzag order as in files.
_LUMINANCE = (
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61,
    60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113,
    121, 112, 100, 120, 92, 101, 103, 99,
)  # fmt: skip


class Estimate(NamedTuple):
    """The format and estimated score of a lossy file, and its quality on libjpeg's scale if it is a JPEG."""

    format: str
    score: float
    quality: int | None = None

    @property
    def vaec_quality(self) -> int:
        """The .vaec quality that keeps its appearance."""
        return _rounded(_inverse(VAEC, 100 - ADDED_LOSS * (100 - self.score)), LOWEST, HIGHEST)


def estimate(image: Image.Image, source: str | bytes) -> Estimate | None:
    """Estimates the fidelity of an opened image from its file (a path or bytes); None if lossless or unknown.

    Raises:
        OSError: the file cannot be read.
    """
    format = "JPEG" if image.format == "MPO" else image.format or ""
    tables: Any = getattr(image, "quantization", None)
    if format == "JPEG" and tables:
        quality = jpeg_quality(tables[min(tables)])
        return Estimate(format, _at(JPEG, quality), round(quality))
    if format not in _BITS:
        return None
    head, file_bytes = _beginning_and_size(source)
    if format == "WEBP" and b"VP8L" in head and b"VP8 " not in head:  # the chunk with the pixels
        return None
    return Estimate(format, _at(_BITS[format], 8 * file_bytes / (image.width * image.height)))


def jpeg_quality(luminance: Sequence[int]) -> float:
    """The libjpeg quality, 1 to 100, whose luminance table is as coarse as this one."""
    order = np.array(sorted(_LUMINANCE))  # Pillow has given both orders
    percent = 100 * float(np.mean(np.sort(np.asarray(luminance, float)) / order))
    quality = 5000 / percent if percent > 100 else (200 - percent) / 2
    return min(100.0, max(1.0, quality))


def jpeg_quality_for(vaec_quality: int) -> int:
    """The JPEG quality for decoding a .vaec file: that of a JPEG for which `vaec_quality` would be chosen."""
    score = 100 - (100 - _at(VAEC, vaec_quality)) / ADDED_LOSS
    return _rounded(_inverse(JPEG, score), 1, _LARGEST_JPEG)


def _beginning_and_size(source: str | bytes) -> tuple[bytes, int]:
    if isinstance(source, bytes):
        return source, len(source)
    with open(source, "rb") as file:
        return file.read(_HEAD_BYTES), os.fstat(file.fileno()).st_size


def _at(curve: Curve, x: float) -> float:
    return float(np.interp(x, list(curve), list(curve.values())))


def _inverse(curve: Curve, y: float) -> float:
    return float(np.interp(y, list(curve.values()), list(curve)))


def _rounded(value: float, least: int, most: int) -> int:
    return min(most, max(least, round(value)))
