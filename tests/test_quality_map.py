"""Quality maps: fewer bytes where a map is dark, the same picture where it is white, no byte where there is none."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from vaecodec import Codec, VaecImageError
from vaecodec.cli import main
from vaecodec.format import container
from vaecodec.format.records import TileMode
from vaecodec.model import coding
from vaecodec.pictures import quality_map as maps
from vaecodec.pictures.pixels import psnr_db
from vaecodec.tiling.multiples import step_multiples
from vaecodec.tiling.tile import decode_symbols, floor_psnr_db

WHITE, BLACK = np.full((1, 1), 255, np.uint8), np.zeros((1, 1), np.uint8)
LEFT_WHITE = np.repeat(np.array([[255, 0]], np.uint8), 3, 0)
SAMPLES = picture(128, 192, seed=5)


# --- from grey to multiples -------------------------------------------------------------------------------------------


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(1, 4)))
def test_differences_tell_the_multiples(multiples: np.ndarray) -> None:
    """Of any grid; and they are of those that the table codes without an escape."""
    differences = coding._differences(multiples.ravel(), multiples.shape)
    assert set(differences.tolist()) <= {-1, 0, 1, 2}
    assert np.array_equal(coding._multiples(differences, multiples.shape), multiples.ravel())


@given(arrays.arrays(np.int32, (3, 4), elements=st.integers(-2047, 2047)))
def test_any_differences_are_multiples(differences: np.ndarray) -> None:
    """What a damaged file holds is in range, and told by the CRC."""
    found = coding._multiples(differences.ravel(), (3, 4))
    assert found.dtype == np.uint8 and set(found.tolist()) <= {1, 2, 3, 4}


def test_grey_levels() -> None:
    """White is 1, black 4, and in between the levels at half of each."""
    for level, multiple in ((255, 1), (181, 1), (180, 2), (87, 2), (86, 3), (25, 3), (24, 4), (0, 4)):
        assert step_multiples(np.full((2, 2), level, np.uint8), 64, 64).tolist() == [[multiple]], level


def test_the_map_is_stretched_over_the_picture() -> None:
    """Whatever its size; a block takes the mean of what lies over it, and a block cut off that of its part."""
    assert step_multiples(LEFT_WHITE, 128, 256).tolist() == [[1, 1, 4, 4]] * 2
    assert step_multiples(LEFT_WHITE, 64, 192).tolist() == [[1, 2, 4]]
    fine = np.zeros((300, 130), np.uint8)
    fine[:, 128:] = 255
    assert step_multiples(fine, 300, 130).tolist() == [[4, 4, 1]] * 5
    assert step_multiples(picture(700, 900)[..., 0], 1, 1).shape == (1, 1)


def test_a_map_is_any_picture(tmp_path: Path) -> None:
    """A file, colours, and transparency, which counts as black."""
    Image.fromarray(LEFT_WHITE).save(tmp_path / "mask.png")
    clear = np.full((1, 2, 4), 255, np.uint8)
    clear[:, 1, 3] = 0
    lab = Image.merge("LAB", [Image.fromarray(plane) for plane in (LEFT_WHITE, LEFT_WHITE // 2 + 64, LEFT_WHITE)])
    mask = tmp_path / "mask.png"
    for given_ in (mask, mask.read_bytes(), clear, Image.fromarray(clear), Image.fromarray(LEFT_WHITE).convert("P")):
        assert step_multiples(maps.read(given_), 64, 128).tolist() == [[1, 4]]
    assert maps.read(lab).shape == LEFT_WHITE.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_lie_over_what_people_see(tmp_path: Path, orientation: int) -> None:
    """Both the picture's and the map's own EXIF orientation are applied, as Pillow does."""
    grey = np.array([[255, 0, 0], [255, 128, 0]], np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(grey).save(tmp_path / "map.png", exif=tags)
    with Image.open(tmp_path / "map.png") as image:
        assert np.array_equal(maps.read(tmp_path / "map.png"), np.asarray(ImageOps.exif_transpose(image)))
    height, width = 64 * 2, 64 * 3
    stored = step_multiples(grey, height, width)
    with Image.open(tmp_path / "map.png") as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(step_multiples(seen, height, width, orientation), stored)


def test_maps_that_cannot_be_read(tiny: Codec, tmp_path: Path) -> None:
    """Say that it is the map, and why."""
    (tmp_path / "text.png").write_text("no picture")
    deep = Image.fromarray(np.zeros((2, 2), np.uint16))
    deep.save(tmp_path / "deep.png")
    for wrong, words in (
        (tmp_path / "text.png", "identify"), (tmp_path / "none.png", "No such file"), (np.zeros((2, 2)), "dtype"),
        (deep, "I;16"), (tmp_path / "deep.png", "8"), ([[0, 255]], "list"), (Image.new("1", (20000, 20000)), "20000"),
    ):  # fmt: skip
        with pytest.raises(VaecImageError, match=f"^quality_map: .*{words}") as caught:
            tiny.encode(SAMPLES, quality_map=wrong)
        assert caught.value.code == "QUALITY_MAP"


# --- in files ---------------------------------------------------------------------------------------------------------


def test_white_changes_nothing_and_black_saves(tiny: Codec) -> None:
    """A white map gives the file without one, to the byte; a black one far fewer bytes, of a picture that is there."""
    plain, black = tiny.encode(SAMPLES, 80), tiny.encode(SAMPLES, 80, quality_map=BLACK)
    assert tiny.encode(SAMPLES, 80, quality_map=WHITE) == plain
    assert len(black) < 0.7 * len(plain)
    assert psnr_db(SAMPLES, tiny.decode(black, output="numpy")) > 20


def test_each_side_is_as_its_map(shipped: Codec) -> None:
    """White looks as without a map, black saves; latents say so, too."""
    samples = picture(128, 256, seed=5)
    plain, mapped = shipped.encode(samples, 75), shipped.encode(samples, 75, quality_map=LEFT_WHITE)
    (tile,) = container.read(mapped).tiles
    symbols = decode_symbols(shipped.engine, tile, (8, 16), 75)
    assert tile.mode == TileMode.LEARNED and symbols.multiples.reshape(2, 4).tolist() == [[1, 1, 4, 4]] * 2
    assert len(mapped) < 0.85 * len(plain)
    before, after = (shipped.decode(each, output="numpy") for each in (plain, mapped))
    left, right = (slice(None), slice(0, 96)), (slice(None), slice(160, 256))
    assert abs(psnr_db(samples[left], after[left]) - psnr_db(samples[left], before[left])) < 0.3
    assert psnr_db(samples[right], after[right]) < psnr_db(samples[right], before[right]) - 1


@pytest.mark.engines("native", "torch")
def test_every_way_to_encode_and_decode(tiny: Codec, tmp_path: Path) -> None:
    """Into a file, in batches, several tiles, regions, previews, with alpha: the same picture."""
    samples = picture(150, 1100, 4, seed=6)
    data = tiny.encode(samples, 70, quality_map=LEFT_WHITE)
    assert data != tiny.encode(samples, 70)
    tiny.encode_file(samples, tmp_path / "a.vaec", 70, quality_map=LEFT_WHITE)
    assert (tmp_path / "a.vaec").read_bytes() == data
    assert tiny.encode_batch([samples], 70, quality_map=LEFT_WHITE) == [data]
    whole = tiny.decode(data, output="numpy")
    box = (900, 20, 1090, 140)
    region = tiny.decode_region(data, box, output="numpy")
    assert np.abs(region.astype(int) - whole[20:140, 900:1090]).max() <= 1
    for each in tiny.decode_batch([data, data], output="numpy"):
        assert np.abs(each.astype(int) - whole).max() <= 1
    assert tiny.decode(data, scale=1 / 8).size == (138, 19)


def test_targets_hold_with_a_map(tiny: Codec) -> None:
    """The search looks at files as they are."""
    size = len(tiny.encode(SAMPLES, 60, quality_map=LEFT_WHITE))
    found = tiny.encode(SAMPLES, target_bytes=size, quality_map=LEFT_WHITE)
    assert len(found) <= size and tiny.decode(found).size == (192, 128)


def test_what_a_map_excludes(tiny: Codec) -> None:
    """Lossless files have nothing to save, and refinement knows one step size."""
    for wrong in ({"lossless": True}, {"quality": 50, "effort": 7}):
        with pytest.raises(VaecImageError, match="quality_map") as caught:
            tiny.encode(SAMPLES, quality_map=WHITE, **wrong)
        assert caught.value.code == "ARGUMENT"


def test_dark_tiles_may_be_worse(shipped: Codec) -> None:
    """A dark tile need not reach the PSNR that the quality promises: coloured noise is not corrected to it."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plain, mapped = shipped.encode(noise, 90), shipped.encode(noise, 90, quality_map=BLACK)
    assert len(mapped) < 0.8 * len(plain)


