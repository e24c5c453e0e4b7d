"""The network as a whole: transforms, gains by quality, and the one prediction that training and inference share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaecodec.model.architecture import Architecture
from vaecodec.model.coding import first_pass
from vaecodec.model.torch_engine.layers import GainCurve, by_position
from vaecodec.model.torch_engine.preview import Preview
from vaecodec.model.torch_engine.transforms import (
    AnalysisTransform,
    Context,
    HyperAnalysis,
    HyperSynthesis,
    SynthesisTransform,
)


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

    def predict(
        self, z_hat: Tensor, gain: Tensor, rows: int, columns: int,
        symbols_of: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """The first channels [B, C, rows, columns] of latents, of their predictions and symbols.

        Args:
            z_hat: dequantized hyper-latents [B, Z, h', w'].
            gain: quantizer steps a unit of the latents [B, C, 1, 1]; C is how many channels are wanted.
            rows: of the latents.
            columns: likewise.
            symbols_of: the symbols as float32 of the result's shape, given the number of a pass, the means, of the
                same shape and in units of the latents, and the gain. Only those of the pass matter.
        """
        channels = gain.shape[1]
        features, mean = self.hyper_synthesis(z_hat, channels)
        features, mean = features[..., :rows, :columns], by_position(mean[..., :rows, :columns])
        first = self.first_pass(rows, columns, z_hat.device)[None, :channels]
        y = torch.where(first, mean + symbols_of(0, mean, gain) / gain, 0)
        mean = self.context(y, features, mean)
        return torch.where(first, y, mean + symbols_of(1, mean, gain) / gain)

    def first_pass(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Mask [M, rows, columns] of the latents that are predicted first, by position in memory."""
        mask = torch.tensor(first_pass(rows, columns, self.arch.latent_channels), device=device)
        return mask.view(rows, columns, -1).permute(2, 0, 1)
