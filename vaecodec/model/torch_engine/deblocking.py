"""The last step of synthesis: steps across the borders of latents, smoothed as far as the picture can spare them."""

from bisect import bisect_left
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import CUTS_IN_ALL, REACH_PX

SMALLEST_BOUND = 1e-9  # softplus runs out to 0, and 0 / 0 is no number
TOLERATED = 0.01  # of a border ratio: nobody sees it


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

    def forward(self, pictures: Tensor, features: Tensor, share: Tensor) -> Tensor:
        """Pictures without their steps; the result takes the place of the pictures, but in training.

        Args:
            pictures: [B, 3, H, W], about 0..1.
            features: [B, C, H / block_px, W / block_px].
            share: of the smoothing that is done [B], 0..1.
        """
        pictures = pictures.clone() if self.training else pictures
        right, left, bottom, top = self.bound(features).chunk(4, 1)
        self._smooth(3, pictures, right[..., :-1] + left[..., 1:], share)
        self._smooth(2, pictures, bottom[:, :, :-1] + top[:, :, 1:], share)
        return pictures

    def _smooth(self, dim: int, pictures: Tensor, bound: Tensor, share: Tensor) -> None:
        """Smooth the borders between columns (dim 3) or rows (dim 2) of latents, in place.

        `bound` [B, 3 * segments, k, w] or [B, 3 * segments, h, k] has a value per segment, before their softplus.
        """
        along, half, borders = 5 - dim, self.block_px // 2, bound.shape[dim]
        bound = F.softplus(bound).unflatten(1, (3, -1)).movedim(2, along + 1).flatten(along, along + 1)
        bound = bound.repeat_interleave(self.segment_px, along)
        blocks = pictures.narrow(dim, half, borders * self.block_px).unflatten(dim, (borders, self.block_px))
        left, right = (blocks.narrow(dim + 1, half + start, 3).unbind(dim + 1) for start in (-3, 0))
        excess = right[0] - left[2] - self.slope * (right[2] - right[0] + left[2] - left[0])
        artefact = bound * torch.tanh(excess / bound.clamp_min(SMALLEST_BOUND)) * share[:, None, None, None]
        taps = torch.cat([self.ramp.flip(0), -self.ramp])
        taps = taps.reshape(-1, *(1,) * (3 - dim))
        blocks.narrow(dim + 1, half - REACH_PX, 2 * REACH_PX).addcmul_(artefact.unsqueeze(dim + 1), taps)


def border_steps(pictures: Tensor, dim: int, block_px: int) -> tuple[Tensor, Tensor]:
    """Mean steps [B, n] across the borders of blocks, and between other neighbours, along a dimension of pictures.

    Args:
        pictures: [B, C, H, W].
        dim: 2 is between rows, 3 between columns.
        block_px: distance of the borders.
    """
    steps = pictures.diff(dim=dim).abs().mean((1, 5 - dim))
    is_border = torch.arange(1, steps.shape[1] + 1, device=steps.device) % block_px == 0
    return steps[:, is_border], steps[:, ~is_border]


def border_ratio(picture: Tensor, block_px: int) -> float:
    """The mean step of a picture [C, H, W] across borders over that between its other rows and columns: 1 is no grid.

    So, too, of a picture of one colour, or without borders.
    """
    at, elsewhere = zip(*(border_steps(picture[None], dim, block_px) for dim in (2, 3)), strict=True)
    there, other = torch.cat(at, 1), torch.cat(elsewhere, 1)
    return float(there.mean() / other.mean()) if there.numel() and other.any() else 1.0


def fitting_cut(before: Tensor, after: Tensor, growth: float, block_px: int) -> int:
    """How many 64ths of the smoothing to leave out, so that the steps across borders grow by so much on the mean.

    Args:
        before: a picture [C, H, W] with its steps.
        after: without.
        growth: more than 1. The steps between other rows and columns are taken to stay as they are.
        block_px: distance of the borders.

    Returns:
        1 to `CUTS_IN_ALL`.
    """
    rest = [*_signed_steps(after, block_px)]
    removed = [steps - left for steps, left in zip(_signed_steps(before, block_px), rest, strict=True)]

    def size(cut: int) -> float:
        """Lines of pixels along rows and along columns weigh the same, however long they are."""
        parts = zip(rest, removed, strict=True)
        return sum(float((left + cut / CUTS_IN_ALL * off).abs().mean((0, 2)).sum()) for left, off in parts)

    wanted = growth * size(0)
    return 1 + bisect_left(range(1, CUTS_IN_ALL), wanted, key=size)  # sizes are convex: they exceed a larger one once


def _signed_steps(picture: Tensor, block_px: int) -> Iterator[Tensor]:
    """Steps [C, borders, pixels along them] of a picture [C, H, W] across its borders, first between rows."""
    for turned in (picture, picture.transpose(1, 2)):
        beyond = turned[:, block_px::block_px]
        yield beyond - turned[:, block_px - 1 :: block_px][:, : beyond.shape[1]]
