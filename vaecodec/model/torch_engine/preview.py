"""Previews: linear maps from latents to the pixels of a smaller picture, for when synthesis would be too slow.

Where a picture is reduced, what remains of synthesis is nearly linear. So the means of blocks of pixels are fitted, by
least squares, to the latents of the same place, when a weights file is exported (`training.previews`); one map serves
every quality. For 1/8 there is a second one, of the base of the latents: an eighth of them, which is coded first, and
of which the rest need not be known.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import LATENT_STRIDE, PREVIEW_SCALES


class Preview(nn.Module):
    """Latents to reduced pictures.

    Args:
        latent_channels: M.
        base_channels: how many of them, the first, are enough at the smallest scale.
    """

    whole: Tensor
    base: Tensor

    def __init__(self, latent_channels: int, base_channels: int) -> None:
        super().__init__()
        # Buffers, not parameters: they are no part of training.
        self.register_buffer("whole", torch.zeros(latent_channels + 1, self.cells(PREVIEW_SCALES[0])))
        self.register_buffer("base", torch.zeros(base_channels + 1, self.cells(PREVIEW_SCALES[-1])))

    @staticmethod
    def cells(scale: int) -> int:
        """Samples of a reduced picture in the place of one latent: 3 colours of (16 / scale)^2 pixels."""
        return 3 * (LATENT_STRIDE // scale) ** 2

    def forward(self, y_hat: Tensor, scale: int) -> Tensor:
        """Pictures [3, 16 h / scale, 16 w / scale], in 0..255 and not clamped, of dequantized latents [M, h, w].

        Args:
            y_hat: the latents, or their base; that is enough at 1/8.
            scale: one of `PREVIEW_SCALES`.
        """
        side = LATENT_STRIDE // PREVIEW_SCALES[0]
        if scale == PREVIEW_SCALES[-1]:
            kernel = self.base
        else:
            kernel = F.avg_pool2d(self.whole.view(-1, 3, side, side), scale // PREVIEW_SCALES[0]).flatten(1)
        known = y_hat[: len(kernel) - 1].permute(1, 2, 0)
        return F.pixel_shuffle((known @ kernel[:-1] + kernel[-1]).permute(2, 0, 1), LATENT_STRIDE // scale)
