"""The report shows what was recorded and nothing else, and the stages of a picture add up."""

import ast
import dataclasses
import hashlib
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import picture
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import datasets, rd_curve, results, tables  # noqa: E402
from benchmarks.metrics import Point  # noqa: E402
from benchmarks.results import Record  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two small pictures."""
    data = tmp_path / "two"
    data.mkdir()
    for number in range(2):
        Image.fromarray(picture(40, 56, seed=number)).save(data / f"{number}.png")
    return data


def run(folder: Path, out: Path, *more: str) -> int:
    """The command with the quick codecs."""
    return rd_curve.main(["--data", str(folder), "--out", str(out), "--codecs", "jpeg,webp", "--repeats", "1", *more])


def made_up(name: str, cost: float, **changes: object) -> Record:
    """A record of two pictures at the qualities that tables show: `cost` times the bytes of a plain curve."""
    rows = [
        {
            "image": image, "width": 512, "height": 512, "quality": quality, "file_bytes": int(cost * quality * 400),
            "bpp": cost * quality / 82, "psnr_db": 25 + quality / 8, "ms_ssim": 0.9 + quality / 1100,
            "ssimulacra2": None, "encode_s": 0.1, "decode_s": 0.02,
        }
        for image in ("a.png", "b.png") for quality in tables.QUALITIES
    ]  # fmt: skip
    codec = {"name": name, "version": "Pillow 1.2, x", "settings": {"model_id": "00"}}
    dataset = {"name": "kodak", "sha256": "0", "images": ["a.png", "b.png"]}
    machine = {"cpu": "a <cpu>", "threads": 1, "python": "3", "torch": "2", "pillow": "1", "numpy": "2"}
    return dataclasses.replace(Record(Path(f"{name}.json"), codec, dataset, machine, rows), **changes)


def write(record: Record, folder: Path) -> None:
    """Put a record on disk as a run would."""
    dataclasses.replace(record, path=folder / record.path.name, rows=[]).add(record.rows)


# --- the report -------------------------------------------------------------------------------------------------------


def test_means_are_taken_over_pictures_at_each_setting() -> None:
    """A curve's point is the mean of bpp and the mean of dB; MS-SSIM goes to dB after the mean."""
    record = made_up("jpeg", 1)
    record.rows = [{**record.rows[0], "bpp": 1.0, "psnr_db": 30.0, "ms_ssim": 0.9},
                   {**record.rows[0], "bpp": 2.0, "psnr_db": 40.0, "ms_ssim": 0.98}]  # fmt: skip
    assert record.curve() == [Point(1.5, 35.0)]
    assert record.curve("ms_ssim") == [Point(1.5, pytest.approx(-10 * math.log10(0.06)))]
    record.rows[1]["ms_ssim"] = None
    assert record.curve("ms_ssim") == [Point(1.0, pytest.approx(10))]


def test_a_report_shows_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the bytes is a BD-rate of -50 %; a record that lacks a picture is left out; plots are written."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    from benchmarks import report

    for record in (made_up("vaecodec", 0.5), made_up("jpeg", 1), made_up("webp", 0.8)):
        write(record, tmp_path)
    write(made_up("avif", 1, rows=made_up("avif", 1).rows[:-1]), tmp_path)
    assert report.main([str(tmp_path), "--no-page"]) == 0
    printed = capsys.readouterr()
    assert "| vaecodec | \N{MINUS SIGN}50.0 % | \N{MINUS SIGN}50.0 % |" in printed.out
    assert "| webp | \N{MINUS SIGN}20.0 % | \N{MINUS SIGN}20.0 % | \N{MINUS SIGN}37.5 %" in printed.out
    assert "| avif |" not in printed.out and "avif: left out" in printed.err
    for name in ("psnr.png", "ms-ssim.png", "speed.png"):
        with Image.open(tmp_path / name) as plot:
            assert plot.width > 800


