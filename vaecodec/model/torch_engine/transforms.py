"""The float transforms: analysis and synthesis of pixels, hyper-analysis and hyper-synthesis of latents, context."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import GRID, LATENT_STRIDE, Architecture
from vaecodec.model.torch_engine.deblocking import Deblocking
from vaecodec.model.torch_engine.layers import Block, GainCurve, Onto, Pointwise, ResidualDepthwise, by_position

BAND_POSITIONS = 3 << 13  # of the fine grid, that are computed at a time: 768 x 512 pixels


def _in_float32(layer: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The layers next to pixels and latents: bfloat16 would add visible rounding noise at high quality."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        return layer(*(x.float() for x in inputs))


def _by_bands(work: Callable[..., Tensor], *inputs: Tensor, margin: int) -> Tensor:
    """The work done on inputs [B, C, H, W] by bands of rows: all of a large picture at once would take much memory.

    Args:
        work: makes an output [B, C', H, W] of inputs of equal height and width.
        inputs: such as it takes.
        margin: how many rows above and below a row contribute to it.
    """
    count, _, height, width = inputs[0].shape
    step, bands = max(2 * margin, BAND_POSITIONS // (count * width)), []
    for top in range(0, height, step):
        bottom = min(top + step, height)
        seen = slice(max(0, top - margin), bottom + margin)
        band = work(*(x[:, :, seen] for x in inputs))
        bands.append(band[:, :, top - seen.start : bottom - seen.start])
    return torch.cat(bands, 2) if len(bands) > 1 else bands[0]


def _planes(fine: Tensor) -> Tensor:
    """The pixel shuffle [B, 3, 4 h, 4 w] of the fine grid [B, 48, h, w], always as planes: `Deblocking` likes columns
    side by side in memory, and torch's own shuffle keeps the colours so.
    """
    batch, _, height, width = fine.shape
    parts = fine.view(batch, 3, GRID, GRID, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, 3, GRID * height, GRID * width)


class AnalysisTransform(nn.Module):
    """Pixels to latents: a block on the 1/4 grid (so that 16x16 patches overlap), patches, blocks on the 1/16 grid."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.analysis_channels
        self.local = Block(3 * GRID**2, residual_gain=0.0)
        self.patch_in = Pointwise(3 * LATENT_STRIDE**2, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(arch.analysis_blocks))
        self.gain = GainCurve(width, arch.quality_anchors)
        self.latent_out = Pointwise(width, arch.latent_channels)
        self.detail = Onto(3 * LATENT_STRIDE**2, arch.latent_channels)
        nn.init.zeros_(self.detail.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Latents y [B, M, H/16, W/16] of pictures x [B, 3, H, W] in 0..1 (H, W multiples of 16) at levels [B]."""
        h = by_position(F.pixel_unshuffle(2 * x - 1, GRID))  # [B, 48, H/4, W/4]
        h = self.local(h) if self.training else _by_bands(self.local, h, margin=1)
        patches = by_position(F.pixel_unshuffle(h, LATENT_STRIDE // GRID))  # [B, 768, H/16, W/16]
        h = _in_float32(self.patch_in, patches)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == len(self.blocks) // 2:
                h = h * torch.exp(self.gain(level))
        # The body is half as wide as a patch: what is too fine for it reaches the latents directly.
        return _in_float32(self.detail, _in_float32(self.latent_out, h), patches)


class SynthesisTransform(nn.Module):
    """Latents to pixels: a body on the 1/16 grid conditions a small network on every position of the 1/4 grid.

    Reference: PULSE (arXiv 2609.18602), the AdaLN pixel renderer; a body alone costs 12 % of rate there.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, render, shuffle = arch.synthesis_channels, arch.render_channels, (LATENT_STRIDE // GRID) ** 2
        hidden = arch.render_hidden_channels
        self.body_in = Pointwise(arch.latent_channels, width)
        self.blocks = nn.ModuleList(
            Block(width, gate_channels=arch.synthesis_gate_channels) for _ in range(arch.synthesis_blocks)
        )
        self.gain = GainCurve(width, arch.quality_anchors)
        self.content = Pointwise(arch.latent_channels, shuffle * render)
        self.correction_in = Pointwise(width, arch.correction_channels, bias=False)
        self.correction = Onto(arch.correction_channels, shuffle * render)
        self.condition = Pointwise(width, shuffle * arch.condition_channels)
        self.modulation = nn.Conv2d(arch.condition_channels, 2 * render, 1)
        self.overlap = ResidualDepthwise(render)
        self.render_in = nn.Conv2d(render, hidden, 1)
        self.render_space = ResidualDepthwise(hidden)
        self.render_out = nn.Conv2d(hidden, render, 1)
        self.pixels_out = nn.Conv2d(render, 3 * GRID**2, 1)
        nn.init.constant_(self.pixels_out.bias, 0.5)  # the middle of 0..1
        self.deblocking = Deblocking(width, LATENT_STRIDE, GRID)
        nn.init.zeros_(self.correction.weight)
        self.open_gates()

    def open_gates(self) -> None:
        """Let the renderer do as it would without a condition: no scale, gates of 1."""
        scale, gate = self.modulation.bias.data.chunk(2)
        scale.zero_()
        gate.fill_(1.0)

    def forward(self, y: Tensor, level: Tensor, share: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, 16 h, 16 w], about 0..1 and not clamped, of dequantized latents y [B, M, h, w].

        Args:
            y: the latents.
            level: quality levels [B] in 0..1.
            share: of the deblocking that is done [B], 0..1; None is all of it.
        """
        pictures, features = self.before_deblocking(y, level)
        return self.deblock(pictures, features, share)

    def deblock(self, pictures: Tensor, features: Tensor, share: Tensor | None = None) -> Tensor:
        """Pictures of `before_deblocking` without a grid, in their place but in training; `share` as of `forward`."""
        share = torch.ones(len(pictures), device=pictures.device) if share is None else share
        return _in_float32(self.deblocking, pictures, features, share)

    def before_deblocking(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures before their deblocking, and the features [B, C, h, w] that guide it; arguments as of `forward`."""
        h = self.body_in(y)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == len(self.blocks) // 2:
                h = h * torch.exp(self.gain(level))
        # The content of a latent knows nothing of its neighbours; the body does, and takes the block edges away again.
        content = self.correction(_in_float32(self.content, y), self.correction_in(h), in_place=True)
        content = F.pixel_shuffle(content, LATENT_STRIDE // GRID)
        condition = F.pixel_shuffle(self.condition(h), LATENT_STRIDE // GRID)
        if self.training:
            fine = self._render(content, condition)
        else:
            fine = _by_bands(self._render, content, condition, margin=2)  # one row for each of its 3x3 kernels
        return _planes(fine), h

    def _render(self, content: Tensor, condition: Tensor) -> Tensor:
        """Pixels [B, 48, H/4, W/4] of content [B, R, H/4, W/4] under a condition [B, K, H/4, W/4]."""
        scale, gate = self.modulation(F.silu(condition)).chunk(2, 1)
        content = self.overlap(content)
        hidden = F.leaky_relu(self.render_in(torch.addcmul(content, content, scale)), 0.1, inplace=True)
        rendered = self.render_out(self.render_space(hidden))
        return _in_float32(self.pixels_out, torch.addcmul(content, rendered, gate))


class HyperAnalysis(nn.Sequential):
    """Latents y [B, M, h, w] (h, w multiples of 4) to hyper-latents before their gain [B, Z, h/4, w/4]."""

    def __init__(self, arch: Architecture) -> None:
        width = arch.prior_channels
        super().__init__(
            Pointwise(arch.latent_channels, width), Block(width), nn.PixelUnshuffle(2),
            Pointwise(4 * width, width), Block(width), nn.PixelUnshuffle(2),
            Pointwise(4 * width, arch.hyper_channels),
        )  # fmt: skip


class HyperSynthesis(nn.Module):
    """Dequantized hyper-latents to what is known of every latent before any is read: features and a first mean."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.prior_channels
        self.body = nn.Sequential(
            Pointwise(arch.hyper_channels, 4 * width), nn.PixelShuffle(2), Block(width),
            Pointwise(width, 4 * width), nn.PixelShuffle(2),
        )  # fmt: skip
        self.mean_out = Pointwise(width, arch.latent_channels)

    def forward(self, z: Tensor, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Features [B, P, 4 h, 4 w] and means [B, M, 4 h, 4 w] in units of y, of z [B, Z, h, w].

        `channels` is how many means are wanted, None all.
        """
        features = self.body(z)
        return features, _in_float32(partial(self.mean_out, outputs=channels), features)


class Context(nn.Module):
    """The first half of the latents and the features refine the means of the second half; never the scales.

    Reference: He et al., "Checkerboard Context Model for Efficient Learned Image Compression" (CVPR 2021), §3.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.prior_channels
        self.latent_in = Pointwise(arch.latent_channels, width)
        self.feature_in = Onto(width, width)
        self.body = nn.Sequential(Block(width, 5), Block(width, 3))
        self.mean_out = Onto(width, arch.latent_channels)

    def forward(self, first_half: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        """Better means [B, M, h, w] than those given, of y with zeros in the second half [B, M, h, w].

        Of the base alone, the first channels of both, they are nearly as good.
        """
        known = self.feature_in(self.latent_in(first_half), features, in_place=True)
        return _in_float32(self.mean_out, mean, self.body(known))
