"""Laws of the commands: what goes in, what comes out, on which stream, and with which exit code."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from lossless_codec import LosslessCodec, damaged, vaec
from PIL import ExifTags, Image, ImageCms, ImageOps

from vaecodec import Codec, codec
from vaecodec.cli import main
from vaecodec.errors import VaecError
from vaecodec.format import container, records
from vaecodec.pictures import pixels

Run = Callable[..., Result]

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 256, (20, 30, 3), np.uint8)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def exif(orientation: int = 1) -> bytes:
    """EXIF data with a maker and an orientation."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Maker"
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes().removeprefix(b"Exif\0\0")


ALL_METADATA = {"icc_profile": ICC, "exif": exif(), "xmp": XMP}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder, with an encoder that needs no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codec, "Codec", LosslessCodec)
    LosslessCodec.calls.clear()
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(main, arguments, input=stdin)


def png(path: str, samples: np.ndarray = SAMPLES, **options: Any) -> str:
    """Writes a PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples.squeeze()).save(path, "PNG", **options)
    return path


def put(path: str, data: bytes) -> str:
    """Writes a file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
    return path


def load(path: str) -> Image.Image:
    """Opens a picture and closes its file."""
    with Image.open(path) as picture:
        picture.load()
        return picture


def lines(result: Result) -> list[dict[str, Any]]:
    """The JSON lines on stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def metadata_of(path: str) -> dict[str, bytes]:
    """What metadata a .vaec file holds."""
    return container.read_info(io.BytesIO(Path(path).read_bytes())).metadata


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_encode_then_decode_gives_the_picture_back(run: Run, channels: int) -> None:
    """Without a word about outputs, a.png becomes a.vaec becomes a.png, and only stderr tells of it."""
    samples = RNG.integers(0, 256, (20, 30, channels), np.uint8)
    png("a.png", samples)
    first = run("encode", "a.png")
    os.remove("a.png")
    second = run("decode", "a.vaec")
    assert (first.exit_code, second.exit_code, first.stdout, second.stdout) == (0, 0, "", "")
    assert first.stderr.startswith("a.png -> a.vaec  30 x 20, ")
    assert (np.asarray(load("a.png")) == samples.squeeze()).all()


def test_the_shipped_model_encodes_and_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real codec a smooth picture comes back nearly as it was, --verify says so, and verify --deep agrees."""
    monkeypatch.chdir(tmp_path)
    ramp = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 1]) + RNG.integers(0, 9, (48, 64, 3))
    png("a.png", ramp.astype(np.uint8))
    runner = CliRunner()
    result = runner.invoke(main, ["--json", "encode", "a.png", "-q", "90", "--verify", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert lines(result)[0]["psnr_db"] > 28
    assert runner.invoke(main, ["verify", "--deep", "a.vaec"]).stdout == "a.vaec: ok, decodes\n"
    assert runner.invoke(main, ["decode", "a.vaec", "b.png"]).exit_code == 0
    assert load("b.png").size == (64, 48)


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (("-q", "30"), "quality", 30),
        (("--target-size", "1.5k"), "target_bytes", 1500),
        (("--target-size", "60KiB"), "target_bytes", 61440),
        (("--target-size", "2MB"), "target_bytes", 2_000_000),
        (("--target-size", "777"), "target_bytes", 777),
        (("--target-bpp", "0.5"), "target_bpp", 0.5),
        (("--target-psnr", "35"), "target_psnr", 35.0),
        (("--max-pixels", "1000"), "max_pixels", 1000),
    ],
)
def test_rates_and_limits_reach_the_codec(run: Run, arguments: tuple[str, ...], option: str, value: float) -> None:
    """Each option means what the codec's argument of that name means."""
    assert run("encode", png("a.png"), *arguments).exit_code == 0
    assert LosslessCodec.calls[0][option] == value
    assert len(LosslessCodec.calls[0].keys() & {"quality", "target_bytes", "target_bpp", "target_psnr"}) <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode",),
        ("encode", "a.png", "-q", "0"),
        ("encode", "a.png", "-q", "101"),
        ("encode", "a.png", "-q", "50", "--target-bpp", "1"),
        ("encode", "a.png", "--target-size", "9k", "--target-psnr", "30"),
        ("encode", "a.png", "--target-size", "60x"),
        ("encode", "a.png", "--target-size", "60iB"),
        ("encode", "a.png", "--target-size", "0.1"),
        ("encode", "a.png", "--target-bpp", "nan"),
        ("encode", "a.png", "--target-psnr", "0"),
        ("encode", "a.png", "--target-psnr", "much"),
        ("encode", "a.png", "--background", "reddish"),
        ("encode", "a.png", "--background", "#ff000080"),
        ("encode", "a.png", "--metadata", "icc,gps"),
        ("encode", "a.png", "--metadata", "icc", "--strip"),
        ("encode", "a.png", "-f", "--skip-existing"),
        ("encode", "a.png", "-j", "0"),
        ("encode", "a.png", "-o", "b.vaec", "--out-dir", "c"),
        ("encode", "a.png", "b.png", "c.png", "-o", "d.vaec"),
        ("encode", "a.png", "b.jpg"),
        ("--json", "encode", "a.png", "-o", "-"),
        ("decode", "a.vaec", "b.vaec"),
        ("decode", "a.vaec", "--format", "vaec"),
        ("decode", "a.vaec", "--format", "xyz"),
        ("decode", "a.vaec", "b.png", "--format", "webp"),
        ("decode", "a.vaec", "b.xyz"),
        ("compare", "a.png"),
        ("train-a-better-model",),
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(run: Run, arguments: tuple[str, ...]) -> None:
    """What cannot be meant is refused before anything is read or written."""
    png("a.png")
    put("a.vaec", vaec(SAMPLES))
    before = sorted(os.listdir())
    result = run(*arguments)
    assert (result.exit_code, result.stdout, sorted(os.listdir())) == (2, "", before)
    assert "Error" in result.stderr


