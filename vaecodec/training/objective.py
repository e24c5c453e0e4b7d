"""The training view of the codec: rate with noise, reconstruction with rounding, and the loss over all qualities."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaecodec.model.architecture import Architecture
from vaecodec.model.coding import is_worth_a_step
from vaecodec.model.torch_engine.network import Vae
from vaecodec.training.distortion import (
    GRID_WEIGHT,
    LAMBDA_MIDDLE,
    Tune,
    grid_excess,
    rd_lambda,
    straight_through,
)
from vaecodec.training.priors import gaussian_bits, hyper_prior
from vaecodec.training.scale_network import ScaleNetwork


class Outcome(NamedTuple):
    """The result of a forward pass: pictures [B, 3, H, W], bits of the latents [B] and of the hyper-latents [B].

    From `TrainingModel.code`, bits are per value: [B, M, H/16, W/16] and [B, Z, H/64, W/64].
    """

    pictures: Tensor
    latent_bits: Tensor
    hyper_bits: Tensor


class Losses(NamedTuple):
    """Scalars of one batch: the minimized loss, the mean rate, and the mean squared error on 0..1."""

    total: Tensor
    bpp: Tensor
    mse: Tensor


@torch.no_grad()
def quantize(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Quantizes a residual, in quantizer steps, with RDOQ as encoders do; arguments as for `gaussian_bits`."""
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved_bits = gaussian_bits(symbols, log_scale) - gaussian_bits(nearer, log_scale)
    return torch.where(is_worth_a_step(residual, symbols, saved_bits), nearer, symbols)


class TrainingModel(nn.Module):
    """The codec with float scales and densities instead of integer tables.

    Args:
        arch: widths and depths.
        prior: the density of the hyper-latents, one of `priors.HYPER_PRIORS`.
    """

    def __init__(self, arch: Architecture, prior: str = "logistics") -> None:
        super().__init__()
        self.vae = Vae(arch)
        self.scale_network = ScaleNetwork(arch)
        self.hyper_prior = hyper_prior(prior, arch.hyper_channels)

    def _for_rate(self, x: Tensor, quantized: Tensor) -> Tensor:
        """Replaces quantization by uniform noise while gradients are needed (Ballé et al. 2017, §3)."""
        return x + torch.rand_like(x) - 0.5 if self.training else quantized

    def forward(self, x: Tensor, level: Tensor) -> Outcome:
        """Code pictures x [B, 3, H, W] in 0..1 (H, W multiples of 64) at quality levels [B] in 0..1."""
        pictures, latent_bits, hyper_bits = self.code(x, level)
        return Outcome(pictures, latent_bits.sum((1, 2, 3)), hyper_bits.sum((1, 2, 3)))

    def code(self, x: Tensor, level: Tensor) -> Outcome:
        """As `forward`, with the bits of every single latent and hyper-latent."""
        vae = self.vae
        y = vae.analysis(x, level).float()
        log_gain = vae.latent_gain(level)
        gain, hyper_gain = torch.exp(log_gain), torch.exp(vae.hyper_gain(level))
        z = vae.hyper_analysis(y).float() * hyper_gain
        z_symbols = torch.round(z).detach()
        hyper_bits = self.hyper_prior.bits(self._for_rate(z, z_symbols))
        z_hat = straight_through(z, z_symbols) / hyper_gain
        log_scale = self.scale_network(z_hat).float() + log_gain
        rows, columns = y.shape[2:]
        passes = list[tuple[Tensor, Tensor]]()

        def symbols_of(_: int, mean: Tensor, gain: Tensor) -> Tensor:
            residual = (y - mean) * gain
            passes.append((residual, quantize(residual, log_scale)))
            return straight_through(*passes[-1])

        y_hat = vae.predict(z_hat, gain, rows, columns, symbols_of)
        first = vae.first_pass(rows, columns, y.device)
        residual, symbols = (torch.where(first, *of_both) for of_both in zip(*passes, strict=True))
        latent_bits = gaussian_bits(self._for_rate(residual, symbols), log_scale)

        pictures = vae.synthesis(y_hat * torch.exp(vae.latent_restore(level)), level).float()
        return Outcome(pictures, latent_bits, hyper_bits)


def losses(model: nn.Module, x: Tensor, level: Tensor, *, tune: Tune = Tune(), seen: Tensor | None = None) -> Losses:
    """Rate + distortion, with each sample weighted by lambda^-1/2 so that no quality dominates the others.

    Args:
        model: the codec.
        x: the target pictures [B, 3, H, W] in 0..1.
        level: quality levels [B] in 0..1.
        tune: the distortion measure.
        seen: the codec's input instead of x, if it is to learn to restore.
    """
    outcome = model(x if seen is None else seen, level)
    bpp = (outcome.latent_bits + outcome.hyper_bits) / (x.shape[2] * x.shape[3])
    mse = (outcome.pictures - x).square().mean((1, 2, 3))
    with torch.autocast(x.device.type, enabled=False):  # differences of nearly equal variances need full precision
        with_grid = mse * (1 + GRID_WEIGHT * grid_excess(outcome.pictures, x))
        distortion = tune.distortion(outcome.pictures, x, with_grid, level)
    total = ((bpp + distortion) * (rd_lambda(tune.level(level)) / LAMBDA_MIDDLE) ** -0.5).mean()
    return Losses(total, bpp.detach().mean(), mse.detach().mean())
