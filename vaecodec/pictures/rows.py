"""Pictures by rows: what the encoder reads, from memory or from a file."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import VaecImageError

Samples = NDArray[np.uint8]


@runtime_checkable
class Rows(Protocol):
    """A picture of height x width pixels with 1 to 4 channels (L, LA, RGB, RGBA), read by rows.

    Attributes:
        shape: height, width, channels.
        metadata: as `pixels.metadata_of` gives it.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def metadata(self) -> dict[str, bytes]: ...

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels]; any rows at any time, but quickest from the top down."""
        ...

    def close(self) -> None:
        """Close files and free memory."""
        ...


class ArrayRows:
    """Rows of samples [H, W, C] uint8 in memory, or of anything that hands out such arrays for slices of rows.

    Arrays mapped from a file (`numpy.memmap`) and those of zarr and h5py do, so that they need not fit into memory.
    """

    def __init__(self, samples: Any, metadata: dict[str, bytes] | None = None) -> None:
        self._samples, self.metadata = samples, metadata or {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels; an array [H, W] has one channel."""
        height, width, channels = (*self._samples.shape, 1)[:3]
        return height, width, channels

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels]; of a contiguous array in memory a view."""
        return np.ascontiguousarray(np.atleast_3d(np.asarray(self._samples[top:bottom])))

    def close(self) -> None:
        """The array belongs to the caller."""


class SequentialRows(ABC):
    """Rows that a reader yields from the top down; going back begins anew. For subclasses: `shape` and `_blocks`."""

    shape: tuple[int, int, int]
    _top: int  # the first row of the picture that is held
    _held: list[Samples]  # rows from there on, in pieces

    def __init__(self, metadata: dict[str, bytes] | None = None) -> None:
        self.metadata = metadata or {}
        self._rewind()

    @abstractmethod
    def _blocks(self) -> Generator[Samples]:
        """Yields the picture from its first row on, some rows [h, width, channels] at a time."""

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels], kept until the next call, which may ask for some of them again.

        Raises:
            VaecImageError: (READ) the file ends too soon.
        """
        if top < self._top:
            self.close()
            self._rewind()
        samples = np.empty((bottom - top, *self.shape[1:]), np.uint8)
        held, self._held = self._held, []
        begins, filled = self._top, 0  # rows of the picture, and of the samples
        while held or filled < len(samples):
            block = held.pop(0) if held else self._next(begins)
            wanted = block[max(0, top - begins) :]
            taken = wanted[: len(samples) - filled]
            samples[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(wanted):
                self._held.append(wanted[len(taken) :])
            begins += len(block)
        self._top, self._held = top, [samples, *self._held]
        return samples

    def _next(self, row: int) -> Samples:
        block = next(self._reader, None)
        if block is None:
            message = f"the picture ends after {row} of its {self.shape[0]} rows: the file is damaged"
            raise VaecImageError(message, code="READ")
        return block

    def close(self) -> None:
        """Ends the reader, which closes its file."""
        self._reader.close()

    def _rewind(self) -> None:
        self._top, self._held = 0, []
        self._reader = self._blocks()