def test_stdin_and_stdout_are_dashes(run: Run) -> None:
    """Bytes go in on stdin and come out on stdout, with nothing else between them."""
    encoded = run("encode", "-", stdin=Path(png("a.png")).read_bytes())
    decoded = run("decode", "-", "-", "--format", "webp", stdin=encoded.stdout_bytes)
    assert (encoded.exit_code, decoded.exit_code) == (0, 0)
    picture = Image.open(io.BytesIO(decoded.stdout_bytes))
    assert picture.format == "WEBP"
    assert (np.asarray(picture) == SAMPLES).all()
    assert run("encode", "-", "b.vaec", stdin=Path("a.png").read_bytes()).exit_code == 0
    assert run("info", "-", stdin=Path("b.vaec").read_bytes()).exit_code == 0


@pytest.mark.parametrize(("name", "format"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("png", "PNG")])
def test_format_follows_the_option_or_the_name(run: Run, name: str, format: str) -> None:
    """--format names the suffix of the default output; the suffix of a given output names the format."""
    put("a.vaec", vaec(SAMPLES))
    assert run("decode", "a.vaec", "--format", name).exit_code == 0
    assert run("decode", "a.vaec", f"b.{name}").exit_code == 0
    assert [load(f"{stem}.{name}").format for stem in "ab"] == [format, format]
    error = np.abs(np.asarray(load(f"a.{name}")).astype(int) - SAMPLES)
    assert (error.max() == 0) == (format != "JPEG")


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ((), {"icc_profile", "exif", "xmp"}),
        (("--metadata", "all"), {"icc_profile", "exif", "xmp"}),
        (("--metadata", "none"), set()),
        (("--strip",), {"icc_profile"}),
        (("--metadata", "icc"), {"icc_profile"}),
        (("--metadata", "exif,xmp"), {"exif", "xmp"}),
    ],
)
def test_metadata_is_kept_as_asked(run: Run, arguments: tuple[str, ...], kept: set[str]) -> None:
    """Both ways, exactly what was asked for survives, byte for byte."""
    Image.fromarray(SAMPLES).save("a.webp", lossless=True, **ALL_METADATA)
    put("b.vaec", vaec(SAMPLES, ALL_METADATA))
    assert run("encode", "a.webp", *arguments).exit_code == 0
    assert metadata_of("a.vaec") == {key: ALL_METADATA[key] for key in kept}
    for name in ("png", "webp", "jpg", "tiff", "avif"):
        assert run("decode", "b.vaec", "--format", name, *arguments).exit_code == 0
        found = pixels.metadata_of(load(f"b.{name}"))
        assert found.keys() == kept, name
        assert all(found[key] == ALL_METADATA[key] for key in kept - {"exif"}), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_auto_orient_turns_the_pixels_and_drops_the_tag(run: Run, orientation: int) -> None:
    """A picture looks the same before and after, and nothing turns it twice; without the option it is left as it is."""
    png("a.png", exif=exif(orientation))
    put("b.vaec", vaec(SAMPLES, {"exif": exif(orientation)}))
    assert run("encode", "a.png", "--auto-orient").exit_code == 0
    assert run("decode", "b.vaec", "--auto-orient").exit_code == 0
    assert run("encode", "a.png", "as_is.vaec").exit_code == 0
    upright = Image.fromarray(SAMPLES)
    upright.info["exif"] = exif(orientation)
    pixels_upright = np.asarray(ImageOps.exif_transpose(upright))
    for path in ("a.vaec", "b.png"):
        picture = load(path)
        assert picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert picture.getexif()[ExifTags.Base.Make] == "Maker"
        assert (np.asarray(picture) == pixels_upright).all()
    assert load("as_is.vaec").getexif()[ExifTags.Base.Orientation] == orientation