def test_light_blocks_of_dark_tiles_keep_their_promise(shipped: Codec) -> None:
    """Noise in a white block is corrected as without a map, though the block beside it is black."""
    samples = picture(128, 256, seed=7)
    samples[:, :64] = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    for quality in (50, 75, 90):
        before, after = (
            shipped.decode(shipped.encode(samples, quality, quality_map=each), output="numpy")[:, :64]
            for each in (None, LEFT_WHITE)
        )
        promised = min(psnr_db(samples[:, :64], before), floor_psnr_db(quality))
        assert psnr_db(samples[:, :64], after) > promised - 1


# --- for people -------------------------------------------------------------------------------------------------------


def test_the_command_line_and_the_plugin(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the same file; contradictions and missing maps are usage errors."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(SAMPLES).save("a.png")
    Image.fromarray(LEFT_WHITE).save("mask.png")
    Image.open("a.png").save("b.vaec", quality=70, quality_map="mask.png", model=tiny_weights, device="cpu")
    command = ["encode", "a.png", "-q", "70", "--model", str(tiny_weights), "--quality-map"]
    assert CliRunner().invoke(main, [*command, "mask.png"]).exit_code == 0
    assert Path("a.vaec").read_bytes() == Path("b.vaec").read_bytes()
    assert CliRunner().invoke(main, [*command, "none.png"]).exit_code == 2
    Path("bad.png").write_text("no picture")
    result = CliRunner().invoke(main, [*command, "bad.png"])
    assert result.exit_code == 2 and "--quality-map" in result.stderr and "identify" in result.stderr


def test_a_map_among_the_pictures_is_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither encoded nor deleted, and told of; the others are encoded with it, which is read once."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "z.png"):
        Image.fromarray(SAMPLES).save(name)
    Image.fromarray(LEFT_WHITE).save("mask.png")
    options = ("-r", ".", "--out-dir", "../out", "--quality-map", "mask.png", "-q", "60", "--delete-originals")
    result = CliRunner().invoke(main, ["encode", *options])
    assert result.exit_code == 1 and "is the quality map" in result.stderr
    assert [path.name for path in Path().iterdir()] == ["mask.png"]
    assert sorted(path.name for path in Path("../out").iterdir()) == ["a.vaec", "z.vaec"]


def test_the_other_exclusions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are usage errors."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(SAMPLES).save("a.png")
    Image.fromarray(LEFT_WHITE).save("mask.png")
    for other in (["--lossless"], ["--effort", "7"]):
        assert CliRunner().invoke(main, ["encode", "a.png", "--quality-map", "mask.png", *other]).exit_code == 2