def test_the_page_needs_nothing_from_outside(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Every source in the page is inline, names are escaped, and there is a crop of every codec."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    from benchmarks import report

    (folder / "1.png").rename(folder / "a<b>&.png")
    out, weights = tmp_path / "out", str(tiny_weights)
    run(folder, out, "--codecs", "vaecodec,jpeg,webp", "--model", weights)
    assert report.main([str(out), "--data", str(folder), "--pictures", "2", "--model", weights]) == 0
    text = (out / "report.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^:]*:)', text)) == {"data:"}
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text
    assert "a<b>" not in text and "a&lt;b&gt;&amp;.png" in text
    for name in ("original", "vaecodec", "jpeg", "webp"):
        assert len(re.findall(f"<figcaption>{name}", text)) == 2
    assert text.count('type="range"') == 2


def test_nearest_file_is_found_whichever_way_quality_runs() -> None:
    """Files at equal bytes are sought where size rises with quality and where it falls."""
    from benchmarks import page

    for sign in (1, -1):
        codec = SimpleNamespace(
            qualities=(1, 100), encode=lambda _, quality, sign=sign: bytes(1000 + sign * 7 * quality)
        )
        image = Image.new("RGB", (8, 8))
        assert abs(len(page._nearest(codec, image, 1000 + sign * 300)) - 1000 - sign * 300) <= 4


def test_readme_is_rewritten_between_its_markers_only() -> None:
    """What stands around the markers stays, twice gives the same as once, and a missing marker is an error."""
    document = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    once = tables.put_between_markers(document, "new\n")
    assert once == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    assert tables.put_between_markers(once, "new\n") == once
    for broken in ("", tables.BEGIN, tables.END + tables.BEGIN, document + document):
        with pytest.raises(ValueError, match="rd-table"):
            tables.put_between_markers(broken, "new\n")


def test_readme_table_tells_the_records(tmp_path: Path) -> None:
    """README's text has the BD-rates against the three formats, and rate and PSNR at five qualities."""
    pytest.importorskip("bjontegaard")
    from benchmarks import report

    records = [made_up("vaecodec", 0.5), made_up("jpeg", 1), made_up("webp", 0.625), made_up("avif", 0.4)]
    text = tables.readme_text(records, "p.png")
    row = "| PSNR | \N{MINUS SIGN}50.0 % | \N{MINUS SIGN}20.0 % | +25.0 % |"
    assert row in text and row.replace("PSNR", "MS-SSIM") in text
    assert "30: 0.18 bpp, 28.8 dB" in text and "![" in text.splitlines()[0] and "(p.png)" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{tables.BEGIN}\n{tables.END}\nb\n")
    report.write_readme(readme, records, tmp_path / "results")
    assert row in readme.read_text() and "(results/psnr.png)" in readme.read_text()


def test_readme_shows_the_recorded_results_of_the_shipped_model() -> None:
    """README's numbers are those on record, and the record is of the weights in this checkout."""
    pytest.importorskip("bjontegaard")
    from benchmarks import report

    folder = ROOT / "benchmarks" / "results" / "kodak"
    if not (folder / "vaecodec.json").exists():
        pytest.skip("no results are recorded yet in benchmarks/results/kodak")
    records = report.complete(results.load_folder(folder))
    readme = ROOT / "README.md"
    text = tables.readme_text(records, report.plot_link(readme, folder))
    assert tables.put_between_markers(readme.read_text(), text) == readme.read_text(), (
        "run report.py --readme README.md"
    )
    weights = (ROOT / "pretrained" / "vaec-1.safetensors").read_bytes()
    recorded = next(record for record in records if record.name == "vaecodec").codec["settings"]["model_id"]
    assert recorded == hashlib.sha256(weights).hexdigest()[:8], "the weights have changed since: measure again"


# --- throughput -------------------------------------------------------------------------------------------------------


def test_a_stage_does_not_count_the_stages_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of nested stages add up to the whole, each counted once."""
    from benchmarks import stages

    now = iter(range(100))
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    watch = stages.Stopwatch()
    inner = watch.around("entropy coding", lambda: None)
    watch.around("hyper and context", lambda: (inner(), inner()))()
    assert watch.seconds["entropy coding"] == 2
    assert watch.seconds["hyper and context"] == 5 - 2


def test_throughput_measures_every_stage(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One size gives times of all codecs in turn, their ratio, and a profile; the clocks are taken off again."""
    torch = pytest.importorskip("torch")
    from benchmarks import stages, throughput

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(throughput, "picture_of", lambda *_: Image.fromarray(picture(96, 144)))
    arguments = [
        "--threads",
        "1",
        "--megapixels",
        "0.01",
        "--codecs",
        "jpeg",
        "--repeats",
        "1",
        "--model",
        str(tiny_weights),
    ]
    before = stages.Network.walk_latents
    result = throughput.measure(throughput._parser().parse_args(arguments))
    assert stages.Network.walk_latents is before
    assert set(result["seconds"]) == {"vaecodec", "jpeg"} and set(result["ratio"]) == {"jpeg"}
    assert all(seconds > 0 for seconds in result["stages_s"]["encode"].values())
    assert result["stages_s"]["decode"]["analysis"] == 0
    assert json.loads(json.dumps(result)) == result


def test_pictures_of_a_size_are_tiled(folder: Path) -> None:
    """A picture of any size is made of mirrored copies of the first one."""
    from benchmarks import throughput

    image = throughput.picture_of(0.02, str(folder))
    assert image.width * image.height == pytest.approx(20_000, rel=0.02)
    source = datasets.find(str(folder)).pictures[0].load()
    assert image.crop((0, 0, 56, 40)) == source
    assert image.crop((56, 0, 112, 40)) == source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- the law ----------------------------------------------------------------------------------------------------------


def test_benchmarks_use_the_codec_as_everybody_does() -> None:
    """Public names and vaecodec.pixels only, except for the clocks, which must reach inside."""
    allowed = {"vaecodec", "vaecodec.pixels"}
    inside = {"stages.py": {"vaecodec.entropy", "vaecodec.model.network"}}
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {
                    f"{node.module}.{alias.name}" if node.module == "vaecodec" else node.module for alias in node.names
                }
        ours = {name for name in found if name.split(".")[0] == "vaecodec" and name != "vaecodec.Codec"}
        assert ours <= allowed | inside.get(path.name, set()), path.name
