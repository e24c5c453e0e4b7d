"""Every measure of the benchmarks, each defined once: rate, distortion, and the BD-rate between two curves."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec.pictures import pixels

Samples = NDArray[np.uint8]

EXACT_DB = 100.0
"""What an exact picture counts in decibels, so that means stay finite; no lossy codec comes near it."""

MS_SSIM_MIN_SIDE_PX = 161  # five scales of an 11-pixel window


def bpp(file_bytes: int, width: int, height: int) -> float:
    """Bits of the whole file, headers included, per pixel."""
    return 8 * file_bytes / (width * height)


def psnr_db(a: Samples, b: Samples) -> float:
    """PSNR of RGB samples [H, W, 3] in dB, one MSE over the three channels; `EXACT_DB` at most."""
    return min(pixels.psnr_db(a, b), EXACT_DB)


def ms_ssim(a: Samples, b: Samples) -> float | None:
    """MS-SSIM of RGB samples [H, W, 3], 0 to 1, the mean over channels, as pytorch-msssim computes it in float32.

    None where a side has less than 161 pixels or the package is not installed.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE_PX:
        return None
    try:
        import torch
        from pytorch_msssim import ms_ssim as measure
    except ImportError:
        return None
    x, y = (torch.tensor(each).permute(2, 0, 1)[None].float() for each in (a, b))
    with torch.inference_mode():
        return float(measure(x, y, data_range=255))


def to_db(similarity: float) -> float:
    """A similarity of 0 to 1 in decibels, -10 log10(1 - similarity), `EXACT_DB` at most: differences near 1 show."""
    return min(-10 * math.log10(1 - similarity), EXACT_DB) if similarity < 1 else EXACT_DB


def ssimulacra2(a: Samples, b: Samples) -> float | None:
    """SSIMULACRA2 of RGB samples [H, W, 3], 100 at most; None where the package is not installed."""
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        return None
    files = io.BytesIO(), io.BytesIO()
    for file, samples in zip(files, (a, b), strict=True):
        Image.fromarray(samples).save(file, "PNG", compress_level=1)
    return float(compute_ssimulacra2(*files))


def can_measure(name: str, width: int, height: int) -> bool:
    """Whether a measure of `MEASURES` is not None for pictures of this size: its package is here, the sides suffice."""
    package = {"ms_ssim": "pytorch_msssim", "ssimulacra2": "ssimulacra2"}.get(name)
    large_enough = name != "ms_ssim" or min(width, height) >= MS_SSIM_MIN_SIDE_PX
    return large_enough and (package is None or find_spec(package) is not None)


MEASURES: Mapping[str, Callable[[Samples, Samples], float | None]] = MappingProxyType(
    {"psnr_db": psnr_db, "ms_ssim": ms_ssim, "ssimulacra2": ssimulacra2}
)
"""Every measure of distortion by the name that rows give it."""


class Point(NamedTuple):
    """A point of a rate-distortion curve: bits per pixel, and a quality in dB (SSIMULACRA2: its own score)."""

    bpp: float
    db: float


class BdRate(NamedTuple):
    """The mean difference of rate at equal quality in percent, negative for fewer bits, from `low_db` to `high_db`.

    percent is None where the curves do not overlap.
    """

    percent: float | None
    low_db: float
    high_db: float

    def __str__(self) -> str:
        return "no overlap" if self.percent is None else f"{self.percent:+.1f} %".replace("-", "\N{MINUS SIGN}")


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> BdRate:
    """The BD-rate of `test` against `anchor`: PCHIP through log rate over dB, on the range that both curves cover.

    Points that cost more bits than another without being better are left out: the interpolation needs rising curves.

    Raises:
        ImportError: bjontegaard is not installed.
    """
    from bjontegaard import bd_rate as measure

    curves = _rising(anchor), _rising(test)
    if min(map(len, curves)) < 2:
        return BdRate(None, math.nan, math.nan)
    low, high = max(curve[0].db for curve in curves), min(curve[-1].db for curve in curves)
    if low >= high:
        return BdRate(None, low, high)
    (anchor_bpp, anchor_db), (test_bpp, test_db) = (zip(*curve, strict=True) for curve in curves)
    percent = measure(
        anchor_bpp, anchor_db, test_bpp, test_db, method="pchip", require_matching_points=False, min_overlap=0
    )
    return BdRate(float(percent) if math.isfinite(percent) else None, low, high)


def _rising(curve: Sequence[Point]) -> list[Point]:
    """The points in order of rate, each better than all before it."""
    kept: list[Point] = []
    for point in sorted(curve):
        if not kept or point.db > kept[-1].db:
            kept.append(point)
    return kept
