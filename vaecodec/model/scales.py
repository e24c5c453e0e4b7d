"""The integer scale network as plain data, and the proof that its sums are exact.

It computes the table index of every latent from the hyper-latents alone, in integers, the same on every machine. All
sums stay below 2^53, so float64 represents them exactly in any order; this bound is proved from the actual weights when
they are loaded. Float32 would not do: see docs/architecture.md.

Source: Ballé, Johnston, Minnen, "Integer Networks for Data Compression with Latent-Variable Models" (ICLR 2019), §3.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import VaecModelError

HYPER_LIMIT = 127  # hyper-latents are clamped to +-127 at the input
ACTIVATION_LIMIT = 4095  # hidden values are clamped to 0..4095
ROW_FRACTION_BITS = 8  # table indexes are computed in 1/256 of an index
MAX_SHIFT = 40
EXACT_LIMIT = 1 << 53  # float64 represents every integer below


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One convolution: weight int16 [out, in, k, k], bias int64 [out], then a rounded division by 2^shift."""

    weight: NDArray[np.int16]
    bias: NDArray[np.int64]
    shift: int


@dataclass(frozen=True, eq=False)
class IntegerScales:
    """The stored integers: layers, dequantization of z int32 [100, Z] and row offsets int32 [100, M], by quality."""

    layers: tuple[IntegerLayer, ...]
    dequantize: NDArray[np.int32]
    row_offset: NDArray[np.int32]

    def prove_exact(self) -> list[int]:
        """The largest magnitude that the sums of each layer can reach, from the L1 norms of its weights.

        Raises:
            VaecModelError: (EXACT_BOUND) a bound is not below 2^53, or a shift is not in 1..40.
        """
        bounds = list[int]()
        for number, layer in enumerate(self.layers):
            if not 1 <= layer.shift <= MAX_SHIFT:
                raise _no_proof(f"scale layer {number}: shift is {layer.shift}, must be 1 to {MAX_SHIFT}")
            largest_input = max(self.input_range(number))
            # Python integers, because abs() and products of int32 and int64 arrays wrap around.
            norms = np.abs(layer.weight.astype(np.int64)).sum((1, 2, 3)).tolist()
            sums = (norm * largest_input + abs(bias) for norm, bias in zip(norms, layer.bias.tolist(), strict=True))
            bound = max(sums) + (1 << layer.shift)
            if number == len(self.layers) - 1:
                largest_offset = max(-int(self.row_offset.min()), int(self.row_offset.max()))
                bound += largest_offset + (1 << ROW_FRACTION_BITS) << layer.shift
            if bound >= EXACT_LIMIT:
                raise _no_proof(f"scale layer {number}: sums reach {bound}, must stay below 2^53")
            bounds.append(bound)
        return bounds

    def input_range(self, number: int) -> tuple[int, int]:
        """The smallest and largest input of a layer; of the first layer, with the largest dequantization factor."""
        if number > 0:
            return 0, ACTIVATION_LIMIT
        largest = HYPER_LIMIT * max(-int(self.dequantize.min()), int(self.dequantize.max()))
        return -largest, largest


def _no_proof(message: str) -> VaecModelError:
    return VaecModelError(message, code="EXACT_BOUND")
