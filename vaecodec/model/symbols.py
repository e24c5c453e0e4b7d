"""The integers of a learned tile: which there are, and the order in which they are coded."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BASE_SHARE = 8  # one in so many channels of a latent is in the base
BASE_GROUPS = 2  # of those below, the first: all of the base and nothing else


class Symbols(NamedTuple):
    """The integers of one tile of h x w latents, position by position, row by row.

    Attributes:
        z: int16 [h' w', Z], hyper-latents, h' = ceil(h / 4), w' = ceil(w / 4).
        y: int16 [h w, M], latents; or only their base, [h w, M / 8].
        rows: uint8, as y: for each of them, the row of the table that codes it.
    """

    z: NDArray[np.int16]
    y: NDArray[np.int16]
    rows: NDArray[np.uint8]


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

    A checkerboard: the two halves of the channels are predicted at opposite colours first, so that both passes know
    something of every position. The base, the first channels of the first half, is coded before all others, so that a
    decoder that wants no more than a preview need not read on. Table rows depend on no latent: any order would do.
    """
    is_odd = np.add.outer(np.arange(rows), np.arange(columns)).ravel() % 2 == 1
    odd, even = np.flatnonzero(is_odd), np.flatnonzero(~is_odd)
    base, half = channels // BASE_SHARE, channels // 2
    low, middle, high = slice(0, base), slice(base, half), slice(half, channels)
    return (
        Group(0, ((odd, low),)), Group(1, ((even, low),)),
        Group(0, ((odd, middle), (even, high))), Group(1, ((even, middle), (odd, high))),
    )  # fmt: skip
