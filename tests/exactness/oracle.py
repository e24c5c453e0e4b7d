"""The scale network once more, in numpy's int64 and from docs/format.md: what the exact path must equal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.model.scales import IntegerScales

if TYPE_CHECKING:
    from vaecodec.model.torch_engine.engine import ExactScales

Integers = NDArray[np.int64]

LARGEST_Z, LARGEST_HIDDEN = 127, 4095
SIDE = 3
CHUNK = 100


class Verdict(NamedTuple):
    """What a layer did on many inputs, and what was proved of it."""

    inputs: int
    differences: int
    largest_sum: int
    proved_bound: int


def layer_sums(stored: IntegerScales, number: int, x: Integers) -> Integers:
    """Sums [B, out, h, w] of a layer over inputs [B, in, h, w], zeros around them, bias included."""
    weight = stored.layers[number].weight.astype(np.int64)
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    sums = np.zeros((len(x), len(weight), *x.shape[2:]), np.int64)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            seen = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            sums += np.moveaxis(np.tensordot(weight[:, :, i, j], seen, (1, 1)), 0, 1)
    return sums + stored.layers[number].bias[:, None, None]


def table_indexes(stored: IntegerScales, z: Integers, quality: int) -> Integers:
    """Table indexes [B, M, 4 h, 4 w] of hyper-latents [B, Z, h, w]."""
    x = np.clip(z, -LARGEST_Z, LARGEST_Z) * stored.dequantize.astype(np.int64)[quality - 1][:, None, None]
    for number, layer in enumerate(stored.layers):
        x = _round_shift(layer_sums(stored, number, x), layer.shift)
        x = _shuffle(x) if number in (1, 3) else x
        x = np.clip(x, 0, LARGEST_HIDDEN) if number < 3 else x
    x += stored.row_offset.astype(np.int64)[quality - 1][:, None, None]
    return np.clip(_round_shift(x, 8), 0, 63)


def judge(scales: "ExactScales", number: int, count: int, *, seed: int = 0) -> Verdict:
    """Compare the sums of a layer with this oracle on `count` random and extreme inputs."""
    import torch  # deferred: whoever wants no more than the oracle needs no torch

    stored, differences, largest = scales.stored, 0, 0
    for x in _inputs(stored, number, count, seed):
        expected = layer_sums(stored, number, x)
        found = scales.sums(number, torch.from_numpy(x).to(scales.carrier)).numpy()
        differences += int(np.count_nonzero(found != expected))
        largest = max(largest, int(np.abs(expected).max()))
    return Verdict(count, differences, largest, stored.prove_exact()[number])


def _inputs(stored: IntegerScales, number: int, count: int, seed: int) -> Iterator[Integers]:
    """Batches [B, in, 3, 3]: uniform, sparse, at the ends of the range, and such as drive one output to its limit."""
    rng = np.random.default_rng(seed)
    weight = stored.layers[number].weight
    for start in range(0, count, CHUNK):
        shape = (min(CHUNK, count - start), weight.shape[1], SIDE, SIDE)
        low, high = np.zeros(shape, np.int64), np.full(shape, LARGEST_HIDDEN, np.int64)
        if number == 0:
            factor = stored.dequantize[rng.integers(100, size=shape[0])].astype(np.int64)[:, :, None, None]
            high = np.broadcast_to(LARGEST_Z * factor, shape)
            low = -high
        kind = rng.integers(4, size=(shape[0], 1, 1, 1))
        outputs = rng.integers(len(weight), size=shape[0])
        centred = np.broadcast_to(weight[outputs], shape) * rng.choice((-1, 1), (shape[0], 1, 1, 1))
        uniform = rng.integers(low, high + 1)
        sparse = np.where(rng.random(shape) < 0.05, uniform, 0)
        ends = np.where(rng.random(shape) < 0.5, low, high)
        driven = np.where(centred > 0, high, low)
        yield np.select([kind == 0, kind == 1, kind == 2], [uniform, sparse, ends], driven)


def _round_shift(x: Integers, bits: int) -> Integers:
    return (x + (1 << (bits - 1))) >> bits


def _shuffle(x: Integers) -> Integers:
    """Groups of four channels to a grid of twice the height and width."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels // 4, 2, 2, height, width)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)
