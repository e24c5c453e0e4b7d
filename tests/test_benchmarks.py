"""Measures, data sets and codecs of the benchmarks are what they say."""

import functools
import hashlib
import inspect
import io
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

import vaecodec

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import codecs, datasets, metrics, published  # noqa: E402
from benchmarks.metrics import Point  # noqa: E402

CURVES = st.lists(st.floats(0.05, 4), min_size=3, max_size=8, unique=True).map(sorted)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two small pictures."""
    data = tmp_path / "two"
    data.mkdir()
    for number in range(2):
        Image.fromarray(picture(40, 56, seed=number)).save(data / f"{number}.png")
    return data


# --- measures ---------------------------------------------------------------------------------------------------------


def test_rate_and_psnr_have_their_textbook_values() -> None:
    """Bits of the file per pixel; one level of error everywhere is 48.13 dB; an exact picture counts 100 dB."""
    flat = np.full((20, 30, 3), 100, np.uint8)
    assert metrics.bpp(75, 30, 20) == 1.0
    assert metrics.psnr_db(flat, flat + 1) == pytest.approx(20 * math.log10(255))
    assert metrics.psnr_db(flat, flat) == metrics.EXACT_DB
    assert [metrics.to_db(value) for value in (0.9, 0.99, 1.0)] == [pytest.approx(10), pytest.approx(20), 100.0]


def test_ms_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    """MS-SSIM is 1 for equals, lower for more noise, and undefined below 161 pixels."""
    pytest.importorskip("pytorch_msssim")
    image = picture(161, 170)
    noisy = [
        np.clip(image + np.random.default_rng(0).normal(0, s, image.shape), 0, 255).astype(np.uint8) for s in (5, 40)
    ]
    values = [metrics.ms_ssim(image, other) for other in (image, *noisy)]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[0] > values[1] > values[2]
    assert metrics.ms_ssim(image[:160], image[:160]) is None


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    """Samples with Gaussian noise."""
    return np.clip(image + np.random.default_rng(0).normal(0, deviation, image.shape), 0, 255).astype(np.uint8)


def test_ssimulacra2_is_100_for_equal_pictures_and_falls_with_noise() -> None:
    """SSIMULACRA2 is 100 for equals, lower for more noise, and undefined below 256 pixels."""
    image = picture(256, 270)
    values = [metrics.ssimulacra2(image, other) for other in (image, noisy(image, 5), noisy(image, 40))]
    assert values[0] == 100
    assert values[0] > values[1] > values[2]
    assert metrics.ssimulacra2(image[:255], image[:255]) is None
    assert metrics.can_measure("ssimulacra2", 256, 300) and not metrics.can_measure("ssimulacra2", 300, 255)


def distorted(original: Image.Image) -> Iterator[Image.Image]:
    """Ten pictures that were coded, blurred, disturbed or discoloured."""
    coded = [("JPEG", 15), ("JPEG", 70), ("WEBP", 10), ("WEBP", 85)]
    coded += [("AVIF", 30), ("AVIF", 75)] if features.check("avif") else [("JPEG", 5), ("JPEG", 95)]
    for file_format, quality in coded:
        file = io.BytesIO()
        original.save(file, file_format, quality=quality)
        yield Image.open(file).convert("RGB")
    samples = np.asarray(original)
    yield Image.fromarray(noisy(samples, 4))
    yield original.filter(ImageFilter.GaussianBlur(0.7))
    yield original.filter(ImageFilter.GaussianBlur(3))
    yield Image.fromarray(np.clip(samples * np.array([0.93, 1.0, 1.0]) + [0, 0, 9], 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_ssimulacra2_agrees_with_the_package() -> None:
    """Within 0.3 points on 50 distorted pictures, drawn and photographed, of sides that six scales fit into."""
    package = pytest.importorskip("ssimulacra2")
    pytest.importorskip("matplotlib")
    drawing = Image.linear_gradient("L").resize((290, 256)).convert("RGB")
    ImageDraw.Draw(drawing).text(
        (10, 10), "\n".join(["Quick brown foxes jump"] * 15), "teal", ImageFont.load_default(14)
    )
    originals = [*(Image.fromarray(picture(256, 301, seed=n)) for n in range(3)), drawing]
    originals.append(datasets.find(None).pictures[0].load())
    for original in originals:
        for shown in distorted(original):
            files = io.BytesIO(), io.BytesIO()
            for file, image in zip(files, (original, shown), strict=True):
                image.save(file, "PNG")
            ours = metrics.ssimulacra2(np.asarray(original), np.asarray(shown))
            assert ours == pytest.approx(package.compute_ssimulacra2(*files), abs=0.3)


def test_butteraugli_is_no_distance_for_equal_pictures_and_rises_with_noise() -> None:
    """The 3-norm, not the maximum that the program prints first."""
    if reason := metrics.why_not("butteraugli"):
        pytest.skip(reason)
    image = picture(64, 80)
    values = [metrics.butteraugli(image, other) for other in (image, noisy(image, 5), noisy(image, 40))]
    assert values[0] == pytest.approx(0, abs=1e-3)
    assert values[0] < values[1] < values[2]


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_the_norm_is_read_and_a_failure_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's 3-norm is what counts; one that fails or says something else is an error; none at all is None."""
    image, program = picture(8, 8), tmp_path / "program"
    monkeypatch.setattr(metrics, "BUTTERAUGLI", str(program))
    assert metrics.butteraugli(image, image) is None and "not installed" in str(metrics.why_not("butteraugli"))
    for lines, code in (("echo 6.5; echo 3-norm: 1.25", 0), ("echo 3-norm: 1.25; exit 1", 1), ("echo 6.5", 1)):
        program.write_text(f"#!/bin/sh\n{lines}\n")
        program.chmod(0o755)
        if code:
            with pytest.raises(RuntimeError, match="failed"):
                metrics.butteraugli(image, image)
        else:
            assert metrics.butteraugli(image, image) == 1.25


