"""Laws of the entropy coder: exact return, near-ideal size, one specification, and refusal of damaged payloads."""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_decoder import CorruptError, SlowDecoder

from vaecodec.entropy import coder
from vaecodec.entropy.coder import Decoder, encode
from vaecodec.entropy.tables import PRECISION, SENTINEL, Pass, Tables, from_pmfs, ideal_bits
from vaecodec.errors import VaecCorruptError

TOTAL = 2**PRECISION


def gaussian_tables(scales: np.ndarray, *, tail: float = 1e-4, first_coded_row: int = 0) -> Tables:
    """Rows as a model has them: radius about four scales, a small mass beyond."""
    pmfs = []
    for scale in scales:
        radius = min(511, int(4 * scale) + 1)
        pmf = np.exp(-0.5 * (np.arange(-radius, radius + 1) / scale) ** 2)
        pmfs.append(pmf / pmf.sum())
    return from_pmfs(pmfs, [tail] * len(pmfs), first_coded_row=first_coded_row)


def tables_of(rows: list[list[int]], first_coded_row: int = 0) -> Tables:
    counts = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, values in zip(counts, rows, strict=True):
        row[: len(values)] = values
    return Tables(np.array([len(row) // 2 - 1 for row in rows]), counts, first_coded_row)


def lists_of(tables: Tables) -> list[list[int]]:
    return [row[: 2 * r + 2] for row, r in zip(tables.counts.tolist(), tables.radius.tolist(), strict=True)]


def all_but_one(radius: int, column: int) -> list[int]:
    """The most extreme row: one part for each symbol but one."""
    row = [1] * (2 * radius + 2)
    row[column] = TOTAL - 2 * radius - 1
    return row


def typical_passes(seed: int, *, n: int = 300, spread: float = 1.0) -> list[Pass]:
    """Two passes of a tile: symbols as the tables expect them if spread is 1, some of them escaped if it is more."""
    rng = np.random.default_rng(seed)
    scales = np.geomspace(0.2, 24, 12)
    passes = []
    for first in (0, 2):
        rows = rng.integers(0, 12, n).astype(np.uint8)
        symbols = np.rint(rng.normal(size=n) * scales[rows] * spread).astype(np.int32)
        passes.append(Pass(gaussian_tables(scales, first_coded_row=first), rows, symbols * (rows >= first)))
    return passes


def decode(payload: bytes, passes: list[Pass]) -> list[np.ndarray]:
    decoder = Decoder(payload)
    symbols = [decoder.read(tables, rows) for tables, rows, _ in passes]
    decoder.finish()
    return symbols


def decode_slowly(payload: bytes, passes: list[Pass]) -> list[list[int]]:
    decoder = SlowDecoder(payload)
    symbols = [decoder.read(lists_of(p.tables), p.indexes.tolist(), p.tables.first_coded_row) for p in passes]
    decoder.finish()
    return symbols


def accepted(payload: bytes, passes: list[Pass]) -> bool:
    try:
        decode(payload, passes)
    except VaecCorruptError:
        return False
    return True


@st.composite
def rows_of_counts(draw: st.DrawFn) -> list[int]:
    radius = draw(st.sampled_from([1, 2, 3, 7, 40, 511]))
    size = 2 * radius + 2
    kind = draw(st.sampled_from(["one", "even", "random"]))
    if kind == "one":
        return all_but_one(radius, draw(st.integers(0, size - 1)))
    if kind == "even":
        return [TOTAL // size] * (size - 1) + [TOTAL - TOTAL // size * (size - 1)]
    cuts = np.random.default_rng(draw(st.integers(0, 99))).choice(TOTAL - 1, size - 1, replace=False) + 1
    return np.diff(np.sort(np.concatenate([[0], cuts, [TOTAL]]))).tolist()


@st.composite
def messages(draw: st.DrawFn) -> list[Pass]:
    passes = []
    for _ in range(draw(st.integers(0, 3))):
        rows = draw(st.lists(rows_of_counts(), min_size=1, max_size=4))
        tables = tables_of(rows, draw(st.integers(0, len(rows) - 1)))
        symbol = st.tuples(
            st.integers(0, len(rows) - 1),
            st.one_of(st.integers(-4, 4), st.integers(-520, 520), st.sampled_from([-2047, -2046, 2046, 2047])),
        )
        pairs = draw(st.lists(symbol, max_size=40))
        indices = np.array([row for row, _ in pairs], draw(st.sampled_from([np.uint8, np.int64, np.uint16])))
        symbols = np.array([s if row >= tables.first_coded_row else 0 for row, s in pairs], np.int16)
        passes.append(Pass(tables, indices, symbols))
    return passes


@given(messages())
@settings(deadline=None)
def test_any_symbols_under_any_tables_come_back_exactly(passes: list[Pass]) -> None:
    """Whatever the rows, the order and the escapes, decoding undoes encoding, for both decoders."""
    payload = encode(passes)
    for pass_, fast, slow in zip(passes, decode(payload, passes), decode_slowly(payload, passes), strict=True):
        assert fast.dtype == np.int32
        np.testing.assert_array_equal(fast, pass_.symbols)
        assert slow == pass_.symbols.tolist()


@given(messages(), st.lists(st.integers(0, 2**32 - 1), max_size=12))
@settings(deadline=None)
def test_both_decoders_see_the_same_in_any_bytes(passes: list[Pass], words: list[int]) -> None:
    """The specification leaves nothing open, not even for payloads that no encoder wrote."""
    payload = np.array(words, "<u4").tobytes()
    try:
        decoder, slow = Decoder(payload), SlowDecoder(payload)
    except (VaecCorruptError, CorruptError):
        assert not words or words[-1] == 0
        return
    for tables, rows, _ in passes:
        arguments = lists_of(tables), rows.tolist(), tables.first_coded_row
        try:
            symbols = decoder.read(tables, rows).tolist()
        except VaecCorruptError:
            with pytest.raises(CorruptError, match="needless"):
                slow.read(*arguments)
            return
        assert slow.read(*arguments) == symbols
    assert decoder._ans.pos() == (len(slow.words), slow.state)


EXTREME_ROWS = [all_but_one(511, column) for column in (0, 1, 511, 1022, 1023)] + [
    all_but_one(1, 3),
    [TOTAL // 1024] * 1024,
    [1, TOTAL // 2 - 1, TOTAL // 2 - 1, 1],
    lists_of(gaussian_tables(np.array([64.0])))[0],
]


@pytest.mark.parametrize("counts", EXTREME_ROWS, ids=range(len(EXTREME_ROWS)))
def test_models_own_exactly_the_counts(counts: list[int]) -> None:
    """The state after one symbol shows its interval: it is the stored one for every symbol of the most extreme rows."""
    tables = tables_of([counts])
    radius, left = len(counts) // 2 - 1, 0
    for symbol, count in zip(range(-radius, radius + 1), counts, strict=False):
        state = (SENTINEL // count << PRECISION) + left + SENTINEL % count
        payload = state.to_bytes(4 if state < 2**32 else 8, "little")
        assert encode([Pass(tables, np.array([0]), np.array([symbol]))]) == payload
        assert decode(payload, [Pass(tables, np.array([0]), np.array([symbol]))])[0].tolist() == [symbol]
        left += count


def test_payload_of_a_small_message_never_changes() -> None:
    """The format is pinned by bytes, so that encoder and decoder cannot drift together."""
    tables = tables_of([[1000, TOTAL - 5000, 3000, 1000], [100_000] * 5 + [TOTAL - 500_000]])
    rows = np.array([1, 0, 1, 0, 0, 1], np.uint8)
    symbols = np.array([-2, 0, 5, 1, -2047, 2], np.int32)
    passes = [Pass(tables, rows, symbols), Pass(tables, rows[:2], symbols[:2])]
    payload = bytes.fromhex("de8f80b0f0fcfff97de4ac6e21040000")
    assert encode(passes) == payload
    assert decode_slowly(payload, passes) == [symbols.tolist(), symbols[:2].tolist()]
    assert encode([]) == b"VAE\x01"


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_size_is_what_the_tables_promise(spread: float) -> None:
    """A payload is within 0.1 % and 16 bytes of the ideal, also for narrow, matching and mostly escaped symbols."""
    for n in (1, 40, 20_000):
        passes = typical_passes(3, n=n, spread=spread)
        ideal_bytes = sum(ideal_bits(*p) for p in passes) / 8
        assert ideal_bytes - 1 <= len(encode(passes)) <= ideal_bytes * 1.001 + 16


def test_encoding_is_deterministic_and_leaves_its_arguments_alone() -> None:
    """Equal symbols give equal bytes, also from arrays that are read-only or strided."""
    passes = typical_passes(0)
    payload = encode(passes)
    for _, rows, symbols in passes:
        rows.setflags(write=False)
        symbols.setflags(write=False)
    assert encode(passes) == payload
    strided = [Pass(t, np.repeat(r, 2)[::2], np.repeat(s.astype(np.int64), 2)[::2]) for t, r, s in passes]
    assert encode(strided) == payload
    np.testing.assert_array_equal(decode(memoryview(payload), passes)[1], passes[1].symbols)


def truncations(payload: bytes) -> Iterator[bytes]:
    for cut in range(len(payload)):
        yield payload[:cut]
        yield payload[cut + 1 :]
        yield payload[:cut] + payload[cut + 4 :]


def test_every_truncation_is_refused() -> None:
    """No payload that lacks bytes at its end, its start or in between passes the end check."""
    for seed in range(3):
        passes = typical_passes(seed)
        for damaged in truncations(encode(passes)):
            assert not accepted(damaged, passes)


def test_appended_words_are_refused() -> None:
    """Words too many are as wrong as words too few, at either end."""
    passes = typical_passes(1)
    payload = encode(passes)
    for extra in (bytes(4), b"VAE\x01", b"\xff" * 8):
        assert not accepted(payload + extra, passes)
        assert not accepted(extra + payload, passes)


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_flipped_bits_are_refused(spread: float) -> None:
    """The end check alone sees at least 99.8 % of single flipped bits, even if most symbols are escaped."""
    total = missed = 0
    for seed in range(2):
        passes = typical_passes(seed, n=200, spread=spread)
        payload = encode(passes)
        for bit in range(8 * len(payload)):
            damaged = bytearray(payload)
            damaged[bit // 8] ^= 1 << bit % 8
            missed += accepted(bytes(damaged), passes)
            total += 1
    assert total > 2000
    assert missed <= 0.002 * total


@given(st.binary(max_size=200), st.integers(0, 3))
def test_nothing_but_corrupt_comes_out_of_random_bytes(data: bytes, seed: int) -> None:
    """Bytes from anywhere are an error of one kind, and never a picture."""
    assert not accepted(data, typical_passes(seed, n=50))


@pytest.mark.parametrize("payload", [b"", b"\1", b"\1\2\3\4\5"])
def test_payloads_that_are_not_words_are_refused(payload: bytes) -> None:
    """CODER_WORDS: the length alone is wrong."""
    with pytest.raises(VaecCorruptError, match=f"{len(payload)} bytes") as caught:
        Decoder(payload)
    assert caught.value.code == "CODER_WORDS"


def test_a_payload_that_ends_with_zero_is_refused() -> None:
    """CODER_STATE: an encoder never leaves an empty word on top."""
    with pytest.raises(VaecCorruptError) as caught:
        Decoder(b"\1\0\0\0" + bytes(4))
    assert caught.value.code == "CODER_STATE"


@pytest.mark.parametrize("change", ["skip", "repeat", "shorten", "other tables"])
def test_finish_refuses_another_reading(change: str) -> None:
    """CODER_END: reading less, more or otherwise than was written does not end where the encoder began."""
    passes = typical_passes(5)
    payload = encode(passes)
    tables, rows, symbols = passes[1]
    flatter = gaussian_tables(np.geomspace(0.21, 24, 12), first_coded_row=2)
    passes[1:] = {
        "skip": [],
        "repeat": [passes[1], passes[1]],
        "shorten": [Pass(tables, rows[:-1], symbols[:-1])],
        "other tables": [Pass(flatter, rows, symbols)],
    }[change]
    with pytest.raises(VaecCorruptError, match="words left and state") as caught:
        decode(payload, passes)
    assert caught.value.code == "CODER_END"


def test_reading_on_after_the_end_never_looks_like_the_end() -> None:
    """Symbols made up from an exhausted payload are seen, even those that cost next to nothing."""
    cheap = tables_of([all_but_one(1, 0), all_but_one(1, 1)])
    for row in (0, 1):
        decoder = Decoder(encode([]))
        for _ in range(50):
            decoder.read(cheap, np.array([row]))
            with pytest.raises(VaecCorruptError):
                decoder.finish()


def test_a_needless_escape_is_refused() -> None:
    """ESCAPE_RANGE: each symbol has one code only; here, 2 is escaped although the reader's table holds it."""
    writer = tables_of([[2, 1, 2, TOTAL - 5]])
    reader = tables_of([[1, 1, 1, 1, 1, TOTAL - 5]])
    payload = encode([Pass(writer, np.array([0]), np.array([2]))])
    with pytest.raises(VaecCorruptError, match="value 2, must have a magnitude of 3 to 2047") as caught:
        Decoder(payload).read(reader, np.array([0]))
    assert caught.value.code == "ESCAPE_RANGE"


@pytest.mark.parametrize(
    ("rows", "symbols", "error"),
    [
        (np.array([0, 2]), np.array([0, 0]), ValueError),
        (np.array([0, -1]), np.array([0, 0]), ValueError),
        (np.array([0, 1]), np.array([0, 2048]), ValueError),
        (np.array([0, 1]), np.array([1, 0]), ValueError),
        (np.array([0, 1]), np.array([0]), ValueError),
        (np.array([0, 1]), np.array([0.0, 1.0]), TypeError),
        (np.array([0.0, 1.0]), np.array([0, 1]), TypeError),
    ],
)
def test_encode_refuses_what_it_cannot_code(rows: np.ndarray, symbols: np.ndarray, error: type) -> None:
    """A caller's mistake is an error at once, not a file that cannot be read."""
    tables = tables_of([all_but_one(1, 1), all_but_one(2, 2)], 1)
    with pytest.raises(error):
        encode([Pass(tables, rows, symbols)])


@pytest.mark.parametrize(("rows", "error"), [(np.array([2]), ValueError), (np.array([0.0]), TypeError)])
def test_read_refuses_rows_that_do_not_exist(rows: np.ndarray, error: type) -> None:
    """The rows come from the caller, so they are the caller's mistake."""
    tables = tables_of([all_but_one(1, 1), all_but_one(2, 2)])
    with pytest.raises(error):
        Decoder(encode([])).read(tables, rows)


def test_skipped_rows_cost_nothing() -> None:
    """Rows below first_coded_row leave no trace in the payload and come back as 0."""
    tables = gaussian_tables(np.geomspace(0.2, 4, 5), first_coded_row=5 - 1)
    rows = np.array([0, 1, 2, 3], np.uint8).repeat(9)
    nothing = Pass(tables, rows, np.zeros(rows.size, np.int32))
    assert encode([nothing]) == encode([])
    assert not decode(encode([]), [nothing])[0].any()


def test_more_rows_than_a_byte_counts() -> None:
    """Rows beyond 255 are told apart."""
    tables = gaussian_tables(np.geomspace(0.2, 4, 300))
    rows = np.arange(300)[::-1].copy()
    passes = [Pass(tables, rows, rows % 5 - 2)]
    np.testing.assert_array_equal(decode(encode(passes), passes)[0], passes[0].symbols)


def test_threads_share_tables() -> None:
    """Sixteen first uses at the same moment decode what one alone decodes."""
    passes = typical_passes(9)
    payload = encode(passes)
    fresh = [Pass(tables_of(lists_of(t), t.first_coded_row), r, s) for t, r, s in passes]
    barrier, results = threading.Barrier(16), []

    def work() -> None:
        barrier.wait()
        results.append(decode(payload, fresh))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16
    for first, second in results:
        np.testing.assert_array_equal(first, passes[0].symbols)
        np.testing.assert_array_equal(second, passes[1].symbols)


def test_models_are_built_once_and_go_with_their_tables() -> None:
    """Coding again reuses the models of a table; dropping the table drops them."""
    gc.collect()
    before = len(coder._MODELS)
    tables = gaussian_tables(np.array([1.0]))
    assert coder._models(tables) is coder._models(tables)
    assert len(coder._MODELS) == before + 1
    del tables
    gc.collect()
    assert len(coder._MODELS) == before
