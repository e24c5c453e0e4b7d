"""What many pictures cost: the formula, its inputs, the document that shows it; and rates of a DataLoader."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaecodec import Codec
from vaecodec.pictures import pixels

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import dataloader, results, scale_costs  # noqa: E402
from benchmarks.scale_costs import Speed, Stage, stages  # noqa: E402


def record(name: str, points: dict[int, tuple[float, float]], seconds: float | None = 0.2) -> dict[str, Any]:
    """A record of one picture of half a megapixel, (bpp, dB) by quality; encoding takes `seconds`, decoding half."""
    rows = [
        {"image": "a", "width": 1000, "height": 500, "quality": quality, "file_bytes": 1, "bpp": bpp, "psnr_db": level,
         "ms_ssim": None, "ssimulacra2": None, "encode_s": seconds, "decode_s": seconds and seconds / 2}
        for quality, (bpp, level) in points.items()
    ]  # fmt: skip
    codec = {"name": name, "version": "1", "settings": {"model_id": "01234567"}}
    machine = {"cpu": "a processor", "threads": 2 if name == "vaecodec" else None}
    return {"codec": codec, "dataset": {"name": "kodak", "images": ["a"]}, "machine": machine, "rows": rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of three codecs: ours needs half of JPEG's bytes and, on two processors, twice its time."""
    ours = {10: (0.125, 30.0), 50: (0.5, 34.0), 90: (2.0, 38.0)}
    others = {10: (0.25, 30.0), 50: (1.0, 34.0), 95: (4.0, 38.0)}
    (tmp_path / "kodak").mkdir()
    for name, points in (("vaecodec", ours), ("jpeg", others), ("avif", others)):
        (tmp_path / "kodak" / f"{name}.json").write_text(json.dumps(record(name, points)))
    return tmp_path


# --- costs ------------------------------------------------------------------------------------------------------------


def test_the_document_shows_the_records() -> None:
    """docs/scale.md is what the script makes of the recorded results."""
    if not (scale_costs.RESULTS / "kodak" / "vaecodec.json").exists():
        pytest.skip("no results are recorded yet in benchmarks/results/kodak")
    document = scale_costs.DOCUMENT.read_text()
    shown = scale_costs.text(scale_costs.RESULTS)
    assert scale_costs.put_between_markers(document, shown) == document, f"run {scale_costs.COMMAND}"


def test_rates_lie_on_the_curve(folder: Path) -> None:
    """At a measured PSNR the measured rate, between two settings the geometric mean, outside nothing."""
    ours = results.load(folder / "kodak" / "vaecodec.json")
    assert scale_costs.bpp_at(ours, 34.0) == pytest.approx(0.5)
    assert scale_costs.bpp_at(ours, 32.0) == pytest.approx(0.25)
    assert scale_costs.bpp_at(ours, 29.9) is scale_costs.bpp_at(ours, 38.1) is None


def test_times_are_of_one_processor_and_one_megapixel(folder: Path) -> None:
    """Of throughput.json the run on one processor next to a megapixel; else the curve's, times its threads."""
    ours, jpeg = (results.load(folder / "kodak" / f"{name}.json") for name in ("vaecodec", "jpeg"))
    assert scale_costs.speed_of(ours, None)[:2] == pytest.approx((0.8, 0.4))
    assert scale_costs.speed_of(jpeg, None)[:2] == pytest.approx((0.4, 0.2))
    times = {"vaecodec": {"encode_s": 1.0, "decode_s": 0.5}}
    runs = [
        {"threads": threads, "megapixels": size, "codecs": times} for threads in (2, 1) for size in (0.1, 2.0, 48.0)
    ]
    measured = scale_costs.speed_of(ours, {"runs": runs})
    assert measured[:2] == (0.5, 0.25) and measured.origin == "one processor, 2 MP"
    assert scale_costs.speed_of(jpeg, {"runs": runs})[:2] == pytest.approx((0.4, 0.2))


def test_without_times_there_are_no_costs(folder: Path) -> None:
    """Curves may be recorded without times: then throughput.json must have them."""
    path = folder / "kodak" / "avif.json"
    path.write_text(json.dumps(record("avif", {10: (0.25, 30.0), 90: (4.0, 38.0)}, seconds=None)))
    with pytest.raises(ValueError, match=r"avif\.json has no times"):
        scale_costs.text(folder)


@given(st.floats(1e-4, 100), st.floats(1e-4, 100), st.floats(1, 1e7), st.floats(1, 1e7))
def test_machines_keep_up_with_both_limits(encode_s: float, decode_s: float, source: float, file: float) -> None:
    """So many machines have the processors and the links for a day's work, and one less has not."""
    for stage, seconds, moved in zip(
        stages(Speed(encode_s, decode_s, ""), source, file), (encode_s, decode_s), (source + file, file), strict=True
    ):
        by_processors = 1e9 * seconds / (64 * 86400)
        by_network = 1e9 * moved / (1.25e9 * 86400)
        assert stage.processor_hours == pytest.approx(1e9 * seconds / 3600)
        assert stage.machines == pytest.approx(math.ceil(max(by_processors, by_network)), abs=1)
        assert stage.machines >= max(by_processors, by_network) * (1 - 1e-9)
        assert (stage.limit == "network") == (by_network > by_processors) or by_network == pytest.approx(by_processors)


