"""The engine protocol: the part of the model that may be float, behind one interface for every library."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import Pass, Tables
from vaecodec.model.architecture import Architecture

Array = Any
"""An array of the engine's own type. Callers only slice, assign, mix (`0.5 * a + 0.5 * b`) and read `.shape`."""

SymbolsOfPass = Callable[[int, NDArray[np.float32] | None], Sequence[NDArray[np.int16]]]
"""Called in each pass, 0 and 1; returns the symbols int16 [rows columns, C] of every tile, of which only those of the
pass are used. Encoders get the residual float32 [rows columns, C], the distance of the latents from their means."""


class PayloadReader(Protocol):
    """Reads one payload, pass by pass: see `coder.Decoder`."""

    def read(self, tables: Tables, indexes: NDArray[np.uint8]) -> NDArray[np.int32]: ...
    def finish(self) -> None: ...


class Engine(Protocol):
    """One set of weights loaded on one device. Immutable and thread-safe.

    Latents of a tile are Arrays [M, h, w] float32, pixels are Arrays [H, W, 3] uint8. Rows and columns count the
    latents of a tile.

    Attributes:
        arch: widths and margins.
        model_id: first 4 bytes of the SHA-256 of the weights file.
        restores: as in `weights.Weights`: the weights change pictures on purpose.
        hyper_tables: the tables of the hyper-latents; `hyper_indexes` selects one.
        hyper_indexes: uint8 [HYPER_CONTEXTS, Z], the table index of each channel in each context.
        latent_tables: one entry per pass.
        is_cpu: whether it computes on the CPU.
        at_once_px: pixels to compute at a time; more need more memory, and no less time.
        joined_px: pixels of neighbouring tiles to process together; 0 processes tiles alone.
        pictures_at_once: number of threads that should each work on their own picture.
        helpers: number of threads that should each read a tile, and predict its latents where `joined_px` is 0, while
            the engine synthesizes earlier ones.
    """

    @property
    def arch(self) -> Architecture: ...
    @property
    def model_id(self) -> bytes: ...
    @property
    def restores(self) -> bool: ...
    @property
    def hyper_tables(self) -> Tables: ...
    @property
    def hyper_indexes(self) -> NDArray[np.uint8]: ...
    @property
    def latent_tables(self) -> tuple[Tables, ...]: ...
    @property
    def is_cpu(self) -> bool: ...
    @property
    def at_once_px(self) -> int: ...
    @property
    def joined_px(self) -> int: ...
    @property
    def pictures_at_once(self) -> int: ...
    @property
    def helpers(self) -> int: ...

    def use_one_thread(self) -> None:
        """Makes the calling thread compute alone, because other threads have their own work."""

    def self_test(self) -> None:
        """Compares the integer network on this device with int64 arithmetic.

        Raises:
            VaecModelError: (SELF_TEST) the results differ.
        """
        ...

    def reader(self, payload: bytes) -> PayloadReader:
        """Returns a reader of the symbols of a payload, like `coder.Decoder`.

        Raises:
            VaecCorruptError: (CODER_WORDS, CODER_STATE) no encoder wrote the payload.
        """
        ...

    def write(self, passes: Sequence[Pass]) -> bytes:
        """Codes symbols to a payload, like `coder.encode`; the same bytes from every engine."""
        ...

    def rdoq(self, residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.integer]:
        """Symbols [n] of residuals, like `coding.rdoq`; the same from every engine."""
        ...

    def table_indexes(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        channels: int | None = None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Table indexes [B, rows columns, C] of the first channels of tiles with hyper-latents z [h' w', Z] each.

        Exact integers, the same from every engine.
        """
        ...

    def analyze(self, pixels: NDArray[np.uint8], quality: int) -> Array:
        """Latents y [M, H/16, W/16] of pixels [H, W, 3], H and W multiples of 16."""
        ...

    def hyper_analyze(self, y: Array, quality: int) -> tuple[Array, NDArray[np.float32]]:
        """Latents [M, h, w] of a tile and its hyper-latents [h' w', Z], both in quantizer steps."""
        ...

    def predict(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        symbols_of_pass: SymbolsOfPass, channels: int, steps: Array | None = None,
    ) -> Array:  # fmt: skip
        """The first channels [B, C, rows, columns] of the dequantized latents of tiles with hyper-latents z.

        Args:
            z: int16 [h' w', Z] of each of B tiles.
            rows: rows of latents.
            columns: columns of latents.
            qualities: of each tile.
            symbols_of_pass: returns the symbols, pass by pass.
            channels: C.
            steps: for encoders, the latents [M, rows, columns] of the one tile in quantizer steps.
        """
        ...

    def synthesize(
        self, y_hat: Array, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Array, list[bool]]:
        """Pixels [B, 16 h, 16 w, 3] of dequantized latents [B, M, h, w], and for each whether all values are finite."""
        ...

    def synthesize_like(
        self, y_hat: Array, quality: int, original: NDArray[np.uint8], inside: tuple[slice, slice]
    ) -> tuple[Array, int, bool]:
        """Pixels of latents [M, h, w], with the deblocking cut that makes their grid equal to the original's.

        The filter may mistake grain for artefacts: some pictures come out smoother across borders than elsewhere.

        Args:
            y_hat: dequantized latents [M, h, w].
            quality: of the latents.
            original: samples [a, b, 3] of a part of the picture that starts on the latent grid.
            inside: the rows and columns of that part in the pixels.

        Returns:
            Pixels [16 h, 16 w, 3], their deblocking cut, and whether all values are finite.
        """
        ...

    def preview(self, y_hat: Array, scale: int) -> Array:
        """Approximate pixels [16 h / scale, 16 w / scale, 3] of dequantized latents [M, h, w].

        At 1/8, the base of the latents, [M / 8, h, w], is enough.
        """
        ...

    def zeros(self, rows: int, columns: int) -> Array:
        """Zero latents [M, rows, columns], to be filled with those of a picture."""
        ...

    def concat(self, parts: list[Array], axis: int) -> Array:
        """Joins the latents, or pixels, of neighbouring regions along an axis."""
        ...

    def grey(self, pixels: Array) -> Array:
        """The mean [H, W, 1] of the colours of pixels [H, W, 3], rounded."""
        ...

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """Copies an array of this engine to numpy, if it is not there already."""
        ...
