"""Laws of odd inputs and outputs on the command line: pipes, names, permissions, formats that hold less."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import picture
from lossless_codec import LosslessCodec, damaged, vaec
from PIL import ExifTags, Image, ImageCms

import vaecodec
from vaecodec import VaecTargetError, codec
from vaecodec.cli import main, streams
from vaecodec.cli.outputs import expand
from vaecodec.cli.transcoding.places import open_place
from vaecodec.tiling.options import Attempt, SizeTarget, rate_goal

Run = Callable[..., Result]

SAMPLES = picture(30, 42)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder, with an encoder that needs no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codec, "Codec", LosslessCodec)
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(main, arguments, input=stdin)


def exif(description: str = "x") -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = description
    return tags.tobytes().removeprefix(b"Exif\0\0")


def coded(format: str, samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, format)
    return file.getvalue()


# Inputs


@needs_pipes
def test_pipes_in_folders_stop_nothing(run: Run, tmp_path: Path) -> None:
    """Nobody has named them, and nobody may ever write into them; in patterns and for transcode likewise."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(coded("PNG"))
    os.mkfifo(folder / "b.png")
    result = run("encode", "-r", "in", "--out-dir", "out")
    assert (result.exit_code, sorted(os.listdir("out"))) == (0, ["a.vaec", "c.vaec"])
    assert [os.path.basename(found.source) for found in expand("in/*.png")] == ["a.png", "c.png"]
    assert sorted(name for name, _ in open_place(str(folder)).sizes()) == ["a.png", "c.png"]


@needs_pipes
@pytest.mark.parametrize(
    "command", [("encode", "pipe", "b.vaec"), ("info", "pipe"), ("verify", "pipe"), ("decode", "pipe", "b.png")]
)
def test_named_pipes_are_read_once(run: Run, command: tuple[str, ...]) -> None:
    """As a shell hands them over for <(...)."""
    os.mkfifo("pipe")
    content = coded("PNG") if command[0] == "encode" else vaec(SAMPLES)
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(content), daemon=True)
    writer.start()
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    writer.join()


def test_a_folder_without_r(run: Run) -> None:
    """The advice is one that the command understands."""
    os.mkdir("d")
    assert "use -r to process its files" in run("encode", "d").stderr
    for command in (("html", "d", "-o", "p.html"), ("map", "d", "-o", "p.png"), ("info", "d")):
        result = run(*command)
        assert result.exit_code == 3 and "-r" not in result.stderr and "d/*" in result.stderr


def test_names_that_the_terminal_cannot_print(tmp_path: Path) -> None:
    """Are escaped; the next file is told as well."""
    for name in ("日本.vaec", "b.vaec"):
        (tmp_path / name).write_bytes(vaec(SAMPLES))
    command = [sys.executable, "-m", "vaecodec", "info", "日本.vaec", "b.vaec"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\\u65e5\\u672c.vaec" in result.stdout and b"b.vaec" in result.stdout


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "é日"), ("latin-1", "é\\u65e5"), ("odd", "\\xe9\\u65e5")])
def test_escapes_for_what_a_stream_cannot_print(encoding: str, expected: str) -> None:
    """All else stays."""
    stream = io.StringIO()
    named = type("Named", (), {"encoding": encoding})
    assert streams.encodable("é日", named()) == expected  # type: ignore[arg-type]
    assert streams.encodable("é日", stream) == "é日"


# Outputs


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_outputs_are_as_private_as_inputs(run: Run) -> None:
    """In both directions; -p keeps the times, too."""
    Path("a.png").write_bytes(coded("PNG"))
    os.chmod("a.png", 0o600)
    os.utime("a.png", (10**9, 10**9))
    assert run("encode", "a.png", "-p").exit_code == run("decode", "a.vaec", "b.png", "-p").exit_code == 0
    for name in ("a.vaec", "b.png"):
        assert os.stat(name).st_mode & 0o777 == 0o600
        assert os.stat(name).st_mtime == 10**9


