"""The network in torch: layers, transforms, deblocking, previews, and the prediction that training shares."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import CUTS_IN_ALL, GRID, LATENT_STRIDE, PREVIEW_SCALES, REACH_PX, Architecture
from vaecodec.model.coding import first_pass


def by_position(x: Tensor) -> Tensor:
    """Rearranges the memory of x [B, C, H, W] so that the channels of a position are contiguous (channels last).

    `Pointwise` is fastest with this layout, and symbols are coded in this order.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a matrix product, which is faster on CPUs for grids of a few thousand positions."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Returns [B, out, h, w] for x [B, in, h, w], with the channels of a position contiguous in memory.

        Args:
            x: missing channels count as zeros.
            outputs: compute only the first ones; None is all.
        """
        weight = self.weight.flatten(1)[:outputs, : x.shape[1]]
        bias = None if self.bias is None else self.bias[:outputs]
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


class Onto(nn.Module):
    """A 1x1 convolution without bias that is added to a total, which a matrix product can do in the same pass."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(in_channels, out_channels, 1, bias=False).weight

    def forward(self, total: Tensor, x: Tensor, *, in_place: bool = False) -> Tensor:
        """Returns the total [B, out, h, w] plus the convolution of x [B, in, h, w].

        Args:
            total: with the channels of a position contiguous in memory; if it has fewer, only those are computed.
            x: with the same memory layout.
            in_place: whether the result may overwrite the total; only without gradients.
        """
        weight, x = self.weight.flatten(1)[: total.shape[1]], x.permute(0, 2, 3, 1)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return total + F.linear(x, weight).permute(0, 3, 1, 2)  # the total itself keeps full precision
        flat = total.permute(0, 2, 3, 1).flatten(0, 2)
        out = flat if in_place else torch.empty_like(flat)
        torch.addmm(flat, x.flatten(0, 2), weight.T, out=out)
        return out.view(*x.shape[:3], -1).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise-separable mixing, then a gated 1x1 network; both residual, both initialized near the identity.

    Args:
        channels: of input and output.
        kernel: side of the depthwise kernel.
        residual_gain: factor on the initial weights of the last layers of both.
        gate_channels: width of the gated network; None is `channels`.
    """

    def __init__(
        self, channels: int, kernel: int = 3, residual_gain: float = 0.15, gate_channels: int | None = None
    ) -> None:
        super().__init__()
        gate_channels = gate_channels or channels
        self.mix_in = Pointwise(channels, channels)
        self.mix_space = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.mix_out = Onto(channels, channels)
        self.gate_in = Pointwise(channels, 2 * gate_channels)
        self.gate_out = Onto(gate_channels, channels)
        for last in (self.mix_out, self.gate_out):
            last.weight.data.mul_(residual_gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix_out(x, self.mix_space(F.leaky_relu(self.mix_in(x), 0.1, inplace=True)))
        return self.gate_out(x, F.glu(self.gate_in(x), 1), in_place=True)


class ResidualDepthwise(nn.Conv2d):
    """x plus a depthwise 3x3 convolution of x, initialized as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape of x [B, C, H, W]."""
        if torch.is_autocast_enabled(x.device.type):
            return x + super().forward(x)  # x itself keeps full precision
        identity = torch.zeros_like(self.weight[0])
        identity[0, 1, 1] = 1  # adds x through the kernel, which saves a pass over memory
        return self._conv_forward(x, self.weight + identity, self.bias)


class GainCurve(nn.Module):
    """A log gain per channel, piecewise linear in the quality level between equally spaced anchors.

    Reference: Cui et al., "Asymmetric Gained Deep Image Compression With Continuous Rate Adaptation" (CVPR 2021), §3.
    """

    def __init__(self, channels: int, anchors: int, low: float = 0.0, high: float = 0.0) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.empty(anchors, channels))
        # Not `linspace`: on the meta device it imports sympy, which takes half a second.
        for number, line in enumerate(self.log_gain.data):
            line.fill_(low + (high - low) * number / (anchors - 1))

    def forward(self, level: Tensor) -> Tensor:
        """Log gains [B, C, 1, 1] at quality levels [B] in 0..1."""
        last = len(self.log_gain) - 1
        position = level * last
        left = position.floor().clamp(0, last - 1).long()
        weight = (position - left)[:, None]
        log_gain = self.log_gain[left] * (1 - weight) + self.log_gain[left + 1] * weight
        return log_gain[:, :, None, None]


SMALLEST_BOUND = 1e-9  # softplus can underflow to 0, and 0 / 0 is NaN
TOLERATED = 0.01  # invisible deviation of a border ratio


class Deblocking(nn.Module):
    """A filter that smooths pixels across the borders between latents.

    A step at a border that is larger than its neighbouring pixels predict counts as an artefact up to a bound, which
    the features of both latents determine, and as a true edge beyond it. Ramps that decay with distance from the border
    remove the artefact. Squared error hardly registers a grid of small steps, but it is very visible.

    Reference: List et al., "Adaptive Deblocking Filter" (IEEE TCSVT 13:7, 2003), for the bound that spares true edges.

    Args:
        channels: of the features.
        block_px: distance of the borders, at least 2 * REACH_PX.
        segment_px: pixels along a border that share a bound; divides `block_px`.
    """

    def __init__(self, channels: int, block_px: int, segment_px: int) -> None:
        super().__init__()
        self.block_px, self.segment_px = block_px, segment_px
        # For every latent and each of its four borders: bounds per colour and segment.
        self.bound = nn.Conv2d(channels, 4 * 3 * (block_px // segment_px), 1)
        nn.init.zeros_(self.bound.weight)
        nn.init.constant_(self.bound.bias, -2.5)
        self.ramp = nn.Parameter(torch.tensor([0.25] + [0.0] * (REACH_PX - 1)))
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, pictures: Tensor, features: Tensor, share: Tensor) -> Tensor:
        """Smooths the steps of pictures, in place except in training.

        Args:
            pictures: [B, 3, H, W], about 0..1.
            features: [B, C, H / block_px, W / block_px].
            share: fraction of the smoothing [B], 0..1.
        """
        pictures = pictures.clone() if self.training else pictures
        right, left, bottom, top = self.bound(features).chunk(4, 1)
        self._smooth(3, pictures, right[..., :-1] + left[..., 1:], share)
        self._smooth(2, pictures, bottom[:, :, :-1] + top[:, :, 1:], share)
        return pictures

    def _smooth(self, dim: int, pictures: Tensor, bound: Tensor, share: Tensor) -> None:
        """Smooths the borders between columns (dim 3) or rows (dim 2) of latents, in place.

        `bound` [B, 3 * segments, k, w] or [B, 3 * segments, h, k] has one value per segment, before softplus.
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
        dim: 2 compares rows, 3 columns.
        block_px: distance of the borders.
    """
    steps = pictures.diff(dim=dim).abs().mean((1, 5 - dim))
    is_border = torch.arange(1, steps.shape[1] + 1, device=steps.device) % block_px == 0
    return steps[:, is_border], steps[:, ~is_border]


def border_ratio(picture: Tensor, block_px: int) -> float:
    """The mean step of a picture [C, H, W] across borders, relative to that between other rows and columns.

    1 means no grid; also returned for a picture of one colour or without borders.
    """
    at, elsewhere = zip(*(border_steps(picture[None], dim, block_px) for dim in (2, 3)), strict=True)
    there, other = torch.cat(at, 1), torch.cat(elsewhere, 1)
    return float(there.mean() / other.mean()) if there.numel() and other.any() else 1.0


def fitting_cut(before: Tensor, after: Tensor, growth: float, block_px: int) -> int:
    """How many 64ths of the smoothing to omit, so that the mean step across borders grows by a factor.

    Args:
        before: a picture [C, H, W] before deblocking.
        after: the picture after deblocking.
        growth: factor above 1. The steps between other rows and columns are assumed not to change.
        block_px: distance of the borders.

    Returns:
        1 to `CUTS_IN_ALL`.
    """
    rest = [*_signed_steps(after, block_px)]
    removed = [steps - left for steps, left in zip(_signed_steps(before, block_px), rest, strict=True)]

    def size(cut: int) -> float:
        """The mean step; lines of pixels along rows and along columns have equal weight, whatever their length."""
        parts = zip(rest, removed, strict=True)
        return sum(float((left + cut / CUTS_IN_ALL * off).abs().mean((0, 2)).sum()) for left, off in parts)

    wanted = growth * size(0)
    return 1 + bisect_left(
        range(1, CUTS_IN_ALL), wanted, key=size
    )  # sizes are convex, so they exceed `wanted` from one cut on


def _signed_steps(picture: Tensor, block_px: int) -> Iterator[Tensor]:
    """Steps [C, borders, pixels along them] of a picture [C, H, W] across its borders, first between rows."""
    for turned in (picture, picture.transpose(1, 2)):
        beyond = turned[:, block_px::block_px]
        yield beyond - turned[:, block_px - 1 :: block_px][:, : beyond.shape[1]]


class Preview(nn.Module):
    """Linear maps from latents to downscaled pictures.

    Args:
        latent_channels: M.
        base_channels: number of first channels that are enough at the smallest scale.
    """

    whole: Tensor
    base: Tensor

    def __init__(self, latent_channels: int, base_channels: int) -> None:
        super().__init__()
        # Buffers, not parameters, because they are not trained.
        self.register_buffer("whole", torch.zeros(latent_channels + 1, self.cells(PREVIEW_SCALES[0])))
        self.register_buffer("base", torch.zeros(base_channels + 1, self.cells(PREVIEW_SCALES[-1])))

    @staticmethod
    def cells(scale: int) -> int:
        """Samples of a downscaled picture per latent position: 3 colours of (16 / scale)^2 pixels."""
        return 3 * (LATENT_STRIDE // scale) ** 2

    def forward(self, y_hat: Tensor, scale: int) -> Tensor:
        """Pictures [3, 16 h / scale, 16 w / scale], in 0..255 and not clamped, of dequantized latents [M, h, w].

        Args:
            y_hat: the latents, or their base, which is enough at 1/8.
            scale: one of `PREVIEW_SCALES`.
        """
        side = LATENT_STRIDE // PREVIEW_SCALES[0]
        if scale == PREVIEW_SCALES[-1]:
            kernel = self.base
        else:
            kernel = F.avg_pool2d(self.whole.view(-1, 3, side, side), scale // PREVIEW_SCALES[0]).flatten(1)
        known = y_hat[: len(kernel) - 1].permute(1, 2, 0)
        return F.pixel_shuffle((known @ kernel[:-1] + kernel[-1]).permute(2, 0, 1), LATENT_STRIDE // scale)


BAND_POSITIONS = 3 << 13  # positions of the fine grid computed at a time: 768 x 512 pixels


def _in_float32(layer: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Runs a layer next to pixels or latents in float32: bfloat16 would add visible rounding noise at high quality."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        return layer(*(x.float() for x in inputs))


def _by_bands(work: Callable[..., Tensor], *inputs: Tensor, margin: int) -> Tensor:
    """Does the work on inputs [B, C, H, W] in bands of rows, because a whole large picture would take much memory.

    Args:
        work: computes an output [B, C', H, W] from inputs of equal height and width.
        inputs: the arguments of `work`.
        margin: number of rows above and below a row that contribute to it.
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
    """The pixel shuffle [B, 3, 4 h, 4 w] of the fine grid [B, 48, h, w], always as planes: `Deblocking` needs columns
    contiguous in memory, and torch's own shuffle would keep the colours contiguous.
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
        # The body is half as wide as a patch: details that do not fit through it reach the latents directly.
        return _in_float32(self.detail, _in_float32(self.latent_out, h), patches)


class SynthesisTransform(nn.Module):
    """Latents to pixels: a body on the 1/16 grid conditions a small network at every position of the 1/4 grid.

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
        """Makes the renderer ignore its condition: no scale, gates of 1."""
        scale, gate = self.modulation.bias.data.chunk(2)
        scale.zero_()
        gate.fill_(1.0)

    def forward(self, y: Tensor, level: Tensor, share: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, 16 h, 16 w], about 0..1 and not clamped, of dequantized latents y [B, M, h, w].

        Args:
            y: the latents.
            level: quality levels [B] in 0..1.
            share: fraction of the deblocking [B], 0..1; None is 1.
        """
        pictures, features = self.before_deblocking(y, level)
        return self.deblock(pictures, features, share)

    def deblock(self, pictures: Tensor, features: Tensor, share: Tensor | None = None) -> Tensor:
        """Deblocks pictures from `before_deblocking`, in place except in training; `share` as in `forward`."""
        share = torch.ones(len(pictures), device=pictures.device) if share is None else share
        return _in_float32(self.deblocking, pictures, features, share)

    def before_deblocking(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures before deblocking, and the features [B, C, h, w] that guide it; arguments as in `forward`."""
        h = self.body_in(y)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == len(self.blocks) // 2:
                h = h * torch.exp(self.gain(level))
        # The content of a latent is independent of its neighbours; the body sees them, and removes the block edges.
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
    """Dequantized hyper-latents to features and a first mean of every latent."""

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

        `channels` is the number of means to compute; None is all.
        """
        features = self.body(z)
        return features, _in_float32(partial(self.mean_out, outputs=channels), features)


class Context(nn.Module):
    """Refines the means of the second half of the latents from the first half and the features; never the scales.

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
        """Refined means [B, M, h, w], given y [B, M, h, w] with zeros in the second half, features and first means.

        From the base alone, the first channels of both, they are nearly as good.
        """
        known = self.feature_in(self.latent_in(first_half), features, in_place=True)
        return _in_float32(self.mean_out, mean, self.body(known))


class Vae(nn.Module):
    """Analysis, synthesis, hyperprior and context, with the gains that let one network serve every quality."""

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
        """The first channels [B, C, rows, columns] of the dequantized latents: predicted means plus symbols.

        Args:
            z_hat: dequantized hyper-latents [B, Z, h', w'].
            gain: quantizer steps per unit of the latents [B, C, 1, 1]; C is the number of channels to compute.
            rows: of the latents.
            columns: likewise.
            symbols_of: returns the symbols as float32 in the shape of the result, given the number of a pass, the means
                (in the same shape, in units of the latents) and the gain. Only the symbols of the pass are used.
        """
        channels = gain.shape[1]
        features, mean = self.hyper_synthesis(z_hat, channels)
        features, mean = features[..., :rows, :columns], by_position(mean[..., :rows, :columns])
        first = self.first_pass(rows, columns, z_hat.device)[None, :channels]
        y = torch.where(first, mean + symbols_of(0, mean, gain) / gain, 0)
        mean = self.context(y, features, mean)
        return torch.where(first, y, mean + symbols_of(1, mean, gain) / gain)

    def first_pass(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Mask [M, rows, columns] of the latents that are predicted first, channels last in memory."""
        mask = torch.tensor(first_pass(rows, columns, self.arch.latent_channels), device=device)
        return mask.view(rows, columns, -1).permute(2, 0, 1)
