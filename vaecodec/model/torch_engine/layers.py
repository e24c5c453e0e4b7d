"""The layers that the transforms are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def by_position(x: Tensor) -> Tensor:
    """The same [B, C, H, W] with the channels of a position side by side in memory.

    `Pointwise` likes them so, and so symbols are coded.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a product of matrices: on grids of a few thousand positions, CPUs are quicker at that."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """[B, out, h, w] of [B, in, h, w], the channels of a position side by side in memory.

        Args:
            x: channels that are missing count as zeros.
            outputs: compute only the first few; None is all.
        """
        weight = self.weight.flatten(1)[:outputs, : x.shape[1]]
        bias = None if self.bias is None else self.bias[:outputs]
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


class Onto(nn.Module):
    """A 1x1 convolution without bias, added to what is there: a product of matrices can do that in the same pass."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(in_channels, out_channels, 1, bias=False).weight

    def forward(self, total: Tensor, x: Tensor, *, in_place: bool = False) -> Tensor:
        """[B, out, h, w]: the total [B, out, h, w] plus the convolution of x [B, in, h, w].

        Args:
            total: the channels of a position side by side in memory; if it has fewer, only those are computed.
            x: likewise.
            in_place: whether the result may take the place of the total, where no gradients are wanted.
        """
        weight, x = self.weight.flatten(1)[: total.shape[1]], x.permute(0, 2, 3, 1)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return total + F.linear(x, weight).permute(0, 3, 1, 2)  # the total itself keeps all of its bits
        flat = total.permute(0, 2, 3, 1).flatten(0, 2)
        out = flat if in_place else torch.empty_like(flat)
        torch.addmm(flat, x.flatten(0, 2), weight.T, out=out)
        return out.view(*x.shape[:3], -1).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise-separable mixing, then a gated 1x1 network; both residual, both starting near the identity.

    Args:
        channels: of input and output.
        kernel: side of the depthwise kernel.
        residual_gain: by how much less than usual the last layers of both do at the start.
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
    """x plus a depthwise 3x3 of x, starting as x alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As large as x [B, C, H, W]."""
        if torch.is_autocast_enabled(x.device.type):
            return x + super().forward(x)  # x itself keeps all of its bits
        identity = torch.zeros_like(self.weight[0])
        identity[0, 1, 1] = 1  # one more tap instead of one more pass over the memory of x
        return self._conv_forward(x, self.weight + identity, self.bias)


class GainCurve(nn.Module):
    """A log gain per channel, piecewise linear in the quality level between equally spaced anchors.

    Reference: Cui et al., "Asymmetric Gained Deep Image Compression With Continuous Rate Adaptation" (CVPR 2021), §3.
    """

    def __init__(self, channels: int, anchors: int, low: float = 0.0, high: float = 0.0) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.empty(anchors, channels))
        # Not `linspace`: on the meta device, where weights are about to be loaded, it draws in sympy, half a second.
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
