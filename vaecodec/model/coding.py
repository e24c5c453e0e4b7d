"""The integer half of the model, in numpy: which symbols a tile has, their order, their tables, and their choice.

What chooses a probability table is integer arithmetic, so that every machine chooses the same. Floats only move pixels:
an engine (`model.engine`) computes them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables
from vaecodec.errors import VaecModelError
from vaecodec.model.architecture import (
    ACTIVITIES,
    ACTIVITY_STEP,
    BASE_SHARE,
    HYPER_BANDS,
    HYPER_STRIDE,
    MEAN_LIMIT,
    QUALITIES,
)
from vaecodec.model.engine import Array, Engine

BASE_GROUPS = 2  # of the groups below, the first: all of the base and nothing else
HYPER_PASSES = 3
BITS_PER_DISTORTION = 20.0  # what a squared quantizer step is worth; 6 / ln 2 for uniform quantizers at high rates


class Symbols(NamedTuple):
    """The integers of one tile of h x w latents, position by position, row by row.

    Attributes:
        z: int16 [h' w', Z], hyper-latents, h' = ceil(h / 4), w' = ceil(w / 4).
        y: int16 [h w, M], latents; or only their base, [h w, M / 8].
        indexes: uint8, as y: for each of them, the row of the table that codes it.
    """

    z: NDArray[np.int16]
    y: NDArray[np.int16]
    indexes: NDArray[np.uint8]


class Coded(NamedTuple):
    """Symbols [n] that are coded together, with their tables and table indexes [n]."""

    tables: Tables
    indexes: NDArray[np.uint8]
    symbols: NDArray[np.integer]


Code = Callable[[Tables, NDArray[np.uint8]], NDArray[np.int32]]
"""Asked for the symbols [n] of a group, given their tables and table indexes [n]; of a decoder, it reads them."""


def quality_level(quality: int) -> float:
    """Quality 1..100 as the level 0..1 that the gain curves take."""
    return (quality - 1) / (len(QUALITIES) - 1)


def hyper_size(rows: int, columns: int) -> tuple[int, int]:
    """Size of the hyper-latent grid over rows x columns latents."""
    return -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)


# --- the order of coding ----------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Latents that are coded together.

    Attributes:
        number: 0 or 1, the pass that they are predicted in, whose tables code them.
        parts: in the order of coding, positions int [n] and a range of channels.
    """

    number: int
    parts: tuple[tuple[NDArray[np.intp], slice], ...]

    def take(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those of this group [n], of values [h w, M] of all latents."""
        return np.concatenate([values[positions, channels].ravel() for positions, channels in self.parts])

    def put(self, values: NDArray[Any], taken: NDArray[Any]) -> None:
        """The inverse of `take`: sets those of this group, in values [h w, M]."""
        start = 0
        for positions, channels in self.parts:
            shape = len(positions), channels.stop - channels.start
            end = start + shape[0] * shape[1]
            values[positions, channels] = taken[start:end].reshape(shape)
            start = end


@functools.lru_cache(maxsize=16)
def groups(rows: int, columns: int, channels: int) -> tuple[Group, ...]:
    """The groups of a tile of rows x columns latents in the order of coding.

    A checkerboard, shown for 2 x 4 positions; the numbers are passes:

        channels of the first half   1 0 1 0      of the second half   0 1 0 1
                                     0 1 0 1                           1 0 1 0

    Both passes so know something of every position. The base, the first channels of the first half, is coded before all
    others, so that a decoder that wants no more than a preview need not read on. Table indexes depend on no latent: any
    order would do.

    Source: He et al., "Checkerboard Context Model for Efficient Learned Image Compression" (CVPR 2021), §3.
    """
    is_odd = np.add.outer(np.arange(rows), np.arange(columns)).ravel() % 2 == 1
    odd, even = np.flatnonzero(is_odd), np.flatnonzero(~is_odd)
    base, half = channels // BASE_SHARE, channels // 2
    low, middle, high = slice(0, base), slice(base, half), slice(half, channels)
    return (
        Group(0, ((odd, low),)), Group(1, ((even, low),)),
        Group(0, ((odd, middle), (even, high))), Group(1, ((even, middle), (odd, high))),
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def first_pass(rows: int, columns: int, channels: int) -> NDArray[np.bool_]:
    """Mask [rows columns, channels] of the latents that are predicted in pass 0."""
    mask = np.zeros((rows * columns, channels), np.bool_)
    for group in groups(rows, columns, channels):
        group.put(mask, np.broadcast_to(group.number == 0, sum(len(p) * (c.stop - c.start) for p, c in group.parts)))
    mask.setflags(write=False)
    return mask


# --- the contexts of hyper-latents ------------------------------------------------------------------------------------


class HyperPass(NamedTuple):
    """Hyper-latents that are coded together, in the tables that those around them choose.

    Attributes:
        positions: int [n], of the grid, row by row.
        around: int [n, 4], positions of their neighbours of earlier passes; h' w' where there is none.
        known: int32 [n, 1], how many neighbours there are.
    """

    positions: NDArray[np.intp]
    around: NDArray[np.intp]
    known: NDArray[np.int32]


@functools.lru_cache(maxsize=16)
def hyper_passes(rows: int, columns: int) -> tuple[HyperPass, ...]:
    """The passes over a grid of rows x columns hyper-latents, in the order of coding; shown for 2 x 4 positions:

        0 2 0 2     Pass 0 knows nothing, pass 1 its diagonal neighbours, pass 2 those beside, above and below.
        2 1 2 1

    Source: Reed et al., "Parallel Multiscale Autoregressive Density Estimation" (ICML 2017), §3.
    """
    row, column = (axis.ravel() for axis in np.indices((rows, columns)))
    number = np.where((row + column) % 2, 2, row % 2)
    steps = ((), ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (0, -1), (0, 1), (1, 0)))
    passes = []
    for of_pass, around in enumerate(steps):
        positions = np.flatnonzero(number == of_pass)
        found = np.full((len(positions), 4), rows * columns, np.intp)
        for place, (down, right) in enumerate(around):
            y, x = row[positions] + down, column[positions] + right
            inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
            found[inside, place] = y[inside] * columns + x[inside]
        passes.append(HyperPass(positions, found, (found < rows * columns).sum(1, dtype=np.int32)[:, None]))
    return tuple(passes)


def hyper_contexts(z: NDArray[np.int16], of: HyperPass, quality: int) -> NDArray[np.intp]:
    """The context [n, Z] of each hyper-latent of a pass: what chooses its table. Integers, the same on every machine.

    Where nothing around is known it is the tenth of the qualities. Elsewhere it is made of the mean of the same channel
    around, of how many channels around are not zero, and of the half of the qualities.

    Args:
        z: [h' w' + 1, Z], those of earlier passes, and a last row of zeros.
        of: the pass.
        quality: 1 to 100.
    """
    near = z[of.around].astype(np.int32)
    total, known = near.sum(1), np.maximum(of.known, 1)
    mean = ((4 * total + known) // (2 * known)).clip(-MEAN_LIMIT, MEAN_LIMIT)  # in halves, rounded
    activity = np.count_nonzero(near, (1, 2))[:, None] // known // ACTIVITY_STEP
    busy = np.minimum(activity, ACTIVITIES - 1)
    informed = (busy * (2 * MEAN_LIMIT + 1) + mean + MEAN_LIMIT) * 2 + (quality > 50)
    return np.where(of.known > 0, HYPER_BANDS + informed, (quality - 1) * HYPER_BANDS // 100)


def _hyper_indexes(engine: Engine, z: NDArray[np.int16], of: HyperPass, quality: int) -> NDArray[np.uint8]:
    """Table indexes of the hyper-latents of a pass [n Z]; arguments as of `hyper_contexts`."""
    contexts = hyper_contexts(z, of, quality)
    return engine.hyper_indexes[contexts, np.arange(contexts.shape[1])].ravel()


# --- from symbols and back --------------------------------------------------------------------------------------------


def read(
    engine: Engine, rows: int, columns: int, qualities: Sequence[int], codes: Sequence[Code], *, base_only: bool = False
) -> list[Symbols]:
    """The symbols of several tiles of rows x columns latents, every one asked for once, in bitstream order.

    Integers only, the same on every machine: decoders, whose `code` answers from the bytes, know all symbols before
    anything else is computed.

    Args:
        engine: gives table indexes, and has the tables.
        rows: of each tile's latents.
        columns: likewise.
        qualities: 1 to 100, of each tile.
        codes: of each tile; asked about z, then about each group of y.
        base_only: stop when the base of the latents is known.
    """
    arch, grid = engine.arch, hyper_size(rows, columns)
    z = [np.zeros((grid[0] * grid[1] + 1, arch.hyper_channels), np.int16) for _ in codes]
    for of in hyper_passes(*grid):
        for values, quality, code in zip(z, qualities, codes, strict=True):
            found = code(engine.hyper_tables, _hyper_indexes(engine, values, of, quality))
            values[of.positions] = found.reshape(-1, arch.hyper_channels)
    z = [values[:-1] for values in z]
    indexes = engine.table_indexes(z, rows, columns, qualities, arch.base_channels if base_only else None)
    y = [np.empty(each.shape, np.int16) for each in indexes]
    for group in groups(rows, columns, arch.latent_channels)[: BASE_GROUPS if base_only else None]:
        for code, symbols, of in zip(codes, y, indexes, strict=True):
            group.put(symbols, code(engine.latent_tables[group.number], group.take(of)))
    return [Symbols(*each) for each in zip(z, y, indexes, strict=True)]


def coded(engine: Engine, symbols: Symbols, rows: int, columns: int, quality: int) -> Iterator[Coded]:
    """The symbols of a tile of rows x columns latents as `read` asks for them: each pass of z, each group of y."""
    z = np.concatenate([symbols.z, np.zeros_like(symbols.z[:1])])
    for of in hyper_passes(*hyper_size(rows, columns)):
        indexes = _hyper_indexes(engine, z, of, quality)
        yield Coded(engine.hyper_tables, indexes, symbols.z[of.positions].ravel())
    for group in groups(rows, columns, engine.arch.latent_channels):
        yield Coded(engine.latent_tables[group.number], group.take(symbols.indexes), group.take(symbols.y))


def dequantize(engine: Engine, symbols: Sequence[Symbols], rows: int, columns: int, qualities: Sequence[int]) -> Array:
    """Latents [B, M, rows, columns] of the symbols of B tiles, ready for synthesis; or their base.

    Means are float: they move pixels, never the coder.
    """
    y = [each.y for each in symbols]
    return engine.predict([each.z for each in symbols], rows, columns, qualities, lambda *_: y, y[0].shape[1])


# --- the encoder's choice ---------------------------------------------------------------------------------------------


def quantize(engine: Engine, y: Array, quality: int) -> tuple[Symbols, Array]:
    """Symbols of the latents y [M, h, w] of one tile, rate-distortion optimized; and `dequantize` of them [M, h, w].

    Raises:
        VaecModelError: (MODEL_VALUES) the weights lead to latents that are not finite numbers.
    """
    rows, columns = y.shape[1:]
    steps, of_z = engine.hyper_analyze(y, quality)
    z = nearest(of_z).astype(np.int16)
    (indexes,) = engine.table_indexes([z], rows, columns, [quality])
    symbols = np.zeros(indexes.shape, np.int16)

    def choose(number: int, residual: NDArray[np.float32] | None) -> list[NDArray[np.int16]]:
        told = cast(NDArray[np.float32], residual)  # because there are steps
        for group in groups(rows, columns, engine.arch.latent_channels):
            if group.number == number:
                chosen = engine.rdoq(group.take(told), group.take(indexes), engine.latent_tables[number])
                group.put(symbols, chosen)
        return [symbols]

    y_hat = engine.predict([z], rows, columns, [quality], choose, symbols.shape[1], steps)[0]
    return Symbols(z, symbols, indexes), y_hat


def nearest(residual: NDArray[np.float32]) -> NDArray[np.int32]:
    """The integers nearest to residuals in quantizer steps, of any shape, as far as tables can code them.

    Raises:
        VaecModelError: (MODEL_VALUES) a residual is NaN.
    """
    if np.isnan(residual).any():
        raise VaecModelError("the weights turn this picture into latents that are NaN", code="MODEL_VALUES")
    return np.rint(residual).clip(-ESCAPE_LIMIT, ESCAPE_LIMIT).astype(np.int32)


def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """Symbols [n] as `nearest`, but one nearer to zero where the bits that this saves are worth the distortion.

    Args:
        residual: distances [n] from the means, in quantizer steps.
        indexes: the table index of each.
        tables: those that will code them.

    Source: Karczewicz, Ye and Chong, "Rate Distortion Optimized Quantization", ITU-T SG16/Q6 VCEG-AH21 (2008). Only
    encoders do it; no decoder can tell.
    """
    symbols = nearest(residual)
    symbols[indexes < tables.first_coded_row] = 0
    others = np.flatnonzero(symbols)  # than 0
    there = symbols[others]
    saved_bits = tables.saved_bits(indexes[others], there)
    moves = is_worth_a_step(residual[others], there.astype(np.float32), saved_bits)
    symbols[others] = there - np.sign(there) * moves
    return symbols


def is_worth_a_step(residual: Any, symbols: Any, saved_bits: Any) -> Any:
    """Where it pays to go one nearer to zero; of arrays or tensors of one shape.

    Args:
        residual: distance from the mean in quantizer steps.
        symbols: the integers nearest to it.
        saved_bits: by how much the symbols nearer to zero are cheaper.
    """
    # The squared distance to a symbol is smaller by this than to its neighbour on the side of zero.
    distortion = 2 * (abs(residual) - abs(symbols)) + 1
    return saved_bits > BITS_PER_DISTORTION * distortion
