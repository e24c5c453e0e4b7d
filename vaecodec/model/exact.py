"""The integer network that chooses tables: hyper-latents to scale-table rows, the same on every machine.

All values are integers. They are carried in float64, whose sums of integers below 2^53 are exact in any order, so that
instruction set, thread count, batch size, memory layout and library version cannot change a result; the bound is proved
from the actual weights when they are loaded. Float32 would not do: see docs/architecture.md.

Reference: Ballé, Johnston, Minnen, "Integer Networks for Data Compression with Latent-Variable Models" (ICLR 2019), §3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.errors import VaecMismatchError, VaecModelError
from vaecodec.model.priors import SCALE_ROWS

HYPER_LIMIT = 127  # hyper-latents are clamped to +-127 before they choose anything
ACTIVATION_LIMIT = 4095  # hidden values are clamped to 0..4095
ROW_FRACTION_BITS = 8  # row coordinates are counted in 1/256 of a row
ROW_LIMIT = 1 << 15  # the last layer's output is clamped to +-2^15 such steps before the quality's offset is added
EXACT_LIMIT = 1 << 53  # float64 holds every integer below


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution: weight int16 [out, in, k, k], bias int64 [out], then a rounding division by 2^shift."""

    weight: Tensor
    bias: Tensor
    shift: int


@dataclass(frozen=True)
class IntegerScales:
    """The stored integers: layers, dequantization of z [100, Z] and row offsets [100, M], one line a quality."""

    layers: tuple[IntegerLayer, ...]
    dequantize: Tensor
    row_offset: Tensor

    def prove_exact(self) -> int:
        """The largest magnitude that any sum can reach, from the L1 norms of the weights.

        Raises:
            VaecModelError: (EXACT_BOUND) it is not below 2^53, or a shift is not in 1..40.
        """
        worst = 0
        largest_input = HYPER_LIMIT * int(self.dequantize.abs().max())
        for number, layer in enumerate(self.layers):
            norm = layer.weight.to(torch.int64).abs().sum((1, 2, 3))
            bound = int((norm * largest_input + layer.bias.abs()).max()) + (1 << max(layer.shift, 0))
            if not 1 <= layer.shift <= 40 or bound >= EXACT_LIMIT:
                raise VaecModelError(
                    f"scale layer {number}: sums up to {bound} with shift {layer.shift}, allowed below 2^53 and 1..40",
                    code="EXACT_BOUND",
                )
            worst, largest_input = max(worst, bound), ACTIVATION_LIMIT
        return worst


class ExactScales:
    """Runs the integer network on one device.

    `carrier` is the dtype that carries the integers: float64 in use; int64 as the test's oracle (CPU only).
    """

    def __init__(self, stored: IntegerScales, device: torch.device, carrier: torch.dtype = torch.float64) -> None:
        self.stored, self.carrier = stored, carrier
        self._weights = [layer.weight.to(device, carrier) for layer in stored.layers]
        self._biases = [layer.bias.to(device, carrier) for layer in stored.layers]
        self._dequantize = stored.dequantize.to(device, carrier)
        self._row_offset = stored.row_offset.to(device, carrier)

    def rows(self, z: Tensor, quality: int) -> Tensor:
        """Table rows uint8 [B, M, 4 h, 4 w] of integer hyper-latents z [B, Z, h, w] (any dtype) at quality 1..100."""
        with torch.autocast(z.device.type, enabled=False), torch.inference_mode():
            h = z.to(self.carrier).clamp(-HYPER_LIMIT, HYPER_LIMIT)
            h = h * self._dequantize[quality - 1][:, None, None]
            h = self._layer(0, h).clamp(0, ACTIVATION_LIMIT)
            h = F.pixel_shuffle(self._layer(1, h), 2).clamp(0, ACTIVATION_LIMIT)
            h = self._layer(2, h).clamp(0, ACTIVATION_LIMIT)
            h = F.pixel_shuffle(self._layer(3, h), 2).clamp(-ROW_LIMIT, ROW_LIMIT)
            h = self._shift(h + self._row_offset[quality - 1][:, None, None], ROW_FRACTION_BITS)
            return h.clamp(0, SCALE_ROWS - 1).to(torch.uint8)

    def _layer(self, number: int, x: Tensor) -> Tensor:
        weight = self._weights[number]
        total = F.conv2d(x, weight, self._biases[number], padding=weight.shape[-1] // 2)
        return self._shift(total, self.stored.layers[number].shift)

    def _shift(self, x: Tensor, bits: int) -> Tensor:
        """floor((x + 2^(bits-1)) / 2^bits). Rounding first repairs what a Winograd or FFT kernel may leave at 1e-5."""
        if self.carrier == torch.int64:
            return (x + (1 << (bits - 1))) >> bits
        return torch.floor((torch.round(x) + (1 << (bits - 1))) * 2.0**-bits)

    def self_test(self) -> None:
        """Compare a fixed input with int64 arithmetic on the CPU.

        Raises:
            VaecMismatchError: (SELF_TEST) this device, build or setting does not compute integers exactly.
        """
        channels = self._dequantize.shape[1]
        pattern = (torch.arange(channels * 9).reshape(1, channels, 3, 3) * 7919) % (2 * HYPER_LIMIT + 1) - HYPER_LIMIT
        oracle = ExactScales(self.stored, torch.device("cpu"), torch.int64)
        here = pattern.to(self._dequantize.device)
        for quality in (1, 50, 100):
            if not torch.equal(self.rows(here, quality).cpu(), oracle.rows(pattern, quality)):
                raise VaecMismatchError(
                    f"{here.device} does not compute the scale network exactly: it cannot read or write .vaec",
                    code="SELF_TEST",
                )
