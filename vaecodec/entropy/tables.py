"""Integer probability tables: rows, columns and escapes, and passes of symbols.

A table index selects a row, which is one distribution. Row r with radius R lists how many of the 2**24 equal parts of
the unit interval each symbol owns: first the symbols -R..R in order, then the escape, which stands for every symbol
outside. A symbol's position in this list is its column.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaecodec.errors import VaecModelError

PRECISION = 24
"""Every row of counts sums to 2**PRECISION."""

MAX_RADIUS = 511
"""Widest row: 1023 symbols and the escape."""

ESCAPE_LIMIT = 2047
"""Largest magnitude of a symbol."""

ESCAPE_COUNTS = 4 * (ESCAPE_LIMIT + 1 - np.abs(np.arange(-ESCAPE_LIMIT, ESCAPE_LIMIT + 1, dtype=np.int64)))
"""int64 [4095], the counts of the values -2047..2047 of an escaped symbol: a triangle that sums to exactly 2**24.

Escapes are too rare for their cost to matter, but equal counts would be unsafe: between intervals of equal width, a
flipped bit of the payload can change escaped values without changing the coder's final state, which the end check sees.
"""
ESCAPE_COUNTS.setflags(write=False)

SENTINEL = int.from_bytes(b"VAE\x01", "little")
"""The coder's state before the first and after the last symbol.

At least 2**24, because from there a decoder without further words only lowers its state, and so never ends here,
however many symbols it reads. Not far above 2**24, because the state costs its logarithm: three bytes per tile.
"""

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Tables:
    """Rows of integer probabilities, validated on construction and immutable.

    Tables compare by identity, so a table can be a dictionary key.

    Attributes:
        radius: int [rows], each from 1 to 511; kept as a read-only int64 copy.
        counts: int [rows, 2 * max(radius) + 2]; row r starts with its 2 * radius[r] + 2 counts, each at least 1, which
            sum to exactly 2**24, and is zero after them; kept as a read-only int64 copy.
        first_coded_row: symbols of the rows below this one are 0 by definition and cost nothing.

    Raises:
        VaecModelError: (TABLE) one of these rules is broken.
    """

    radius: IntArray
    counts: IntArray
    first_coded_row: int = 0

    def __post_init__(self) -> None:
        self.validate()
        object.__setattr__(self, "radius", _read_only_copy(self.radius))
        object.__setattr__(self, "counts", _read_only_copy(self.counts))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.radius)

    def validate(self) -> None:
        """Checks every rule of the class docstring; construction does this too.

        Raises:
            VaecModelError: (TABLE) a rule is broken.
        """
        _validate_array("radius", self.radius, ndim=1)
        _validate_array("counts", self.counts, ndim=2)
        if self.rows == 0 or self.radius.min() < 1 or self.radius.max() > MAX_RADIUS:
            raise _broken(f"radius is {self.radius.tolist()[:8]}, must have at least one row, each 1 to {MAX_RADIUS}")
        shape = (self.rows, 2 * int(self.radius.max()) + 2)
        if self.counts.shape != shape:
            raise _broken(f"counts has shape {self.counts.shape}, must be {shape} for these radii")
        self._validate_counts()
        first = self.first_coded_row
        if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < self.rows:
            raise _broken(f"first_coded_row is {first!r}, must be an int from 0 to {self.rows - 1}")

    def _validate_counts(self) -> None:
        used = np.arange(self.counts.shape[1]) < 2 * self.radius.astype(np.int64)[:, None] + 2
        smallest, largest = self.counts[used].min(), self.counts.max()
        if smallest < 1 or largest > 2**PRECISION:
            raise _broken(f"counts range from {smallest} to {largest}, must be from 1 to {2**PRECISION}")
        stray = np.count_nonzero(self.counts[~used])
        if stray:
            raise _broken(f"counts has {stray} values other than 0 after the end of a row, must have none")
        totals = self.counts.sum(axis=1, dtype=np.int64)
        wrong = np.flatnonzero(totals != 2**PRECISION)
        if wrong.size:
            raise _broken(f"counts of row {wrong[0]} sum to {totals[wrong[0]]}, must sum to {2**PRECISION}")

    def check(self, indexes: IntArray, symbols: IntArray | None = None) -> None:
        """Refuses indexes and symbols that these tables cannot code.

        Args:
            indexes: int [n], each from 0 to self.rows - 1.
            symbols: int [n], each from -2047 to 2047, and 0 wherever the row is below first_coded_row.

        Raises:
            TypeError: an array does not have an integer dtype.
            ValueError: a shape or a value is outside the ranges above.
        """
        _check_integers("indexes", indexes, lowest=0, highest=self.rows - 1)
        if symbols is None:
            return
        _check_integers("symbols", symbols, lowest=-ESCAPE_LIMIT, highest=ESCAPE_LIMIT)
        if symbols.shape != indexes.shape:
            raise ValueError(f"symbols has shape {symbols.shape}, indexes has shape {indexes.shape}: must be equal")
        if self.first_coded_row and symbols[indexes < self.first_coded_row].any():
            raise ValueError(f"symbols of indexes below {self.first_coded_row} are not coded and must be 0")

    def columns(self, indexes: IntArray, symbols: IntArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Finds the count that codes each symbol.

        Args:
            indexes: int [n], as accepted by `check`.
            symbols: int [n], as accepted by `check`.

        Returns:
            columns: int32 [n], symbol + R for a symbol of magnitude R = radius[index] or less, otherwise 2R + 1, the
                escape.
            escaped: bool [n], whether the column is the escape.
        """
        radius = self.radius.astype(np.int32)[indexes]
        symbols = symbols.astype(np.int32, copy=False)
        escaped = np.abs(symbols) > radius
        return np.where(escaped, 2 * radius + 1, symbols + radius), escaped

    def saved_bits(self, indexes: IntArray, symbols: IntArray) -> npt.NDArray[np.float32]:
        """Computes the bits that symbols one step closer to zero would save.

        Args:
            indexes: int [n], as accepted by `check`.
            symbols: int [n], as accepted by `check`.

        Returns:
            float32 [n]: bits, negative if that symbol costs more; 0 for the symbol 0 and for escaped symbols.
        """
        columns, _ = self.columns(indexes, symbols)
        return self.saved_by_column[indexes, columns]

    @functools.cached_property
    def saved_by_column(self) -> npt.NDArray[np.float32]:
        """As `saved_bits`: float32 [rows, columns], by row and column."""
        bits = PRECISION - np.log2(np.maximum(self.counts, 1))
        columns = np.arange(self.counts.shape[1])
        symbols = columns - self.radius[:, None]
        nearer = columns - np.sign(symbols)
        escapes = symbols > self.radius[:, None]
        saved = np.where(escapes, 0, bits - np.take_along_axis(bits, nearer, 1))
        return saved.astype(np.float32)


