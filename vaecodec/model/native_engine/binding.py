"""The compiled library: loading, functions and error codes; and entropy coding with it, as in `entropy.coder`."""

import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.entropy.tables import SENTINEL, IntArray, Tables
from vaecodec.errors import VaecCorruptError, VaecModelError, VaecResourceError

ABI_VERSION = 2
LEVEL_VARIABLE = "VAECODEC_LEVEL"  # environment variable: an instruction set to use instead of the best one

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")

# Argument types by letter: p pointer, n size, i int32, s text, and contiguous arrays: b uint8, h int16, w int32,
# l int64, u uint32, f float32.
_FUNCTIONS = {
    "vaec_abi_version": ("i", ""),
    "vaec_message": ("s", ""),
    "vaec_level": ("s", "s"),
    "vaec_level_name": ("s", "n"),
    "vaec_tables_new": ("p", "llnnn"),
    "vaec_tables_free": ("", "p"),
    "vaec_reader_start": ("i", "ppn"),
    "vaec_reader_read": ("i", "ppnpbnw"),
    "vaec_writer_push": ("i", "punpbwn"),
    "vaec_writer_finish": ("i", "pun"),
    "vaec_rdoq": ("i", "fbnplnnnhn"),
    "vaec_model_new": ("p", "wnpppp"),
    "vaec_model_free": ("", "p"),
    "vaec_self_test": ("i", "p"),
    "vaec_table_rows": ("i", "phnnninbnn"),
    "vaec_analyze": ("i", "pbnnifnn"),
    "vaec_hyper_analyze": ("i", "pfnnifnfnn"),
    "vaec_start_prediction": ("i", "phnnninfnfnn"),
    "vaec_refine": ("i", "phfnnninffnn"),
    "vaec_complete": ("i", "phnninffnn"),
    "vaec_residual": ("i", "pffninfnn"),
    "vaec_synthesize": ("i", "pfnnniibnpn"),
    "vaec_synthesize_like": ("i", "pfnnnibnnnnbnppn"),
    "vaec_preview": ("i", "pfnnnnnbnn"),
}
_ARRAYS = {"b": np.uint8, "h": np.int16, "w": np.int32, "l": np.int64, "u": np.uint32, "f": np.float32}
_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p, "n": ctypes.c_size_t, "i": ctypes.c_int32, "s": ctypes.c_char_p, "": None,
    **{letter: np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS") for letter, dtype in _ARRAYS.items()},
}  # fmt: skip


def library_path() -> Path:
    """The path of the compiled library, which exists if it was built."""
    return Path(__file__).parent / f"libvaec_core{_SUFFIX}"


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded once.

    Raises:
        VaecModelError: (NATIVE_MISSING) it was not built or cannot be loaded; (NATIVE_VERSION) it belongs to another
            version of this package.
    """
    path = library_path()
    try:
        loaded = ctypes.CDLL(str(path))
        version = loaded.vaec_abi_version()
    except (OSError, AttributeError) as error:
        message = f"no native engine: {path.name} is missing or broken ({error})"
        raise VaecModelError(message, code="NATIVE_MISSING") from error
    if version != ABI_VERSION:
        raise VaecModelError(
            f"{path.name} has interface {version}, must have {ABI_VERSION}: rebuild it (make core) or reinstall",
            code="NATIVE_VERSION",
        )
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = _TYPES[result], [_TYPES[letter] for letter in arguments]
    wanted = os.environ.get(LEVEL_VARIABLE)
    if wanted and not loaded.vaec_level(wanted.encode()):
        raise VaecModelError(f"{LEVEL_VARIABLE} is {wanted!r}, which this CPU does not support", code="NATIVE_LEVEL")
    return loaded


def is_available() -> bool:
    """Whether the library can be loaded."""
    try:
        library()
    except VaecModelError:
        return False
    return True


def levels() -> tuple[str, ...]:
    """The instruction sets that this CPU supports, from the baseline to the best."""
    found, number = [], 0
    while (name := library().vaec_level_name(number)) is not None:
        found.append(name.decode())
        number += 1
    return tuple(found)


def use_level(name: str | None = None) -> str:
    """Returns the instruction set used by this process; `name` changes it. All of them give the same results."""
    found = library().vaec_level(name and name.encode())
    if found is None:
        raise VaecModelError(f"instruction set is {name!r}, must be one of {', '.join(levels())}", code="NATIVE_LEVEL")
    return str(found.decode())


_CORRUPT = {
    1: ("CODER_WORDS", "payload is empty or not a whole number of words"),
    2: ("CODER_STATE", "payload ends with the word 0, which no encoder writes"),
    3: ("ESCAPE_RANGE", "escaped symbol has a value that its row codes without an escape"),
}
_NOT_A_NUMBER, _NO_MEMORY = 6, 7


def call(function: Callable[..., int], *arguments: Any) -> None:
    """Calls a function of the library and raises the error that belongs to its fault code."""
    fault = function(*arguments)
    if fault == 0:
        return
    if fault in _CORRUPT:
        code, text = _CORRUPT[fault]
        raise VaecCorruptError(text, code=code)
    if fault == _NOT_A_NUMBER:
        raise VaecModelError("the weights produce NaN latents for this picture", code="MODEL_VALUES")
    if fault == _NO_MEMORY:
        raise VaecResourceError("out of memory")
    raise ValueError(f"native engine: {library().vaec_message().decode()} (fault {fault})")


# --- entropy coding ---------------------------------------------------------------------------------------------------


class _Handle:
    """The library's copy of a `Tables`."""

    def __init__(self, tables: Tables) -> None:
        radius, counts = tables.radius, tables.counts
        native = library()
        self.pointer = native.vaec_tables_new(radius, counts, *counts.shape, tables.first_coded_row)
        if not self.pointer:
            raise VaecModelError(native.vaec_message().decode(), code="TABLE")
        weakref.finalize(self, native.vaec_tables_free, self.pointer)