def test_all_measures_are_larger_for_better_on_curves() -> None:
    """MS-SSIM is in dB, butteraugli's distance is negated, the others are as they are."""
    assert [metrics.quality_of(name, 0.9) for name in metrics.MEASURES] == [0.9, pytest.approx(10), -0.9, 0.9]


@given(CURVES, st.floats(0.2, 3))
def test_bd_rate_of_a_scaled_curve_is_its_scale(rates: list[float], factor: float) -> None:
    """A codec that always takes `factor` times the bytes has a BD-rate of factor - 1, over the whole range."""
    pytest.importorskip("bjontegaard")
    anchor = [Point(rate, 25 + 2 * number) for number, rate in enumerate(rates)]
    result = metrics.bd_rate(anchor, [Point(factor * point.bpp, point.db) for point in anchor])
    assert result.percent == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert (result.low_db, result.high_db) == (anchor[0].db, anchor[-1].db)


def test_bd_rate_without_overlap_is_said_to_be_so() -> None:
    """Curves on different ranges of quality, or of one point, are not compared."""
    pytest.importorskip("bjontegaard")
    low, high = [Point(0.1, 20), Point(0.2, 25)], [Point(1, 30), Point(2, 35)]
    assert str(metrics.bd_rate(low, high)) == str(metrics.bd_rate(low, low[:1])) == "no overlap"


def test_points_that_cost_more_for_less_do_not_count() -> None:
    """A point that another one beats in rate and quality changes no BD-rate."""
    pytest.importorskip("bjontegaard")
    anchor = [Point(rate, 30 + rate) for rate in (1, 2, 3, 4)]
    test = [Point(0.5 * rate, 30 + rate) for rate in (1, 2, 3, 4)]
    assert metrics.bd_rate(anchor, [*test, Point(1.7, 32.5)]) == metrics.bd_rate(anchor, test)


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_data_set_is_its_pictures_in_order(folder: Path) -> None:
    """Names sort, any changed byte changes the checksum, and a part has a name of its own."""
    dataset = datasets.find(str(folder))
    assert dataset.describe()["images"] == ["0.png", "1.png"]
    assert (dataset.pictures[0].load().mode, dataset.pictures[0].load().size) == ("RGB", (56, 40))
    assert dataset.first(1).name == "two-first1" and dataset.first(9) is dataset
    Image.fromarray(picture(40, 56, seed=9)).save(folder / "1.png")
    assert datasets.find(str(folder)).sha256 != dataset.sha256