class Pass(NamedTuple):
    """Symbols that are coded together: the decoder must know all their table indexes before it reads the first.

    Attributes:
        tables: the tables of this pass.
        indexes: int [n], the table index of each symbol; uint8 is fastest.
        symbols: int [n], each from -2047 to 2047, and 0 for indexes below tables.first_coded_row.
    """

    tables: Tables
    indexes: IntArray
    symbols: IntArray


def quantize(pmf: FloatArray, *, total: int = 2**PRECISION) -> npt.NDArray[np.int64]:
    """Turns probabilities into integer counts that code almost as well.

    Minimizes the sum of -pmf * log2(counts / total): takes the continuous optimum with small counts raised to 1, rounds
    it down, and distributes the remaining parts where they save most. Only the export of a model calls this, and stores
    the counts; no decoder ever computes them.

    Args:
        pmf: float32 or float64 [n], finite, not negative, not all zero; need not be normalized.
        total: sum of the counts, at least n.

    Returns:
        int64 [n], each at least 1.

    Raises:
        ValueError: pmf or total breaks a rule above.
    """
    _check_pmf(pmf, total=total)
    pmf = pmf.astype(np.float64) / pmf.max().astype(np.float64)
    # With the k largest probabilities above one part each and all others raised to one part, the k share what is left.
    descending = np.sort(pmf)[::-1]
    scales = (total - pmf.size + np.arange(1, pmf.size + 1)) / np.cumsum(descending)
    scale = scales[np.flatnonzero(descending * scales >= 1)[-1]]
    counts = np.maximum(1, np.floor(pmf * scale)).astype(np.int64)
    saving = pmf * np.log1p(1 / counts)
    counts[np.argsort(-saving, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def from_pmfs(pmfs: Sequence[FloatArray], escapes: Sequence[float], *, first_coded_row: int = 0) -> Tables:
    """Makes tables from one distribution per row.

    Args:
        pmfs: per row a float array [2R + 1] with R from 1 to 511: the masses of the symbols -R..R.
        escapes: per row the mass of all symbols outside -R..R.
        first_coded_row: as in `Tables`.

    Returns:
        The tables; each row is `quantize` of its pmf and its escape together.

    Raises:
        ValueError: lengths do not match, a length is even, or `quantize` refuses a row.
        VaecModelError: (TABLE) a radius or first_coded_row is out of range.
    """
    if len(pmfs) != len(escapes):
        raise ValueError(f"escapes has {len(escapes)} entries, pmfs has {len(pmfs)}: must be equal")
    even = [row for row, pmf in enumerate(pmfs) if len(pmf) % 2 == 0]
    if even:
        raise ValueError(f"pmf of row {even[0]} has {len(pmfs[even[0]])} entries, must have an odd number")
    counts = np.zeros((len(pmfs), max(map(len, pmfs), default=0) + 1), np.int64)
    for row, (pmf, escape) in enumerate(zip(pmfs, escapes, strict=True)):
        counts[row, : len(pmf) + 1] = quantize(np.append(pmf, escape))
    radius = np.array([len(pmf) // 2 for pmf in pmfs], np.int64)
    return Tables(radius, counts, first_coded_row)


def ideal_bits(tables: Tables, indexes: IntArray, symbols: IntArray) -> float:
    """Computes the bits of an ideal coder; the real one stays within 0.1 % and 16 bytes.

    Args:
        tables: the tables that code the symbols.
        indexes: int [n], the table index of each symbol.
        symbols: int [n], each from -2047 to 2047, and 0 for indexes below first_coded_row.

    Returns:
        Bits: the sum of -log2(count / 2**24), including escaped values.

    Raises:
        TypeError: an array does not have an integer dtype.
        ValueError: an index or symbol is out of range.
    """
    tables.check(indexes, symbols)
    columns, escaped = tables.columns(indexes, symbols)
    places = indexes.astype(np.intp) * tables.counts.shape[1] + columns
    uses = np.bincount(places, minlength=tables.counts.size).reshape(tables.counts.shape)
    uses[: tables.first_coded_row] = 0
    bits = (uses * (PRECISION - np.log2(np.maximum(tables.counts, 1)))).sum()
    value_bits = PRECISION - np.log2(ESCAPE_COUNTS[symbols[escaped].astype(np.intp) + ESCAPE_LIMIT])
    return float(bits + value_bits.sum())


def symbol_bits(tables: Tables, indexes: IntArray, symbols: IntArray) -> npt.NDArray[np.float64]:
    """Computes the bits of each symbol with an ideal coder; arguments and errors as for `ideal_bits`, their sum.

    Returns:
        float64 [n]: bits, including those of an escaped value; 0 for indexes below first_coded_row.
    """
    tables.check(indexes, symbols)
    columns, escaped = tables.columns(indexes, symbols)
    bits = PRECISION - np.log2(tables.counts[indexes, columns])
    bits[escaped] += PRECISION - np.log2(ESCAPE_COUNTS[symbols[escaped].astype(np.intp) + ESCAPE_LIMIT])
    bits[indexes < tables.first_coded_row] = 0
    return bits


def _read_only_copy(array: IntArray) -> npt.NDArray[np.int64]:
    copy = np.array(array, np.int64, order="C")
    copy.setflags(write=False)
    return copy


def _broken(message: str) -> VaecModelError:
    return VaecModelError(f"probability table: {message}", code="TABLE")


def _validate_array(name: str, array: IntArray, *, ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != ndim:
        found = f"{array.dtype} [{array.ndim}-D]" if isinstance(array, np.ndarray) else type(array).__name__
        raise _broken(f"{name} is {found}, must be an integer array of {ndim} dimensions")


def _check_integers(name: str, values: IntArray, *, lowest: int, highest: int) -> None:
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {values.dtype}, must have an integer dtype")
    if values.ndim != 1:
        raise ValueError(f"{name} has {values.ndim} dimensions, must have 1")
    if values.size and not lowest <= values.min() <= values.max() <= highest:
        raise ValueError(f"{name} range from {values.min()} to {values.max()}, must be from {lowest} to {highest}")


def _check_pmf(pmf: FloatArray, *, total: int) -> None:
    if pmf.ndim != 1 or pmf.dtype not in (np.float32, np.float64):
        raise ValueError(f"pmf is {pmf.dtype} [{pmf.ndim}-D], must be float32 or float64 with 1 dimension")
    if not 1 <= pmf.size <= total:
        raise ValueError(f"pmf has {pmf.size} entries, must have 1 to total = {total}")
    if not np.isfinite(pmf).all() or pmf.min() < 0 or pmf.max() == 0:
        raise ValueError(f"pmf ranges from {pmf.min()} to {pmf.max()}, must be finite, not negative and not all zero")
