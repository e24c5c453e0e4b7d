"""MS-SSIM of luma as a differentiable loss.

Source: Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment" (2003). Unlike in
the package pytorch-msssim, borders are padded, so that small crops have all scales. On luma alone it takes a third of
the time; SSIMULACRA2, which is also in the objective, takes care of colour.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.training.ssimulacra2 import blur

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # per scale, from the finest
C1, C2 = 0.01**2, 0.03**2
SMALLEST = 1e-4  # lower bound under a power, whose slope is unbounded at 0


def loss(original: Tensor, shown: Tensor) -> Tensor:
    """1 - MS-SSIM [B] of pictures [B, 3, H, W] in 0..1: 0 for equal ones. Originals get no gradient."""
    luma = torch.tensor(LUMA, device=shown.device)[:, None, None]
    a, b = ((x.float() * luma).sum(1, keepdim=True) for x in (original.detach(), shown))
    product = torch.ones(len(b), device=b.device)
    for scale, weight in enumerate(WEIGHTS):
        mean_a, mean_b = blur(a), blur(b)
        squares, cross = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
        variance = blur(a * a) + blur(b * b) - squares
        structure = (2 * (blur(a * b) - cross) + C2) / (variance + C2)
        if scale == len(WEIGHTS) - 1:
            structure = structure * (2 * cross + C1) / (squares + C1)
        product = product * structure.mean((1, 2, 3)).clamp_min(SMALLEST) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return 1 - product