def test_background_replaces_transparency(run: Run) -> None:
    """Where the picture is transparent, the colour shows; there is no alpha left."""
    samples = np.zeros((4, 6, 4), np.uint8)
    samples[:, :3] = [10, 20, 30, 255]
    assert run("encode", png("a.png", samples), "--background", "red").exit_code == 0
    assert load("a.vaec").mode == "RGB"
    decoded = np.asarray(load("a.vaec"))
    assert (decoded[:, :3] == [10, 20, 30]).all()
    assert (decoded[:, 3:] == [255, 0, 0]).all()


def test_verify_option_measures_what_was_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """--verify tells the PSNR; if the result is not a picture of the same size, nothing is written."""
    png("a.png")
    assert "identical" in run("encode", "a.png", "--verify").stderr
    noisy = np.clip(SAMPLES.astype(int) + 1, 0, 255).astype(np.uint8)
    monkeypatch.setattr(LosslessCodec, "encode", lambda *_, **__: vaec(noisy))
    (record,) = lines(run("encode", "a.png", "b.vaec", "--verify", "--json"))
    assert record["psnr_db"] == pytest.approx(pixels.psnr_db(SAMPLES, noisy), abs=1e-3)
    monkeypatch.setattr(LosslessCodec, "encode", lambda *_, **__: vaec(SAMPLES[:-1]))
    result = run("encode", "a.png", "c.vaec", "--verify", "--json")
    assert (result.exit_code, lines(result)[0]["code"], os.path.exists("c.vaec")) == (1, "VERIFY", False)


