"""The training view of the codec: rate with noise, reconstruction with rounding, and the loss over all qualities."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaecodec.model.priors import FactorizedPrior, gaussian_bits
from vaecodec.model.transforms import LATENT_STRIDE, Architecture
from vaecodec.model.vae import Vae
from vaecodec.training.scale_network import ScaleNetwork

LAMBDA_MIN, LAMBDA_MAX = 0.0005, 0.30  # weight of the mean squared error on the 0..255 scale, at quality 1 and 100
SEAM_WEIGHT_LOW, SEAM_WEIGHT_HIGH = 0.5, 0.05  # of the excess of errors across patch borders, at quality 1 and 100
LAMBDA_MIDDLE = (LAMBDA_MIN * LAMBDA_MAX) ** 0.5


class Outcome(NamedTuple):
    """What one forward pass gives: pictures [B, 3, H, W], bits of the latents [B] and of the hyper-latents [B]."""

    pictures: Tensor
    latent_bits: Tensor
    hyper_bits: Tensor


class Losses(NamedTuple):
    """Scalars of one batch: the loss that is minimised, its mean rate and its mean squared error on 0..1."""

    total: Tensor
    bpp: Tensor
    mse: Tensor


def rd_lambda(level: Tensor) -> Tensor:
    """Weight of the distortion at quality levels in 0..1: log-linear."""
    return LAMBDA_MIN * (LAMBDA_MAX / LAMBDA_MIN) ** level


def seam_weight(level: Tensor) -> Tensor:
    """Weight of `seam_excess` at quality levels in 0..1: squared error alone leaves a grid that low qualities show."""
    return SEAM_WEIGHT_LOW * (SEAM_WEIGHT_HIGH / SEAM_WEIGHT_LOW) ** level


def round_straight_through(x: Tensor) -> Tensor:
    """Rounded values with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


class TrainingModel(nn.Module):
    """The codec with float scales and densities in place of integer tables."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.vae = Vae(arch)
        self.scale_network = ScaleNetwork(arch)
        self.hyper_prior = FactorizedPrior(arch.hyper_channels)

    def _for_rate(self, x: Tensor) -> Tensor:
        """Uniform noise stands for rounding while gradients are wanted (Ballé et al. 2017, §3)."""
        return x + torch.rand_like(x) - 0.5 if self.training else torch.round(x)

    def forward(self, x: Tensor, level: Tensor) -> Outcome:
        """Code pictures x [B, 3, H, W] in 0..1 (H, W multiples of 64) at quality levels [B] in 0..1."""
        vae = self.vae
        y = vae.analysis(x, level).float()
        log_gain = vae.latent_gain(level)
        gain, hyper_gain = torch.exp(log_gain), torch.exp(vae.hyper_gain(level))
        z = vae.hyper_analysis(y).float() * hyper_gain
        hyper_bits = self.hyper_prior.bits(self._for_rate(z))
        z_hat = round_straight_through(z) / hyper_gain
        features, mean = vae.hyper_synthesis(z_hat)
        log_scale = self.scale_network(z_hat).float() + log_gain
        first = vae.first_half(y.shape[2], y.shape[3], y.device)

        residual = torch.where(first, (y - mean) * gain, 0)
        y_hat = torch.where(first, mean + round_straight_through(residual) / gain, 0)
        mean = mean + vae.context(y_hat, features)
        residual = torch.where(first, residual, (y - mean) * gain)
        y_hat = torch.where(first, y_hat, mean + round_straight_through(residual) / gain)
        latent_bits = gaussian_bits(self._for_rate(residual), log_scale)

        pictures = vae.synthesis(y_hat * torch.exp(vae.latent_restore(level)), level).float()
        return Outcome(pictures, latent_bits.sum((1, 2, 3)), hyper_bits.sum((1, 2, 3)))


def seam_excess(error: Tensor) -> Tensor:
    """How much worse the error's steps are across the borders of 16x16 patches than elsewhere, [B], at least 0.

    Args:
        error: decoded minus original pictures [B, 3, H, W].
    """
    excess = torch.zeros(len(error), device=error.device)
    for dim in (2, 3):
        steps = error.diff(dim=dim).square().mean((1, 5 - dim))  # [B, H - 1 or W - 1]
        border = torch.arange(1, steps.shape[1] + 1, device=error.device) % LATENT_STRIDE == 0
        excess = excess + torch.relu(steps[:, border].mean(1) - steps[:, ~border].mean(1))
    return excess


def losses(model: nn.Module, x: Tensor, level: Tensor) -> Losses:
    """Rate + lambda * distortion, each sample weighted by lambda^-1/2 so that no quality drowns the others."""
    outcome = model(x, level)
    bpp = (outcome.latent_bits + outcome.hyper_bits) / (x.shape[2] * x.shape[3])
    error = outcome.pictures - x
    mse = error.square().mean((1, 2, 3))
    weight = rd_lambda(level)
    distortion = mse + seam_weight(level) * seam_excess(error)
    total = ((bpp + weight * 255**2 * distortion) * (weight / LAMBDA_MIDDLE) ** -0.5).mean()
    return Losses(total, bpp.detach().mean(), mse.detach().mean())
