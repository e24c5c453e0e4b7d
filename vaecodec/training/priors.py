"""Densities for training: the conditional Gaussian of latents, and the factorized prior of hyper-latents."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import SCALE_MAX, SCALE_MIN
from vaecodec.training.bottleneck import Bottleneck

HYPER_PRIORS = "logistics", "bottleneck"


def gaussian_bits(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of integers (or noisy integers) under a Gaussian around zero, integrated over one quantizer step.

    Args:
        residual: distance from the mean in quantizer steps, any shape.
        log_scale: natural log of the standard deviation in quantizer steps, same shape; clamped to the table's range.

    Reference: Minnen, Ballé, Toderici, "Joint Autoregressive and Hierarchical Priors" (2018), §2.
    """
    inverse = torch.exp(-log_scale.clamp(math.log(SCALE_MIN), math.log(SCALE_MAX)))
    distance = residual.abs()
    upper = torch.special.ndtr((0.5 - distance) * inverse)
    lower = torch.special.ndtr((-0.5 - distance) * inverse)
    return -torch.log2((upper - lower).clamp_min(1e-9))


class FactorizedPrior(nn.Module):
    """The density of every hyper-latent channel: a mixture of three logistics. For training only; files use tables."""

    def __init__(self, channels: int, components: int = 3) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components, channels))
        self.mean = nn.Parameter(torch.linspace(-1, 1, components)[:, None].repeat(1, channels))
        self.raw_scale = nn.Parameter(torch.full((components, channels), 0.5))

    def probability(self, z: Tensor) -> Tensor:
        """Probability mass of the unit interval around z [B, Z, h, w], same shape."""
        weight = torch.softmax(self.logits, 0)[:, None, :, None, None]
        mean = self.mean[:, None, :, None, None]
        scale = F.softplus(self.raw_scale).clamp_min(0.05)[:, None, :, None, None]
        mass = torch.sigmoid((z + 0.5 - mean) / scale) - torch.sigmoid((z - 0.5 - mean) / scale)
        return (weight * mass).sum(0)

    def bits(self, z: Tensor) -> Tensor:
        """Bits of z, same shape."""
        return -torch.log2(self.probability(z).clamp_min(1e-9))

    def auxiliary_loss(self) -> Tensor:
        """Zero, because there are no quantiles."""
        return self.logits.new_zeros(())


def hyper_prior(kind: str, channels: int) -> FactorizedPrior | Bottleneck:
    """Creates a density of the given kind, one of `HYPER_PRIORS`.

    Raises:
        TrainingError: (IMPORT) the kind needs compressai, which is not installed.
    """
    return Bottleneck(channels) if kind == "bottleneck" else FactorizedPrior(channels)


def hyper_prior_kind(state: Mapping[str, Tensor]) -> str:
    """The kind of density in the state of a training model."""
    return "bottleneck" if "hyper_prior.density.quantiles" in state else "logistics"
