"""Laws of encoding what people have: lossy originals, sizes told before, originals that are never lost."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import picture
from lossless_codec import LosslessCodec, vaec
from PIL import Image

import vaecodec
from vaecodec import Codec, codec
from vaecodec.cli import main
from vaecodec.pictures import fidelity

Run = Callable[..., Result]
SAMPLES = picture(48, 64)
NOISE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


class SmallCodec(LosslessCodec):
    """Makes a grey picture of everything: few bytes, of the size asked for."""

    def encode(self, image: object, quality: int | None = None, **options: object) -> bytes:
        """Without loss, but of one colour."""
        with (
            Image.open(image if isinstance(image, str) else io.BytesIO(image))
            if isinstance(image, str | bytes)
            else image as opened
        ):
            return super().encode(Image.new("RGB", opened.size), quality, **options)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder, with an encoder that needs no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codec, "Codec", SmallCodec)
    LosslessCodec.calls.clear()
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(main, arguments, input=stdin)


def put(name: str, format: str = "JPEG", samples: np.ndarray = SAMPLES, **options: object) -> bytes:
    Image.fromarray(samples).save(name, format, **options)
    return Path(name).read_bytes()


def quality_of(name: str) -> int:
    return vaecodec.info(name).header.quality


def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "Codec", LosslessCodec)


def test_lossy_sources_get_what_they_are_worth(run: Run) -> None:
    """By default and with auto; the line says so. Others get 75, and so do pipes; a quality that is given stays."""
    put("a.jpg", quality=40)
    put("b.png", "PNG")
    put("c.webp", "WEBP", quality=50)
    wanted = fidelity.Estimate("JPEG", fidelity.JPEG[40]).vaec_quality
    line = run("encode", "a.jpg").stderr
    assert quality_of("a.vaec") == wanted < 75
    assert f"quality {wanted} (auto: the source is JPEG 40)" in line
    assert run("encode", "-f", "-q", "auto", "a.jpg").exit_code == 0 and quality_of("a.vaec") == wanted
    assert run("encode", "-f", "-q", "80", "a.jpg").exit_code == 0 and quality_of("a.vaec") == 80
    assert "auto" not in run("encode", "b.png").stderr and quality_of("b.vaec") == 75
    assert "the source is WEBP)" in run("encode", "c.webp").stderr
    result = run("encode", "-", "d.vaec", stdin=Path("a.jpg").read_bytes())
    assert quality_of("d.vaec") == wanted and f"{os.path.getsize('a.jpg'):,} -> " in result.stderr
    for wrong in ("0", "101", "best", "1.5"):
        assert run("encode", "-f", "a.jpg", "-q", wrong).exit_code == 2


def test_targets_take_the_place_of_auto(run: Run) -> None:
    """They search for themselves."""
    put("a.jpg", quality=40)
    assert run("encode", "a.jpg", "--target-bpp", "1").exit_code == 0
    assert LosslessCodec.calls[-1]["target_bpp"] == 1 and "quality" not in LosslessCodec.calls[-1]
    assert run("encode", "-f", "a.jpg", "-q", "auto", "--target-bpp", "1").exit_code == 2


def test_batches_keep_out_what_would_grow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lossy originals only, and only where no quality was asked for; one alone is made, and told of."""
    growing(monkeypatch)
    put("a.jpg", samples=NOISE, quality=20)
    put("b.png", "PNG")
    result = run("encode", "a.jpg", "b.png", "--out-dir", "out")
    assert result.exit_code == 0 and os.listdir("out") == ["b.vaec"]
    assert "skipped: would grow" in result.stderr and "1 skipped" in result.stderr
    told = [
        json.loads(line)
        for line in run("encode", "a.jpg", "b.png", "-f", "--out-dir", "out", "--json").stdout.splitlines()
    ]
    assert (told[0]["status"], told[0]["reason"]) == ("skipped", "would grow")
    assert run("encode", "a.jpg", "b.png", "-q", "50", "--out-dir", "all").exit_code == 0
    assert sorted(os.listdir("all")) == ["a.vaec", "b.vaec"]
    assert "(+" in run("encode", "a.jpg").stderr and os.path.exists("a.vaec")


def test_a_dry_run_tells_sizes_and_savings(run: Run) -> None:
    """Of each file, and of all; nothing is written."""
    size = len(put("a.jpg", quality=95))
    put("b.jpg", quality=95)
    result = run("encode", "-n", "a.jpg", "b.jpg", "--out-dir", "out")
    lines, small = result.stderr.splitlines(), len(vaec(SAMPLES * 0))
    assert result.exit_code == 0 and not os.path.exists("out")
    assert f"{size:,} -> {small:,} bytes (-" in lines[0] and "planned" in lines[0]
    assert lines[-1].startswith(f"2 planned; {2 * size:,} -> {2 * small:,} bytes (-")
    assert f"{2 * (size - small):,} saved" in lines[-1]


def test_originals_go_only_when_their_copy_decodes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stay by default, where the copy is wrong, where it holds less, and where none was made."""
    put("a.jpg", quality=95)
    assert run("encode", "a.jpg").exit_code == 0 and os.path.exists("a.jpg")
    os.remove("a.vaec")
    assert run("encode", "a.jpg", "--delete-originals").exit_code == 0
    assert not os.path.exists("a.jpg") and vaecodec.info("a.vaec").header.width == 64

    put("b.jpg", quality=95)
    with monkeypatch.context() as patched:
        patched.setattr(Codec, "decode", lambda *_, **__: SAMPLES[:-1])
        result = run("encode", "b.jpg", "--delete-originals")
    assert result.exit_code == 1 and "original is kept" in result.stderr and os.path.exists("b.jpg")

    frames = [Image.fromarray(SAMPLES), Image.fromarray(255 - SAMPLES)]
    frames[0].save("c.png", save_all=True, append_images=frames[1:])
    result = run("encode", "c.png", "--delete-originals")
    assert result.exit_code == 1 and "further frame" in result.stderr and os.path.exists("c.png")

    growing(monkeypatch)
    for name in ("d.jpg", "e.jpg"):
        put(name, samples=NOISE, quality=20)
    assert run("encode", "d.jpg", "e.jpg", "--delete-originals").exit_code == 0
    assert os.path.exists("d.jpg") and not os.path.exists("d.vaec")
    for more in (("-n",), ("-f",), ("-o", "-")):
        assert run("encode", "d.jpg", "--delete-originals", *more).exit_code == 2
