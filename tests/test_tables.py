"""Laws of the integer probability tables: what is valid, how probabilities become counts, what symbols cost."""

import heapq
import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaecodec.entropy.tables import (
    ESCAPE_COUNTS,
    ESCAPE_LIMIT,
    PRECISION,
    Tables,
    from_pmfs,
    ideal_bits,
    quantize,
    symbol_bits,
)
from vaecodec.errors import VaecModelError

TOTAL = 2**PRECISION
RADIUS = np.array([1, 2], np.int16)
COUNTS = np.array([[10, 20, TOTAL - 31, 1, 0, 0], [1, 2, 3, 4, 5, TOTAL - 15]], np.int32)

probabilities = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-12, 1.0), st.floats(1e-300, 1e-200)), min_size=1, max_size=40
).filter(any)


def cost(pmf: np.ndarray, counts: np.ndarray) -> float:
    return -float((pmf * np.log2(counts / counts.sum())).sum())


def optimal_counts(pmf: np.ndarray, total: int) -> np.ndarray:
    """The exact optimum of a separable convex cost: give out one part at a time, always where it saves most."""
    counts = np.ones(len(pmf), np.int64)
    heap = [(-p * math.log(2), i) for i, p in enumerate(pmf)]
    heapq.heapify(heap)
    for _ in range(total - len(pmf)):
        _, i = heapq.heappop(heap)
        counts[i] += 1
        heapq.heappush(heap, (-pmf[i] * math.log1p(1 / counts[i]), i))
    return counts


def damaged(*, at: tuple[int, int], add: int) -> np.ndarray:
    counts = COUNTS.copy()
    counts[at] += add
    return counts


@given(probabilities, st.integers(0, 10_000))
def test_quantize_gives_every_symbol_a_part_and_all_parts_away(weights: list[float], spare: int) -> None:
    """Counts are at least 1 and sum to the total exactly, even where the total leaves no choice."""
    total = len(weights) + spare
    counts = quantize(np.array(weights), total=total)
    assert counts.dtype == np.int64
    assert counts.min() >= 1
    assert counts.sum() == total


@given(probabilities, st.integers(-100, 100))
def test_quantize_depends_on_ratios_only_and_keeps_their_order(weights: list[float], exponent: int) -> None:
    """A common factor changes nothing, and a more probable symbol never gets fewer parts."""
    pmf = np.array(weights)
    counts = quantize(pmf)
    order = np.argsort(pmf, kind="stable")
    distinct = np.diff(pmf[order]) > 0
    assert (np.diff(counts[order])[distinct] >= 0).all()
    if pmf[pmf > 0].min() > 1e-200:
        np.testing.assert_array_equal(quantize(pmf * 2.0**exponent), counts)


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12), st.integers(0, 300))
@example([0.25, 1.0], 4)
@example([1.0, 0.75, 0.75, 0.8125, 0.34375], 10)
@settings(max_examples=60)
def test_quantize_costs_as_little_as_the_exact_optimum(weights: list[float], spare: int) -> None:
    """No other counts of the same total code the distribution with noticeably fewer bits."""
    pmf = np.array(weights) / math.fsum(weights)
    total = len(weights) + spare
    assert cost(pmf, quantize(pmf, total=total)) <= cost(pmf, optimal_counts(pmf, total)) + 1e-3


@pytest.mark.parametrize("scale", [0.05, 0.11, 1.0, 8.0, 64.0])
def test_quantize_loses_nothing_at_full_precision(scale: float) -> None:
    """With 2**24 parts, even a row of 1024 columns with endless tails costs its entropy."""
    x = np.arange(1024) - 511.5
    pmf = np.exp(-np.abs(x) / scale)
    pmf /= pmf.sum()
    entropy = -float((pmf[pmf > 0] * np.log2(pmf[pmf > 0])).sum())
    assert cost(pmf, quantize(pmf)) <= entropy + 1e-4


def test_quantize_leaves_one_part_for_the_impossible() -> None:
    """A symbol of probability 0 can still be coded, and costs the others one part."""
    np.testing.assert_array_equal(quantize(np.array([0.0, 3.0, 0.0], np.float32)), [1, TOTAL - 2, 1])


