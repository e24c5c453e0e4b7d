"""SSIMULACRA2: how different two pictures look, from 100 (identical) down.

At 90 nobody sees a difference when swapped in place, at 80 side by side; 70 is high quality, 50 medium, 30 low.

Source: J. Sneyers, SSIMULACRA 2.1 (github.com/cloudinary/ssimulacra2), whose 108 weights these are. Borders follow the
Python package `ssimulacra2` 0.3, with which scores agree within 0.3 points.
"""

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import VaecImageError
from vaecodec.pictures.pixels import Samples

SCALES, SMALLEST_SIDE = 6, 8
SIGMA, RADIUS = 1.5, 5
OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
OPSIN_BIAS = 0.0037930732552754493
C2 = 0.0009
TOTAL_WEIGHT = 0.9562382616834844
CURVE = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
SCORE_SLOPE, SCORE_EXPONENT = 10.0, 0.6276336467831387

# By channel X, Y, B; by scale from the finest; by norm 1 and 4; for the maps structure lost, detail added, detail lost.
WEIGHTS = (
    0.0, 0.0007376606707406586, 0.0,
    0.0, 0.0007793481682867309, 0.0,
    0.0, 0.0004371155730107379, 0.0,
    1.1041726426657346, 0.00066284834129271, 0.00015231632783718752,
    0.0, 0.0016406437456599754, 0.0,
    1.8422455520539298, 11.441172603757666, 0.0,
    0.0007989109436015163, 0.000176816438078653, 0.0,
    1.8787594979546387, 10.94906990605142, 0.0,
    0.0007289346991508072, 0.9677937080626833, 0.0,
    0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053,
    0.0004550992113792063, 0.0, 0.0,
    0.0013648766163243398, 0.0, 0.0,
    0.0, 0.0, 0.0,
    7.466890328078848, 0.0, 17.445833984131262,
    0.0006235601634041466, 0.0, 0.0,
    6.683678146179332, 0.00037724407979611296, 1.027889937768264,
    225.20515300849274, 0.0, 0.0,
    19.213238186143016, 0.0011401524586618361, 0.001237755635509985,
    176.39317598450694, 0.0, 0.0,
    24.43300999870476, 0.28520802612117757, 0.0004485436923833408,
    0.0, 0.0, 0.0,
    34.77906344483772, 44.835625328877896, 0.0,
    0.0, 0.0, 0.0,
    0.0, 0.0, 0.0,
    0.0, 0.0008680556573291698, 0.0,
    0.0, 0.0, 0.0,
    0.0, 0.0005313191874358747, 0.0,
    0.00016533814161379112, 0.0, 0.0,
    0.0, 0.0, 0.0,
    0.0004179171803251336, 0.0017290828234722833, 0.0,
    0.0020827005846636437, 0.0, 0.0,
    8.826982764996862, 23.19243343998926, 0.0,
    95.1080498811086, 0.9863978034400682, 0.9834382792465353,
    0.0012286405048278493, 171.2667255897307, 0.9807858872435379,
    0.0, 0.0, 0.0,
    0.0005130064588990679, 0.0, 0.00010854057858411537,
)  # fmt: skip

_TAPS = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
_TAPS = (_TAPS / _TAPS.sum()).astype(np.float32)

Planes = NDArray[np.float32]


def score(original: Samples, shown: Samples) -> float:
    """The SSIMULACRA2 score of a picture.

    Args:
        original: samples uint8 [H, W, 3], sides of at least 8, sRGB.
        shown: samples of the same shape.

    Raises:
        VaecImageError: (SHAPE) the shapes differ, are not [H, W, 3], or are too small.

    Example:
        >>> score(picture, picture)
        100.0
    """
    if original.shape != shown.shape or original.ndim != 3 or original.shape[2] != 3:
        message = f"shapes are {original.shape} and {shown.shape}, must be equal and [H, W, 3]"
        raise VaecImageError(message, code="SHAPE")
    if min(original.shape[:2]) < SMALLEST_SIDE:
        message = (
            f"picture has {original.shape[1]} x {original.shape[0]} pixels, SSIMULACRA2 needs {SMALLEST_SIDE} a side"
        )
        raise VaecImageError(message, code="SHAPE")
    weights = np.reshape(WEIGHTS, (3, SCALES, 2, 3))
    a, b, total = _linear(original), _linear(shown), 0.0
    for scale in range(SCALES):
        if min(b.shape[1:]) < SMALLEST_SIDE:
            break
        for channel, planes in enumerate(zip(_positive_xyb(a), _positive_xyb(b), strict=True)):
            total += float((_terms(*planes) * weights[channel, scale]).sum())
        a, b = _halved(a), _halved(b)
    return score_of(TOTAL_WEIGHT * total)


def score_of(distance: float) -> float:
    """Converts the weighted sum of all terms to a score: 0 is 100, about 4 is 60, about 24 is 0."""
    bent = sum(factor * distance**power for power, factor in enumerate(CURVE, 1))
    return 100 - SCORE_SLOPE * max(bent, 0.0) ** SCORE_EXPONENT


def _linear(samples: Samples) -> Planes:
    """Linear light [3, H, W] in 0..1."""
    levels = np.arange(256, dtype=np.float32) / 255
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return np.ascontiguousarray(curve[samples].transpose(2, 0, 1))


def _positive_xyb(linear: Planes) -> tuple[Planes, Planes, Planes]:
    """XYB, shifted and scaled so that all channels are positive and have similar ranges."""
    mixed = np.tensordot(np.array(OPSIN, np.float32), linear, 1) + np.float32(OPSIN_BIAS)
    long, middle, short = np.cbrt(mixed) - np.float32(OPSIN_BIAS ** (1 / 3))
    y = (long + middle) / 2
    return 7 * (long - middle) + np.float32(0.42), y + np.float32(0.01), short - y + np.float32(0.55)


def _terms(a: Planes, b: Planes) -> NDArray[np.float64]:
    """Terms [2, 3] (norms, maps) for a channel [h, w] of the original and of the picture."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance = _blur(a * a) - mean_a * mean_a + (_blur(b * b) - mean_b * mean_b)
    covariance = _blur(a * b) - mean_a * mean_b
    structure = 1 - (1 - (mean_a - mean_b) ** 2) * (2 * covariance + np.float32(C2)) / (variance + np.float32(C2))
    edges = (1 + np.abs(b - mean_b)) / (1 + np.abs(a - mean_a)) - 1
    maps = [np.maximum(each, 0) for each in (structure, edges, -edges)]
    fourth = [float(np.mean(np.square(np.square(each)), dtype=np.float64)) ** 0.25 for each in maps]
    return np.array([[float(each.mean(dtype=np.float64)) for each in maps], fourth])


def _blur(plane: Planes) -> Planes:
    """Gaussian blur [h, w]; beyond the edges, rows are mirrored, columns are zero."""
    height, width = plane.shape
    padded = np.pad(plane, ((RADIUS, RADIUS), (0, 0)), mode="symmetric")
    rows = sum((tap * padded[start : start + height] for start, tap in enumerate(_TAPS)), np.zeros_like(plane))
    padded = np.pad(rows, ((0, 0), (RADIUS, RADIUS)))
    return sum((tap * padded[:, start : start + width] for start, tap in enumerate(_TAPS)), np.zeros_like(plane))


def _halved(planes: Planes) -> Planes:
    """Means of 2 x 2 pixels; of fewer at odd edges."""
    _, height, width = planes.shape
    padded = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return padded.reshape(3, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2).mean((2, 4))
