"""The last step of synthesis: steps across the borders of latents, smoothed as far as the picture can spare them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REACH_PX = 4  # pixels that change on either side of a border
SMALLEST_BOUND = 1e-9  # softplus runs out to 0, and 0 / 0 is no number


class Deblocking(nn.Module):
    """A filter of pixels across the borders between latents.

    What a row of pixels jumps at a border, beyond what its neighbours would lead one to expect, is taken for an
    artefact up to a bound that the features of both latents tell, and for a true edge beyond it. Ramps that run out
    away from the border take it back. Squared error hardly sees a grid of small steps, and eyes hardly anything else.

    Reference: List et al., "Adaptive Deblocking Filter" (IEEE TCSVT 13:7, 2003), for the bound that spares true edges.

    Args:
        channels: of the features.
        block_px: distance of the borders, at least 2 * REACH_PX.
        segment_px: pixels along a border that share a bound; divides `block_px`.
    """

    def __init__(self, channels: int, block_px: int, segment_px: int) -> None:
        super().__init__()
        self.block_px, self.segment_px = block_px, segment_px
        # Of every latent, for each of its four borders: bounds by colour and segment.
        self.bound = nn.Conv2d(channels, 4 * 3 * (block_px // segment_px), 1)
        nn.init.zeros_(self.bound.weight)
        nn.init.constant_(self.bound.bias, -2.5)
        self.ramp = nn.Parameter(torch.tensor([0.25] + [0.0] * (REACH_PX - 1)))
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, pictures: Tensor, features: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], about 0..1, without their steps; features [B, C, H / block_px, W / block_px].

        The result takes the place of the pictures, but in training.
        """
        pictures = pictures.clone() if self.training else pictures
        right, left, bottom, top = self.bound(features).chunk(4, 1)
        self._smooth(3, pictures, right[..., :-1] + left[..., 1:])
        self._smooth(2, pictures, bottom[:, :, :-1] + top[:, :, 1:])
        return pictures

    def _smooth(self, dim: int, pictures: Tensor, bound: Tensor) -> None:
        """Smooth the borders between columns (dim 3) or rows (dim 2) of latents, in place.

        `bound` [B, 3 * segments, k, w] or [B, 3 * segments, h, k] has a value per segment, before their softplus.
        """
        along, half, borders = 5 - dim, self.block_px // 2, bound.shape[dim]
        bound = F.softplus(bound).unflatten(1, (3, -1)).movedim(2, along + 1).flatten(along, along + 1)
        bound = bound.repeat_interleave(self.segment_px, along)
        blocks = pictures.narrow(dim, half, borders * self.block_px).unflatten(dim, (borders, self.block_px))
        left, right = (blocks.narrow(dim + 1, half + start, 3).unbind(dim + 1) for start in (-3, 0))
        excess = right[0] - left[2] - self.slope * (right[2] - right[0] + left[2] - left[0])
        artefact = bound * torch.tanh(excess / bound.clamp_min(SMALLEST_BOUND))
        taps = torch.cat([self.ramp.flip(0), -self.ramp])
        taps = taps.reshape(-1, *(1,) * (3 - dim))
        blocks.narrow(dim + 1, half - REACH_PX, 2 * REACH_PX).addcmul_(artefact.unsqueeze(dim + 1), taps)
