"""The search over quality finds the best quality that meets a target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaecodec.errors import VaecImageError, VaecTargetError
from vaecodec.tiling.options import Attempt, rate_goal

NOTHING = {"bytes": None, "bpp": None, "psnr": None, "ssimulacra2": None}


def encode(quality: int) -> Attempt:
    """A stand-in for the codec: 10 bytes, 0.2 dB and 0.9 points of SSIMULACRA2 a quality, 80 pixels."""
    data = bytes([quality]) * (100 + 10 * quality)
    return Attempt(data, psnr_db=lambda: 20 + 0.2 * quality, ssimulacra2=lambda: 0.9 * quality, pixels=80)


@given(st.integers(110, 1500))
def test_size_target_is_the_largest_quality_within(limit: int) -> None:
    """The file has at most the bytes asked for, and the next quality would have more (or there is none)."""
    data = rate_goal(None, **{**NOTHING, "bytes": limit}).search(encode)
    assert len(data) <= limit
    assert data[0] == 100 or len(encode(data[0] + 1).data) > limit


@given(st.floats(11.0, 200.0))
def test_bpp_target_counts_bits_per_pixel(bpp: float) -> None:
    """The same in bits per pixel."""
    data = rate_goal(None, **{**NOTHING, "bpp": bpp}).search(encode)
    assert 8 * len(data) / 80 <= bpp
    assert data[0] == 100 or 8 * len(encode(data[0] + 1).data) / 80 > bpp


@given(st.floats(1.0, 39.9))
def test_psnr_target_is_the_smallest_quality_that_reaches(psnr_db: float) -> None:
    """The picture has at least the dB asked for, and the quality below would have less (or there is none)."""
    data = rate_goal(None, **{**NOTHING, "psnr": psnr_db}).search(encode)
    assert encode(data[0]).psnr_db() >= psnr_db
    assert data[0] == 1 or encode(data[0] - 1).psnr_db() < psnr_db


@given(st.floats(0.1, 89.9))
def test_ssimulacra2_target_is_the_smallest_quality_that_reaches(points: float) -> None:
    """The same of the points of SSIMULACRA2."""
    data = rate_goal(None, **{**NOTHING, "ssimulacra2": points}).search(encode)
    assert encode(data[0]).ssimulacra2() >= points
    assert data[0] == 1 or encode(data[0] - 1).ssimulacra2() < points


def test_default_quality_without_any_wish() -> None:
    """Nothing asked for is the default quality."""
    assert rate_goal(None, **NOTHING).search(encode)[0] == 75


@pytest.mark.parametrize(
    ("wish", "code"),
    [({"bytes": 109}, "TARGET_SIZE"), ({"psnr": 41.0}, "TARGET_PSNR"), ({"ssimulacra2": 91.0}, "TARGET_SSIMULACRA2")],
)
def test_target_that_no_quality_meets(wish: dict[str, float], code: str) -> None:
    """A target out of reach is an error that says what can be reached."""
    with pytest.raises(VaecTargetError) as caught:
        rate_goal(None, **{**NOTHING, **wish}).search(encode)
    assert caught.value.code == code


@pytest.mark.parametrize("quality", [0, 101, -3, 7.5, True, "60", float("nan")])
def test_quality_out_of_range(quality: object) -> None:
    """Quality is a whole number from 1 to 100."""
    with pytest.raises(VaecImageError) as caught:
        rate_goal(quality, **NOTHING)
    assert caught.value.code == "ARGUMENT"


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "10"])
def test_target_out_of_range(value: object) -> None:
    """Targets are positive finite numbers."""
    with pytest.raises(VaecImageError):
        rate_goal(None, **{**NOTHING, "bpp": value})


def test_two_wishes_exclude_each_other() -> None:
    """Quality and a target, or two targets, are refused together."""
    with pytest.raises(VaecImageError, match="cannot be combined"):
        rate_goal(50, **{**NOTHING, "bytes": 10})


def uneven(quality: int | None) -> Attempt:
    """Sizes and fidelity that do not rise with quality: only 17 and 90 are small, only 12 and 33 are fine."""
    size = 50 if quality in (17, 90) else 500
    psnr_db = 40.0 if quality in (12, 33) else 20.0
    return Attempt(
        bytes([quality]) * size, psnr_db=lambda: psnr_db, ssimulacra2=lambda: psnr_db, pixels=80, is_plain=False
    )


@pytest.mark.parametrize(("wish", "expected"), [({"bytes": 50}, 90), ({"psnr": 40.0}, 12), ({"ssimulacra2": 40.0}, 12)])
def test_what_exists_is_found_although_order_is_not_certain(wish: dict[str, float], expected: int) -> None:
    """The largest quality that is small enough, or the smallest that is fine enough, wherever halves lead."""
    assert rate_goal(None, **{**NOTHING, **wish}).search(uneven)[0] == expected
    with pytest.raises(VaecTargetError, match=r"40\.00|50 bytes|has 50"):
        rate_goal(None, **{**NOTHING, next(iter(wish)): {"bytes": 49}.get(next(iter(wish)), 41.0)}).search(uneven)


def test_where_order_is_certain_few_qualities_are_tried() -> None:
    """Seven at most, also for a target that none meets."""
    tried = []
    with pytest.raises(VaecTargetError):
        rate_goal(None, **{**NOTHING, "bytes": 1}).search(lambda quality: tried.append(quality) or encode(quality))
    assert len(tried) <= 7


def test_lossless_is_one_attempt_without_a_quality() -> None:
    """And excludes everything else."""
    tried = []
    rate_goal(None, **NOTHING, lossless=True).search(lambda quality: tried.append(quality) or encode(1))
    assert tried == [None]
    with pytest.raises(VaecImageError, match="cannot be combined"):
        rate_goal(7, **NOTHING, lossless=True)
