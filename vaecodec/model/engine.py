"""What computes: the part of the model that may be float, behind one interface, whatever library runs it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import Pass, Tables
from vaecodec.model.architecture import Architecture

Array = Any
"""An array of the engine's own kind: callers slice, assign, mix (`0.5 * a + 0.5 * b`) and read `.shape`, no more."""

Choose = Callable[[int, NDArray[np.float32] | None], Sequence[NDArray[np.int16]]]
"""Asked in each pass, 0 and 1, for the symbols int16 [rows columns, C] of every tile; those of the other pass do not
matter. Encoders are told the residual float32 [rows columns, C]: the distance of the latents from their means."""


class PayloadReader(Protocol):
    """Reads one payload, pass by pass: see `coder.Decoder`."""

    def read(self, tables: Tables, indexes: NDArray[np.uint8]) -> NDArray[np.int32]: ...
    def finish(self) -> None: ...


class Engine(Protocol):
    """One set of weights at work on one device. Any thread may use it; nothing in it changes.

    Latents of a tile are Arrays [M, h, w] float32, pixels Arrays [H, W, 3] uint8. Rows and columns are those of the
    latents of a tile.

    Attributes:
        arch: widths and margins.
        model_id: first 4 bytes of the SHA-256 of the weights file.
        restores: as of `weights.Weights`: pictures are not to be held to what they were.
        hyper_tables: of the hyper-latents, chosen by `hyper_indexes`.
        hyper_indexes: uint8 [HYPER_CONTEXTS, Z], the row of each channel in each context.
        latent_tables: one entry per pass.
        is_cpu: whether it computes in the computer's memory.
        at_once_px: how many pixels to compute at a time: more take more memory, and no less time.
        joined_px: how many pixels of neighbouring tiles to send through together; 0 is no neighbours.
        pictures_at_once: how many threads should work on pictures of their own.
        helpers: how many threads should read symbols ahead, while the engine is busy.
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
        """Makes the calling thread compute alone, because others beside it have work of their own."""

    def self_test(self) -> None:
        """Compare the integer network, as it is computed here, with int64 arithmetic.

        Raises:
            VaecModelError: (SELF_TEST) it is not exact.
        """
        ...

    def reader(self, payload: bytes) -> PayloadReader:
        """Reads the symbols of a payload, as `coder.Decoder`.

        Raises:
            VaecCorruptError: (CODER_WORDS, CODER_STATE) no encoder wrote it.
        """
        ...

    def write(self, passes: Sequence[Pass]) -> bytes:
        """The payload of symbols, as `coder.encode`: the same bytes from every engine."""
        ...

    def rdoq(self, residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.integer]:
        """Symbols [n] of residuals, as `coding.rdoq`: the same from every engine."""
        ...

    def table_indexes(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        channels: int | None = None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Table indexes [B, rows columns, C] of the first channels of tiles with hyper-latents z [h' w', Z] each.

        Exact: integers, the same from every engine.
        """
        ...

    def analyze(self, pixels: NDArray[np.uint8], quality: int) -> Array:
        """Latents y [M, H/16, W/16] of pixels [H, W, 3], H and W multiples of 16."""
        ...

    def hyper_analyze(self, y: Array, quality: int) -> tuple[Array, NDArray[np.float32]]:
        """Latents y [M, h, w] of a tile in quantizer steps, and its hyper-latents [h' w', Z] likewise."""
        ...

    def predict(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int], choose: Choose,
        channels: int, steps: Array | None = None,
    ) -> Array:  # fmt: skip
        """The first channels [B, C, rows, columns] of the dequantized latents of tiles with hyper-latents z.

        Args:
            z: int16 [h' w', Z] of each of B tiles.
            rows: of the latents.
            columns: likewise.
            qualities: of each tile.
            choose: gives the symbols, pass by pass.
            channels: C.
            steps: of an encoder, the latents [M, rows, columns] of its one tile in quantizer steps.
        """
        ...

    def synthesize(
        self, y_hat: Array, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Array, list[bool]]:
        """Pixels [B, 16 h, 16 w, 3] of dequantized latents [B, M, h, w]; and of which of them all values are finite."""
        ...

    def synthesize_like(
        self, y_hat: Array, quality: int, original: NDArray[np.uint8], inside: tuple[slice, slice]
    ) -> tuple[Array, int, bool]:
        """Pixels of latents [M, h, w], deblocked so far that their grid is that of the original.

        What the filter takes for artefacts may be grain: some pictures come out smoother across borders than beside.

        Args:
            y_hat: dequantized latents [M, h, w].
            quality: theirs.
            original: samples [a, b, 3] of a part of the picture that starts on the latent grid.
            inside: its rows and columns.

        Returns:
            Pixels [16 h, 16 w, 3], the deblocking cut that they have, and whether all values are finite.
        """
        ...

    def preview(self, y_hat: Array, scale: int) -> Array:
        """Pixels [16 h / scale, 16 w / scale, 3], approximately, of dequantized latents [M, h, w].

        At 1/8, the base of the latents, [M / 8, h, w], is enough.
        """
        ...

    def zeros(self, rows: int, columns: int) -> Array:
        """Latents [M, rows, columns] of value 0, to collect those of a picture in."""
        ...

    def concat(self, parts: list[Array], axis: int) -> Array:
        """Latents, or pixels, of neighbouring regions as those of one, along an axis."""
        ...

    def grey(self, pixels: Array) -> Array:
        """The mean [H, W, 1] of the colours of pixels [H, W, 3], rounded."""
        ...

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """An array of this engine in the computer's memory."""
        ...
