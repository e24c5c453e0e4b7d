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
from vaecodec.model.architecture import BASE_SHARE, HYPER_STRIDE, QUALITIES
from vaecodec.model.engine import Array, Engine

BASE_GROUPS = 2  # of the groups below, the first: all of the base and nothing else
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


def hyper_tables(engine: Engine, quality: int) -> Tables:
    """The tables of the hyper-latents at a quality."""
    return engine.hyper_tables[(quality - 1) * len(engine.hyper_tables) // 100]


def hyper_indexes(engine: Engine, positions: int) -> NDArray[np.uint8]:
    """Table indexes of the hyper-latents at a number of positions: each channel has its own."""
    return np.tile(np.arange(engine.arch.hyper_channels, dtype=np.uint8), positions)


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
    arch, positions = engine.arch, np.prod(hyper_size(rows, columns)).item()
    of_z = hyper_indexes(engine, positions)
    z = [
        code(hyper_tables(engine, quality), of_z).astype(np.int16).reshape(positions, -1)
        for quality, code in zip(qualities, codes, strict=True)
    ]
    indexes = engine.table_indexes(z, rows, columns, qualities, arch.base_channels if base_only else None)
    y = [np.empty(each.shape, np.int16) for each in indexes]
    for group in groups(rows, columns, arch.latent_channels)[: BASE_GROUPS if base_only else None]:
        for code, symbols, of in zip(codes, y, indexes, strict=True):
            group.put(symbols, code(engine.latent_tables[group.number], group.take(of)))
    return [Symbols(*each) for each in zip(z, y, indexes, strict=True)]


def coded(engine: Engine, symbols: Symbols, rows: int, columns: int, quality: int) -> Iterator[Coded]:
    """The symbols of a tile of rows x columns latents as `read` asks for them: z, then each group of y."""
    yield Coded(hyper_tables(engine, quality), hyper_indexes(engine, len(symbols.z)), symbols.z.ravel())
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
    tables = hyper_tables(engine, quality)
    z = nearest(of_z.ravel(), hyper_indexes(engine, len(of_z)), tables).astype(np.int16).reshape(of_z.shape)
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


def nearest(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """The integers [n] nearest to residuals [n], in quantizer steps, that the tables can code.

    Args:
        residual: distances from the means.
        indexes: the table index of each.
        tables: those that will code them.

    Raises:
        VaecModelError: (MODEL_VALUES) a residual is NaN.
    """
    if np.isnan(residual).any():
        raise VaecModelError("the weights turn this picture into latents that are NaN", code="MODEL_VALUES")
    symbols = np.rint(residual).clip(-ESCAPE_LIMIT, ESCAPE_LIMIT).astype(np.int32)
    symbols[indexes < tables.first_coded_row] = 0
    return symbols


def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """As `nearest`, but one nearer to zero where the bits that this saves are worth the distortion.

    Source: Karczewicz, Ye and Chong, "Rate Distortion Optimized Quantization", ITU-T SG16/Q6 VCEG-AH21 (2008). Only
    encoders do it; no decoder can tell.
    """
    symbols = nearest(residual, indexes, tables)
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
