"""The integer network that chooses tables: hyper-latents to scale-table rows, the same on every machine.

All values are integers. They are carried in float64, whose sums of integers below 2^53 are exact in any order, so that
instruction set, thread count, batch size, memory layout and library version cannot change a result; the bound is proved
from the actual weights when they are loaded. Float32 would not do: see docs/architecture.md.

Reference: Ballé, Johnston, Minnen, "Integer Networks for Data Compression with Latent-Variable Models" (ICLR 2019), §3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.errors import VaecModelError
from vaecodec.model.precision import full_precision
from vaecodec.model.priors import SCALE_ROWS

HYPER_LIMIT = 127  # hyper-latents are clamped to +-127 before they choose anything
ACTIVATION_LIMIT = 4095  # hidden values are clamped to 0..4095
ROW_FRACTION_BITS = 8  # row coordinates are counted in 1/256 of a row
MAX_SHIFT = 40
EXACT_LIMIT = 1 << 53  # float64 holds every integer below
TEST_SIDE = 16  # width of the hyper-latents of an ordinary tile: libraries choose their kernels by size, too
TEST_ROWS = 6  # of such a width: int64 is slow


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

    def prove_exact(self) -> list[int]:
        """The largest magnitude that the sums of each layer can reach, from the L1 norms of its weights.

        Raises:
            VaecModelError: (EXACT_BOUND) one is not below 2^53, or a shift is not in 1..40.
        """
        bounds = list[int]()
        for number, layer in enumerate(self.layers):
            if not 1 <= layer.shift <= MAX_SHIFT:
                raise _no_proof(f"scale layer {number}: shift is {layer.shift}, allowed 1..{MAX_SHIFT}")
            largest_input = max(self.input_range(number))
            # Python's integers: abs() and products of int32 and int64 tensors wrap around at their ends.
            norms = layer.weight.to(torch.int64).abs().sum((1, 2, 3)).tolist()
            sums = (norm * largest_input + abs(bias) for norm, bias in zip(norms, layer.bias.tolist(), strict=True))
            bound = max(sums) + (1 << layer.shift)
            if number == len(self.layers) - 1:
                largest_offset = max(-int(self.row_offset.min()), int(self.row_offset.max()))
                bound += largest_offset + (1 << ROW_FRACTION_BITS) << layer.shift
            if bound >= EXACT_LIMIT:
                raise _no_proof(f"scale layer {number}: sums up to {bound}, allowed below 2^53")
            bounds.append(bound)
        return bounds

    def input_range(self, number: int) -> tuple[int, int]:
        """The smallest and the largest input of a layer: of the first at the largest of all dequantization factors."""
        if number > 0:
            return 0, ACTIVATION_LIMIT
        largest = HYPER_LIMIT * max(-int(self.dequantize.min()), int(self.dequantize.max()))
        return -largest, largest


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

    def rows(self, z: Tensor, quality: int | Sequence[int], channels: int | None = None) -> Tensor:
        """Table rows uint8 [B, M, 4 h, 4 w] of integer hyper-latents z [B, Z, h, w] (any dtype).

        Those of a position lie side by side in memory, as symbols are coded.

        Args:
            z: of B tiles.
            quality: 1..100, of all of them or of each.
            channels: rows of no more than the first so many are wanted; None is all.
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

        Of the first so many outputs; None is all.
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
        """Compare with int64 arithmetic on the CPU: every sum of every layer, then the rows.

        Rows alone would not do: the divisions between layers hide small errors of most inputs.

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
        pairs += [(f"quality {n}", self.rows(z.to(device), n), oracle.rows(z, n)) for n in (1, 50, 100)]
        pairs += [("dequantization", self._dequantize, self.stored.dequantize)]
        pairs += [("row offsets", self._row_offset, self.stored.row_offset)]
        for name, here, expected in pairs:
            if not torch.equal(here.cpu(), expected.to(here.dtype)):
                raise VaecModelError(
                    f"{device} does not compute the scale network exactly ({name}): it cannot read or write .vaec",
                    code="SELF_TEST",
                )


def _test_inputs(stored: IntegerScales, number: int) -> Iterator[Tensor]:
    """Inputs int64 [1, in, h, w] of a layer: a pattern, and such as drive a sum near to its limits, all bits in use."""
    low, high = stored.input_range(number)
    weight = stored.layers[number].weight
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


def _no_proof(message: str) -> VaecModelError:
    return VaecModelError(message, code="EXACT_BOUND")
