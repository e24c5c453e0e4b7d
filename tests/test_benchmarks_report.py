"""The report shows what was recorded and nothing else, and the stages of a picture add up."""

import ast
import dataclasses
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import picture
from PIL import Image

import vaecodec

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import bootstrap, codecs, model_card, published, rd_curve, readme, results, tables  # noqa: E402
from benchmarks.metrics import Point, bd_rate  # noqa: E402
from benchmarks.results import Record  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def timed(encode_s: float, decode_s: float, **more: object) -> dict[str, object]:
    """What throughput.json says of a codec; vaecodec takes 0.1 s to encode and 0.04 s to decode."""
    return {
        "quality": 4, "file_bytes": 900, "encode_s": encode_s, "decode_s": decode_s,
        "encode_ratio": 0.1 / encode_s, "decode_ratio": 0.04 / decode_s, **more,
    }  # fmt: skip


def a_run(megapixels: float, threads: int, **more: object) -> dict[str, object]:
    """One size in throughput.json."""
    stages = {"analysis": 0.06, "synthesis": 0.04}
    ours = timed(0.1, 0.04, encode_stages_s=stages, decode_stages_s=stages)
    return {
        "threads": threads, "width": 768, "height": 512, "megapixels": megapixels, "repeats": 5,
        "peak_rss_bytes": 300 * 2**20, "codecs": {"vaecodec": ours, **more}, "batch": None,
    }  # fmt: skip


