"""SSIMULACRA2 as a differentiable loss: distance between pictures as people see it.

Source: J. Sneyers, SSIMULACRA 2.1 (github.com/cloudinary/ssimulacra2), whose 108 weights these are. Borders follow the
Python package `ssimulacra2` 0.3, with which scores agree within 0.3 points.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES, SMALLEST_SIDE = 6, 8
SIGMA, RADIUS = 1.5, 5
OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
OPSIN_BIAS = 0.0037930732552754493
C2 = 0.0009
SMALLEST = 1e-24  # under roots, whose slope is unbounded at 0
TOTAL_WEIGHT = 0.9562382616834844
CURVE = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
SCORE_SLOPE, SCORE_EXPONENT = 10.0, 0.6276336467831387

# By channel X, Y, B; by scale from the finest; by norm 1 and 4; of three maps: structure lost, detail added, detail lost.
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


def linear_of_srgb(x: Tensor) -> Tensor:
    """Linear light 0..1 of sRGB samples 0..1."""
    return torch.where(x <= 0.04045, x / 12.92, _power((x.clamp_min(0.04045) + 0.055) / 1.055, 2.4))


def distance(original: Tensor, shown: Tensor) -> Tensor:
    """The weighted sum [B] of SSIMULACRA2's 108 terms: 0 for equal pictures, about 4 at score 60, 24 at score 0.

    Train on this sum, not on the score, whose slope is unbounded where pictures become equal.

    Args:
        original: pictures [B, 3, H, W] in 0..1, sRGB, sides of at least 8; there is no gradient of these.
        shown: likewise; beyond 0..1 there is no gradient.
    """
    weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=shown.device).reshape(3, SCALES, 2, 3)
    total = torch.zeros(len(shown), device=shown.device)
    a, b = (linear_of_srgb(x.clamp(0, 1).float()) for x in (original.detach(), shown))
    for scale in range(SCALES):
        if min(b.shape[2:]) < SMALLEST_SIDE:
            break
        total = total + (_terms(_positive_xyb(a), _positive_xyb(b)) * weights[:, scale]).sum((1, 2, 3))
        a, b = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (a, b))
    return TOTAL_WEIGHT * total


def score_of(distance: float) -> float:
    """The SSIMULACRA2 score of a distance: 100 for equal pictures; 90 cannot be told apart, 70 is high quality."""
    bent = sum(factor * distance**power for power, factor in enumerate(CURVE, 1))
    return 100 - SCORE_SLOPE * max(bent, 0.0) ** SCORE_EXPONENT


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """Terms [B, 3, 2, 3], channels by norms by maps, of originals a and pictures b [B, 3, h, w] in positive XYB."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance = _blur(a * a) - mean_a * mean_a + (_blur(b * b) - mean_b * mean_b)
    covariance = _blur(a * b) - mean_a * mean_b
    structure = 1 - (1 - (mean_a - mean_b).square()) * (2 * covariance + C2) / (variance + C2)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    norms = [_norms(each.clamp_min(0)) for each in (structure, edges, -edges)]
    return torch.stack(norms, 3)


def _norms(values: Tensor) -> Tensor:
    """The 1-norm and the 4-norm [B, 3, 2] of a map [B, 3, h, w]."""
    fourth = _power(values.square().square().mean((2, 3)) + SMALLEST, 0.25)
    return torch.stack([values.mean((2, 3)), fourth], 2)


def _positive_xyb(linear: Tensor) -> Tensor:
    """XYB, moved and scaled so that all channels are positive and alike in range."""
    matrix = torch.tensor(OPSIN, device=linear.device)
    mixed = (matrix @ linear.flatten(2) + OPSIN_BIAS).view_as(linear)
    long, middle, short = (_power(mixed, 1 / 3) - OPSIN_BIAS ** (1 / 3)).unbind(1)
    y = (long + middle) / 2
    return torch.stack([7 * (long - middle) + 0.42, y + 0.01, short - y + 0.55], 1)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x > 0 to a power: twice as quick as torch's own, forward and back."""
    return torch.exp(exponent * torch.log(x))


def _blur(x: Tensor) -> Tensor:
    """Gaussian blur along both axes, as products with banded matrices."""
    height, width = x.shape[2:]
    return _band(height, mirrored=True, like=x) @ x @ _band(width, mirrored=False, like=x).T


def _band(length: int, *, mirrored: bool, like: Tensor) -> Tensor:
    """The matrix that blurs so many samples; beyond the ends they are mirrored, or zero."""
    taps = torch.exp(-(torch.arange(-RADIUS, RADIUS + 1.0) ** 2) / (2 * SIGMA**2))
    matrix = torch.zeros(length, length)
    for offset, tap in zip(range(-RADIUS, RADIUS + 1), (taps / taps.sum()).tolist(), strict=True):
        rows = torch.arange(length)
        columns = rows + offset
        if mirrored:
            columns = torch.where(columns < 0, -1 - columns, columns)
            columns = torch.where(columns >= length, 2 * length - 1 - columns, columns)
        inside = (columns >= 0) & (columns < length)
        matrix[rows[inside], columns[inside]] += tap
    return matrix.to(like)
