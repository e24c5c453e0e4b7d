"""The measures of the benchmarks: rate, distortion, and the BD-rate between two curves."""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec.pictures import pixels
from vaecodec.pictures.ssimulacra2 import score

Samples = NDArray[np.uint8]

EXACT_DB = 100.0
"""The decibels of an exact picture, so that means stay finite; no lossy codec comes close."""

MS_SSIM_MIN_SIDE_PX = 161  # five scales of an 11-pixel window

# Six scales of at least 8 pixels. With fewer, programs disagree: the C++ program and the package `ssimulacra2` index
# their weights by the existing scales, so all later channels get weights that are meant for others.
SSIMULACRA2_MIN_SIDE_PX = 256

BUTTERAUGLI = "butteraugli_main"
BUTTERAUGLI_NORM = 3


def bpp(file_bytes: int, width: int, height: int) -> float:
    """Bits of the whole file, headers included, per pixel."""
    return 8 * file_bytes / (width * height)


def psnr_db(a: Samples, b: Samples) -> float:
    """PSNR of RGB samples [H, W, 3] in dB, one MSE over the three channels; `EXACT_DB` at most."""
    return min(pixels.psnr_db(a, b), EXACT_DB)


def ms_ssim(a: Samples, b: Samples) -> float | None:
    """MS-SSIM of RGB samples [H, W, 3], 0 to 1, the mean over channels, as pytorch-msssim computes it in float32.

    None if a side has less than 161 pixels or the package is not installed.
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
    """Converts a similarity of 0 to 1 to decibels, -10 log10(1 - similarity), at most `EXACT_DB`."""
    return min(-10 * math.log10(1 - similarity), EXACT_DB) if similarity < 1 else EXACT_DB


def ssimulacra2(a: Samples, b: Samples) -> float | None:
    """SSIMULACRA2 of RGB samples [H, W, 3], the original first; None if a side has less than 256 pixels."""
    return None if min(a.shape[:2]) < SSIMULACRA2_MIN_SIDE_PX else score(a, b)


def butteraugli(a: Samples, b: Samples) -> float | None:
    """Butteraugli's 3-norm of RGB samples [H, W, 3], the original first: a distance, 0 for equal pictures.

    None if libjxl's program is not installed.

    Raises:
        RuntimeError: the program failed.
    """
    program = shutil.which(BUTTERAUGLI)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("original.ppm", "shown.ppm")]  # read as sRGB like PNG, but faster
        for path, samples in zip(paths, (a, b), strict=True):
            Image.fromarray(samples).save(path)
        command = [program, *map(str, paths), "--pnorm", str(BUTTERAUGLI_NORM)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    _, found, norm = result.stdout.partition(f"{BUTTERAUGLI_NORM}-norm:")
    if result.returncode or not found:
        raise RuntimeError(f"{BUTTERAUGLI} failed with {result.returncode}: {result.stdout}{result.stderr}")
    return float(norm)


def why_not(name: str) -> str | None:
    """The reason why a measure of `MEASURES` is unavailable on this machine; None if it is available."""
    if name == "ms_ssim" and find_spec("pytorch_msssim") is None:
        return "pytorch-msssim is not installed"
    if name == "butteraugli" and shutil.which(BUTTERAUGLI) is None:
        return f"the program {BUTTERAUGLI} is not installed (Debian: libjxl-devtools)"
    return None


def is_large_enough(name: str, width: int, height: int) -> bool:
    """Whether a measure of `MEASURES` is defined for pictures of this size."""
    return min(width, height) >= {"ms_ssim": MS_SSIM_MIN_SIDE_PX, "ssimulacra2": SSIMULACRA2_MIN_SIDE_PX}.get(name, 1)


def can_measure(name: str, width: int, height: int) -> bool:
    """Whether a measure of `MEASURES` is available and defined for pictures of this size."""
    return is_large_enough(name, width, height) and why_not(name) is None


MEASURES: Mapping[str, Callable[[Samples, Samples], float | None]] = MappingProxyType(
    {"ssimulacra2": ssimulacra2, "ms_ssim": ms_ssim, "butteraugli": butteraugli, "psnr_db": psnr_db}
)
"""Every distortion measure by its name in rows; first the one that agrees best with human ratings."""


def quality_of(name: str, mean: float) -> float:
    """Converts the mean of a measure for curves, so that larger is better: MS-SSIM in dB, butteraugli negated."""
    if name == "ms_ssim":
        return to_db(mean)
    return -mean if name == "butteraugli" else mean


class Point(NamedTuple):
    """A point of a rate-distortion curve: bits per pixel, and a quality in dB, or as `quality_of` says."""

    bpp: float
    db: float


class BdRate(NamedTuple):
    """The mean difference of rate at equal quality in percent, negative for fewer bits, from `low_db` to `high_db`.

    percent is None if the curves do not overlap. interval, in percent, is the confidence interval for other pictures
    of the same kind (`bootstrap.interval`); None if it was not requested or cannot be computed.
    """

    percent: float | None
    low_db: float
    high_db: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.percent is None:
            return "no overlap"
        text = f"{self.percent:+.1f} %"
        if self.interval is not None:
            low, high = self.interval
            text += f" [{low:+.1f}, {high:+.1f}]"
        return text.replace("-", "\N{MINUS SIGN}")


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> BdRate:
    """The BD-rate of `test` against `anchor`: PCHIP of log rate over dB, over the range that both curves cover.

    Points that cost more bits than another without being better are dropped, because interpolation needs rising curves.

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
