"""The integer half of the model, in numpy: symbols, their order and tables, and quantization with RDOQ.

Integer arithmetic selects the probability tables, so every machine selects the same ones. Floats only affect pixels,
and an engine (`model.engine`) computes them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import ESCAPE_LIMIT, PRECISION, Tables
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

BASE_GROUPS = 2  # the first groups below hold exactly the base
HYPER_PASSES = 3
SIDE_PASSES = 1 + HYPER_PASSES  # of multiples and hyper-latents, before the groups
BITS_PER_DISTORTION = 20.0  # bits per squared quantizer step; 6 / ln 2 for uniform quantizers at high rates


class Symbols(NamedTuple):
    """The integers of one tile of h x w latents, position by position, row by row.

    Attributes:
        z: int16 [h' w', Z], hyper-latents, h' = ceil(h / 4), w' = ceil(w / 4).
        y: int16 [h w, M], latents; or only their base, [h w, M / 8].
        indexes: uint8, shaped like y: the table index of each latent.
        multiples: uint8 [h' w'], the step multiples of the latents around each hyper-latent, 1 to 4.
    """

    z: NDArray[np.int16]
    y: NDArray[np.int16]
    indexes: NDArray[np.uint8]
    multiples: NDArray[np.uint8]


class Coded(NamedTuple):
    """Symbols [n] that are coded together, with their tables and table indexes [n]."""

    tables: Tables
    indexes: NDArray[np.uint8]
    symbols: NDArray[np.integer]


Code = Callable[[Tables, NDArray[np.uint8]], NDArray[np.int32]]
"""Returns the symbols [n] of a group, given their tables and table indexes [n]; a decoder reads them from the bytes."""


def quality_level(quality: int) -> float:
    """The level 0..1 of a quality 1..100, as the gain curves take it."""
    return (quality - 1) / (len(QUALITIES) - 1)


def hyper_size(rows: int, columns: int) -> tuple[int, int]:
    """Size of the hyper-latent grid over rows x columns latents."""
    return -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)


# --- the order of coding ----------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Latents that are coded together.

    Attributes:
        number: 0 or 1, the pass in which they are predicted, and whose tables code them.
        parts: in coding order, pairs of positions int [n] and a range of channels.
    """

    number: int
    parts: tuple[tuple[NDArray[np.intp], slice], ...]

    def take(self, values: NDArray[Any]) -> NDArray[Any]:
        """Selects the values [n] of this group from values [h w, M] of all latents."""
        return np.concatenate([values[positions, channels].ravel() for positions, channels in self.parts])

    def put(self, values: NDArray[Any], taken: NDArray[Any]) -> None:
        """The inverse of `take`: sets the values of this group in values [h w, M]."""
        start = 0
        for positions, channels in self.parts:
            shape = len(positions), channels.stop - channels.start
            end = start + shape[0] * shape[1]
            values[positions, channels] = taken[start:end].reshape(shape)
            start = end


@functools.lru_cache(maxsize=16)
def groups(rows: int, columns: int, channels: int) -> tuple[Group, ...]:
    """The groups of a tile of rows x columns latents, in coding order.

    A checkerboard, shown for 2 x 4 positions; the numbers are passes:

        channels of the first half   1 0 1 0      of the second half   0 1 0 1
                                     0 1 0 1                           1 0 1 0

    So both passes hold some channels of every position. The base, which is the first channels of the first half, is
    coded before all others, so that a decoder can stop there if it only needs a preview. Table indexes do not depend on
    latents, so any order would work.

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


# --- step multiples ---------------------------------------------------------------------------------------------------
# The quantizer steps of the 4 x 4 latents of a hyper-latent can be a whole multiple of those of the quality, where a
# picture matters less. Symbols then count these larger steps, and have smaller scales, so lower table indexes.

MOST_MULTIPLE = 4
INDEX_SHIFTS = np.array([0, 0, 6, 10, 12], np.uint8)
"""By multiple, the decrease of table indexes: ln(multiple) / LOG_SCALE_STEP, rounded."""

MULTIPLE_TABLES = Tables(np.array([2]), np.array([[1024, 1024, 2**PRECISION - 4 * 1024 - 1, 1024, 1024, 1]]))
"""Codes the differences of neighbouring multiples: 14 bits where they differ, hardly anything where they do not."""


def _differences(multiples: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.int16]:
    """Differences [h' w'] of multiples to those on the left, in the first column to those above, modulo 4: -1 to 2."""
    before = np.ones((grid[0], grid[1] + 1), np.int16)
    before[:, 1:] = multiples.reshape(grid)
    before[1:, 0] = before[:-1, 1]
    return ((np.diff(before) + 1) % MOST_MULTIPLE - 1).ravel()


def _multiples(differences: NDArray[np.integer], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """The inverse of `_differences`; any integers are allowed."""
    sums = differences.reshape(grid).astype(np.int64)
    sums[:, 0] = sums[:, 0].cumsum()
    return (sums.cumsum(1) % MOST_MULTIPLE + 1).astype(np.uint8).ravel()


def _by_latent(of_z: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Repeats values [h' w'] of hyper-latents for their latents [rows columns, 1]."""
    grid = of_z.reshape(hyper_size(rows, columns))
    return grid.repeat(HYPER_STRIDE, 0)[:rows].repeat(HYPER_STRIDE, 1)[:, :columns].reshape(-1, 1)