UNTRAINED = timed(
    0.5, 0.4, timing_only=True, encode_stages_s={"network": 0.45, "entropy coding": 0.05},
    decode_stages_s={"network": 0.3, "entropy coding": 0.1},
)  # fmt: skip
BATCH = {
    "pictures": 8, "encode_s": 0.5, "encode_one_by_one_s": 0.8, "decode_s": 0.25, "decode_one_by_one_s": 0.32,
}  # fmt: skip
SPEED = {
    "machine": {"cpu": "a <cpu>"}, "cli_cold_s": {"encode": 1, "decode": 0.9, "info": 0.1},
    "runs": [{**a_run(0.393, 2, **{"mbt2018-mean": UNTRAINED}), "batch": BATCH}, a_run(2.0, 2), a_run(2.0, 1)],
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
    """The command with the quick codecs."""
    return rd_curve.main(["--data", str(folder), "--out", str(out), "--codecs", "jpeg,webp", "--repeats", "1", *more])


def made_up(name: str, cost: float, **changes: object) -> Record:
    """A record of two pictures at the qualities that tables show: `cost` times the bytes of a plain curve."""
    rows = [
        {
            "image": image, "width": 512, "height": 512, "quality": quality, "file_bytes": int(cost * quality * 400),
            "bpp": cost * quality / 82, "psnr_db": 25 + quality / 8, "ms_ssim": 0.9 + quality / 1100,
            "ssimulacra2": None, "butteraugli": 5 - quality / 25, "encode_s": 0.1, "decode_s": 0.02,
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
    record.rows[1] |= {"ms_ssim": None, "width": 100}
    assert record.curve("ms_ssim") == [Point(1.0, pytest.approx(10))], "too small for it"
    record.rows[1]["width"] = 512
    assert record.curve("ms_ssim") == [], "not measured yet"
    record.rows = [{**record.rows[0], "butteraugli": 1.5}, {**record.rows[0], "butteraugli": 2.5}]
    assert record.curve("butteraugli") == [Point(1.0, -2.0)]


def test_a_report_shows_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the bytes is a BD-rate of -50 %; a record that lacks a picture is left out; plots are written."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    from benchmarks import report

    for record in (made_up("vaecodec", 0.5), made_up("jpeg", 1), made_up("webp", 0.8)):
        write(record, tmp_path)
    write(made_up("avif", 1, rows=made_up("avif", 1).rows[:-1]), tmp_path)
    (tmp_path / "other.json").write_text('{"rows": [1]}')
    (tmp_path / "list.json").write_text("[{}]")
    assert report.main([str(tmp_path), "--no-page"]) == 0
    printed = capsys.readouterr()
    assert "| codec | against jpeg, MS-SSIM | against jpeg, butteraugli | against jpeg, PSNR |" in printed.out
    minus = "\N{MINUS SIGN}"
    assert f"| vaecodec |{f' {minus}50.0 % |' * 3}" in printed.out
    assert f"| webp |{f' {minus}20.0 % |' * 3} {minus}37.5 %" in printed.out
    assert "| avif |" not in printed.out and "avif: skipped" in printed.err
    assert not (tmp_path / "ssimulacra2.png").exists()
    for name in ("psnr.png", "ms-ssim.png", "butteraugli.png", "speed.png"):
        with Image.open(tmp_path / name) as plot:
            assert plot.width > 800


def test_records_of_before_a_measure_are_shown_without_it(tmp_path: Path) -> None:
    """Rows that do not name a measure have no curve in it, and everything else is as it was."""
    pytest.importorskip("bjontegaard")
    records = [made_up("vaecodec", 0.5), made_up("jpeg", 1)]
    for record in records:
        record.rows = [{name: row[name] for name in row if name != "butteraugli"} for row in record.rows]
    table = tables.bd_table(records, with_times=False)
    assert not any("butteraugli" in name for name in table.header)
    assert records[0].curve("butteraugli") == [] and records[0].missing("a.png", [10], ["ms_ssim"]) == []
    assert "butteraugli" not in [row[0] for row in tables.quality_table(records[0]).rows]


def test_what_leads_is_what_people_see_best(tmp_path: Path) -> None:
    """SSIMULACRA2 leads where vaecodec and JPEG have it, in the plot that README shows and in the plot of speed."""
    pytest.importorskip("bjontegaard")
    from benchmarks import report

    records = {name: made_up(name, cost) for name, cost in (("vaecodec", 0.5), ("jpeg", 1))}
    assert tables.leading(records) == "ms_ssim"
    for record in records.values():
        record.rows = [{**row, "ssimulacra2": row["quality"]} for row in record.rows]
    assert tables.leading(records) == "ssimulacra2"
    assert report.plot_link(tmp_path / "README.md", tmp_path / "kodak", "ssimulacra2") == "kodak/ssimulacra2.png"
    rows = dict(row for row in ((row[0], row[1:]) for row in tables.quality_table(records["vaecodec"]).rows))
    assert list(rows) == ["bits per pixel", "SSIMULACRA2", "MS-SSIM", "butteraugli", "PSNR"]
    assert rows["SSIMULACRA2"] == ["10.0", "30.0", "50.0", "70.0", "90.0"]


def test_the_page_needs_nothing_from_outside(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Every source in the page is inline, names are escaped, and there is a crop of every codec."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    from benchmarks import report

    (folder / "1.png").rename(folder / "a<b>&.png")
    out, weights = tmp_path / "out", str(tiny_weights)
    run(folder, out, "--codecs", "vaecodec,jpeg,webp", "--points", "2", "--model", weights)
    assert report.main([str(out), "--data", str(folder), "--pictures", "2", "--model", weights]) == 0
    text = (out / "report.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^:]*:)', text)) == {"data:"}
    assert "http" not in text.replace("http-equiv", "").replace('"http:" + "//www.w3.org/2000/svg"', "")
    assert "url(" not in text
    assert "a<b>" not in text and "a&lt;b&gt;&amp;.png" in text
    for name in ("original", "vaecodec", "jpeg", "webp"):
        assert len(re.findall(f"<figcaption>{name}", text)) == 2
    assert text.count('class="slider"') == 2 and 'data-equal="ssimulacra2"' not in text, "too small for it"


def test_a_folder_of_ones_own_is_named_once(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Results say where their pictures lie: the report shows them without being told; other pictures it does not."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    from benchmarks import report

    out, weights = tmp_path / "out", str(tiny_weights)
    run(folder, out, "--codecs", "vaecodec,jpeg", "--points", "2", "--model", weights, "--page")
    assert (out / "report.html").read_text().count("<figcaption>jpeg") == 2
    moved = folder.rename(tmp_path / "moved")
    assert report.main([str(out), "--model", weights]) == 0
    assert "<figcaption>" not in re.sub(
        '<div class="plots">.*?</div>', "", (out / "report.html").read_text(), flags=re.S
    )
    run(moved, out, "--codecs", "vaecodec,jpeg", "--points", "2", "--model", weights)
    assert report.main([str(out), "--model", weights, "--pictures", "1"]) == 0
    assert (out / "report.html").read_text().count("<figcaption>jpeg") == 1


def test_every_quality_that_was_measured_is_in_the_table() -> None:
    """Whichever they are: six points of eleven are not those that README shows."""
    record = made_up("vaecodec", 1)
    record.rows = [{**row, "quality": row["quality"] + 3} for row in record.rows]
    assert list(tables.quality_table(record).header) == ["quality", "13", "33", "53", "73", "93"]


def test_nearest_file_is_found_whichever_way_quality_runs() -> None:
    """Files at equal bytes, or of an equal score, are sought where that rises with quality and where it falls."""
    from benchmarks import page

    image = Image.new("RGB", (8, 8))
    for sign in (1, -1):
        codec = SimpleNamespace(encode=lambda _, quality, sign=sign: bytes(1000 + sign * 7 * quality))
        wanted = 1000 + sign * 300
        assert abs(len(page.nearest(codec, image, wanted, between=(1, 100))) - wanted) <= 4
        found = page.nearest(codec, image, 0.5, between=(1, 100), measure=lambda *found: 500 / len(found[2]))
        assert len(found) == min((1000 + sign * 7 * q for q in range(1, 101)), key=lambda size: abs(500 / size - 0.5))
    for rising in ({10: 100, 20: 200, 30: 300}, {30: 100, 20: 200, 10: 300}):
        rows = {quality: {"score": value, "nothing": None} for quality, value in rising.items()}
        brackets = [page._bracket(rows, "score", wanted) for wanted in (50, 150, 250, 900)]
        ends = (10, 10), (10, 20), (20, 30), (30, 30)
        assert brackets == list(ends if rising[10] == 100 else reversed(ends))
        assert page._bracket(rows, "nothing", 1) == (10, 30), "not measured: anywhere"


def test_crops_stand_at_equal_bytes_and_at_equal_scores(tmp_path: Path, tiny_weights: Path) -> None:
    """Each codec's file is the one that comes nearest to vaecodec's in bytes, and another one in SSIMULACRA2."""
    from benchmarks import page

    data = tmp_path / "large"
    data.mkdir()
    original = Image.fromarray(picture(264, 264))
    original.save(data / "a.png")
    run(data, tmp_path / "out", "--codecs", "vaecodec,jpeg", "--points", "3", "--model", str(tiny_weights))
    records = results.load_folder(tmp_path / "out")
    (found,) = page.compare(records, 1, quality=40, data=None, model=tiny_weights)
    assert set(found.others) == {"file_bytes", "ssimulacra2"}
    for name, (jpeg,) in found.others.items():
        others = [page.panel_of(codecs.open_codec("jpeg"), original, codecs.open_codec("jpeg").encode(original, q))
                  for q in range(5, 96, 9)]  # fmt: skip
        wanted = getattr(found.ours, name)
        best = min(abs(getattr(other, name) - wanted) for other in others)
        assert abs(getattr(jpeg, name) - wanted) <= best + 0.02 * abs(wanted), "bisection, where scores need not rise"


def spread_out(name: str, cost: float, pictures: int, *, even: bool) -> Record:
    """A record of several pictures whose costs are all the same, or differ from picture to picture."""
    rows = [
        {**row, "image": f"{n}.png", "bpp": row["bpp"] * (1 if even else 1 + n / 10)}
        for n in range(pictures) for row in made_up(name, cost).rows[: len(tables.QUALITIES)]
    ]  # fmt: skip
    dataset = {"name": "kodak", "sha256": "0", "images": [f"{n}.png" for n in range(pictures)]}
    return made_up(name, cost, rows=rows, dataset=dataset)


def test_intervals_tell_how_much_pictures_differ() -> None:
    """Where all pictures agree the interval is the figure; where they differ it holds it; few pictures have none."""
    pytest.importorskip("bjontegaard")
    jpeg = spread_out("jpeg", 1, 8, even=True)
    same = bootstrap.interval(jpeg, spread_out("vaecodec", 0.5, 8, even=True), "psnr_db")
    assert same == pytest.approx((-50, -50))
    ours = spread_out("vaecodec", 0.5, 8, even=False)
    low, high = bootstrap.interval(jpeg, ours, "psnr_db")
    assert low + 3 < tables.between(jpeg, ours, "psnr_db").percent < high - 3
    assert bootstrap.interval(jpeg, ours, "psnr_db") == (low, high), "the same on every call"
    both = bootstrap.interval(spread_out("jpeg", 1, 8, even=False), ours, "psnr_db")
    assert both == pytest.approx((-50, -50)), "the same draws for both codecs: where both cost more, nothing differs"
    few = [spread_out(name, 1, bootstrap.MIN_PICTURES - 1, even=False) for name in ("jpeg", "vaecodec")]
    assert bootstrap.interval(*few, "psnr_db") is None
    table = tables.bd_table([ours, jpeg], with_times=False)
    ours_against_jpeg = table.rows[0][list(table.header).index("against jpeg, PSNR")]
    assert re.fullmatch(r"\S+ % \[\S+, \S+\]", ours_against_jpeg)
    assert bootstrap.NOTE in table.note


def test_the_model_card_shows_the_recorded_results() -> None:
    """Its tables are those that one command makes of the records."""
    pytest.importorskip("bjontegaard")
    sets = [report_complete(results.RESULTS / name) for name in model_card.SETS]
    if not all(sets):
        pytest.skip("no results are recorded yet")
    card = model_card.CARD.read_text()
    assert readme.put_between_markers(card, model_card.text(sets)) == card, "run benchmarks/model_card.py"


def report_complete(folder: Path) -> list[Record]:
    from benchmarks import report

    return report.complete(results.load_folder(folder)) if folder.is_dir() else []


def test_the_model_cards_tables_are_measured_by_one_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--measure prints them of any set and leaves the card alone."""
    pytest.importorskip("bjontegaard")
    monkeypatch.setattr(model_card, "CARD", tmp_path / "none.md")
    arguments = ["--measure", str(tmp_path / "out"), "--data", str(folder), "--points", "2", "--images", "1"]
    assert model_card.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "| vaecodec, two-first1, PSNR | " in printed and "| vaecodec-psnr: quality, two-first1 | 1 | 100 |" in printed
    )
    assert not model_card.CARD.exists()
    assert model_card.main(["--measure", str(tmp_path / "out"), "--data", str(tmp_path / "no")]) == 2


PROBE = """<script>
const found = {}, text = selector => [...document.querySelectorAll(selector)].map(node => node.textContent.trim());
const lines = () => document.querySelectorAll("#chart polyline").length;
const crops = () => [...document.querySelectorAll("figure[data-codec]")].filter(each => each.checkVisibility()).length;
const legend = document.querySelector("#codecs").getBoundingClientRect();
found.fits = legend.left >= 0 && legend.right <= innerWidth && document.documentElement.scrollWidth <= innerWidth;
found.drawn = document.querySelector("#chart > svg").getBoundingClientRect().right <= innerWidth;
found.codecs = text("#codecs label");
found.all = [lines(), crops()];
document.getElementById("codec jpeg").click();
found.withoutJpeg = [lines(), crops()];
document.querySelector("#codecs button:last-of-type").click();
found.none = lines();
document.querySelector("#codecs button").click();
const before = document.querySelector("#chart polyline").getAttribute("points");
picture.selectedIndex = 2;
picture.dispatchEvent(new Event("input"));
found.byPicture = document.querySelector("#chart polyline").getAttribute("points") != before;
document.title = JSON.stringify(found);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_curves_and_crops_are_switched_in_a_browser(
    folder: Path, tmp_path: Path, tiny_weights: Path, width: int
) -> None:
    """In headless Chromium, wide and narrow: the legend is on screen and switches curves and crops."""
    pytest.importorskip("bjontegaard")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    run(folder, out, "--codecs", "vaecodec,jpeg,webp", "--points", "3", "--model", str(tiny_weights), "--page")
    (out / "report.html").write_text((out / "report.html").read_text() + PROBE)
    result = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (out / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert json.loads(html.unescape(re.search(r"<title>(.*?)</title>", result.stdout)[1])) == {
        "fits": True, "drawn": True, "codecs": ["vaecodec", "jpeg", "webp"], "all": [3, 8], "withoutJpeg": [2, 6],
        "none": 0, "byPicture": True,
    }  # fmt: skip


def test_readme_is_rewritten_between_its_markers_only() -> None:
    """What stands around the markers stays, twice gives the same as once, and a missing marker is an error."""
    document = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    once = readme.put_between_markers(document, "new\n")
    assert once == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    assert readme.put_between_markers(once, "new\n") == once
    for broken in ("", readme.BEGIN, readme.END + readme.BEGIN, document + document):
        with pytest.raises(ValueError, match="rd-table"):
            readme.put_between_markers(broken, "new\n")


def test_readme_table_tells_the_records(tmp_path: Path) -> None:
    """README's text has vaecodec's BD-rates against every codec on every set, points by quality, and times in turn."""
    pytest.importorskip("bjontegaard")
    from benchmarks import report

    costs = {
        "vaecodec": (0.5, 0.6), "vaecodec-psnr": (0.4, 0.5), "jpeg": (1, 1), "webp": (0.625, 0.75), "avif": (0.4, 0.3),
        "heic": (1, 1),
    }  # fmt: skip
    records = [made_up(name, cost) for name, (cost, _) in costs.items()]
    other = {**records[0].dataset, "name": "clic2025-valid"}
    for record, (_, cost) in zip(records, costs.values(), strict=True):
        if record.name != "heic":
            record.rows = [{**row, "ssimulacra2": row["quality"]} for row in record.rows]
        write(record, tmp_path / "results" / "kodak")
        write(made_up(record.name, cost, dataset=other), tmp_path / "results" / "clic")
    (tmp_path / "results" / "throughput.json").write_text(json.dumps(SPEED))
    document = tmp_path / "README.md"
    document.write_text(f"a\n{readme.BEGIN}\n{readme.END}\nb\n")
    report.write_readme(document, records, tmp_path / "results" / "kodak")
    text = document.read_text()
    minus = "\N{MINUS SIGN}"
    header = "| SSIMULACRA2 | MS-SSIM | butteraugli | PSNR | clic2025-valid, MS-SSIM | clic2025-valid, PSNR |"
    assert f"| vaecodec's bytes against {header} vaecodec-psnr, PSNR | encode ms | decode ms |" in text
    assert f"| **vaecodec** |{'  |' * 6} {minus}20.0 % | 100 | 40 |" in text
    assert f"| jpeg |{f' {minus}50.0 % |' * 4}{f' {minus}40.0 % |' * 2} {minus}60.0 % |  |  |" in text
    assert f"| webp |{f' {minus}20.0 % |' * 6} {minus}36.0 % |  |  |" in text
    assert f"| avif |{' +25.0 % |' * 4}{' +100.0 % |' * 2} +0.0 % |  |  |" in text
    assert f"| heic |  |{f' {minus}50.0 % |' * 3}{f' {minus}40.0 % |' * 2} {minus}60.0 % |  |  |" in text
    assert f"| mbt2018-mean, {tables.TIMING_ONLY} |{'  |' * 7} 500 | 400 |" in text
    assert "30: 0.18 bpp, SSIMULACRA2 30, 28.8 dB" in text and "(results/kodak/ssimulacra2.png)" in text
    assert "encode 0.2 and decode 0.1 times CompressAI's mbt2018-mean" in text


def test_speed_is_shown_where_it_was_measured() -> None:
    """The tables have every codec's times and ratios, vaecodec's sizes, batches, stages and memory."""
    speed, sizes, batches, stages = (
        table(SPEED) for table in (tables.speed_table, tables.size_table, tables.batch_table, tables.stage_table)
    )
    assert speed.rows[1] == [
        f"mbt2018-mean ({tables.TIMING_ONLY})", "4", "900", "500.0", "400.0", "0.2 x", "0.1 x"
    ]  # fmt: skip
    assert "info 0.10 s" in speed.note
    assert sizes.rows[0][:5] == ["0.4 MP", "2", "0.10", "0.04", "300"] and sizes.rows[0][-2:] == ["0.2 x", "0.1 x"]
    assert sizes.rows[1][-2:] == ["", ""]
    assert batches.rows[0] == ["encode, 8 of 0.4 MP, 2 threads", "16.00", "10.00"]
    assert stages.rows[0] == ["encode, 0.4 MP, 2 threads", "60", "40"]
    assert "encode: network 450 ms" in stages.note


def test_speed_of_codecs_in_turn_goes_before_that_of_the_curves() -> None:
    """The plot's times are those of throughput.json; codecs that it lacks are left out."""
    pytest.importorskip("bjontegaard")
    records = [made_up("vaecodec", 0.5), made_up("jpeg", 1)]
    assert tables.anchored(records, None)["vaecodec"] == pytest.approx((20, -50))
    assert tables.anchored(records, SPEED) == {"vaecodec": pytest.approx((40, -50))}


def test_batches_on_a_gpu_are_shown(tmp_path: Path) -> None:
    """A row for each codec, action and batch, with and without transfers."""
    row = {
        "codec": "jpeg", "batch": 8, "action": "decode", "images_per_s": 1234.5, "megapixels_per_s": 485.4,
        "images_per_s_with_transfers": 600, "megapixels_per_s_with_transfers": 236,
    }  # fmt: skip
    cuda = {"machine": {"device": "a GPU"}, "codecs": {"jpeg": "torchcodec 1"}, "batches": [row]}
    table = tables.cuda_table(cuda)
    assert table.rows == [["jpeg, decode", "8", "1,234.5", "485.4", "600.0", "236.0"]]
    assert "torchcodec 1; on a GPU" in table.note


def test_readme_shows_the_recorded_results_of_the_shipped_model() -> None:
    """README's numbers are those on record, and the record is of the weights in this checkout."""
    pytest.importorskip("bjontegaard")
    from benchmarks import report

    folder = ROOT / "benchmarks" / "results" / "kodak"
    if not (folder / "vaecodec.json").exists():
        pytest.skip("no results are recorded yet in benchmarks/results/kodak")
    records = report.complete(results.load_folder(folder))
    document = ROOT / "README.md"
    text = report.readme_text(document, records, folder)
    assert readme.put_between_markers(document.read_text(), text) == document.read_text(), (
        "run benchmarks/record.py --steps report"
    )
    weights = (ROOT / "pretrained" / "vaec-1-eye.safetensors").read_bytes()
    recorded = next(record for record in records if record.name == "vaecodec").codec["settings"]["model_id"]
    assert recorded == hashlib.sha256(weights).hexdigest()[:8], "the weights have changed: run benchmarks/record.py"


def test_measured_jpeg_agrees_with_the_published_curve() -> None:
    """The harness is sound: on Kodak our JPEG is within 2 % BD-rate of the curve that CompressAI published."""
    pytest.importorskip("bjontegaard")
    path = ROOT / "benchmarks" / "results" / "kodak" / "jpeg.json"
    if not path.exists():
        pytest.skip("no results are recorded yet in benchmarks/results/kodak")
    difference = bd_rate(published.curves("kodak")["jpeg"], results.load(path).curve())
    assert difference.percent is not None and abs(difference.percent) < 2
    assert difference.low_db < 24.5 and difference.high_db > 40


# --- crops ------------------------------------------------------------------------------------------------------------


def test_crops_show_codecs_at_equal_bytes(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """A row for each picture, quality and box; every pixel is enlarged; the page needs nothing from outside."""
    from benchmarks import crops

    out, size = tmp_path / "crops", "16,12"
    arguments = [str(folder / "0.png"), "--codecs", "vaecodec,webp,jpeg2000", "--qualities", "20,80", "--size", size]
    assert crops.main([*arguments, "--out", str(out), "--model", str(tiny_weights)]) == 0
    text = (out / "crops.html").read_text()
    assert set(re.findall(r'src="([^:]*:)', text)) == {"data:"} and "url(" not in text
    assert text.count("<h2>") == 2 * 2 and text.count("<img") == 4 * 4
    with Image.open(out / "0.png") as sheet:
        assert sheet.size == (4 * (2 * 16 + crops.GAP_PX), 4 * (2 * 12 + crops.GAP_PX + 2 * crops.LINE_PX))
    assert crops.main([*arguments, "--box", "0,0,10,10", "--out", str(out), "--model", str(tiny_weights)]) == 0
    assert (out / "crops.html").read_text().count("<h2>") == 2


def test_crops_stand_at_equal_scores_if_asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other codec's SSIMULACRA2 comes near to the first one's, and its bytes do not; small pictures have none."""
    from benchmarks import crops

    Image.fromarray(picture(264, 264)).save(tmp_path / "a.png")
    asked = ["--codecs", "jpeg,webp", "--qualities", "50", "--equal", "ssimulacra2", "--out", str(tmp_path / "crops")]
    assert crops.main([str(tmp_path / "a.png"), *asked]) == 0
    text = (tmp_path / "crops" / "crops.html").read_text()
    assert "<title>Crops at equal SSIMULACRA2</title>" in text
    first, second = (
        float(re.search(rf"<figcaption>{name}: .*?SSIMULACRA2 ([-\d.]+)", text)[1]) for name in ("jpeg", "webp")
    )
    assert abs(first - second) < 2
    assert crops.main([str(folder / "0.png"), *asked]) == 2
    assert "too small for ssimulacra2" in capsys.readouterr().err


def test_crops_are_what_the_codec_shows_enlarged(folder: Path) -> None:
    """A sheet holds the pixels themselves, each as a square."""
    from benchmarks import crops
    from benchmarks.page import Panel

    image = Image.open(folder / "0.png")
    sheet = crops.sheet([crops.Row("a", (8, 4, 24, 16), [Panel("original", image)])], 2)
    left, top = crops.GAP_PX // 2, 2 * crops.LINE_PX
    shown = sheet.crop((left, top, left + 32, top + 24))
    assert shown.reduce(2).tobytes() == image.crop((8, 4, 24, 16)).tobytes()


def test_crops_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No pictures, no such data, no such codec: exit code 2 and a reason."""
    from benchmarks import crops

    for arguments in ([], ["--data", str(tmp_path / "none")], ["a.png", "--codecs", "nonsense"]):
        assert crops.main([*arguments, "--codecs", "jpeg"] if "--codecs" not in arguments else arguments) == 2
        assert capsys.readouterr().err


# --- the law ----------------------------------------------------------------------------------------------------------


def test_codecs_are_compared_as_everybody_uses_them() -> None:
    """What takes part in a comparison imports public names and two measures; the clocks alone reach inside."""
    allowed = {"vaecodec", "vaecodec.pictures.pixels", "vaecodec.pictures.ssimulacra2"} | {
        f"vaecodec.{name}" for name in vaecodec.__all__
    }
    comparing = (
        "adapter codecs crops datasets gpu_throughput metrics page peers rd_curve report results throughput timings"
    )
    packages = ("vaecodec", "vaecodec.pictures")
    for name in comparing.split():
        found = set()
        for node in ast.walk(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {
                    f"{node.module}.{alias.name}" if node.module in packages else node.module for alias in node.names
                }
        assert {each for each in found if each.split(".")[0] == "vaecodec"} <= allowed, name