def test_skip_existing_makes_broken_outputs_anew(run: Run) -> None:
    """Empty, cut short and damaged ones; a whole one, and what is no output at all, stay as they are."""
    Path("a.png").write_bytes(coded("PNG"))
    whole = vaec(SAMPLES)
    for content in (b"", whole[:-5], damaged(whole)):
        Path("a.vaec").write_bytes(content)
        assert "skipped" not in run("encode", "a.png", "--skip-existing").stderr
        assert Path("a.vaec").read_bytes() == whole
    for content in (whole, b"a letter"):
        Path("a.vaec").write_bytes(content)
        assert "skipped" in run("encode", "a.png", "--skip-existing").stderr
        assert Path("a.vaec").read_bytes() == content
    png = Path("a.png").read_bytes()
    Path("a.vaec").write_bytes(whole)
    Path("a.png").write_bytes(png[: len(png) // 2])
    assert run("decode", "a.vaec", "--skip-existing").exit_code == 0
    with Image.open("a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), SAMPLES)


def test_opaque_alpha_is_no_hindrance_to_jpeg(run: Run) -> None:
    """What shows through needs a background, which the message names."""
    opaque = np.dstack([SAMPLES, np.full(SAMPLES.shape[:2], 255, np.uint8)])
    Path("a.vaec").write_bytes(vaec(opaque))
    for name in ("a.jpg", "a.ppm"):
        assert run("decode", "a.vaec", name).exit_code == 0
    Path("b.vaec").write_bytes(vaec(np.dstack([SAMPLES, SAMPLES[..., 0]])))
    for name in ("b.jpg", "b.ppm"):
        result = run("decode", "b.vaec", name)
        assert result.exit_code == 1 and "--background" in result.stderr
        assert run("decode", "b.vaec", name, "--background", "white").exit_code == 0
        with Image.open(name) as image:
            assert image.mode == "RGB"


@pytest.mark.parametrize("metadata", [{"exif": exif("x" * 70000)}, {"xmp": b"<x/>" + bytes(70000)}])
def test_metadata_too_long_for_jpeg_is_named(run: Run, metadata: dict[str, bytes]) -> None:
    """The picture is written without it."""
    Path("a.vaec").write_bytes(vaec(SAMPLES, metadata))
    result = run("decode", "a.vaec", "a.jpg")
    assert result.exit_code == 0 and f"JPEG cannot hold {'EXIF' if 'exif' in metadata else 'XMP'}" in result.stderr


@pytest.mark.parametrize(("suffix", "lost"), [
    ("gif", "colours"), ("bmp", "ICC profile"), ("ppm", "EXIF"), ("pcx", "XMP"), ("tga", "ICC profile"),
    ("pdf", "read back"),
])  # fmt: skip
def test_what_a_format_does_not_hold_is_named(run: Run, suffix: str, lost: str) -> None:
    """In one warning; without metadata there is none to lose."""
    Path("a.vaec").write_bytes(vaec(SAMPLES, {"icc_profile": ICC, "exif": exif(), "xmp": b"<x/>"}))
    result = run("decode", "a.vaec", f"a.{suffix}")
    assert result.exit_code == 0 and result.stderr.count("warning") == 1 and lost in result.stderr
    quiet = run("decode", "-f", "a.vaec", f"a.{suffix}", "--metadata", "none")
    assert ("warning" in quiet.stderr) == (suffix in ("gif", "pdf"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "mpo"])
def test_formats_that_hold_all_say_nothing(run: Run, suffix: str) -> None:
    """And hold it."""
    metadata = {"icc_profile": ICC, "exif": exif(), "xmp": b"<x/>"}
    Path("a.vaec").write_bytes(vaec(SAMPLES, metadata))
    result = run("decode", "a.vaec", f"a.{suffix}")
    assert result.exit_code == 0 and "warning" not in result.stderr
    with Image.open(f"a.{suffix}") as image:
        assert image.info["icc_profile"] == ICC and image.getexif()[270] == "x" and image.info["xmp"]


def test_icons_are_refused_where_they_would_shrink(run: Run) -> None:
    """Of an icon's size, they are written."""
    Path("a.vaec").write_bytes(vaec(picture(300, 420)))
    for suffix in ("ico", "icns"):
        result = run("decode", "a.vaec", f"a.{suffix}")
        assert result.exit_code == 1 and "420 x 300" in result.stderr and not os.path.exists(f"a.{suffix}")
    Path("b.vaec").write_bytes(vaec(SAMPLES))
    assert run("decode", "b.vaec", "b.ico").exit_code == 0
    with Image.open("b.ico") as image:
        assert image.size == (42, 30)


def test_quality_of_lossy_outputs(run: Run) -> None:
    """A lower one makes a smaller file; formats without one say so."""
    Path("a.vaec").write_bytes(vaec(picture(60, 80)))
    sizes = []
    for quality in ("20", "90"):
        assert run("decode", "-f", "a.vaec", "a.webp", "-q", quality).exit_code == 0
        sizes.append(os.path.getsize("a.webp"))
    assert sizes[0] < sizes[1]
    assert run("decode", "a.vaec", "a.png", "-q", "50").exit_code == 2


def test_subsampling_of_jpeg(run: Run) -> None:
    """As asked for, of parts, too; other formats have none."""
    Path("a.vaec").write_bytes(vaec(picture(60, 80)))
    for name, more in (("a.jpg", ()), ("b.jpg", ("--crop", "0,0,50,50"))):
        assert run("decode", "a.vaec", name, "-q", "80", "--subsampling", "4:2:2", *more).exit_code == 0
        with Image.open(name) as image:
            assert image.layer[0][1:3] == (2, 1)
    assert run("decode", "a.vaec", "a.png", "--subsampling", "4:4:4").exit_code == 2


def test_resolution_comes_back(run: Run) -> None:
    """From PNG to PNG and JPEG."""
    Image.fromarray(SAMPLES).save("a.png", dpi=(300, 300))
    run("encode", "a.png")
    for name in ("b.png", "b.jpg"):
        assert run("decode", "a.vaec", name).exit_code == 0
        with Image.open(name) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.5)


def test_strip_keeps_the_profile(run: Run) -> None:
    """Without it colours would change; none but --metadata none drops it."""
    Image.fromarray(SAMPLES).save("a.png", icc_profile=ICC, exif=exif())
    assert run("encode", "a.png", "--strip").exit_code == 0
    assert vaecodec.info("a.vaec").metadata == {"icc_profile": ICC}
    assert run("encode", "-f", "a.png", "--metadata", "none").exit_code == 0
    assert vaecodec.info("a.vaec").metadata == {}


def test_pages_are_upright_and_keep_the_profile(run: Run) -> None:
    """The heat map of a picture that lies on its side."""
    from vaecodec.cli.heatmap import heat_map

    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(SAMPLES)
    image.info.update(exif=tags.tobytes(), icc_profile=ICC)
    mapped = heat_map(image, np.ones((2, 3)))
    assert mapped.size == (30, 42) and mapped.info == {"icc_profile": ICC}


def test_bytes_before_and_after(run: Run) -> None:
    """In lines, in JSON, and summed up; of stdin, too."""
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(coded("PNG"))
    before, after = os.path.getsize("a.png"), len(vaec(SAMPLES))
    lines = run("encode", "a.png", "b.png").stderr.splitlines()
    assert f"{before:,} -> {after:,} bytes" in lines[0]
    assert f"2 done; {2 * before:,} -> {2 * after:,} bytes" in lines[-1]
    assert f'"input_bytes": {after}' in run("decode", "a.vaec", "c.png", "--json").stdout
    assert f"{before:,} -> {after:,} bytes" in run("encode", "-", "d.vaec", stdin=coded("PNG")).stderr


# Messages


def test_a_size_that_metadata_fills(run: Run) -> None:
    """Says so; the picture is not to blame."""
    attempt = Attempt(b"x" * 30000, lambda: 30.0, lambda: 90.0, 100, metadata_bytes=29000)
    with pytest.raises(VaecTargetError, match="29,000 bytes of it are metadata"):
        SizeTarget(20000, "bytes").search(lambda quality: attempt)


@pytest.mark.parametrize("quality", ["high", 0, 101, 1.5, True, float("nan"), [75]])
def test_messages_about_quality_tell_the_range(quality: object) -> None:
    """Whatever is passed."""
    with pytest.raises(vaecodec.VaecImageError, match="1..100"):
        rate_goal(quality, bytes=None, bpp=None, psnr=None)  # type: ignore[arg-type]


def test_floats_are_not_told_to_divide_by_257(run: Run) -> None:
    """Which would make a picture in 0..1 black."""
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save("a.tif")
    result = run("encode", "a.tif")
    assert result.exit_code == 3 and "257" not in result.stderr and "scale to 0..255" in result.stderr