def test_animation_loses_frames_only_with_a_warning(run: Run) -> None:
    """What is left out is named, also in JSON."""
    frames = [Image.new("L", (8, 8), level) for level in (0, 100)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    message = "a .vaec file cannot hold 1 further frame"
    assert f"warning: a.gif: {message}" in run("encode", "a.gif").stderr
    assert lines(run("encode", "a.gif", "-f", "--json"))[0]["warnings"] == [message]


def single_failures() -> Iterator[tuple[str, bytes | None, str, int, str]]:
    """A command, the file that it is given, and the exit code and code that it must end with."""
    data, future = vaec(SAMPLES), bytearray(vaec(SAMPLES))
    future[4] += 1
    png_data = io.BytesIO()
    Image.fromarray(SAMPLES).save(png_data, "PNG")
    yield "encode", None, "a.png", 3, "INPUT"
    yield "encode", b"text", "a.png", 3, "INPUT"
    yield "encode", png_data.getvalue()[:200], "a.png", 3, "INPUT"
    yield "encode --max-pixels 599", png_data.getvalue(), "a.png", 6, "MAX_PIXELS"
    for command in ("decode", "info", "verify", "verify --deep"):
        yield command, None, "a.vaec", 3, "INPUT"
        yield command, b"text", "a.vaec", 4, "BAD_MAGIC"
        yield command, data[:40], "a.vaec", 4, "SHORT_FILE"
        yield command, bytes(future), "a.vaec", 5, "VERSION"
    yield "verify", damaged(data), "a.vaec", 4, "TILE_CRC"
    yield "decode", damaged(data), "a.vaec", 4, "TILE_CRC"
    yield "decode --max-pixels 599", data, "a.vaec", 6, "MAX_PIXELS"
    yield "compare a.vaec", damaged(data), "a.vaec", 4, "TILE_CRC"


@pytest.mark.parametrize(("command", "data", "path", "exit_code", "code"), list(single_failures()))
def test_exit_code_tells_what_is_wrong_with_one_file(
    run: Run, command: str, data: bytes | None, path: str, exit_code: int, code: str
) -> None:
    """Each kind of failure has its exit code and its word, names the file, and leaves no output."""
    if data is not None:
        put(path, data)
    result = run("--json", *command.split(), path)
    assert result.exit_code == exit_code, result.output
    assert lines(result)[0] | {"message": ""} == lines(result)[0] | {"message": "", "path": path, "code": code}
    assert set(os.listdir()) <= {path}
    human = run(*command.split(), path)
    assert human.stdout == ""
    assert human.stderr.startswith(f"error: {path}: ")
    assert human.stderr.endswith(f"[{code}]\n")


def test_a_learned_file_without_its_model_exits_with_5(run: Run) -> None:
    """A file that names weights that are not here needs another installation, not another file."""
    header = records.Header(records.PixelFormat.L, 16, 16, b"else", 50, tile_log2=8)
    put("a.vaec", container.write(header, [records.Tile(records.TileMode.LEARNED, bytes(8), 0)]))
    result = run("decode", "a.vaec", "--model", "missing.safetensors", "--json")
    assert (result.exit_code, lines(result)[0]["code"]) == (5, "MODEL_FILE")


def test_a_target_that_cannot_be_met_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are none of the input's exit with 1; those that nobody foresaw show themselves with -vv."""
    png("a.png")

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(LosslessCodec, "encode", fail)
    result = run("encode", "a.png")
    assert (result.exit_code, result.stderr) == (1, "error: a.png: RuntimeError: unforeseen [INTERNAL]\n")
    assert "Traceback" in run("encode", "a.png", "-vv").stderr


def test_keep_going_saves_the_tiles_that_are_left(run: Run) -> None:
    """With --keep-going the intact tiles are written, the damaged one is grey, and the exit code still tells."""
    samples = RNG.integers(0, 256, (20, 600, 1), np.uint8)
    put("a.vaec", damaged(vaec(samples), tile=1))
    assert (run("decode", "a.vaec").exit_code, os.path.exists("a.png")) == (4, False)
    result = run("decode", "a.vaec", "--keep-going")
    assert result.exit_code == 4
    assert "damaged: " in result.stderr
    assert "warning: a.vaec: " in result.stderr
    decoded = np.asarray(load("a.png"))
    assert (decoded[:, :256] == samples[:, :256, 0]).all()
    assert (decoded[:, 512:] == samples[:, 512:, 0]).all()
    assert len(np.unique(decoded[:, 256:512])) == 1
    (record,) = lines(run("decode", "a.vaec", "--keep-going", "-f", "--json"))
    assert (record["status"], record["code"], record["output"]) == ("damaged", "TILE_CRC", "a.png")


def test_a_format_that_cannot_hold_the_picture_is_named(run: Run) -> None:
    """RGBA does not fit into JPEG: exit code 1, and no file."""
    put("a.vaec", vaec(RNG.integers(0, 256, (5, 5, 4), np.uint8)))
    result = run("decode", "a.vaec", "a.jpg")
    assert (result.exit_code, os.path.exists("a.jpg")) == (1, False)
    assert "cannot write it as JPEG" in result.stderr


def test_info_tells_what_a_file_holds(run: Run) -> None:
    """The JSON line has the header, the tiles and the metadata; the text says the same; pixels are not needed."""
    data = vaec(RNG.integers(0, 256, (20, 300, 2), np.uint8), {"exif": exif()}, quality=42)
    put("a.vaec", damaged(data))
    (record,) = lines(run("info", "a.vaec", "--json"))
    assert record == {
        "path": "a.vaec",
        "status": "ok",
        "width": 300,
        "height": 20,
        "mode": "LA",
        "quality": 42,
        "file_bytes": len(data),
        "bpp": round(8 * len(data) / 6000, 4),
        "model_id": b"none".hex(),
        "tile_size_px": 256,
        "tiles": {"zlib": 4},
        "metadata_bytes": {"exif": len(exif())},
    }
    text = run("info", "a.vaec").stdout
    assert all(word in text for word in ("300 x 20 LA", "quality 42", f"{len(data):,} bytes", "4 zlib", "exif"))


def test_compare_measures_files_of_any_kind(run: Run) -> None:
    """PSNR and bits per pixel of each file against the reference, on stdout; equal pictures have no PSNR."""
    noisy = np.clip(SAMPLES.astype(int) + RNG.integers(-9, 9, SAMPLES.shape), 0, 255).astype(np.uint8)
    png("ref.png")
    png("noisy.png", noisy)
    put("same.vaec", vaec(SAMPLES))
    same, other = lines(run("compare", "ref.png", "same.vaec", "noisy.png", "--json"))
    assert same["psnr_db"] is None
    assert same["bpp"] == round(8 * os.path.getsize("same.vaec") / 600, 4)
    assert other["psnr_db"] == pytest.approx(pixels.psnr_db(SAMPLES, noisy), abs=1e-3)
    assert other["ms_ssim"] is None
    text = run("compare", "ref.png", "same.vaec", "noisy.png").stdout.splitlines()
    assert text[0].startswith("same.vaec  identical, ")
    assert text[1].startswith(f"noisy.png  {other['psnr_db']:.2f} dB, ")


def test_compare_refuses_other_sizes(run: Run) -> None:
    """Pictures of different size cannot be compared: exit code 1."""
    result = run("compare", png("ref.png"), put("a.vaec", vaec(SAMPLES[1:])), "--json")
    assert (result.exit_code, lines(result)[0]["code"]) == (1, "SIZE_DIFFERS")


def test_compare_counts_alpha(run: Run) -> None:
    """Against a transparent reference an opaque picture counts as opaque."""
    clear = np.dstack([SAMPLES, np.zeros((20, 30), np.uint8)])
    (record,) = lines(run("compare", png("ref.png", clear), png("a.png"), "--json"))
    opaque = np.dstack([SAMPLES, np.full((20, 30), 255, np.uint8)])
    assert record["psnr_db"] == pytest.approx(pixels.psnr_db(clear, opaque), abs=1e-3)


def test_compare_uses_ms_ssim_where_it_can(run: Run) -> None:
    """With the package and at least 161 pixels a side there is an MS-SSIM, 1 for equal pictures."""
    pytest.importorskip("pytorch_msssim")
    large = RNG.integers(0, 256, (161, 161, 1), np.uint8)
    (record,) = lines(run("compare", png("ref.png", large), png("a.png", large), "--json"))
    assert record["ms_ssim"] == pytest.approx(1)


@pytest.mark.parametrize("has_weights", [True, False])
def test_doctor_exits_with_1_if_anything_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch, has_weights: bool) -> None:
    """Each check is told on its own, and one that fails is enough."""
    monkeypatch.setattr("vaecodec.cli.doctor.Codec", Codec if has_weights else lambda **_: Codec("missing.safetensors"))
    result = run("doctor", "--json")
    found = {record["check"]: record["status"] for record in lines(result)}
    failed = set() if has_weights else {"weights", "exact arithmetic", "round trip"}
    assert result.exit_code == bool(failed), result.output
    assert {name for name, status in found.items() if status == "failed"} == failed
    assert found.keys() >= {"vaecodec", "python", "torch", "pillow plugin", "engine"}


