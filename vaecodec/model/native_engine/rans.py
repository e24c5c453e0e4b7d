"""Entropy coding by the native library: the same payloads and errors as `vaecodec.entropy.coder`."""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import SENTINEL, IntArray, Tables
from vaecodec.errors import VaecCorruptError, VaecModelError
from vaecodec.model.native_engine.library import call, library


class _Handle:
    """The tables of the library that belong to a `Tables`."""

    def __init__(self, tables: Tables) -> None:
        radius, counts = tables.radius, tables.counts
        native = library()
        self.pointer = native.vaec_tables_new(radius, counts, *counts.shape, tables.first_coded_row)
        if not self.pointer:
            raise VaecModelError(native.vaec_message().decode(), code="TABLE")
        weakref.finalize(self, native.vaec_tables_free, self.pointer)


_HANDLES: weakref.WeakKeyDictionary[Tables, _Handle] = weakref.WeakKeyDictionary()


def _pointer(tables: Tables) -> int:
    """Two threads that ask first may both make them, which harms nobody: one is kept."""
    handle = _HANDLES.get(tables)
    if handle is None:
        handle = _HANDLES.setdefault(tables, _Handle(tables))
    return int(handle.pointer)


class _Reader(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint64), ("words_left", ctypes.c_uint64))


class _Payload(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint64), ("size", ctypes.c_uint64))


class Decoder:
    """As `coder.Decoder`: reads the passes of one payload in order; not to be shared by threads.

    Raises:
        VaecCorruptError: CODER_WORDS or CODER_STATE, as there.
    """

    def __init__(self, payload: bytes | memoryview) -> None:
        self._payload = memoryview(payload).tobytes()
        self._reader = _Reader()
        self._read_by(library().vaec_reader_start)

    def read(self, tables: Tables, indexes: IntArray) -> NDArray[np.int32]:
        """The symbols int32 [n] of the next pass, given the table index of each; raises as `coder.Decoder.read`."""
        tables.check(indexes)
        narrow = np.ascontiguousarray(indexes, np.uint8)
        symbols = np.empty(indexes.size, np.int32)
        self._read_by(library().vaec_reader_read, _pointer(tables), narrow, narrow.size, symbols)
        return symbols

    def finish(self) -> None:
        """Checks that exactly the symbols of the encoder have been read; raises CODER_END as `coder.Decoder.finish`."""
        words, state = self._reader.words_left, self._reader.state
        if words or state != SENTINEL:
            raise VaecCorruptError(
                f"payload ends with {words} words left and state {state:#x}; 0 and {SENTINEL:#x} is allowed",
                code="CODER_END",
            )

    def _read_by(self, function: Any, *arguments: Any) -> None:
        call(function, ctypes.byref(self._reader), self._payload, len(self._payload), *arguments)


class Encoder:
    """Makes a payload of passes, which are given last to first.

    Args:
        symbols: how many will be coded at most.
    """

    def __init__(self, symbols: int) -> None:
        # Each pushes 24 bits at most, twice if it is escaped: never more words than pushes.
        self._words = np.empty(2 * symbols + 4, np.uint32)
        self._payload = _Payload(SENTINEL, 0)

    def push(self, tables: Tables, indexes: IntArray, symbols: IntArray) -> None:
        """Code one pass; raises as `coder.encode`."""
        tables.check(indexes, symbols)
        narrow, wide = np.ascontiguousarray(indexes, np.uint8), np.ascontiguousarray(symbols, np.int32)
        self._push_by(library().vaec_writer_push, _pointer(tables), narrow, wide, wide.size)

    def finish(self) -> bytes:
        """The payload."""
        self._push_by(library().vaec_writer_finish)
        return self._words[: self._payload.size].astype("<u4").tobytes()

    def _push_by(self, function: Any, *arguments: Any) -> None:
        words = self._words
        call(function, ctypes.byref(self._payload), words, self._words.size, *arguments)


def encode(passes: Sequence[tuple[Tables, IntArray, IntArray]]) -> bytes:
    """The payload of all passes of a tile, byte for byte that of `coder.encode`; raises as that."""
    encoder = Encoder(sum(len(indexes) for _, indexes, _ in passes))
    for each in reversed(passes):
        encoder.push(*each)
    return encoder.finish()


def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int16]:
    """As `coding.rdoq`.

    Raises:
        VaecModelError: (MODEL_VALUES) a residual is NaN.
    """
    residual, indexes = np.ascontiguousarray(residual, np.float32), np.ascontiguousarray(indexes, np.uint8)
    if residual.shape != indexes.shape:
        raise ValueError(f"residuals have shape {residual.shape}, table indexes {indexes.shape}")
    symbols = np.empty(residual.shape, np.int16)
    call(
        library().vaec_rdoq, residual, indexes, residual.size,
        tables.saved_by_column.ctypes.data, tables.radius, *tables.counts.shape, tables.first_coded_row, symbols,
    )  # fmt: skip
    return symbols
