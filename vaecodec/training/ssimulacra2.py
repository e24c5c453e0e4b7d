"""SSIMULACRA2 as a differentiable loss: `pictures.ssimulacra2` in torch, as a distance to minimize."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.pictures.ssimulacra2 import (
    C2,
    OPSIN,
    OPSIN_BIAS,
    RADIUS,
    SCALES,
    SIGMA,
    SMALLEST_SIDE,
    TOTAL_WEIGHT,
    WEIGHTS,
)

SMALLEST = 1e-24  # lower bound under roots, whose slope is unbounded at 0


def linear_of_srgb(x: Tensor) -> Tensor:
    """Linear light 0..1 of sRGB samples 0..1."""
    return torch.where(x <= 0.04045, x / 12.92, _power((x.clamp_min(0.04045) + 0.055) / 1.055, 2.4))


def distance(original: Tensor, shown: Tensor) -> Tensor:
    """The weighted sum [B] of SSIMULACRA2's 108 terms: 0 for equal pictures, about 4 at score 60, 24 at score 0.

    Train on this sum, not on the score, whose slope is unbounded where pictures become equal.

    Args:
        original: pictures [B, 3, H, W] in 0..1, sRGB, sides of at least 8; these get no gradient.
        shown: the same; values beyond 0..1 get no gradient.
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


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """Terms [B, 3, 2, 3] (channels, norms, maps) for originals a and pictures b [B, 3, h, w] in positive XYB."""
    mean_a, mean_b = blur(a), blur(b)
    variance = blur(a * a) - mean_a * mean_a + (blur(b * b) - mean_b * mean_b)
    covariance = blur(a * b) - mean_a * mean_b
    structure = 1 - (1 - (mean_a - mean_b).square()) * (2 * covariance + C2) / (variance + C2)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    norms = [_norms(each.clamp_min(0)) for each in (structure, edges, -edges)]
    return torch.stack(norms, 3)


def _norms(values: Tensor) -> Tensor:
    """The 1-norm and the 4-norm [B, 3, 2] of a map [B, 3, h, w]."""
    fourth = _power(values.square().square().mean((2, 3)) + SMALLEST, 0.25)
    return torch.stack([values.mean((2, 3)), fourth], 2)


def _positive_xyb(linear: Tensor) -> Tensor:
    """XYB, shifted and scaled so that all channels are positive and have similar ranges."""
    matrix = torch.tensor(OPSIN, device=linear.device)
    mixed = (matrix @ linear.flatten(2) + OPSIN_BIAS).view_as(linear)
    long, middle, short = (_power(mixed, 1 / 3) - OPSIN_BIAS ** (1 / 3)).unbind(1)
    y = (long + middle) / 2
    return torch.stack([7 * (long - middle) + 0.42, y + 0.01, short - y + 0.55], 1)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x > 0 to a power: twice as fast as torch's own, forward and backward."""
    return torch.exp(exponent * torch.log(x))


def blur(x: Tensor) -> Tensor:
    """Gaussian blur of pictures [B, C, H, W] along both axes, as products with banded matrices, fast on CPUs."""
    height, width = x.shape[2:]
    return _band(height, mirrored=True, like=x) @ x @ _band(width, mirrored=False, like=x).T


def _band(length: int, *, mirrored: bool, like: Tensor) -> Tensor:
    """The matrix that blurs a line of samples; beyond its ends, samples are mirrored or zero."""
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