def test_help_version_info_and_verify_do_not_load_torch(tmp_path: Path) -> None:
    """What needs no pixels must not wait for torch, and --help not even for numpy."""
    path = put(str(tmp_path / "a.vaec"), vaec(SAMPLES))
    code = f"""
import sys
from vaecodec.cli import main
for line, absent in {{"-h": "numpy", "encode -h": "numpy", "-V": "numpy", "info": "numpy", "verify": "torch"}}.items():
    arguments = line.split() + [{path!r}] * (line in ("info", "verify"))
    try:
        main(arguments)
    except SystemExit as exit:
        assert exit.code == 0, arguments
    assert absent not in sys.modules, (arguments, absent)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    """`python -m vaecodec` is the command line, under its own name."""
    done = subprocess.run(
        [sys.executable, "-m", "vaecodec", "-V"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "vaecodec")


def test_global_options_stand_before_or_after_the_command(run: Run) -> None:
    """--json, --quiet and -v mean the same on both sides of the command's name; --quiet leaves only errors."""
    put("a.vaec", vaec(SAMPLES))
    assert lines(run("--json", "verify", "a.vaec")) == lines(run("verify", "a.vaec", "--json"))
    assert run("--quiet", "decode", "a.vaec").output == run("decode", "a.vaec", "-f", "--quiet").output == ""
    assert "[EXISTS]" in run("--quiet", "decode", "a.vaec").output
    assert run("-v", "decode", "a.vaec", "-f").stderr.endswith(" s\n")


def test_every_error_is_reported_with_its_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON line of a failure carries the code and the tile of the error."""

    def fail(*_: object, **__: object) -> bytes:
        raise VaecError("no", code="ODD", tile=3)

    monkeypatch.setattr(LosslessCodec, "encode", fail)
    assert lines(run("encode", png("a.png"), "--json")) == [
        {"path": "a.png", "status": "failed", "code": "ODD", "message": "no", "tile": 3}
    ]
