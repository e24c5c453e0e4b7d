"""A run of the benchmark measures what is missing, keeps what it has, and breaks on nothing but usage."""

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import codecs, datasets, gpu_jpeg, metrics, rd_curve, results  # noqa: E402
from benchmarks.adapter import UnavailableError  # noqa: E402

ROW_FIELDS = {
    "image", "width", "height", "quality", "file_bytes", "bpp", "ssimulacra2", "ms_ssim", "butteraugli", "psnr_db",
    "encode_s", "decode_s",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two small pictures."""
    data = tmp_path / "two"
    data.mkdir()
    for number in range(2):
        Image.fromarray(picture(40, 56, seed=number)).save(data / f"{number}.png")
    return data


def run(folder: Path, out: Path, *more: str) -> int:
    """The command with the quick codecs and the quick measures."""
    common = ["--codecs", "jpeg,webp", "--metrics", "psnr_db,ms_ssim", "--repeats", "1"]
    return rd_curve.main(["--data", str(folder), "--out", str(out), *common, *more])


def test_a_run_leaves_one_file_a_codec(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Results have the documented fields, honest sizes, and CompressAI's layout beside them."""
    assert run(folder, tmp_path / "out", "--codecs", "jpeg,vaecodec,nonsense", "--model", str(tiny_weights)) == 0
    data = json.loads((tmp_path / "out" / "vaecodec.json").read_text())
    assert set(data) == {"codec", "dataset", "machine", "commit", "date", "rows"}
    assert data["codec"]["settings"]["model_id"] == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()[:8]
    assert set(data["machine"]) == {"cpu", "threads", "python", "torch", "pillow", "numpy"}
    assert data["machine"]["threads"] >= 1 and results.load(tmp_path / "out" / "jpeg.json").machine["threads"] is None
    assert {frozenset(row) for row in data["rows"]} == {frozenset(ROW_FIELDS)}
    jpeg = codecs.open_codec("jpeg")
    image = datasets.find(str(folder)).pictures[1].load()
    row = next(
        r for r in results.load(tmp_path / "out" / "jpeg.json").rows if r["image"] == "1.png" and r["quality"] == 50
    )
    assert row["file_bytes"] == len(jpeg.encode(image, 50))
    assert row["bpp"] == pytest.approx(8 * row["file_bytes"] / 40 / 56, abs=1e-6)
    layout = json.loads((tmp_path / "out" / "compressai" / "jpeg.json").read_text())
    assert set(layout) == {"name", "description", "results"}
    assert set(layout["results"]) == {"bpp", "psnr-rgb", "encoding_time", "decoding_time"}
    assert len(layout["results"]["bpp"]) == len(jpeg.qualities)


def test_finished_rows_are_not_measured_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run measures nothing; lost rows alone are measured; another version or --again measures all."""
    out, measured = tmp_path / "out", []
    original = rd_curve.measure
    monkeypatch.setattr(
        rd_curve,
        "measure",
        lambda image, jobs, **options: measured.append(len(jobs)) or original(image, jobs, **options),
    )
    run(folder, out)
    everything = measured.copy()
    measured.clear()
    run(folder, out)
    assert measured == []
    record = results.load(out / "webp.json")
    del record.rows[-1]
    record.add([])
    run(folder, out)
    assert measured == [1] and results.load(out / "webp.json").is_complete
    for name in ("jpeg", "webp"):
        record = results.load(out / f"{name}.json")
        dataclasses.replace(record, codec={**record.codec, "version": "older"}).add([])
    measured.clear()
    run(folder, out)
    assert measured == everything
    measured.clear()
    run(folder, out, "--again")
    assert measured == everything


def test_a_stopped_run_keeps_its_pictures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops the run loses at most the picture that was being measured."""
    original = rd_curve.measure
    images = iter(range(2))

    def stop_at_second(*arguments: object, **options: object) -> object:
        if next(images) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(rd_curve, "measure", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out")
    record = results.load(tmp_path / "out" / "jpeg.json")
    assert {row["image"] for row in record.rows} == {"0.png"}
    assert not record.is_complete


def test_fewer_points_are_spread_over_the_scale_and_filled_in_later(folder: Path, tmp_path: Path) -> None:
    """--points keeps both ends of a scale; a later run without it adds the other qualities and keeps the first rows."""
    out = tmp_path / "out"
    run(folder, out, "--codecs", "webp", "--points", "3", "--repeats", "0")
    record = results.load(out / "webp.json")
    scale = codecs.open_codec("webp").qualities
    assert record.qualities == [scale[0], scale[6], scale[12]] and record.is_complete
    assert all(row["encode_s"] > 0 and row["decode_s"] > 0 for row in record.rows)
    run(folder, out, "--codecs", "webp")
    assert results.load(out / "webp.json").rows[:3] == record.rows[:3]
    assert results.load(out / "webp.json").qualities == sorted(scale)


def test_measures_that_are_not_wanted_are_null(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--metrics leaves the others out, and refuses names that are none."""
    run(folder, tmp_path / "out", "--codecs", "webp", "--points", "2", "--metrics", "ms_ssim")
    assert all(row["psnr_db"] is None for row in results.load(tmp_path / "out" / "webp.json").rows)
    for arguments in (["--metrics", "psnr"], ["--points", "1"], ["--repeats", "-1"], ["--threads", "0"]):
        with pytest.raises(SystemExit):
            run(folder, tmp_path / "other", *arguments)
    assert "must be of ssimulacra2, ms_ssim, butteraugli, psnr_db" in capsys.readouterr().err


def test_a_measure_that_was_missing_is_taken_later(folder: Path, tmp_path: Path) -> None:
    """Rows without a measure that is wanted now are measured again, if it can be taken; the others stay."""
    arguments = (folder, tmp_path / "out", "--codecs", "webp", "--points", "2")
    run(*arguments, "--metrics", "ms_ssim")
    run(*arguments, "--metrics", "ms_ssim,psnr_db")
    first = results.load(tmp_path / "out" / "webp.json")
    assert first.is_complete and all(row["psnr_db"] and row["ms_ssim"] is None for row in first.rows)
    run(*arguments, "--metrics", "ms_ssim,psnr_db")
    assert results.load(tmp_path / "out" / "webp.json").rows == first.rows


def test_what_is_known_of_a_file_stays(folder: Path, tmp_path: Path) -> None:
    """A measure that is added changes nothing else of a row, unless the file has another size now."""
    path = tmp_path / "out" / "webp.json"
    arguments = (folder, tmp_path / "out", "--codecs", "webp", "--points", "2", "--repeats", "0")
    run(*arguments, "--metrics", "psnr_db")
    record = results.load(path)
    first = [{**row, "psnr_db": 12.5, "encode_s": 7.0} for row in record.rows]
    first = [{name: value for name, value in row.items() if name != "made_up"} for row in first]
    first[0]["file_bytes"] += 1
    record.rows = []
    record.add(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MEASURES", {**metrics.MEASURES, "made_up": lambda a, b: 3.0})
        run(*arguments, "--metrics", "made_up")
        changed, *others = results.load(path).rows
    assert all(row == {**old, "made_up": 3.0} for row, old in zip(others, first[1:], strict=True))
    assert changed["made_up"] == 3.0 and changed["psnr_db"] is None and changed["encode_s"] != 7.0


def test_a_measure_that_cannot_be_taken_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without libjxl's program the run says so, goes on, and leaves the field empty."""
    monkeypatch.setattr(metrics, "BUTTERAUGLI", "no_such_program")
    measures = "butteraugli,psnr_db"
    run(folder, tmp_path / "out", "--codecs", "webp", "--points", "2", "--repeats", "0", "--metrics", measures)
    assert "butteraugli: not measured: the program no_such_program is not installed" in capsys.readouterr().err
    assert all(row["butteraugli"] is None and row["psnr_db"] for row in results.load(tmp_path / "out/webp.json").rows)


def test_results_of_other_pictures_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    """A folder belongs to one data set."""
    assert run(folder, tmp_path / "out") == 0
    before = (tmp_path / "out" / "jpeg.json").read_text()
    assert run(folder, tmp_path / "out", "--images", "1") == 2
    assert (tmp_path / "out" / "jpeg.json").read_text() == before


def test_a_codec_that_does_not_decode_its_file_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken codec takes no further part, the exit code says so, and the others are measured."""
    original = codecs.open_codec

    def with_broken_webp(name: str, **options: object) -> codecs.Codec:
        codec = original(name, **options)
        return dataclasses.replace(codec, decode=lambda _: Image.new("RGB", (1, 1))) if name == "webp" else codec

    monkeypatch.setattr(codecs, "open_codec", with_broken_webp)
    assert run(folder, tmp_path / "out") == 1
    assert "webp: broken" in capsys.readouterr().err
    assert results.load(tmp_path / "out" / "jpeg.json").is_complete
    assert not (tmp_path / "out" / "webp.json").exists()


def example_codec() -> str:
    """The codec that benchmarks/README.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "benchmarks" / "README.md").read_text(), re.DOTALL)
    return code


def test_a_codec_of_ones_own_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's example, from the current folder: beside others, under its name, and known when it comes again."""
    (tmp_path / "mine.py").write_text(example_codec())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert run(folder, tmp_path / "out", "--codecs", "jpeg", "--codec", "mine:codec") == 0
    record = results.load(tmp_path / "out" / "mine.json")
    assert record.is_complete and record.qualities == [8, 32, 128]
    assert record.codec["settings"]["place"] == "mine:codec"
    assert [point.db for point in record.curve()] == sorted(point.db for point in record.curve())
    before = (tmp_path / "out" / "mine.json").read_text()
    assert run(folder, tmp_path / "out", "--codecs", "mine:codec") == 0
    assert (tmp_path / "out" / "mine.json").read_text() == before
    assert str(tmp_path) not in sys.path


def test_a_codec_named_twice_is_measured_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whichever options: the record has one row for each picture and quality."""
    (tmp_path / "mine.py").write_text(example_codec())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    twice = ["--codecs", "mine:codec,jpeg,jpeg", "--codec", "mine:codec", "--codec", "mine:codec"]
    assert run(folder, tmp_path / "out", *twice, "--points", "2", "--repeats", "0") == 0
    for name in ("mine", "jpeg"):
        rows = results.load(tmp_path / "out" / f"{name}.json").rows
        assert len(rows) == len({(row["image"], row["quality"]) for row in rows}) == 4


@pytest.mark.parametrize("named", ["nonsense", "factory:number", "nonsense,factory:number"])
def test_without_any_codec_nothing_was_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    """That is wrong usage, said in a line of its own after the reasons."""
    (tmp_path / "factory.py").write_text("def number(): return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factory", raising=False)
    assert run(folder, tmp_path / "out", "--codecs", named) == 2
    *reasons, last = capsys.readouterr().err.splitlines()
    assert len(reasons) == len(named.split(",")) and last.startswith("nothing measured")


@pytest.mark.parametrize(
    ("code", "place", "message"),
    [
        ("codec = 1", "faulty:", "must be module:function"),
        ("codec = 1", "no_such_module:codec", "ModuleNotFoundError"),
        ("codec = 1", "faulty:other", "AttributeError"),
        ("def codec(): return 3", "faulty:codec", "returns int"),
        ("def codec(): raise OSError('no disk')", "faulty:codec", "OSError: no disk"),
        ("NAME = 'jpeg'", "faulty:codec", "not be taken"),
        ("NAME = '../a'", "faulty:codec", "must be of letters"),
    ],
)
def test_a_codec_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, place: str,
    message: str,
) -> None:  # fmt: skip
    """Before anything is measured, with the reason."""
    adapter = "from benchmarks.adapter import Codec\ndef codec(): return Codec(NAME, '1', {}, (1,), None, None)\n"
    (tmp_path / "faulty.py").write_text(adapter + code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    with pytest.raises(SystemExit) as caught:
        rd_curve.main(["--codec", place])
    assert caught.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(UnavailableError, match=re.escape(message)):
        codecs.open_codec(place if ":" in place else f"{place}:")


def test_jpeg_on_the_same_gpu_takes_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --device cuda nobody has to name it; without a GPU it is left out, and so is vaecodec, with the reason."""
    assert "jpeg-cuda" in codecs.default("cuda") and "jpeg-cuda" not in codecs.default("cpu")
    monkeypatch.setattr(codecs, "DEFAULT", ("vaecodec", "webp"))
    asked = ["--data", str(folder), "--device", "cuda", "--points", "2", "--repeats", "0", "--metrics", "psnr_db"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if not torch.cuda.device_count():
        assert rd_curve.main([*asked, "--out", str(tmp_path / "none")]) == 0
        told = capsys.readouterr().err
        assert "vaecodec: skipped: device 'cuda'" in told and "jpeg-cuda: skipped: JPEG on the GPU needs CUDA" in told
    stand_in = gpu_jpeg.Backend("stand-in 1", encode_by_pillow, decode_by_pillow, device="cpu")
    monkeypatch.setattr(gpu_jpeg, "open_backend", lambda: stand_in)
    assert rd_curve.main([*asked, "--codecs", "webp,jpeg-cuda", "--out", str(tmp_path / "out")]) == 0
    record = results.load(tmp_path / "out" / "jpeg-cuda.json")
    assert record.is_complete and record.codec["version"] == "stand-in 1" and min(p.db for p in record.curve()) > 20


def encode_by_pillow(pictures: Sequence[torch.Tensor], quality: int) -> list[bytes]:
    files = []
    for each in pictures:
        file = io.BytesIO()
        Image.fromarray(each.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return files


def decode_by_pillow(files: Sequence[bytes]) -> list[torch.Tensor]:
    return [torch.tensor(np.asarray(Image.open(io.BytesIO(file)))).permute(2, 0, 1) for file in files]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_curves_are_measured_on_a_gpu(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """vaecodec and JPEG on the same one."""
    asked = ["--data", str(folder), "--device", "cuda", "--points", "2", "--repeats", "1", "--model", str(tiny_weights)]
    assert rd_curve.main([*asked, "--codecs", "vaecodec,jpeg-cuda", "--out", str(tmp_path)]) == 0
    assert results.load(tmp_path / "vaecodec.json").is_complete
    assert results.load(tmp_path / "jpeg-cuda.json").is_complete


@pytest.mark.slow
def test_the_scripts_run_as_files() -> None:
    """`python benchmarks/X.py` works from anywhere, and this folder's `codecs` does not hide Python's."""
    for name in ("rd_curve.py", "throughput.py", "report.py", "record.py", "crops.py", "model_card.py"):
        subprocess.run([sys.executable, ROOT / "benchmarks" / name, "--help"], check=True, capture_output=True, cwd="/")
