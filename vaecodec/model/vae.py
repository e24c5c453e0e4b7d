"""The network as a whole: transforms, gains by quality, and the order in which latents are predicted and coded."""

import torch
from torch import Tensor, nn

from vaecodec.model.layers import GainCurve
from vaecodec.model.preview import Preview
from vaecodec.model.transforms import (
    AnalysisTransform,
    Architecture,
    Context,
    HyperAnalysis,
    HyperSynthesis,
    SynthesisTransform,
)

QUALITIES = range(1, 101)


def quality_level(quality: int | Tensor) -> float | Tensor:
    """Quality 1..100 as the level 0..1 that the gain curves take."""
    return (quality - 1) / (len(QUALITIES) - 1)


class Vae(nn.Module):
    """Analysis, synthesis, hyperprior and context, with the gains that make one network serve every quality."""

    def __init__(self, arch: Architecture = Architecture()) -> None:
        super().__init__()
        self.arch = arch
        self.analysis = AnalysisTransform(arch)
        self.synthesis = SynthesisTransform(arch)
        self.hyper_analysis = HyperAnalysis(arch)
        self.hyper_synthesis = HyperSynthesis(arch)
        self.context = Context(arch)
        self.latent_gain = GainCurve(arch.latent_channels, arch.quality_anchors, -0.8, 2.6)
        self.latent_restore = GainCurve(arch.latent_channels, arch.quality_anchors)
        self.hyper_gain = GainCurve(arch.hyper_channels, arch.quality_anchors, 0.4, 1.6)
        self.preview = Preview(arch.latent_channels, arch.base_channels)

    def first_half(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Mask [M, rows, columns] of the latents that are predicted first: see `symbols.groups`."""
        half = self.arch.latent_channels // 2
        is_high = torch.arange(2 * half, device=device) >= half
        is_odd = (torch.arange(rows, device=device)[:, None] + torch.arange(columns, device=device)) % 2 == 1
        return is_high[:, None, None] ^ is_odd