_HANDLES: weakref.WeakKeyDictionary[Tables, _Handle] = weakref.WeakKeyDictionary()


def _pointer(tables: Tables) -> int:
    """The library's copy of the tables. Two threads may both make it at first, which is harmless: one is kept."""
    handle = _HANDLES.get(tables)
    if handle is None:
        handle = _HANDLES.setdefault(tables, _Handle(tables))
    return int(handle.pointer)


def _narrow(tables: Tables, indexes: IntArray) -> NDArray[np.uint8]:
    """Table indexes as uint8 for the library, which checks their range itself."""
    if indexes.dtype != np.uint8 or indexes.ndim != 1:
        tables.check(indexes)
    return np.ascontiguousarray(indexes, np.uint8)


class _Reader(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint64), ("words_left", ctypes.c_uint64))


class _Payload(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint64), ("size", ctypes.c_uint64))


class Decoder:
    """Like `coder.Decoder`: reads the passes of one payload in order; not thread-safe.

    Raises:
        VaecCorruptError: (CODER_WORDS, CODER_STATE) as `coder.Decoder`.
    """

    def __init__(self, payload: bytes | memoryview) -> None:
        self._payload = memoryview(payload).tobytes()
        self._reader = _Reader()
        self._read_by(library().vaec_reader_start)

    def read(self, tables: Tables, indexes: IntArray) -> NDArray[np.int32]:
        """The symbols int32 [n] of the next pass, given the table index of each; raises as `coder.Decoder.read`."""
        narrow = _narrow(tables, indexes)
        symbols = np.empty(indexes.size, np.int32)
        self._read_by(library().vaec_reader_read, _pointer(tables), narrow, narrow.size, symbols)
        return symbols

    def finish(self) -> None:
        """Checks that exactly the symbols of the encoder have been read; raises CODER_END as `coder.Decoder.finish`."""
        words, state = self._reader.words_left, self._reader.state
        if words or state != SENTINEL:
            raise VaecCorruptError(
                f"payload ends with {words} words left and state {state:#x}, must be 0 and {SENTINEL:#x}",
                code="CODER_END",
            )

    def _read_by(self, function: Any, *arguments: Any) -> None:
        call(function, ctypes.byref(self._reader), self._payload, len(self._payload), *arguments)


class Encoder:
    """Codes passes to a payload; the passes are given last to first.

    Args:
        symbols: maximum number of symbols.
    """

    def __init__(self, symbols: int) -> None:
        # A symbol pushes at most 24 bits, twice if it is escaped, so there are never more words than pushes.
        self._words = np.empty(2 * symbols + 4, np.uint32)
        self._payload = _Payload(SENTINEL, 0)

    def push(self, tables: Tables, indexes: IntArray, symbols: IntArray) -> None:
        """Codes one pass; raises as `coder.encode`."""
        if symbols.dtype not in (np.int16, np.int32) or symbols.shape != indexes.shape:
            tables.check(indexes, symbols)
        narrow, wide = _narrow(tables, indexes), np.ascontiguousarray(symbols, np.int32)
        self._push_by(library().vaec_writer_push, _pointer(tables), narrow, wide, wide.size)

    def finish(self) -> bytes:
        """Returns the payload."""
        self._push_by(library().vaec_writer_finish)
        return self._words[: self._payload.size].astype("<u4").tobytes()

    def _push_by(self, function: Any, *arguments: Any) -> None:
        words = self._words
        call(function, ctypes.byref(self._payload), words, self._words.size, *arguments)


def encode(passes: Sequence[tuple[Tables, IntArray, IntArray]]) -> bytes:
    """Codes all passes of a tile to the same bytes as `coder.encode`; raises the same errors."""
    encoder = Encoder(sum(len(indexes) for _, indexes, _ in passes))
    for each in reversed(passes):
        encoder.push(*each)
    return encoder.finish()


def rdoq(
    residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables, threads: int = 1
) -> NDArray[np.int16]:
    """Like `coding.rdoq`.

    Raises:
        VaecModelError: (MODEL_VALUES) a residual is NaN.
    """
    residual, indexes = np.ascontiguousarray(residual, np.float32), np.ascontiguousarray(indexes, np.uint8)
    if residual.shape != indexes.shape:
        raise ValueError(f"residuals have shape {residual.shape}, table indexes {indexes.shape}: must be equal")
    symbols = np.empty(residual.shape, np.int16)
    call(
        library().vaec_rdoq, residual, indexes, residual.size,
        tables.saved_by_column.ctypes.data, tables.radius, *tables.counts.shape, tables.first_coded_row, symbols,
        threads,
    )  # fmt: skip
    return symbols
