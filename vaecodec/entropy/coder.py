"""The entropy coder: integer symbols <-> the payload of a learned tile, with rANS; engines may have a faster one.

The arithmetic is that of constriction's `AnsCoder`; docs/format.md specifies it completely. This file adds the order of
the symbols, the escape and the end check, and raises nothing but VaecCorruptError for bad bytes.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import constriction
import numpy as np
import numpy.typing as npt

from vaecodec.entropy.tables import ESCAPE_COUNTS, ESCAPE_LIMIT, SENTINEL, IntArray, Pass, Tables
from vaecodec.errors import VaecCorruptError

_BYTES_PER_WORD = 4

_MODELS: WeakKeyDictionary[Tables, tuple[Any, ...]] = WeakKeyDictionary()


def encode(passes: Sequence[Pass]) -> bytes:
    """Codes all symbols of a tile.

    Args:
        passes: in the order in which the decoder will read them.

    Returns:
        The payload: one or more little-endian 32-bit words, at most 0.1 % and 16 bytes longer than `ideal_bits` says.

    Raises:
        TypeError: indexes or symbols do not have an integer dtype.
        ValueError: an index or a symbol is out of range, or shapes differ.
    """
    ans = constriction.stream.stack.AnsCoder(np.array([SENTINEL], np.uint32))
    for tables, indexes, symbols in reversed(passes):
        tables.check(indexes, symbols)
        _push(ans, tables, indexes, symbols)
    return ans.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads the passes of one payload in the order in which `encode` got them; not thread-safe.

    Each call takes time proportional to the number of requested symbols, even if the payload is damaged.

    Args:
        payload: the result of `encode`.

    Raises:
        VaecCorruptError: (CODER_WORDS) the payload is empty or not a whole number of words; (CODER_STATE) no encoder
            can have written its last word.
    """

    def __init__(self, payload: bytes | memoryview) -> None:
        data = memoryview(payload).tobytes()
        if not data or len(data) % _BYTES_PER_WORD:
            raise VaecCorruptError(
                f"payload has {len(data)} bytes, must have a positive multiple of {_BYTES_PER_WORD}",
                code="CODER_WORDS",
            )
        try:
            self._ans = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
        except ValueError as error:
            raise VaecCorruptError(
                "payload ends with the word 0, which no encoder writes", code="CODER_STATE"
            ) from error

    def read(self, tables: Tables, indexes: IntArray) -> npt.NDArray[np.int32]:
        """Decodes the next pass.

        Args:
            tables: the tables of this pass.
            indexes: int [n], the table index of each symbol.

        Returns:
            int32 [n]: the symbols, each from -2047 to 2047, and 0 for indexes below tables.first_coded_row.

        Raises:
            VaecCorruptError: (ESCAPE_RANGE) an escaped symbol has a value that needs no escape.
            TypeError: indexes do not have an integer dtype.
            ValueError: an index is out of range, or the array is not one-dimensional.
        """
        tables.check(indexes)
        order, sizes = _by_row(tables, indexes)
        columns = [self._ans.decode(model, size) for model, size in zip(_models(tables), sizes.tolist(), strict=True)]
        radius = np.repeat(tables.radius.astype(np.int32), sizes)
        coded = np.concatenate(columns) - radius
        escaped = np.flatnonzero(coded > radius)
        if escaped.size:
            coded[escaped] = self._read_escaped(radius[escaped])
        symbols = np.zeros(indexes.size, np.int32)
        symbols[order] = coded
        return symbols

    def finish(self) -> None:
        """Checks that exactly the symbols of the encoder have been read.

        Raises:
            VaecCorruptError: (CODER_END) words are left, or the state is not the initial one.
        """
        words, state = self._ans.pos()
        # As long as words are left, the state is 2**32 or more.
        if state != SENTINEL:
            raise VaecCorruptError(
                f"payload ends with {words} words left and state {state:#x}, must be 0 and {SENTINEL:#x}",
                code="CODER_END",
            )

    def _read_escaped(self, radius: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        values: npt.NDArray[np.int32] = self._ans.decode(_ESCAPED_VALUE, radius.size) - np.int32(ESCAPE_LIMIT)
        needless = np.flatnonzero(np.abs(values) <= radius)
        if needless.size:
            raise VaecCorruptError(
                f"escaped symbol has the value {values[needless[0]]}, "
                f"must have a magnitude of {radius[needless[0]] + 1} to {ESCAPE_LIMIT}",
                code="ESCAPE_RANGE",
            )
        return values


def _push(ans: Any, tables: Tables, indexes: IntArray, symbols: IntArray) -> None:
    """Codes one pass backwards, because the last symbol pushed is popped first."""
    order, sizes = _by_row(tables, indexes)
    symbols = symbols[order]
    columns, escaped = tables.columns(indexes[order], symbols)
    ans.encode_reverse(symbols[escaped].astype(np.int32) + np.int32(ESCAPE_LIMIT), _ESCAPED_VALUE)
    end = columns.size
    for model, size in zip(reversed(_models(tables)), reversed(sizes.tolist()), strict=True):
        ans.encode_reverse(columns[end - size : end], model)
        end -= size


def _by_row(tables: Tables, indexes: IntArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Sorts a pass by table row, keeping the order within a row.

    Returns:
        order: int [m], positions of the symbols of coded rows, by ascending row.
        sizes: int [tables.rows], number of coded symbols per row; 0 for skipped rows.
    """
    # numpy sorts 8- and 16-bit integers in linear time, so sorting the skipped ones too is faster than finding them.
    narrow = indexes.astype(np.min_scalar_type(tables.rows - 1), copy=False)
    sizes = np.bincount(narrow, minlength=tables.rows)
    skipped = sizes[: tables.first_coded_row].sum()
    sizes[: tables.first_coded_row] = 0
    return np.argsort(narrow, kind="stable")[skipped:], sizes


def _models(tables: Tables) -> tuple[Any, ...]:
    """Returns constriction's model of each row. Two threads may both build them at first, which is harmless."""
    models = _MODELS.get(tables)
    if models is None:
        models = tuple(_model(row[: 2 * r + 2]) for row, r in zip(tables.counts, tables.radius, strict=True))
        _MODELS[tables] = models
    return models


def _model(counts: npt.NDArray[np.int64]) -> Any:
    """Returns a constriction model that reproduces the counts exactly.

    constriction gives each of the n symbols one part of 2**24, and distributes the other 2**24 - n parts in proportion
    to the weights. The counts minus one are weights that sum to exactly that number, so the factor is 1, and every
    partial sum is an integer, exact in float64.
    """
    return constriction.stream.model.Categorical((counts - 1).astype(np.float64), lazy=False, perfect=False)


_ESCAPED_VALUE = _model(ESCAPE_COUNTS)
