"""The training view of the codec: rate with noise, reconstruction with rounding, and the loss over all qualities."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from vaecodec.model.architecture import LATENT_STRIDE, Architecture
from vaecodec.model.coding import is_worth_a_step
from vaecodec.model.torch_engine.network import Vae, border_steps
from vaecodec.training import ms_ssim, ssimulacra2
from vaecodec.training.errors import TrainingError
from vaecodec.training.priors import gaussian_bits, hyper_prior
from vaecodec.training.scale_network import ScaleNetwork

LAMBDA_MIN, LAMBDA_MAX = 0.00045, 0.60  # weight of the mean squared error on the 0..255 scale, at quality 1 and 100
GRID_WEIGHT = 2.0  # by how much of itself the squared error counts more, for a grid of ratio 2 in the picture
GRID_SLOPE = 0.25  # of grid excess where no grid shows: a square alone leaves steps of 5 % where they are
SMALLEST_STEP = 0.5 / 255  # between neighbouring pixels, on the mean: ratios of flat pictures say nothing
LIKELY_RATIOS = (0.8, 1.25)  # of originals; drawings with lines at every 16th pixel are not what a grid looks like
LAMBDA_MIDDLE = (LAMBDA_MIN * LAMBDA_MAX) ** 0.5
# Bits a pixel that a unit of each loss is worth at quality 1 and 100, log-linear between them: the slopes of the curves
# of weights that were trained for PSNR or for SSIMULACRA2 alone.
SSIMULACRA2_PRICE = (0.0029, 5.8)
MS_SSIM_PRICE = (3.0, 500.0)
# By how much of its own worth each counts for the eye. Squared error keeps colours and flat areas right; MS-SSIM keeps
# the metrics that nobody trains for from getting worse.
EYE_MSE, EYE_SSIMULACRA2, EYE_MS_SSIM = 0.3, 0.75, 0.5
EYE_BEND = 0.42  # moves quality 75 to SSIMULACRA2 80, and leaves both ends where they are
EYE_LOW = 0.2  # moves quality 1 down to 0.07 bits a pixel, and little else


class Outcome(NamedTuple):
    """What one forward pass gives: pictures [B, 3, H, W], bits of the latents [B] and of the hyper-latents [B].

    Of `TrainingModel.code`, bits are those of each: [B, M, H/16, W/16] and [B, Z, H/64, W/64].
    """

    pictures: Tensor
    latent_bits: Tensor
    hyper_bits: Tensor


class Losses(NamedTuple):
    """Scalars of one batch: the loss that is minimised, its mean rate and its mean squared error on 0..1."""

    total: Tensor
    bpp: Tensor
    mse: Tensor


@dataclass(frozen=True)
class Tune:
    """What pictures are made for: a mix, from squared error alone (0) to what people see (1).

    Attributes:
        eye: share of SSIMULACRA2 and MS-SSIM in the distortion.
    """

    eye: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The tune of a text: eye, psnr, or a number from 0 (psnr) to 1 (eye).

        Raises:
            TrainingError: (RECIPE) it is anything else.
        """
        named = {"psnr": "0", "eye": "1"}.get(text, text)
        try:
            eye = float(named)
        except ValueError:
            eye = -1.0
        if not 0 <= eye <= 1:
            raise TrainingError(f"tune is {text!r}, must be eye, psnr or a number from 0 to 1", code="RECIPE")
        return cls(eye)

    def level(self, level: Tensor) -> Tensor:
        """The level, 0..1 or a little less, whose trade of rate for distortion a quality level has."""
        return level - self.eye * (EYE_BEND * level * (1 - level) + EYE_LOW * (1 - level) ** 6)

    def distortion(self, pictures: Tensor, x: Tensor, mse: Tensor, level: Tensor) -> Tensor:
        """Bits a pixel [B] that what was lost of pictures x [B, 3, H, W] is worth; `mse` [B] has its grid in it."""
        total = (1 - (1 - EYE_MSE) * self.eye) * rd_lambda(level) * 255**2 * mse
        if not self.eye:
            return total
        shown = straight_through(pictures, pictures.clamp(0, 1))
        seen = EYE_SSIMULACRA2 * log_linear(SSIMULACRA2_PRICE, level) * ssimulacra2.distance(x, shown)
        seen = seen + EYE_MS_SSIM * log_linear(MS_SSIM_PRICE, level) * ms_ssim.loss(x, shown)
        return total + self.eye * seen


def log_linear(ends: tuple[float, float], level: Tensor) -> Tensor:
    """Between a value at level 0 and one at level 1."""
    return ends[0] * (ends[1] / ends[0]) ** level


def rd_lambda(level: Tensor) -> Tensor:
    """Weight of the distortion at quality levels in 0..1: log-linear."""
    return log_linear((LAMBDA_MIN, LAMBDA_MAX), level)


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The quantized values of x, same shape, with the gradient of the identity."""
    return x + (quantized - x).detach()


@torch.no_grad()
def quantize(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Symbols as an encoder chooses them, of a residual in quantizer steps; arguments as of `gaussian_bits`."""
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved_bits = gaussian_bits(symbols, log_scale) - gaussian_bits(nearer, log_scale)
    return torch.where(is_worth_a_step(residual, symbols, saved_bits), nearer, symbols)


class TrainingModel(nn.Module):
    """The codec with float scales and densities in place of integer tables.

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
        """Uniform noise stands for quantization while gradients are wanted (Ballé et al. 2017, §3)."""
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


def border_ratio(pictures: Tensor) -> Tensor:
    """Mean step [B, 2] across the borders of latents relative to elsewhere, along rows and along columns.

    About 1 in photographs; in pictures [B, 3, H, W] with a visible grid it is larger.
    """
    both = (border_steps(pictures, dim, LATENT_STRIDE) for dim in (2, 3))
    return torch.stack([at.mean(1) / elsewhere.mean(1).clamp_min(SMALLEST_STEP) for at, elsewhere in both], 1)


def grid_excess(pictures: Tensor, x: Tensor) -> Tensor:
    """How far [B] the `border_ratio` of pictures is from that of their originals: 0 where no grid shows, 1.25 at most.

    Squared error alone leaves a grid that is plain to see at low quality and costs it next to nothing.
    """
    excess = (border_ratio(pictures) / border_ratio(x).clamp(*LIKELY_RATIOS) - 1).clamp(-1, 1).abs()
    return (excess * (excess + GRID_SLOPE)).mean(1)


def losses(model: nn.Module, x: Tensor, level: Tensor, *, tune: Tune = Tune(), seen: Tensor | None = None) -> Losses:
    """Rate + distortion, each sample weighted by lambda^-1/2 so that no quality drowns the others.

    Args:
        model: the codec.
        x: the pictures that are to come out [B, 3, H, W] in 0..1.
        level: quality levels [B] in 0..1.
        tune: what distortion is.
        seen: what the codec is given instead of x, if it is to learn to restore.
    """
    outcome = model(x if seen is None else seen, level)
    bpp = (outcome.latent_bits + outcome.hyper_bits) / (x.shape[2] * x.shape[3])
    mse = (outcome.pictures - x).square().mean((1, 2, 3))
    traded = tune.level(level)
    with torch.autocast(x.device.type, enabled=False):  # differences of near-equal variances need all bits
        with_grid = mse * (1 + GRID_WEIGHT * grid_excess(outcome.pictures, x))
        distortion = tune.distortion(outcome.pictures, x, with_grid, traded)
    total = ((bpp + distortion) * (rd_lambda(traded) / LAMBDA_MIDDLE) ** -0.5).mean()
    return Losses(total, bpp.detach().mean(), mse.detach().mean())