def test_a_known_set_is_found_through_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAECODEC_DATA names the folder that holds the data sets."""
    folder.rename(folder.with_name("clic2025-valid"))
    monkeypatch.setenv("VAECODEC_DATA", str(folder.parent))
    assert datasets.find("clic2025-valid").name == "clic2025-valid"


def test_missing_data_is_told_with_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is absent or empty, and a known set that is nowhere, are FileNotFoundError."""
    monkeypatch.setattr(datasets, "ROOT", tmp_path / "a" / "b")
    monkeypatch.setenv("VAECODEC_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    for data in (str(tmp_path / "none"), str(tmp_path), "kodak", "clic2025-valid"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
            datasets.find(data)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine that has one file, a.png."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.png").write_bytes(b"a picture")
    handler = functools.partial(QuietHandler, directory=tmp_path / "www")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_kodak_is_downloaded_and_checked(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder, pooch fetches every file into a cache, and a file with another checksum is refused."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(datasets, "ROOT", tmp_path / "a" / "b")
    monkeypatch.setattr(datasets, "KODAK_URL", home)
    monkeypatch.setattr(datasets, "KODAK_SUMS", tmp_path / "sums")
    monkeypatch.delenv("VAECODEC_DATA", raising=False)
    (tmp_path / "sums").write_text(f"{hashlib.sha256(b'a picture').hexdigest()}  a.png\n")
    dataset = datasets.find("kodak")
    assert [picture.path.read_bytes() for picture in dataset.pictures] == [b"a picture"] and dataset.name == "kodak"
    dataset.pictures[0].path.unlink()
    (tmp_path / "sums").write_text(f"{hashlib.sha256(b'another').hexdigest()}  a.png\n")
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        datasets.find("kodak")


def test_the_checksums_of_kodak_are_those_of_its_24_pictures() -> None:
    """One SHA-256 a picture."""
    lines = datasets.KODAK_SUMS.read_text().splitlines()
    assert [line.split()[1] for line in lines] == [f"kodim{number:02}.png" for number in range(1, 25)]
    assert all(re.fullmatch("[0-9a-f]{64}", line.split()[0]) for line in lines)


def test_without_arguments_there_is_a_sample() -> None:
    """The sample is one RGB picture large enough for MS-SSIM."""
    pytest.importorskip("matplotlib")
    (only,) = datasets.find(None).pictures
    assert min(only.load().size) >= metrics.MS_SSIM_MIN_SIDE_PX


def test_published_points_are_whole_and_have_sources() -> None:
    """Every published curve has a source and as many rates as qualities."""
    for dataset in ("kodak", "clic2020-professional"):
        assert set(published.curves(dataset)) == set(published.sources(dataset))
        assert all(len(curve) > 3 for curve in published.curves(dataset).values())
        assert all(source for source in published.sources(dataset).values())
    assert published.sources("note") == published.curves("other") == {}


# --- codecs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", codecs.DEFAULT)
def test_every_codec_decodes_its_own_files(name: str, tiny_weights: Path) -> None:
    """An adapter's file decodes to RGB of the same size, and its ends are a small and a large file."""
    try:
        codec = codecs.open_codec(name, model=tiny_weights)
    except codecs.UnavailableError as reason:
        pytest.skip(str(reason))
    image = Image.fromarray(picture(48, 64))
    sizes = []
    for quality in (codec.qualities[0], codec.qualities[-1]):
        data = codec.encode(image, quality)
        decoded = codec.decode(data)
        assert (decoded.size, decoded.mode) == (image.size, "RGB")
        sizes.append(len(data))
    assert sizes[0] < sizes[1]
    assert json.loads(json.dumps(codec.describe())) == codec.describe()


@pytest.mark.parametrize(("name", "package"), [("heic", "pillow_heif"), ("jxl", "pillow_jxl")])
def test_a_codec_whose_package_is_missing_is_left_out(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is a reason, not a crash; so is a name that nobody knows."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(codecs.UnavailableError, match=package):
        codecs.open_codec(name)
    with pytest.raises(codecs.UnavailableError, match="must be one of"):
        codecs.open_codec("jpg")


def test_a_tune_is_passed_on_only_if_it_is_named(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vaecodec` is the default, whatever that is; the other name says its tune, in its settings too."""
    given = []
    plain = vaecodec.Codec

    def tuned(model: Path | None, device: str, **options: str) -> vaecodec.Codec:
        given.append(options)
        return plain(model, device)

    tuned.__signature__ = inspect.Signature([inspect.Parameter("tune", inspect.Parameter.KEYWORD_ONLY)])
    monkeypatch.setattr(vaecodec, "Codec", tuned)
    opened = [codecs.open_codec(name, model=tiny_weights) for name in codecs.TUNES]
    assert given == [{}, {"tune": "psnr"}]
    assert [codec.settings.get("tune") for codec in opened] == [None, "psnr"]
    assert [codec.name for codec in opened] == ["vaecodec", "vaecodec-psnr"]
    monkeypatch.setattr(vaecodec, "Codec", lambda model, device: plain(model, device))
    with pytest.raises(codecs.UnavailableError, match="has no tune"):
        codecs.open_codec("vaecodec-psnr", model=tiny_weights)
