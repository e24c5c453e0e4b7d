"""The same file gives the same integers under every instruction set, thread count, batch, layout and caller's setting.

`python -m exactness.driver` is the long form: 200 pictures, all settings, several versions of torch.
"""

import sys
from pathlib import Path

import pytest
from exactness import driver, native
from exactness.probe import items_of
from exactness.settings import CALLERS, diagonal

from vaecodec import Codec
from vaecodec.model.native_engine.binding import is_available


@pytest.mark.slow
@pytest.mark.engines("torch")
def test_latents_are_equal_and_pixels_close_under_every_setting(shipped: Codec, tmp_path: Path) -> None:
    """One hash of the latents and of the rows; the float32 control has several; pixels stay within their tolerance."""
    samples = driver.write_files(shipped, tmp_path, tmp_path, 3)
    rows = driver.probe(sys.executable, {}, tmp_path)
    for environment in diagonal()[:2]:  # the third is what most machines are
        rows += driver.probe(sys.executable, environment, tmp_path, ("as it is",))
    found = driver.compare(rows, samples)
    assert [row["caller"] for row in rows] == [*CALLERS, *2 * ["as it is"]]
    assert (found.latent_hashes, found.latent_differences) == (3 * 10, 0)
    assert (found.row_hashes, found.row_differences) == (4 * 4, 0)
    assert found.control_field_hashes > 1, "the harness must be able to see a network that is not exact"
    assert found.largest_pixel_difference <= driver.TOLERANCE_LEVELS
    assert found.worst_file_share <= driver.TOLERANCE_SHARE
    if is_available():
        ours = driver.compare_native([*native.observe(items_of(tmp_path))], rows[0], samples)
        assert ours["settings"] > len(native.THREADS)
        assert not any(ours[name] for name in ours if name.endswith("_differences"))
        assert ours["largest_pixel_difference"] <= driver.TOLERANCE_LEVELS
        assert ours["worst_file_share"] <= driver.TOLERANCE_SHARE


def test_the_comparison_sees_one_other_latent() -> None:
    """A single hash that differs in one setting, or one pixel too many, is counted and is a failure."""
    row = {
        "environment": {}, "torch": "", "numpy": "", "instructions": "", "seconds": 0, "caller": "", "rows": [["r"]],
        "field_rows": "f",
        "latents": ["a"], "control": ["c"], "largest_difference": [0], "differing_samples": [0],
        "field_control": "g",
    }  # fmt: skip
    changes = {"latents": ["b"], "rows": [["r", "s"]], "control": ["d"], "largest_difference": [2],
               "differing_samples": [3]}  # fmt: skip
    found = driver.compare([row, row | changes], [1000])
    assert (found.latent_differences, found.row_differences, found.control_files) == (1, 1, 1)
    assert (found.control_differences, found.control_field_hashes) == (1, 1)
    assert (found.largest_pixel_difference, found.worst_file_share) == (2, 0.003)


def test_the_comparison_sees_what_differs_in_the_native_engine() -> None:
    """Integers from torch's, all else from its own first setting."""
    row = {
        "instructions": "", "threads": 1, "seconds": 0, "latents": ["a"], "pixels": ["p"], "encoded": ["e"],
        "field_rows": "f", "largest_difference": [0], "differing_samples": [0],
    }  # fmt: skip
    changes = {"latents": ["b"], "pixels": ["q"], "encoded": ["d"], "field_rows": "g", "largest_difference": [2]}
    alike = driver.compare_native([row, row], row, [1000])
    found = driver.compare_native([row, row | changes | {"differing_samples": [3]}], row, [1000])
    names = [name for name in found if name.endswith("_differences")]
    assert ([alike[name] for name in names], [found[name] for name in names]) == ([0] * 4, [1] * 4)
    assert (found["largest_pixel_difference"], found["worst_file_share"]) == (2, 0.003)


def test_pictures_are_alike_everywhere(tmp_path: Path) -> None:
    """Without photographs all are synthetic; they come from numpy's generator, so the same numbers give the same."""
    from exactness.pictures import pictures

    names = [name for (name, _), _ in zip(pictures(tmp_path, 3), range(3), strict=False)]
    assert names == ["synthetic 0", "synthetic 1", "synthetic 2"]
