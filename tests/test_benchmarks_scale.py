"""The laws of the quality scale are measured rightly: each is broken once, and seen; and other small records."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks import ahead, learning, quality_scale
from benchmarks.metrics import Point
from benchmarks.quality_scale import Measured, above_hull_percent, border_ratio, verdict


def test_a_grid_is_seen_along_rows_and_along_columns() -> None:
    """Steps at multiples of 16 raise the ratio, elsewhere they lower it; noise has none, nor has one colour."""
    noise = np.random.default_rng(0).integers(90, 110, (96, 128, 3)).astype(np.uint8)
    assert border_ratio(noise) == pytest.approx(1, abs=0.05)
    assert border_ratio(np.full((64, 64, 3), 7, np.uint8)) == border_ratio(noise[:16, :16]) == 1
    for offset in (noise.copy(), noise.copy().transpose(1, 0, 2)):
        offset[:, (np.arange(offset.shape[1]) // 16) % 2 == 1] += 30
        assert border_ratio(offset) > 1.5
    shifted = noise.copy()
    shifted[:, ((np.arange(128) + 8) // 16) % 2 == 1] += 30
    assert border_ratio(shifted) < 0.95


def test_a_point_above_the_hull_is_seen() -> None:
    """A quality that takes a tenth more rate than its neighbours would is 10 % above; a concave curve is at 0."""
    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    concave = [Point(rate, 25 + 30 * rate**0.5) for rate in rates]
    assert above_hull_percent(concave) == pytest.approx(0, abs=1e-9)
    line = [Point(rate, 25 + 30 * rate) for rate in rates]
    line[2] = Point(0.3 * 1.1, line[2].db)
    assert above_hull_percent(line) == pytest.approx(10, abs=0.01)


def test_laws_that_are_broken_are_told() -> None:
    """Rate or PSNR that does not rise, and grids from quality 10 up; pictures are not compared with one another."""
    rows = [
        Measured("a", 5, 0.1, 25, 1.3), Measured("a", 10, 0.2, 27, 1.04), Measured("a", 15, 0.2, 28, 1.06),
        Measured("b", 5, 0.1, 24, 1.0), Measured("b", 10, 0.3, 26, 0.94), Measured("b", 15, 0.4, 25.9, 1.0),
    ]  # fmt: skip
    found = verdict(rows)
    assert found["not_rising"] == [
        {"picture": "a", "from": 10, "to": 15}, {"picture": "b", "from": 10, "to": 15}
    ]  # fmt: skip
    assert found["grid"]["outside"] == [["a", 15, 1.06], ["b", 10, 0.94]]
    assert found["grid"]["asked"] == 4
    assert found["curve"]["5"] == [0.1, 24.5] and found["ssimulacra2"] == {}


def test_a_quality_means_a_score() -> None:
    """At each quality the mean of SSIMULACRA2, over those pictures that are large enough to have one."""
    scores = {("a", 50): 60.0, ("a", 90): 85.0, ("b", 50): 64.5, ("b", 90): None}
    rows = [Measured(name, quality, quality, quality, 1, score) for (name, quality), score in scores.items()]
    assert verdict(rows)["ssimulacra2"] == {"50": 62.25, "90": 85.0}


def test_the_command_records_what_it_measured(tiny_weights: Path, tmp_path: Path) -> None:
    """One picture, three qualities: a JSON file with the curve, and an exit code that goes with it."""
    Image.fromarray(picture(64, 80)).save(tmp_path / "a.png")
    out = tmp_path / "found.json"
    arguments = ["--data", str(tmp_path), "--qualities", "20,50,80", "--model", str(tiny_weights), "--out", str(out)]
    code = quality_scale.main(arguments)
    found = json.loads(out.read_text())
    assert list(found["curve"]) == ["20", "50", "80"]
    broken = found["not_rising"] or found["grid"]["outside"] or found["above_hull_percent"] > 3
    assert code == (1 if broken else 0)


def test_a_learning_curve_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --go-on, steps and hours of new runs are counted from the end of the record, whose points stay."""
    monkeypatch.setattr(
        learning, "jpeg_curve", lambda folder: [Point(rate, 25 + 5 * n) for n, rate in enumerate((0.4, 0.8, 1.6))]
    )
    logs = []
    for number in range(2):
        curve = [
            {"level": 0, "bpp": rate * (0.6 - 0.1 * number), "psnr_db": 25 + 5 * n}
            for n, rate in enumerate((0.4, 0.8, 1.6))
        ]
        rows = [{"step": 70, "minutes": 30, "event": "validation", "curve": curve}, {"step": 100, "minutes": 60}]
        logs.append(tmp_path / f"run{number}" / "log.jsonl")
        logs[-1].parent.mkdir()
        logs[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--validation", str(tmp_path), "--out", str(tmp_path / "out")]
    learning.main([str(logs[0]), *common])
    learning.main([str(logs[1]), *common, "--go-on"])
    found = json.loads((tmp_path / "out" / "learning.json").read_text())["curve"]
    assert [(point["run"], point["steps"], point["hours"]) for point in found] == [
        ("run0", 70, 0.5),
        ("run1", 140, 1.0),
    ]
    assert [point["bd_rate_percent"] for point in found] == [-40, -50]
    assert (tmp_path / "out" / "learning.png").stat().st_size > 1000


def test_helpers_are_measured_in_turn(tiny_weights: Path, tmp_path: Path) -> None:
    """A row for each engine, with a time for each number of helpers."""
    out = tmp_path / "ahead.json"
    arguments = ["--megapixels", "0.3", "--engines", "torch", "--helpers", "0,2", "--repeats", "1", "--out", str(out)]
    assert ahead.main([*arguments, "--model", str(tiny_weights)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["engine"] == "torch" and set(row["seconds"]) == {"0", "2"}
    assert all(seconds > 0 for seconds in row["seconds"].values())
