"""Size and fidelity rise with quality on pictures that no camera takes, and a high quality is a good picture."""

import numpy as np
import pytest
from odd_set import MAKERS

from benchmarks.odd import falls
from vaecodec import Codec
from vaecodec.pictures import pixels

QUALITIES = (1, 30, 60, 75, 90, 100)
LEAST_DB = {90: 36.5, 100: 40.0}


@pytest.mark.parametrize("name", MAKERS)
def test_more_quality_is_never_a_larger_file_of_a_worse_picture(shipped: Codec, name: str) -> None:
    """Neither falls by more than 1 % and 20 bytes, or 0.3 dB; at 90 and 100 there is a least PSNR."""
    samples, curve = MAKERS[name](120, 168), []
    for quality in QUALITIES:
        data = shipped.encode(samples, quality)
        curve.append((quality, len(data), pixels.psnr_db(samples, shipped.decode(data, output="numpy"))))
    assert falls(curve) == [], curve
    assert all(db >= LEAST_DB.get(quality, 0) for quality, _, db in curve), curve


def test_falls_are_found() -> None:
    """Of size, of fidelity, and of neither."""
    assert falls([(1, 1000, 30.0), (2, 985, 29.8), (3, 950, 30.0), (4, 2000, 29.6), (5, 2000, 31.0)]) == [3, 4]
    assert falls([(1, 10, 30.0), (2, 1, 29.8)]) == []


def test_the_set_is_the_same_every_time() -> None:
    """Pictures are made by code, each its own; some are as large as the photograph."""
    made = [make(40, 50) for make in MAKERS.values()]
    assert all(np.array_equal(first, make(40, 50)) for first, make in zip(made, MAKERS.values(), strict=True))
    assert len({samples.tobytes() for samples in made}) == len(MAKERS)
    assert {samples.shape for samples in made} == {(40, 50, 3)}