@pytest.mark.parametrize(
    ("pmf", "total", "message"),
    [
        (np.ones((2, 2)), TOTAL, "2-D"),
        (np.ones(3, np.int64), TOTAL, "int64"),
        (np.ones(3, np.float16), TOTAL, "float16"),
        (np.ones(0), TOTAL, "0 entries"),
        (np.ones(5), 4, "5 entries, must have 1 to total = 4"),
        (np.array([0.5, np.nan]), TOTAL, "finite"),
        (np.array([0.5, np.inf]), TOTAL, "finite"),
        (np.array([0.5, -0.1]), TOTAL, "not negative"),
        (np.zeros(3), TOTAL, "not all zero"),
    ],
)
def test_quantize_refuses_what_is_no_distribution(pmf: np.ndarray, total: int, message: str) -> None:
    """Every broken rule is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        quantize(pmf, total=total)


@pytest.mark.parametrize(
    ("radius", "counts", "first", "message"),
    [
        ([1, 2], COUNTS, 0, "radius is list"),
        (RADIUS.astype(np.float32), COUNTS, 0, "radius is float32"),
        (RADIUS.astype(bool), COUNTS, 0, "radius is bool"),
        (RADIUS[None], COUNTS, 0, r"radius is int16 \[2-D\]"),
        (RADIUS[:0], COUNTS[:0], 0, r"radius is \[\]"),
        (np.array([0, 2]), COUNTS, 0, r"radius is \[0, 2\]"),
        (np.array([-1, 2]), COUNTS, 0, r"radius is \[-1, 2\]"),
        (np.array([1, 512]), np.zeros((2, 1026), np.int32), 0, r"radius is \[1, 512\]"),
        (RADIUS, COUNTS.astype(np.float64), 0, "counts is float64"),
        (RADIUS, COUNTS[0], 0, r"counts is int32 \[1-D\]"),
        (RADIUS, COUNTS[:1], 0, r"counts has shape \(1, 6\)"),
        (RADIUS, COUNTS[:, :5], 0, r"counts has shape \(2, 5\)"),
        (RADIUS, damaged(at=(1, 0), add=-1), 0, "counts range from 0 to"),
        (RADIUS, damaged(at=(0, 0), add=-20), 0, "counts range from -10 to"),
        (RADIUS, damaged(at=(0, 2), add=100), 0, "counts range from 1 to 16777285"),
        (RADIUS, damaged(at=(0, 4), add=1), 0, "counts has 1 values other than 0"),
        (RADIUS, damaged(at=(1, 5), add=1), 0, "counts of row 1 sum to 16777217"),
        (RADIUS, damaged(at=(0, 1), add=-1), 0, "counts of row 0 sum to 16777215"),
        (RADIUS, COUNTS, -1, "first_coded_row is -1"),
        (RADIUS, COUNTS, 2, "first_coded_row is 2"),
        (RADIUS, COUNTS, True, "first_coded_row is True"),
        (RADIUS, COUNTS, 1.0, "first_coded_row is 1.0"),
    ],
)
def test_tables_that_break_a_rule_cannot_exist(radius: object, counts: object, first: object, message: str) -> None:
    """Each rule has its own refusal, all of them VaecModelError TABLE."""
    with pytest.raises(VaecModelError, match=message) as caught:
        Tables(radius, counts, first)  # type: ignore[arg-type]
    assert caught.value.code == "TABLE"


def test_tables_accept_every_integer_dtype_and_keep_their_own_copy() -> None:
    """Weights may be stored in any width; nobody can change tables after they were checked."""
    counts = COUNTS.copy()
    tables = Tables(RADIUS.astype(np.uint8), counts, 1)
    counts[0, 0] = 0
    np.testing.assert_array_equal(tables.counts, COUNTS)
    np.testing.assert_array_equal(tables.radius, RADIUS)
    assert tables.rows == 2
    for array in (tables.counts, tables.radius):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_tables_survive_pickle() -> None:
    """Batch jobs send codecs to other processes."""
    tables = pickle.loads(pickle.dumps(Tables(RADIUS, COUNTS, 1)))
    tables.validate()
    np.testing.assert_array_equal(tables.counts, COUNTS)
    assert tables.first_coded_row == 1


@pytest.mark.parametrize(
    ("rows", "symbols", "error", "message"),
    [
        (np.array([0.0]), np.array([0]), TypeError, "indexes has dtype float64"),
        (np.array([[0]]), np.array([[0]]), ValueError, "indexes has 2 dimensions"),
        (np.array([-1]), np.array([0]), ValueError, "indexes range from -1 to -1, must be from 0 to 1"),
        (np.array([2]), np.array([0]), ValueError, "indexes range from 2 to 2, must be from 0 to 1"),
        (np.array([1]), np.array([0.0]), TypeError, "symbols has dtype float64"),
        (np.array([1]), np.array([True]), TypeError, "symbols has dtype bool"),
        (np.array([1]), np.array([2048]), ValueError, "symbols range from 2048 to 2048, must be from -2047 to 2047"),
        (np.array([1]), np.array([-2048]), ValueError, "symbols range from -2048"),
        (np.array([1, 1]), np.array([0]), ValueError, "symbols has shape"),
        (np.array([0, 1]), np.array([1, 0]), ValueError, "indexes below 1"),
    ],
)
def test_check_refuses_what_cannot_be_coded(rows: object, symbols: object, error: type, message: str) -> None:
    """A caller's mistake is a TypeError or ValueError before anything is coded or counted."""
    tables = Tables(RADIUS, COUNTS, 1)
    with pytest.raises(error, match=message):
        tables.check(rows, symbols)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        ideal_bits(tables, rows, symbols)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-2047, 2047))), st.integers(0, 1))
