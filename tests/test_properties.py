"""The short form of the round-trip properties (tests/properties has the long one): drawn cases, sizes at a block's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from properties import driver
from properties.laws import LAYOUTS, SOURCES, Case, Tally, cases, check

from vaecodec import Codec


@pytest.mark.slow
@settings(max_examples=40)
@given(case=cases(120))
def test_round_trips_keep_the_law(tiny: Codec, case: Case) -> None:
    """Sizes, modes, layouts, contents and qualities at random: see `properties.laws.check`."""
    check(tiny, case, Tally())


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source_keeps_the_law(tiny: Codec, source: str) -> None:
    """One picture handed over in each layout, as tensors, and in each of Pillow's modes."""
    check(tiny, Case(37, 21, 3, "photograph", source, 60, 1, is_repeated=True), Tally())


@pytest.mark.slow
def test_sizes_around_blocks_keep_the_law(tiny: Codec) -> None:
    """One more and one less than a latent's, a hyper-latent's and two of its 16 x 16 pixels, in either direction."""
    tally = Tally()
    sides = (1, 2, 15, 16, 17, 63, 64, 65)
    for number, (height, width) in enumerate((h, w) for h in sides for w in sides):
        check(tiny, Case(width, height, 1 + number % 4, "photograph", "contiguous", 50, number, number % 4 == 0), tally)
    assert tally.tiles["learned colour"] > 40


@pytest.mark.slow
def test_a_small_run_of_the_long_form(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries all that it says and records it; the network is exercised."""
    monkeypatch.setattr(driver, "make_tiny_weights", lambda _: tiny_weights)
    out = tmp_path / "new" / "record.json"
    assert driver.main(["--cases", "30", "--shipped", "2", "--side", "6", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["sizes to 6"]["cases"] == 36
    assert record["cases"]["cases"] >= 30
    assert record["cases"]["tiles"]["learned colour"] > 0
    assert [path.name for path in out.parent.iterdir()] == ["record.json"]


def test_a_failure_is_recorded(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other parts go on, and the exit code is 1."""
    monkeypatch.setattr(driver, "make_tiny_weights", lambda _: tiny_weights)
    monkeypatch.setattr(driver, "run_cases", lambda codec, count: check(codec, None, Tally()))
    out = tmp_path / "record.json"
    assert driver.main(["--side", "1", "--out", str(out)]) == 1
    record = json.loads(out.read_text())
    assert record["sizes to 1"]["failures"] == 0
    assert record["cases"]["failures"] == 1
    assert "AttributeError" in record["cases"]["failure"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_what_they_say(layout: str) -> None:
    """A layout keeps the values; all but one are not C-contiguous, not writable, or both."""
    samples = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    samples[:] = samples[:1] if layout == "broadcast" else samples
    laid_out = LAYOUTS[layout](samples.copy())
    np.testing.assert_array_equal(laid_out, samples)
    assert (laid_out.flags.c_contiguous and laid_out.flags.writeable) == (layout == "contiguous")


def spoil_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures one level off."""
    decode = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda *given, **options: decode(*given, **options) ^ 1)


def spoil_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures upside down."""
    decode = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda *given, **options: decode(*given, **options)[::-1])


def spoil_callers_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that works in the caller's memory."""
    encode = Codec.encode

    def destructive(codec: Codec, image: np.ndarray, quality: int) -> bytes:
        data = encode(codec, image, quality)
        image[0] ^= 255
        return data

    monkeypatch.setattr(Codec, "encode", destructive)


def spoil_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that adds 100 kB."""
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda *given: encode(*given, xmp=bytes(100_000)))


@pytest.mark.parametrize(
    ("spoil", "content"),
    [(spoil_plain, "flat"), (spoil_floor, "photograph"), (spoil_callers_array, "flat"), (spoil_size, "flat")],
)
def test_the_law_can_be_broken(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None], content: str
) -> None:
    """Each of these faults is noticed."""
    case = Case(60, 140, 3, content, "contiguous", 80, 5, is_repeated=False)
    check(tiny, case, Tally())
    spoil(monkeypatch)
    with pytest.raises(AssertionError):
        check(tiny, case, Tally())
