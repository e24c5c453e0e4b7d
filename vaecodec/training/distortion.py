"""The distortion measure, in bits, that training and slow encoding minimise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.torch_engine.network import border_steps
from vaecodec.training import ms_ssim, ssimulacra2

LAMBDA_MIN, LAMBDA_MAX = 0.00045, 0.60  # weight of the mean squared error on the 0..255 scale, at quality 1 and 100
GRID_WEIGHT = 2.0  # relative increase of the squared error for a grid excess of 1
GRID_SLOPE = 0.25  # slope of the grid excess at no grid: a square alone would tolerate steps of 5 %
SMALLEST_STEP = 0.5 / 255  # minimum mean step between neighbouring pixels: ratios of flat pictures are meaningless
LIKELY_RATIOS = (0.8, 1.25)  # of originals; excludes drawings with lines at every 16th pixel
LAMBDA_MIDDLE = (LAMBDA_MIN * LAMBDA_MAX) ** 0.5
# Bits per pixel that a unit of each loss is worth at quality 1 and 100, log-linear between them: the slopes of curves
# of weights that were trained for PSNR or for SSIMULACRA2 alone.
SSIMULACRA2_PRICE = (0.0029, 5.8)
MS_SSIM_PRICE = (3.0, 500.0)
# Weights of the losses in tune eye. Squared error preserves colours and flat areas; MS-SSIM keeps metrics that are
# not trained for from getting worse.
EYE_MSE, EYE_SSIMULACRA2, EYE_MS_SSIM = 0.3, 0.75, 0.5
EYE_BEND = 0.42  # moves quality 75 to SSIMULACRA2 80, and keeps both ends
EYE_LOW = 0.2  # moves quality 1 down to 0.07 bpp, with little effect elsewhere


@dataclass(frozen=True)
class Tune:
    """The distortion measure: a mix, from squared error alone (0) to visual quality (1).

    Attributes:
        eye: share of SSIMULACRA2 and MS-SSIM in the distortion.
    """

    eye: float = 1.0

    def level(self, level: Tensor) -> Tensor:
        """Maps a quality level to the level, 0..1 or slightly less, whose rate-distortion trade-off it uses."""
        return level - self.eye * (EYE_BEND * level * (1 - level) + EYE_LOW * (1 - level) ** 6)

    def distortion(self, pictures: Tensor, x: Tensor, mse: Tensor, level: Tensor) -> Tensor:
        """The distortion of pictures, against x [B, 3, H, W], in bits per pixel [B].

        Args:
            pictures: the coded pictures, in 0..1 or slightly beyond.
            x: the originals, in 0..1, at least 32 pixels a side.
            mse: mean squared error [B]; in training it includes the grid.
            level: quality levels [B], 0..1.
        """
        level = self.level(level)
        total = (1 - (1 - EYE_MSE) * self.eye) * rd_lambda(level) * 255**2 * mse
        if not self.eye:
            return total
        shown = straight_through(pictures, pictures.clamp(0, 1))
        seen = EYE_SSIMULACRA2 * log_linear(SSIMULACRA2_PRICE, level) * ssimulacra2.distance(x, shown)
        seen = seen + EYE_MS_SSIM * log_linear(MS_SSIM_PRICE, level) * ms_ssim.loss(x, shown)
        return total + self.eye * seen


def log_linear(ends: tuple[float, float], level: Tensor) -> Tensor:
    """Interpolates log-linearly between a value at level 0 and one at level 1."""
    return ends[0] * (ends[1] / ends[0]) ** level


def rd_lambda(level: Tensor) -> Tensor:
    """Weight of the distortion at quality levels in 0..1; log-linear."""
    return log_linear((LAMBDA_MIN, LAMBDA_MAX), level)


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The quantized values of x, of the same shape, with a straight-through gradient."""
    return x + (quantized - x).detach()


def border_ratio(pictures: Tensor) -> Tensor:
    """Mean step [B, 2] across the borders of latents, relative to elsewhere, along rows and along columns.

    About 1 in photographs; in pictures [B, 3, H, W] with a visible grid it is larger.
    """
    both = (border_steps(pictures, dim, LATENT_STRIDE) for dim in (2, 3))
    return torch.stack([at.mean(1) / elsewhere.mean(1).clamp_min(SMALLEST_STEP) for at, elsewhere in both], 1)


def grid_excess(pictures: Tensor, x: Tensor) -> Tensor:
    """How far [B] the `border_ratio` of pictures is from that of their originals: 0 without a grid, 1.25 at most.

    Squared error alone leaves a grid that is clearly visible at low quality, because it costs almost nothing.
    """
    excess = (border_ratio(pictures) / border_ratio(x).clamp(*LIKELY_RATIOS) - 1).clamp(-1, 1).abs()
    return (excess * (excess + GRID_SLOPE)).mean(1)