def test_ideal_bits_is_the_sum_of_what_each_symbol_costs(message: list[tuple[int, int]], first: int) -> None:
    """Counts give the bits of a symbol, an escaped value costs bits of its own, a symbol of a skipped row none."""
    message = [(row, 0 if row < first else symbol) for row, symbol in message]
    tables = Tables(RADIUS, COUNTS, first)
    expected = 0.0
    for row, symbol in message:
        radius = int(RADIUS[row])
        column = symbol + radius if abs(symbol) <= radius else 2 * radius + 1
        value_bits = 22 - math.log2(2048 - abs(symbol)) if abs(symbol) > radius else 0
        expected += (row >= first) * (PRECISION - math.log2(COUNTS[row, column]) + value_bits)
    rows, symbols = np.array(message, np.int16).reshape(-1, 2).T
    assert ideal_bits(tables, rows, symbols) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(0, 1), st.integers(-2047, 2047))
def test_saved_bits_are_the_difference_to_the_neighbour(row: int, symbol: int) -> None:
    """One step nearer to zero saves what the two symbols differ by; nothing is told of escapes."""
    tables, rows = Tables(RADIUS, COUNTS), np.array([row, row])
    bits = symbol_bits(tables, rows, np.array([symbol, symbol - np.sign(symbol)]))
    expected = bits[0] - bits[1] if abs(symbol) <= RADIUS[row] else 0
    assert tables.saved_bits(rows[:1], np.array([symbol])) == pytest.approx([expected], abs=1e-5)


def test_escape_counts_are_a_table_row_of_their_own() -> None:
    """Every value has its part, and the parts sum to the whole without any rounding."""
    assert len(ESCAPE_COUNTS) == 2 * ESCAPE_LIMIT + 1
    assert ESCAPE_COUNTS.min() >= 1
    assert ESCAPE_COUNTS.sum() == TOTAL


def test_from_pmfs_puts_the_escape_last_and_pads_with_zero() -> None:
    """Rows of different radius share one array."""
    tables = from_pmfs([np.array([1.0, 2.0, 1.0]), np.ones(5, np.float32)], [0.0, 1.0], first_coded_row=1)
    assert tables.radius.tolist() == [1, 2]
    assert tables.first_coded_row == 1
    np.testing.assert_array_equal(tables.counts[0], [*quantize(np.array([1.0, 2.0, 1.0, 0.0])), 0, 0])
    np.testing.assert_array_equal(tables.counts[1], quantize(np.ones(6)))


@pytest.mark.parametrize(
    ("pmfs", "escapes", "message"),
    [
        ([np.ones(3)], [], "escapes has 0 entries"),
        ([np.ones(3), np.ones(4)], [0.1, 0.1], "row 1 has 4 entries"),
        ([np.ones(3)], [-1.0], "not negative"),
        ([], [], "at least one row"),
        ([np.ones(1)], [0.1], r"radius is \[0\]"),
        ([np.ones(1025)], [0.1], r"radius is \[512\]"),
    ],
)
def test_from_pmfs_refuses_rows_that_make_no_table(pmfs: list, escapes: list, message: str) -> None:
    """Mismatched, even, broken, missing, too short and too long rows are named."""
    with pytest.raises(ValueError, match=message):
        from_pmfs(pmfs, escapes)
