"""Laws of big pictures and of parts of pictures on the command line: by rows as in one piece, --crop and --scale."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import picture
from lossless_codec import damaged, vaec
from PIL import ExifTags, Image

from vaecodec import Codec
from vaecodec.cli import main
from vaecodec.pictures import pillow

Run = Callable[..., Result]

SAMPLES = picture(40, 600)
EXIF = Image.Exif()
EXIF[ExifTags.Base.Make] = "Maker"
DATA = vaec(SAMPLES, {"exif": EXIF.tobytes()[6:]})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a folder with one .vaec file of three tiles."""
    monkeypatch.chdir(tmp_path)
    Path("a.vaec").write_bytes(DATA)
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(main, arguments, input=stdin)


def shown(path: str) -> np.ndarray:
    """Samples of a picture file."""
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", ["b.png", "b.tif", "b.ppm"])
def test_crop_writes_that_part(run: Run, name: str) -> None:
    """As `Image.crop` would; the report tells its size."""
    result = run("decode", "a.vaec", name, "--crop", "250, 3, 530,40", "--json")
    assert result.exit_code == 0, result.output
    assert np.array_equal(shown(name), SAMPLES[3:40, 250:530])
    record = json.loads(result.stdout)
    assert (record["width"], record["height"], record["output_bytes"]) == (280, 37, os.path.getsize(name))


def test_crop_keeps_metadata_unless_told_otherwise(run: Run) -> None:
    """As decoding the whole does."""
    assert run("decode", "a.vaec", "--crop", "0,0,9,9").exit_code == 0
    assert run("decode", "a.vaec", "b.png", "--crop", "0,0,9,9", "--strip").exit_code == 0
    with Image.open("a.png") as kept, Image.open("b.png") as stripped:
        assert (kept.getexif()[ExifTags.Base.Make], dict(stripped.getexif())) == ("Maker", {})


def test_crop_of_stdin(run: Run) -> None:
    """A pipe will do."""
    result = run("decode", "-", "-", "--crop", "1,2,3,4", stdin=DATA)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result.stdout_bytes))), SAMPLES[2:4, 1:3])


