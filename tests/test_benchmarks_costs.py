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

from benchmarks import dataloader, scale_costs  # noqa: E402
from benchmarks.scale_costs import Speed, stages  # noqa: E402


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


def told(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What the script prints of the records in a folder."""
    monkeypatch.setattr(scale_costs, "RESULTS", folder)
    assert scale_costs.main(["--print"]) == code
    return "".join(capsys.readouterr())


def test_the_figures_are_those_worked_out_by_hand(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half-way between 30 and 36 dB 0.354 bpp, which are 44.2 TB; 0.8 s of one processor are 222,222 hours."""
    shown = told(folder, monkeypatch, capsys)
    assert "| vaecodec | 0.125 | 15.6 | 0.354 | 44.2 | 1.000 | 125.0 |" in shown
    assert "| vaecodec | 222,222 | 145 |" in shown
    assert "instead of jpeg, at 33 dB: 44.2 TB less to store, 111,111 processor-hours more to encode" in shown
    assert "model 01234567" in shown and "On a GPU" not in shown


def test_whatever_else_is_recorded_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times of the run on one processor next to a megapixel, the largest batch of a GPU, rates of a DataLoader."""
    runs = [
        {"threads": threads, "megapixels": size, "codecs": {"vaecodec": {"encode_s": 1.0, "decode_s": 0.5}}}
        for threads in (2, 1) for size in (0.1, 2.0, 48.0)
    ]  # fmt: skip
    batches = [
        {"codec": "vaecodec", "batch": batch, "action": action, "megapixels_per_s_with_transfers": batch * 10.0}
        for batch in (1, 8) for action in ("encode", "decode")
    ]  # fmt: skip
    row = {"width": 256, "height": 256, "vaec_images_per_s": 10.0, "jpeg_images_per_s": 1000.0, "vaec_bytes": 5000,
           "jpeg_bytes": 10000, "vaec_psnr_db": 35.0, "jpeg_psnr_db": 35.1}  # fmt: skip
    loader = {"codec": {"model_id": "01234567", "quality": 75}, "dataset": {"name": "kodak"}, "workers": 2, "note": "",
              "machine": {"cpu": "a processor"}, "rows": [row]}  # fmt: skip
    (folder / "throughput.json").write_text(json.dumps({"runs": runs}))
    (folder / "throughput-cuda.json").write_text(json.dumps({"machine": {"device": "a GPU"}, "batches": batches}))
    (folder / "scale").mkdir()
    (folder / "scale" / "dataloader.json").write_text(json.dumps(loader))
    shown = told(folder, monkeypatch, capsys)
    assert "| vaecodec | 138,889 |" in shown and "vaecodec: one processor, 2 MP" in shown
    assert "On a GPU, vaecodec in batches of 8: 3,472 hours to encode and 3,472 hours to decode" in shown
    assert "| 256 x 256 | 10.0 | 1,000.0 | 5,000 | 10,000 | 35.00 | 35.10 |" in shown


def test_without_records_or_times_there_are_no_costs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Curves may be recorded without times: then throughput.json must have them."""
    path = folder / "kodak" / "avif.json"
    path.write_text(json.dumps(record("avif", {10: (0.25, 30.0), 90: (4.0, 38.0)}, seconds=None)))
    assert "avif.json has no times" in told(folder, monkeypatch, capsys, code=2)
    assert "vaecodec.json" in told(tmp_path / "nowhere", monkeypatch, capsys, code=2)


@given(st.floats(1e-4, 100), st.floats(1e-4, 100), st.floats(1, 1e7), st.floats(1, 1e7))
def test_machines_keep_up_with_both_limits(encode_s: float, decode_s: float, source: float, file: float) -> None:
    """So many machines have the processors and the links for a day's work, and one less has not."""
    for stage, seconds, moved in zip(
        stages(Speed(encode_s, decode_s, ""), source, file), (encode_s, decode_s), (source + file, file), strict=True
    ):
        by_processors = 1e9 * seconds / (64 * 86400)
        by_network = 1e9 * moved / (1.25e9 * 86400)
        assert stage.machines == pytest.approx(math.ceil(max(by_processors, by_network)), abs=1)
        assert stage.machines >= max(by_processors, by_network) * (1 - 1e-9)
        assert (stage.limit == "network") == (by_network > by_processors) or by_network == pytest.approx(by_processors)


def test_the_document_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on the committed records, it leaves docs/scale.md as it is; without its markers a document is not touched."""
    document = tmp_path / "scale.md"
    document.write_text(scale_costs.DOCUMENT.read_text())
    monkeypatch.setattr(scale_costs, "DOCUMENT", document)
    before = document.read_text()
    assert scale_costs.main([]) == 0
    assert document.read_text() == before, f"run {scale_costs.COMMAND}"
    for broken in (scale_costs.BEGIN, f"{scale_costs.END}{scale_costs.BEGIN}", before * 2):
        document.write_text(broken)
        with pytest.raises(ValueError, match="once each"):
            scale_costs.main([])
        assert document.read_text() == broken


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
