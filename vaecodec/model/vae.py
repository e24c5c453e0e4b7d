"""The network as a whole: transforms, gains by quality, and the order in which latents are predicted and coded."""

import torch
from torch import Tensor, nn

from vaecodec.model.layers import GainCurve
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

    @staticmethod
    def coded_runs(rows: int, columns: int, number: int, device: torch.device) -> Tensor:
        """Which half of the latents of each position is coded in pass 0 or 1, as int64 [rows * columns], ascending.

        Position n, counted row by row, has its first M / 2 channels in run 2 n and its others in run 2 n + 1. A
        checkerboard: the two halves of the channels take opposite colours, so that both passes know something of every
        position.
        """
        parity = (torch.arange(rows, device=device)[:, None] + torch.arange(columns, device=device)).flatten() % 2
        return 2 * torch.arange(rows * columns, device=device) + (parity if number else 1 - parity)

    def first_half(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Mask [M, rows, columns] of the latents that are coded first."""
        half = self.arch.latent_channels // 2
        channel_half = torch.arange(2 * half, device=device) // half
        return channel_half[:, None, None] == self.coded_runs(rows, columns, 0, device).view(rows, columns) % 2
