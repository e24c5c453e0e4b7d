"""The integer scale network on torch: `model.scales` carried in float64, and the self-test that it is exact here."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.errors import VaecModelError
from vaecodec.model.architecture import SCALE_ROWS
from vaecodec.model.scales import ACTIVATION_LIMIT, HYPER_LIMIT, ROW_FRACTION_BITS, IntegerScales
from vaecodec.model.torch_engine.precision import full_precision

TEST_SIDE = 16  # width of the hyper-latents of an ordinary tile: libraries choose their kernels by size, too
TEST_ROWS = 6  # of such a width: int64 is slow


class ExactScales:
    """Runs the integer network on one device.

    `carrier` is the dtype that carries the integers: float64 in use; int64 as the test's oracle (CPU only).
    """

    def __init__(self, stored: IntegerScales, device: torch.device, carrier: torch.dtype = torch.float64) -> None:
        self.stored, self.carrier = stored, carrier
        self._weights = [torch.tensor(layer.weight, dtype=carrier, device=device) for layer in stored.layers]
        self._biases = [torch.tensor(layer.bias, dtype=carrier, device=device) for layer in stored.layers]
        self._dequantize = torch.tensor(stored.dequantize, dtype=carrier, device=device)
        self._row_offset = torch.tensor(stored.row_offset, dtype=carrier, device=device)

    def table_indexes(self, z: Tensor, quality: int | Sequence[int], channels: int | None = None) -> Tensor:
        """Table indexes uint8 [B, M, 4 h, 4 w] of integer hyper-latents z [B, Z, h, w] (any dtype).

        Those of a position lie side by side in memory, as symbols are coded.

        Args:
            z: of B tiles.
            quality: 1..100, of all of them or of each.
            channels: only the first few; None is all.
        """
        line = torch.tensor(quality, device=z.device).reshape(-1) - 1
        with full_precision(z.device):
            h = z.to(self.carrier, memory_format=torch.channels_last).clamp(-HYPER_LIMIT, HYPER_LIMIT)
            h = h * self._dequantize[line][:, :, None, None]
            h = self._layer(0, h).clamp_(0, ACTIVATION_LIMIT)
            h = F.pixel_shuffle(self._layer(1, h).clamp_(0, ACTIVATION_LIMIT), 2)
            h = self._layer(2, h).clamp_(0, ACTIVATION_LIMIT)
            # floor((floor(a / 2^s) + n) / 2^8) is floor((a + n 2^s) / 2^(s + 8)): one division instead of two, and one
            # sum of all that is added before them.
            shift = self.stored.layers[3].shift
            halves = (1 << (shift - 1)) + (1 << (shift + ROW_FRACTION_BITS - 1))
            offset = self._row_offset[line][:, :channels].repeat_interleave(4, 1) * (1 << shift) + halves
            h = self._floor(self.sums(3, h, offset.shape[1]).add_(offset[:, :, None, None]), shift + ROW_FRACTION_BITS)
            parts = h.clamp_(0, SCALE_ROWS - 1).to(torch.uint8).unflatten(1, (-1, 2, 2))  # a pixel shuffle, by position
            return parts.permute(0, 4, 2, 5, 3, 1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def sums(self, number: int, x: Tensor, outputs: int | None = None) -> Tensor:
        """Sums [B, out, h, w] of a layer over inputs x [B, in, h, w] of the carrier's dtype, before its division.

        Of the first few outputs; None is all.
        Rounding repairs what a Winograd or FFT kernel may leave at 1e-5.
        """
        weight, bias = self._weights[number][:outputs], self._biases[number][:outputs]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2).round_()

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return self._shift(self.sums(number, x), self.stored.layers[number].shift)

    def _shift(self, x: Tensor, bits: int) -> Tensor:
        """floor((x + 2^(bits-1)) / 2^bits), in place of x."""
        x += 1 << (bits - 1)
        return self._floor(x, bits)

    def _floor(self, x: Tensor, bits: int) -> Tensor:
        """floor(x / 2^bits), in place of x."""
        return x.bitwise_right_shift_(bits) if self.carrier == torch.int64 else x.mul_(2.0**-bits).floor_()

    def self_test(self) -> None:
        """Compare with int64 arithmetic on the CPU: every sum of every layer, then the table indexes.

        Those alone would not do: the divisions between layers hide small errors of most inputs.

        Raises:
            VaecModelError: (SELF_TEST) this device, build or setting does not compute integers exactly.
        """
        device, oracle = self._dequantize.device, ExactScales(self.stored, torch.device("cpu"), torch.int64)
        with full_precision(device):
            pairs = [
                (f"layer {number}", self.sums(number, x.to(device, self.carrier)), oracle.sums(number, x))
                for number in range(len(self.stored.layers)) for x in _test_inputs(self.stored, number)
            ]  # fmt: skip
        *hidden, last = (layer.shift for layer in self.stored.layers)
        for shift in {*hidden, last + ROW_FRACTION_BITS}:
            x = _around_ties(shift)
            here = self._shift(x.to(device, self.carrier), shift)
            pairs.append((f"division by 2^{shift}", here, oracle._shift(x, shift)))
        z = _pattern(self._dequantize.shape[1], 3, -HYPER_LIMIT, HYPER_LIMIT)
        pairs += [
            (f"quality {n}", self.table_indexes(z.to(device), n), oracle.table_indexes(z, n)) for n in (1, 50, 100)
        ]
        pairs += [("dequantization", self._dequantize, oracle._dequantize)]
        pairs += [("row offsets", self._row_offset, oracle._row_offset)]
        for name, here, expected in pairs:
            if not torch.equal(here.cpu(), expected.to(here.dtype)):
                raise VaecModelError(
                    f"{device} does not compute the scale network exactly ({name}): it cannot read or write .vaec",
                    code="SELF_TEST",
                )


def _test_inputs(stored: IntegerScales, number: int) -> Iterator[Tensor]:
    """Inputs int64 [1, in, h, w] of a layer: a pattern, and such as drive a sum near to its limits, all bits in use."""
    low, high = stored.input_range(number)
    weight = torch.tensor(stored.layers[number].weight, device="cpu")
    yield _pattern(weight.shape[1], TEST_SIDE, low, high)[:, :, :TEST_ROWS].contiguous()
    worst = weight[weight.to(torch.int64).abs().sum((1, 2, 3)).argmax()][None]
    spread = _pattern(weight.shape[1], weight.shape[-1], 0, 15)
    yield torch.where(worst > 0, high - spread, low + spread)
    yield torch.where(worst > 0, low + spread, high - spread)


def _around_ties(shift: int) -> Tensor:
    """Integers [3, n] at and beside where the division by 2^shift rounds to another value: near 0 and at the limits."""
    halves = torch.arange(-9, 10, device="cpu")
    halves = torch.cat([halves, halves - 2 * ACTIVATION_LIMIT, halves + 2 * ACTIVATION_LIMIT])
    return (halves << (shift - 1)) + torch.arange(-1, 2, device="cpu")[:, None]


def _pattern(channels: int, side: int, low: int, high: int) -> Tensor:
    """Integers low..high [1, channels, side, side] without a regularity that an error could hide in."""
    numbers = torch.arange(channels * side**2, device="cpu") * 7919 % 4099
    return (low + numbers * (high - low) // 4098).reshape(1, channels, side, side)
