"""The native engine: our own C++ library, called through ctypes and numpy, without torch.

Latents are arrays [C, h, w] that are views of memory laid out by position, [h, w, C]; pixels are uint8 [H, W, 3]. All
results have the same bits on every instruction set and with every number of threads. A forked process can keep using an
engine: the library starts new threads there when it needs them.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import Pass, Tables
from vaecodec.errors import VaecModelError, keep_freed_memory
from vaecodec.model.engine import SymbolsOfPass
from vaecodec.model.native_engine import binding
from vaecodec.model.native_engine.binding import call, library
from vaecodec.model.weights import Weights

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Integers = NDArray[np.int16]

LARGEST_PART_PX = 1 << 20  # pixels to compute at once; more need more memory, and no less time

_TYPES = {"float32": 0, "float16": 1, "int16": 2, "int32": 3, "int64": 4}


class NativeEngine:
    """Weights loaded on the CPU: see `model.engine.Engine`.

    Args:
        weights: as loaded.
        threads: threads that share the work of a call, including the caller's; None is one per usable processor.

    Raises:
        VaecModelError: (NATIVE_MISSING, NATIVE_VERSION, NATIVE_LEVEL) the library cannot be used; (SELF_TEST) it does
            not compute integers exactly; (MODEL_VALUES) a weight is not finite.
    """

    device = "cpu"
    is_cpu = True
    at_once_px = LARGEST_PART_PX
    joined_px = 0  # tiles alone come out exactly as their encoder saw them

    def __init__(self, weights: Weights, threads: int | None = None) -> None:
        native = library()
        self.arch, self.model_id, self.restores = weights.arch, weights.model_id, weights.restores
        self.hyper_tables, self.hyper_indexes = weights.hyper_tables, weights.hyper_indexes
        self.latent_tables = weights.latent_tables
        self._threads, self._alone = threads or _usable_processors(), threading.local()
        keep_freed_memory()
        # Kept alive: the library packs encoder-only weights on first use.
        self._tensors = {name: np.require(array, requirements=("C", "A")) for name, array in weights.arrays().items()}
        count = len(self._tensors)
        values = self._tensors.values()
        self._model = native.vaec_model_new(
            np.array(astuple(self.arch), np.int32), count,
            (ctypes.c_char_p * count)(*(name.encode() for name in self._tensors)),
            (ctypes.c_void_p * count)(*(tensor.ctypes.data for tensor in values)),
            (ctypes.c_int32 * count)(*(_TYPES[tensor.dtype.name] for tensor in values)),
            (ctypes.c_size_t * count)(*(tensor.size for tensor in values)),
        )  # fmt: skip
        if not self._model:
            raise VaecModelError(f"weights: {native.vaec_message().decode()}", code="MODEL_VALUES")
        weakref.finalize(self, native.vaec_model_free, self._model)
        self.self_test()

    @property
    def threads(self) -> int:
        """Threads that share the work of a call from this thread."""
        return 1 if getattr(self._alone, "is_set", False) else self._threads

    @property
    def pictures_at_once(self) -> int:
        """As many pictures as a call would use threads."""
        return self.threads

    @property
    def helpers(self) -> int:
        """Half of the threads, because reading and predicting are a third of the work; but two from two threads on.

        Two processors decode 12 megapixels in 0.9 of the time without helpers, with one in 1.1: it takes too long for
        the first row of tiles.
        """
        return min(self.threads, max(2, self.threads // 2)) if self.threads > 1 else 0

    def use_one_thread(self) -> None:
        """Makes the calling thread compute alone."""
        self._alone.is_set = True

    def self_test(self) -> None:
        """Compare the integer network with int64 arithmetic; raises VaecModelError (SELF_TEST)."""
        layer = library().vaec_self_test(self._model)
        if layer >= 0:
            raise VaecModelError(
                f"cpu does not compute the scale network exactly (layer {layer}): it cannot read or write .vaec",
                code="SELF_TEST",
            )

    # --- integers -----------------------------------------------------------------------------------------------------

    @staticmethod
    def reader(payload: bytes) -> binding.Decoder:
        """Returns a reader of the symbols of a payload."""
        return binding.Decoder(payload)

    @staticmethod
    def write(passes: Sequence[Pass]) -> bytes:
        """Codes symbols to a payload."""
        return binding.encode(passes)

    def rdoq(self, residual: Floats, indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.integer]:
        """Quantizes residuals with RDOQ."""
        return binding.rdoq(residual, indexes, tables, self.threads)

    def table_indexes(
        self, z: Sequence[Integers], rows: int, columns: int, qualities: Sequence[int], channels: int | None = None
    ) -> NDArray[np.uint8]:
        """Table indexes [B, rows columns, C] of tiles with hyper-latents z [h' w', Z]."""
        channels = channels or self.arch.latent_channels
        found = np.empty((len(z), rows * columns, channels), np.uint8)
        for each, quality, out in zip(z, qualities, found, strict=True):
            each = np.ascontiguousarray(each, np.int16)
            call(
                library().vaec_table_rows, self._model, each, each.size, rows, columns, quality, channels,
                out, out.size, self.threads,
            )  # fmt: skip
        return found

    # --- pixels to latents --------------------------------------------------------------------------------------------

    def analyze(self, pixels: Pixels, quality: int) -> Floats:
        """Latents y [M, H/16, W/16] float32 of pixels [H, W, 3], H and W multiples of 16."""
        pixels = np.ascontiguousarray(pixels, np.uint8)
        height, width, colours = pixels.shape
        if colours != 3:
            raise ValueError(f"pixels have {colours} channels, must have 3")
        y = np.empty((height // 16, width // 16, self.arch.latent_channels), np.float32)
        call(
            library().vaec_analyze, self._model, pixels, height, width, quality, y,
            y.size, self.threads,
        )  # fmt: skip
        return y.transpose(2, 0, 1)

    def hyper_analyze(self, y: Floats, quality: int) -> tuple[Floats, Floats]:
        """Latents [M, h, w] and hyper-latents [h' w', Z], both in quantizer steps, of latents y [M, h, w]."""
        by_place = _by_place(y)
        rows, columns = by_place.shape[:2]
        steps = np.empty_like(by_place)
        z = np.empty((-(-rows // 4) * -(-columns // 4), self.arch.hyper_channels), np.float32)
        call(
            library().vaec_hyper_analyze, self._model, by_place, rows, columns, quality,
            steps, steps.size, z, z.size, self.threads,
        )  # fmt: skip
        return steps.transpose(2, 0, 1), z

    # --- prediction ---------------------------------------------------------------------------------------------------

    def predict(
        self, z: Sequence[Integers], rows: int, columns: int, qualities: Sequence[int],
        symbols_of_pass: SymbolsOfPass, channels: int, steps: Floats | None = None,
    ) -> Floats:  # fmt: skip
        """The first channels [B, C, rows, columns] of dequantized latents: all of them, or at most half."""
        count, positions = len(z), rows * columns
        features = np.empty((count, positions, self.arch.prior_channels), np.float32)
        mean = np.empty((count, positions, channels), np.float32)
        latents = np.empty_like(mean)
        size = positions * channels
        native, tiles = library(), range(count)
        for n in tiles:
            own = np.ascontiguousarray(z[n], np.int16)
            call(
                native.vaec_start_prediction, self._model, own, own.size, rows, columns, qualities[n],
                channels, features[n], features[n].size, mean[n], size, self.threads,
            )  # fmt: skip
        symbols = self._checked(symbols_of_pass(0, self._residual(steps, mean[0], qualities[0])), mean.shape)
        for n in tiles:
            call(
                native.vaec_refine, self._model, symbols[n], features[n],
                features[n].size, rows, columns, qualities[n], channels, mean[n],
                latents[n], size, self.threads,
            )  # fmt: skip
        symbols = self._checked(symbols_of_pass(1, self._residual(steps, mean[0], qualities[0])), mean.shape)
        for n in tiles:
            call(
                native.vaec_complete, self._model, symbols[n], rows, columns, qualities[n], channels,
                mean[n], latents[n], size, self.threads,
            )  # fmt: skip
        return latents.reshape(count, rows, columns, channels).transpose(0, 3, 1, 2)

    def _residual(self, y: Floats | None, mean: Floats, quality: int) -> Floats | None:
        if y is None:
            return None
        steps, out = _by_place(y), np.empty_like(mean)
        if steps.size != mean.size:
            raise ValueError(f"latents have shape {y.shape}, must have that of the means, {mean.shape}")
        call(
            library().vaec_residual, self._model, steps, mean, *mean.shape[:1],
            quality, mean.shape[1], out, out.size, self.threads,
        )  # fmt: skip
        return out

    @staticmethod
    def _checked(symbols: Sequence[Integers], shape: tuple[int, ...]) -> list[Integers]:
        found = [np.ascontiguousarray(each, np.int16) for each in symbols]
        if any(each.shape != shape[1:] for each in found) or len(found) != shape[0]:
            raise ValueError(f"symbols have shapes {[each.shape for each in found]}, must have {shape}")
        return found

    # --- latents to pixels --------------------------------------------------------------------------------------------

    def synthesize(
        self, y_hat: Floats, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Pixels, list[bool]]:
        """Pixels [B, 16 h, 16 w, 3] uint8 of latents [B, M, h, w], and whether those of each picture are finite."""
        by_place = np.ascontiguousarray(np.asarray(y_hat, np.float32).transpose(0, 2, 3, 1))
        count, rows, columns, _ = by_place.shape
        pixels, finite = np.empty((count, 16 * rows, 16 * columns, 3), np.uint8), list[bool]()
        is_finite = ctypes.c_int32()
        for own, quality, cut, out in zip(by_place, qualities, deblocking_cuts, pixels, strict=True):
            call(
                library().vaec_synthesize, self._model, own, own.size, rows, columns, quality, cut,
                out, out.size, ctypes.addressof(is_finite), self.threads,
            )  # fmt: skip
            finite.append(bool(is_finite))
        return pixels, finite

    def synthesize_like(
        self, y_hat: Floats, quality: int, original: Pixels, inside: tuple[slice, slice]
    ) -> tuple[Pixels, int, bool]:
        """Pixels [16 h, 16 w, 3] of latents [M, h, w] with the deblocking cut that fits the original, and the cut."""
        by_place, original = _by_place(y_hat), np.ascontiguousarray(original, np.uint8)
        rows, columns = by_place.shape[:2]
        pixels = np.empty((16 * rows, 16 * columns, 3), np.uint8)
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(inside, pixels.shape, strict=False)
        )
        if original.shape != (bottom - top, right - left, 3):
            raise ValueError(f"original has shape {original.shape}, which does not fit {inside}")
        cut, is_finite = ctypes.c_int32(), ctypes.c_int32()
        call(
            library().vaec_synthesize_like, self._model, by_place, by_place.size, rows, columns, quality,
            original, *original.shape[:2], top, left, pixels, pixels.size,
            ctypes.addressof(cut), ctypes.addressof(is_finite), self.threads,
        )  # fmt: skip
        return pixels, cut.value, bool(is_finite)

    def preview(self, y_hat: Floats, scale: int) -> Pixels:
        """Pixels [16 h / scale, 16 w / scale, 3] uint8 of latents [C, h, w]; at 1/8 their base is enough."""
        by_place = _by_place(y_hat)
        rows, columns, channels = by_place.shape
        side = 16 // scale
        pixels = np.empty((side * rows, side * columns, 3), np.uint8)
        call(
            library().vaec_preview, self._model, by_place, by_place.size, rows, columns, channels, scale,
            pixels, pixels.size, self.threads,
        )  # fmt: skip
        return pixels

    # --- arrays -------------------------------------------------------------------------------------------------------

    def zeros(self, rows: int, columns: int) -> Floats:
        """Zero latents [M, rows, columns], to be filled with those of a picture."""
        return np.zeros((rows, columns, self.arch.latent_channels), np.float32).transpose(2, 0, 1)

    @staticmethod
    def concat(parts: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
        """Joins latents [C, h, w], or pixels, of neighbouring regions along an axis."""
        if parts[0].dtype == np.float32 and parts[0].ndim == 3:
            return np.concatenate([part.transpose(1, 2, 0) for part in parts], (axis + 2) % 3).transpose(2, 0, 1)
        return np.concatenate(list(parts), axis)

    @staticmethod
    def to_numpy(array: NDArray[Any]) -> NDArray[Any]:
        """Returns the array unchanged: it is numpy already."""
        return array

    @staticmethod
    def grey(pixels: Pixels) -> Pixels:
        """The mean [H, W, 1] uint8 of the colours of pixels [H, W, 3], rounded."""
        return ((pixels.sum(2, keepdims=True, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def _by_place(latents: Floats) -> Floats:
    """Latents [C, h, w] as contiguous memory [h, w, C]; usually without a copy."""
    return np.ascontiguousarray(np.asarray(latents, np.float32).transpose(1, 2, 0))


def _usable_processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