def test_the_text_has_the_figures(folder: Path) -> None:
    """Bytes, hours and the balance of both, by hand: 0.354 bpp at 33 dB is 44.2 TB, 0.8 s is 222,222 hours."""
    shown = scale_costs.text(folder)
    assert "| vaecodec | 0.125 | 15.6 | 0.354 | 44.2 | 1.000 | 125.0 |" in shown
    assert "| jpeg | 0.250 | 31.2 | 0.707 | 88.4 | 2.000 | 250.0 |" in shown
    assert "| vaecodec | 222,222 | 145 |" in shown
    assert "instead of jpeg, at 33 dB: 44.2 TB less to keep, 111,111 processor-hours more to encode" in shown
    assert "model 01234567" in shown and "On " not in shown


def test_gpu_and_loader_are_shown_where_recorded(folder: Path) -> None:
    """Each has its lines only if there is a record; of the GPU the largest batch counts."""
    batches = [
        {"codec": "vaecodec", "batch": batch, "action": action, "megapixels_per_s_with_transfers": batch * 10.0}
        for batch in (1, 8)
        for action in ("encode", "decode")
    ]
    cuda = {"machine": {"device": "a GPU"}, "batches": batches}
    (folder / "throughput-cuda.json").write_text(json.dumps(cuda))
    assert "On a GPU, vaecodec in batches of 8: 3,472 hours to encode and 3,472 hours to decode" in scale_costs.text(
        folder
    )
    row = {"width": 256, "height": 256, "vaec_images_per_s": 10.0, "jpeg_images_per_s": 1000.0, "vaec_bytes": 5000,
           "jpeg_bytes": 10000, "vaec_psnr_db": 35.0, "jpeg_psnr_db": 35.1}  # fmt: skip
    loader = {"codec": {"model_id": "01234567", "quality": 75}, "dataset": {"name": "kodak"}, "workers": 2, "note": "",
              "machine": {"cpu": "a processor"}, "rows": [row]}  # fmt: skip
    (folder / "scale").mkdir()
    (folder / "scale" / "dataloader.json").write_text(json.dumps(loader))
    assert "| 256 x 256 | 10.0 | 1,000.0 | 5,000 | 10,000 | 35.00 | 35.10 |" in scale_costs.text(folder)


def test_only_what_is_between_the_markers_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice is as good as once; without both markers in order nothing is written; --print writes nothing."""
    shown = scale_costs.put_between_markers(f"a\n{scale_costs.BEGIN}\nold\n{scale_costs.END}\nb\n", "new\n")
    assert shown == f"a\n{scale_costs.BEGIN}\nnew\n{scale_costs.END}\nb\n"
    assert scale_costs.put_between_markers(shown, "new\n") == shown
    for broken in ("", scale_costs.BEGIN, f"{scale_costs.END}{scale_costs.BEGIN}", shown * 2):
        with pytest.raises(ValueError, match="once each"):
            scale_costs.put_between_markers(broken, "new\n")
    monkeypatch.setattr(scale_costs, "RESULTS", tmp_path)
    assert scale_costs.main(["--print"]) == 2


def test_a_stage_without_traffic_is_bound_by_processors() -> None:
    """A day of one machine's processors is one machine."""
    assert Stage(24 * 64, 0.0).machines == 1 and Stage(24 * 64 + 1, 0.0).machines == 2


# --- DataLoader -------------------------------------------------------------------------------------------------------


def test_cuts_lie_in_the_middle_and_turn_with_the_picture() -> None:
    """A standing picture is turned for a lying cut; a picture that is too small is refused."""
    lying = picture(12, 20)
    assert np.array_equal(dataloader.cut(lying, 16, 8), lying[2:10, 2:18])
    assert np.array_equal(dataloader.cut(np.rot90(lying, -1), 16, 8), lying[2:10, 2:18])
    with pytest.raises(ValueError, match="at least 32 x 8"):
        dataloader.cut(lying, 32, 8)


def test_the_jpeg_is_the_smallest_that_is_no_worse(tiny: Codec) -> None:
    """Its PSNR reaches ours, and that of one quality less does not."""
    image = picture(64, 96)
    pair = dataloader.pair(tiny, image)
    assert pair.jpeg_db >= pair.vaec_db == pixels.psnr_db(image, tiny.decode(pair.vaec, output="numpy"))
    sizes = [len(dataloader._jpeg(image, quality)) for quality in range(1, 101)]
    quality = sizes.index(len(pair.jpeg)) + 1
    assert pixels.psnr_db(image, dataloader._pixels(dataloader._jpeg(image, quality - 1))) < pair.vaec_db


@pytest.mark.slow
def test_the_record_has_both_formats(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, bytes and PSNR of every size, through real workers."""
    monkeypatch.setattr(dataloader, "SIZES", ((48, 32),))
    (tmp_path / "data").mkdir()
    for number in range(2):
        Image.fromarray(picture(48, 64, seed=number)).save(tmp_path / "data" / f"{number}.png")
    out = tmp_path / "out.json"
    arguments = ["--data", tmp_path / "data", "--model", tiny_weights, "--out", out, "--repeats", 1, "--workers", 1]
    assert dataloader.main(list(map(str, arguments))) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["images"] == 8 and row["vaec_images_per_s"] > 0 and row["jpeg_images_per_s"] > 0
    assert row["jpeg_psnr_db"] >= row["vaec_psnr_db"] and min(row["vaec_bytes"], row["jpeg_bytes"]) > 0