def test_crop_leaves_damage_elsewhere_alone(run: Run) -> None:
    """Only the tiles under the box are read."""
    Path("a.vaec").write_bytes(damaged(DATA, tile=2))
    assert run("decode", "a.vaec", "--crop", "0,0,512,40").exit_code == 0
    result = run("decode", "a.vaec", "-f", "--crop", "0,0,513,40", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (4, "TILE_CRC")


def test_a_box_beyond_the_picture_is_told_of_that_file(run: Run) -> None:
    """It is no fault of the usage: another picture may be large enough."""
    result = run("decode", "a.vaec", "--crop", "0,0,601,9", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"], os.listdir()) == (1, "BOX", ["a.vaec"])


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,4,5", "a,0,9,9", "5,0,5,9", "0,9,9,3", "-1,0,5,5", "0;0;5;5", "", "1.5,0,4,4"]
)
def test_a_box_that_is_none_is_wrong_usage(run: Run, text: str) -> None:
    """Four whole numbers, and something between them."""
    result = run("decode", "a.vaec", "--crop", text)
    assert (result.exit_code, os.listdir()) == (2, ["a.vaec"])
    assert "LEFT,TOP,RIGHT,BOTTOM" in result.stderr


@pytest.mark.parametrize("other", [("--scale", "1/2"), ("--keep-going",), ("--auto-orient",)])
def test_crop_excludes_what_would_be_ambiguous(run: Run, other: tuple[str, ...]) -> None:
    """The box is in pixels of the whole picture as it is stored, and none of it may be missing."""
    assert run("decode", "a.vaec", "--crop", "0,0,9,9", *other).exit_code == 2


@pytest.mark.parametrize(("text", "scale"), [("1/2", 2), ("1/4", 4), ("1/8", 8)])
def test_scale_writes_a_preview(run: Run, text: str, scale: int) -> None:
    """Sides are rounded up; tiles without loss become their means."""
    assert run("decode", "a.vaec", "--scale", text).exit_code == 0
    preview = shown("a.png")
    assert preview.shape == (-(-40 // scale), 600 // scale, 3)
    means = SAMPLES.reshape(40 // scale, scale, 600 // scale, scale, 3).mean((1, 3))
    assert np.abs(preview - means).max() <= 0.5


def test_another_scale_is_wrong_usage(run: Run) -> None:
    """The three are named."""
    result = run("decode", "a.vaec", "--scale", "1/3")
    assert (result.exit_code, "1/8" in result.stderr) == (2, True)


def test_scale_shows_what_is_left_of_a_damaged_file(run: Run) -> None:
    """With --keep-going, as for whole pictures."""
    Path("a.vaec").write_bytes(damaged(DATA, tile=1))
    assert run("decode", "a.vaec", "--scale", "1/8").exit_code == 4
    assert run("decode", "a.vaec", "--scale", "1/8", "--keep-going").exit_code == 4
    assert (shown("a.png")[:, 32:64] == 128).all()


# --- big pictures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def all_are_big(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is worth saving memory."""
    monkeypatch.setattr(pillow, "BIG_PX", 0)


@pytest.mark.parametrize("name", ["a.png", "a.ppm", "a.jpg"])
def test_big_files_become_the_same_file(
    run: Run, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By rows or in one piece; what is asked for arrives; only options that need all of it take all of it."""
    model = ("--model", str(tiny_weights), "--device", "cpu")
    Image.fromarray(SAMPLES).save(name, **({} if name == "a.ppm" else {"exif": EXIF}))
    assert run("encode", name, "small.vaec", "-q", "30", "--metadata", "exif", *model).exit_code == 0
    monkeypatch.setattr(pillow, "BIG_PX", 0)
    monkeypatch.setattr(Codec, "encode", None)
    told = run("encode", name, "big.vaec", "-q", "30", "--metadata", "exif", "--json", *model)
    assert told.exit_code == 0, told.output
    assert Path("big.vaec").read_bytes() == Path("small.vaec").read_bytes()
    assert json.loads(told.stdout)["output_bytes"] == os.path.getsize("small.vaec")
    assert run("encode", name, "c.vaec", "--verify", *model).exit_code == 1, "--verify needs all of it"
    assert run("decode", "big.vaec", "c.png", *model).exit_code == 0
    assert run("decode", "big.vaec", "c.tif", *model).exit_code == 0
    assert np.array_equal(shown("c.png"), shown("c.tif"))


@pytest.mark.usefixtures("all_are_big")
def test_bad_big_inputs_are_told_as_others_are(run: Run) -> None:
    """Not there, no picture, cut, too large: exit code and code."""
    Image.fromarray(SAMPLES).save("b.png")
    Path("cut.png").write_bytes(Path("b.png").read_bytes()[:900])
    Path("text.png").write_text("text")
    for name, options, expected in (
        ("none.png", (), (3, "INPUT")), ("text.png", (), (3, "INPUT")), ("cut.png", (), (3, "INPUT")),
        ("b.png", ("--max-pixels", "599"), (6, "MAX_PIXELS")),
    ):  # fmt: skip
        result = run("encode", name, "--json", *options)
        assert (result.exit_code, json.loads(result.stdout)["code"]) == expected, name
    assert not list(Path().glob("*.vaec*"))[1:]


@pytest.mark.parametrize(("name", "expected"), [("b.ppm", 0), ("b.png", 6)])
def test_pillows_own_limit_is_for_what_pillow_reads(
    run: Run, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: int
) -> None:
    """A PPM of any size that --max-pixels allows is encoded; of others, Pillow's refusal is told."""
    Image.fromarray(SAMPLES).save(name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    result = run("encode", name, "c.vaec", "--model", str(tiny_weights), "--json")
    assert result.exit_code == expected
    assert expected == 0 or json.loads(result.stdout)["code"] == "MAX_PIXELS"


@pytest.mark.usefixtures("all_are_big")
def test_a_big_animation_still_warns(run: Run, tiny_weights: Path) -> None:
    """Frames that are left out are told."""
    frames = [Image.new("L", (8, 8), level) for level in (0, 100)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    result = run("encode", "a.gif", "-f", "--model", str(tiny_weights))
    assert "1 further frame" in result.stderr