def _coarser(indexes: NDArray[np.uint8], multiples: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Table indexes [rows columns, C] of symbols that count multiples of steps."""
    if multiples.max() == 1:
        return indexes
    shifts = _by_latent(INDEX_SHIFTS[multiples], rows, columns)
    return np.where(indexes > shifts, indexes - shifts, np.uint8(0))


def in_steps(symbols: Symbols, rows: int, columns: int) -> NDArray[np.int16]:
    """Symbols [rows columns, C] of latents in the quantizer steps of the quality."""
    if symbols.multiples.max() == 1:
        return symbols.y
    return symbols.y * _by_latent(symbols.multiples, rows, columns)


# --- the contexts of hyper-latents ------------------------------------------------------------------------------------


class HyperPass(NamedTuple):
    """Hyper-latents that are coded together; their neighbours select the tables.

    Attributes:
        positions: int [n], positions in the grid, row by row.
        around: int [n, 4], positions of their neighbours in earlier passes; h' w' if there is none.
        known: int32 [n, 1], number of neighbours.
    """

    positions: NDArray[np.intp]
    around: NDArray[np.intp]
    known: NDArray[np.int32]


@functools.lru_cache(maxsize=16)
def hyper_passes(rows: int, columns: int) -> tuple[HyperPass, ...]:
    """The passes over a grid of rows x columns hyper-latents, in coding order; shown for 2 x 4 positions:

        0 2 0 2     Pass 0 knows no neighbours, pass 1 the diagonal ones, pass 2 those left, right, above
        2 1 2 1     and below.

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
    """The context [n, Z] of each hyper-latent of a pass, which selects its table; in integers, equal on every machine.

    Without known neighbours, the context is one of ten bands of qualities. Otherwise it combines the neighbours' mean
    in the same channel, the number of non-zero symbols around, and the lower or upper half of the qualities.

    Args:
        z: [h' w' + 1, Z], hyper-latents of earlier passes, and a last row of zeros.
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
    """Table indexes of the hyper-latents of a pass [n Z]; arguments as in `hyper_contexts`."""
    contexts = hyper_contexts(z, of, quality)
    return engine.hyper_indexes[contexts, np.arange(contexts.shape[1])].ravel()


# --- from symbols and back --------------------------------------------------------------------------------------------


def read(
    engine: Engine, rows: int, columns: int, qualities: Sequence[int], codes: Sequence[Code], *, base_only: bool = False
) -> list[Symbols]:
    """The symbols of several tiles of rows x columns latents; every symbol is requested once, in bitstream order.

    Uses only integers, which are the same on every machine. A decoder, whose `code` reads from the bytes, knows all
    symbols before anything else is computed.

    Args:
        engine: computes the table indexes, and has the tables.
        rows: rows of latents of each tile.
        columns: columns of latents of each tile.
        qualities: 1 to 100, of each tile.
        codes: for each tile, called for the multiples, then for each pass of z, then for each group of y.
        base_only: stop after the base of the latents.
    """
    arch, grid = engine.arch, hyper_size(rows, columns)
    none = np.zeros(grid[0] * grid[1], np.uint8)
    multiples = [_multiples(code(MULTIPLE_TABLES, none), grid) for code in codes]
    z = [np.zeros((grid[0] * grid[1] + 1, arch.hyper_channels), np.int16) for _ in codes]
    for of in hyper_passes(*grid):
        for values, quality, code in zip(z, qualities, codes, strict=True):
            of_pass = code(engine.hyper_tables, _hyper_indexes(engine, values, of, quality))
            values[of.positions] = of_pass.reshape(-1, arch.hyper_channels)
    z = [values[:-1] for values in z]
    found = engine.table_indexes(z, rows, columns, qualities, arch.base_channels if base_only else None)
    indexes = [_coarser(each, of_tile, rows, columns) for each, of_tile in zip(found, multiples, strict=True)]
    y = [np.empty(each.shape, np.int16) for each in indexes]
    for group in groups(rows, columns, arch.latent_channels)[: BASE_GROUPS if base_only else None]:
        for code, symbols, own in zip(codes, y, indexes, strict=True):
            group.put(symbols, code(engine.latent_tables[group.number], group.take(own)))
    return [Symbols(*each) for each in zip(z, y, indexes, multiples, strict=True)]


def coded(engine: Engine, symbols: Symbols, rows: int, columns: int, quality: int) -> Iterator[Coded]:
    """Yields the symbols of a tile of rows x columns latents in the order of `read`: multiples, z, then groups of y."""
    grid = hyper_size(rows, columns)
    yield Coded(MULTIPLE_TABLES, np.zeros(len(symbols.z), np.uint8), _differences(symbols.multiples, grid))
    z = np.concatenate([symbols.z, np.zeros_like(symbols.z[:1])])
    for of in hyper_passes(*grid):
        indexes = _hyper_indexes(engine, z, of, quality)
        yield Coded(engine.hyper_tables, indexes, symbols.z[of.positions].ravel())
    for group in groups(rows, columns, engine.arch.latent_channels):
        yield Coded(engine.latent_tables[group.number], group.take(symbols.indexes), group.take(symbols.y))


def dequantize(engine: Engine, symbols: Sequence[Symbols], rows: int, columns: int, qualities: Sequence[int]) -> Array:
    """Latents [B, M, rows, columns] of the symbols of B tiles, ready for synthesis; or their base.

    Means are float: they affect pixels, never the entropy coder.
    """
    y = [in_steps(each, rows, columns) for each in symbols]
    return engine.predict([each.z for each in symbols], rows, columns, qualities, lambda *_: y, y[0].shape[1])


# --- the encoder's choice ---------------------------------------------------------------------------------------------


def quantize(
    engine: Engine, y: Array, quality: int, multiples: NDArray[np.uint8] | None = None
) -> tuple[Symbols, Array]:
    """Quantizes the latents y [M, h, w] of a tile with RDOQ; returns the symbols and the dequantized latents [M, h, w].

    Args:
        engine: computes the hyper-latents and the means.
        y: the latents.
        quality: 1 to 100.
        multiples: the step multiples [h' w'], 1 to 4; None is 1 everywhere.

    Raises:
        VaecModelError: (MODEL_VALUES) the weights produce latents that are not finite.
    """
    rows, columns = y.shape[1:]
    steps, of_z = engine.hyper_analyze(y, quality)
    z = nearest(of_z).astype(np.int16)
    (indexes,) = engine.table_indexes([z], rows, columns, [quality])
    if multiples is None:
        multiples = np.ones(len(z), np.uint8)
    indexes = _coarser(indexes, multiples, rows, columns)
    symbols = Symbols(z, np.zeros(indexes.shape, np.int16), indexes, multiples)

    def symbols_of_pass(number: int, residual: NDArray[np.float32] | None) -> list[NDArray[np.int16]]:
        distances = cast(NDArray[np.float32], residual)  # not None, because there are steps
        if multiples.max() > 1:
            distances = distances / np.float32(_by_latent(multiples, rows, columns))
        for group in groups(rows, columns, engine.arch.latent_channels):
            if group.number == number:
                chosen = engine.rdoq(group.take(distances), group.take(indexes), engine.latent_tables[number])
                group.put(symbols.y, chosen)
        return [in_steps(symbols, rows, columns)]

    y_hat = engine.predict([z], rows, columns, [quality], symbols_of_pass, indexes.shape[1], steps)[0]
    return symbols, y_hat


def nearest(residual: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rounds residuals, in quantizer steps and of any shape, to the nearest integers that tables can code.


    Raises:
        VaecModelError: (MODEL_VALUES) a residual is NaN.
    """
    if np.isnan(residual).any():
        raise VaecModelError("the weights produce NaN latents for this picture", code="MODEL_VALUES")
    return np.rint(residual).clip(-ESCAPE_LIMIT, ESCAPE_LIMIT).astype(np.int32)


def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """As `nearest`, for symbols [n], but one step closer to zero where the saved bits are worth the added distortion.

    Args:
        residual: distances [n] from the means, in quantizer steps.
        indexes: the table index of each.
        tables: the tables that will code them.


    Source: Karczewicz, Ye and Chong, "Rate Distortion Optimized Quantization", ITU-T SG16/Q6 VCEG-AH21 (2008). Only
    encoders use it; decoders are not affected.
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
    """Whether one step closer to zero is worth its distortion, for arrays or tensors of one shape.

    Args:
        residual: distance from the mean in quantizer steps.
        symbols: the integers nearest to it.
        saved_bits: bits that the symbols closer to zero save.
    """
    # The increase of the squared error from a symbol to its neighbour closer to zero.
    distortion = 2 * (abs(residual) - abs(symbols)) + 1
    return saved_bits > BITS_PER_DISTORTION * distortion
