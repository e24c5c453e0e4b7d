"""Laws of pictures that need not fit into memory: by rows as in one piece, windows as crops, whole files or none."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from lossless_codec import damaged
from numpy.typing import NDArray
from PIL import Image, ImageCms

import vaecodec
from vaecodec import Codec
from vaecodec.errors import VaecChecksumError, VaecError, VaecImageError, VaecTargetError
from vaecodec.format.records import Header
from vaecodec.format.stored_tiles import StoredTiles
from vaecodec.pictures import pillow, pixels, writers
from vaecodec.pictures.pixels import ArrayRows

Samples = NDArray[np.uint8]

TILE_PX = 64
HEIGHT, WIDTH = 150, 200  # three rows of four tiles
EXIF = Image.Exif()
EXIF[271] = "Maker"
METADATA = {
    "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "exif": EXIF.tobytes()[6:],
    "xmp": b"<x:xmpmeta/>",
}


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Header, "tile_size", property(lambda self: TILE_PX))


def mixed(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Samples:
    """A picture with tiles of all kinds: learned, without loss (noise), of one colour; with alpha, where it has any."""
    samples = picture(height, width, channels, seed=1)
    samples[:TILE_PX, :TILE_PX] = 77
    samples[:TILE_PX, TILE_PX : 2 * TILE_PX] = np.random.default_rng(2).integers(
        0, 2, samples[:TILE_PX, TILE_PX : 2 * TILE_PX].shape, np.uint8
    )
    return samples


class ArrayLike:
    """What an array of zarr or h5py offers."""

    def __init__(self, samples: Samples) -> None:
        self.shape, self.dtype, self._samples = samples.shape, samples.dtype, samples

    def __getitem__(self, rows: slice) -> Samples:
        return self._samples[rows]


def saved(folder: Path, name: str, samples: Samples, **options: Any) -> Path:
    """A picture file."""
    path = folder / name
    Image.fromarray(samples.squeeze()).save(path, **options)
    return path


def mapped(folder: Path, samples: Samples) -> Samples:
    """The samples as an array that is mapped from a file."""
    np.save(folder / "mapped.npy", samples)
    return np.load(folder / "mapped.npy", mmap_mode="r")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: mixed(),
    "grey array": lambda folder: mixed()[..., 0],
    "array with strides": lambda folder: mixed()[::2, ::-1],
    "array with alpha": lambda folder: mixed(channels=4),
    "memory-mapped array": lambda folder: mapped(folder, mixed()),
    "image": lambda folder: Image.fromarray(mixed()),
    "image with alpha": lambda folder: Image.fromarray(mixed(channels=2)),
    "palette image": lambda folder: Image.fromarray(mixed()).quantize(16),
    "PNG": lambda folder: saved(folder, "a.png", mixed(), icc_profile=METADATA["icc_profile"], exif=EXIF),
    "PNG with alpha": lambda folder: saved(folder, "a.png", mixed(channels=4)),
    "PNG, transparent colour": lambda folder: saved(folder, "a.png", mixed(), transparency=(77, 77, 77)),
    "JPEG": lambda folder: saved(folder, "a.jpg", mixed(), exif=EXIF, xmp=METADATA["xmp"]),
    "TIFF": lambda folder: saved(folder, "a.tif", mixed(), compression="tiff_lzw"),
    "PPM": lambda folder: saved(folder, "a.ppm", mixed()),
    "PGM": lambda folder: saved(folder, "a.pgm", mixed(channels=1)),
}


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_is_encoded_to_the_same_bytes(tiny: Codec, kind: str, tmp_path: Path) -> None:
    """Whatever `encode` takes, `encode_file` writes just what that returns, and tells what is in it."""
    source = SOURCES[kind](tmp_path)
    told = tiny.encode_file(source, tmp_path / "a.vaec", 70)
    assert (tmp_path / "a.vaec").read_bytes() == tiny.encode(source, 70)
    assert told == vaecodec.info(tmp_path / "a.vaec")


@pytest.mark.parametrize("wrap", [ArrayLike, ArrayRows])
def test_whatever_hands_out_rows_is_a_picture(tiny: Codec, wrap: Callable[[Samples], Any]) -> None:
    """Arrays of other libraries, and `Rows`, are read by rows."""
    target = io.BytesIO()
    tiny.encode_file(wrap(mixed()), target, 70)
    assert target.getvalue() == tiny.encode(mixed(), 70)


@settings(max_examples=8)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 4), st.integers(1, 100), st.integers(0, 9))
def test_any_picture_is_encoded_to_the_same_bytes(
    tiny: Codec, height: int, width: int, channels: int, quality: int, seed: int
) -> None:
    """The same of any size, mode and quality; and what is written is decoded to the picture that `decode` shows."""
    image, target, shown = picture(height, width, channels, seed=seed), io.BytesIO(), io.BytesIO()
    tiny.encode_file(image, target, quality)
    assert target.getvalue() == tiny.encode(image, quality)
    target.seek(0)
    tiny.decode_file(target, shown, format="png")
    assert np.array_equal(np.asarray(Image.open(shown)), np.asarray(tiny.decode(target.getvalue())))


@pytest.mark.parametrize("wanted", [{"target_bytes": 6000}, {"target_bpp": 1.5}, {"target_psnr": 29}])
def test_targets_are_met_by_the_same_file(tiny: Codec, wanted: dict[str, float]) -> None:
    """The search over quality ends at the file that `encode` returns."""
    target = io.BytesIO()
    tiny.encode_file(picture(HEIGHT, WIDTH), target, **wanted)  # type: ignore[arg-type]
    assert target.getvalue() == tiny.encode(picture(HEIGHT, WIDTH), **wanted)


def test_metadata_is_carried_replaced_and_dropped_on_both_ways(tiny: Codec, tmp_path: Path) -> None:
    """What a caller names wins, None drops, the rest is carried."""
    source = saved(tmp_path, "a.png", mixed(), exif=EXIF, icc_profile=METADATA["icc_profile"])
    info = tiny.encode_file(source, tmp_path / "a.vaec", exif=None, xmp=b"<new/>")
    assert info.metadata == {"icc_profile": METADATA["icc_profile"], "xmp": b"<new/>"}
    tiny.decode_file(tmp_path / "a.vaec", tmp_path / "b.png", icc_profile=None, exif=METADATA["exif"])
    with Image.open(tmp_path / "b.png") as image:
        assert pixels.metadata_of(image) == {"exif": METADATA["exif"], "xmp": b"<new/>"}


@pytest.mark.parametrize("big_px", [0, pillow.BIG_PX])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "webp", "jpg"])
def test_a_picture_file_holds_what_decode_shows(
    tiny: Codec, suffix: str, channels: int, big_px: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels and metadata, as far as the format can; what it cannot hold is said, and nothing is written."""
    monkeypatch.setattr(pillow, "BIG_PX", big_px)
    extra = METADATA if channels > 2 else {"exif": METADATA["exif"]}
    data, target = tiny.encode(mixed(channels=channels), 70, **extra), tmp_path / f"b.{suffix}"
    if channels in (2, 4) and suffix in ("jpg", "ppm"):
        with pytest.raises(VaecImageError, match="cannot write it as") as caught:
            tiny.decode_file(data, target)
        assert (caught.value.code, os.listdir(tmp_path)) == ("SAVE", [])
        return
    expected, by_pillow = tiny.decode(data), io.BytesIO()
    told = pytest.warns(UserWarning, match="PPM cannot hold") if suffix == "ppm" else contextlib.nullcontext()
    lossy = {"quality": 90} if suffix == "jpg" else {}
    with told:
        assert tiny.decode_file(data, target, **lossy) == vaecodec.info(data)
    with told:
        writers.save(expected.copy(), by_pillow, Image.registered_extensions()[f".{suffix}"], **lossy)
    with Image.open(target) as image, Image.open(by_pillow) as other:
        assert np.array_equal(np.asarray(image), np.asarray(other))
        assert (image.mode, pixels.metadata_of(image)) == (other.mode, pixels.metadata_of(other))
        if (suffix, channels) not in (("webp", 1), ("webp", 2), ("jpg", 1), ("jpg", 3)):  # which change it
            assert np.array_equal(np.asarray(image), np.asarray(expected))


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_region_is_the_crop_of_the_whole(tiny: Codec, channels: int) -> None:
    """At corners and edges, across tiles, of one pixel, of all: equal to what `crop` gives, of every kind of tile."""
    data = tiny.encode(mixed(channels=channels), 70)
    whole = tiny.decode(data)
    edges_x, edges_y = (0, 1, 63, 64, 65, 130, 199, 200), (0, 1, 63, 64, 100, 149, 150)
    boxes = [(x, y, x + 1, y + 1) for x in edges_x[:-1] for y in edges_y[:-1]]
    boxes += [(0, 0, x, y) for x in edges_x[1:] for y in edges_y[1:]]
    boxes += [(x, y, WIDTH, HEIGHT) for x in edges_x[:-1] for y in edges_y[:-1]]
    for box in boxes[:: 3 if channels == 3 else 7]:
        assert near(tiny.decode_region(data, box), whole.crop(box)), box


@pytest.mark.engines("native", "torch")
@settings(max_examples=15)
@given(st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT), st.integers(0, WIDTH), st.integers(0, HEIGHT)))
def test_any_region_is_the_crop_of_the_whole(tiny: Codec, corners: tuple[int, int, int, int]) -> None:
    """The same of any box, which also may be given as an array; an empty one is refused."""
    box = (min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2]))
    data = tiny.encode(mixed(), 70)
    if box[0] == box[2] or box[1] == box[3]:
        with pytest.raises(VaecImageError, match="not empty"):
            tiny.decode_region(data, box)
    else:
        region = tiny.decode_region(data, np.array(box), output="numpy")  # type: ignore[arg-type]
        assert near(Image.fromarray(region), tiny.decode(data).crop(box))


def near(region: Image.Image, crop: Image.Image) -> bool:
    """Whether two pictures are equal within the last bit of synthesis: one level, on hardly any sample."""
    difference = np.abs(np.asarray(region).astype(int) - np.asarray(crop))
    return difference.shape == np.asarray(crop).shape and difference.max() <= 1 and (difference > 0).sum() <= 2


def test_a_region_has_the_metadata_and_any_output(tiny: Codec) -> None:
    """As `decode` gives them."""
    data = tiny.encode(mixed(), 70, **METADATA)
    assert tiny.decode_region(data, (0, 0, 9, 5)).info == tiny.decode(data).info
    assert tiny.decode_region(data, (0, 0, 9, 5), output="torch").shape == (3, 5, 9)


def test_a_region_asks_for_the_tiles_that_it_needs(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under it, and under the margin of synthesis around it; none is read twice."""
    asked: list[int] = []
    get = StoredTiles.__getitem__
    monkeypatch.setattr(StoredTiles, "__getitem__", lambda self, number: (asked.append(number), get(self, number))[1])
    data = tiny.encode(picture(5 * TILE_PX, 5 * TILE_PX), 70)
    tiny.decode_region(data, (2 * TILE_PX + 50, 2 * TILE_PX + 50, 2 * TILE_PX + 60, 2 * TILE_PX + 60))
    assert sorted(asked) == [12, 13, 17, 18]
    asked.clear()
    tiny.decode_region(data, (0, 0, 5 * TILE_PX, 5 * TILE_PX))
    assert sorted(asked) == list(range(25))


@pytest.mark.engines("native", "torch")
def test_damage_elsewhere_does_not_matter_to_a_region(tiny: Codec) -> None:
    """A damaged tile is an error that names it where it is needed, and else nothing."""
    data = tiny.encode(picture(TILE_PX, 4 * TILE_PX), 70)
    hurt = damaged(data, tile=3)
    crop = tiny.decode(data, output="numpy")[:, :64]
    assert np.array_equal(tiny.decode_region(hurt, (0, 0, 64, 64), output="numpy"), crop)
    with pytest.raises(VaecChecksumError) as caught:
        tiny.decode_region(hurt, (0, 0, 2 * TILE_PX + 40, 64))
    assert caught.value.tile == 3


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (5, 5, 4, 9), (-1, 0, 5, 5), (0, 0, WIDTH + 1, 5), (0, 0, 5, HEIGHT + 1), (0, 0, 5), (0,) * 5,
            (0.5, 0, 5, 5), "abcd", None],
)  # fmt: skip
def test_a_box_that_is_none_is_refused(tiny: Codec, box: Any) -> None:
    """Empty, turned, beyond the picture, or not four whole numbers."""
    with pytest.raises(VaecImageError, match=f"within {WIDTH} x {HEIGHT}") as caught:
        tiny.decode_region(tiny.encode(mixed(), 10), box)
    assert caught.value.code == "BOX"


def test_a_region_in_another_kind_of_output_is_refused(tiny: Codec) -> None:
    """As `decode` refuses it."""
    with pytest.raises(VaecImageError, match="output"):
        tiny.decode_region(tiny.encode(mixed(), 10), (0, 0, 1, 1), output="png")  # type: ignore[arg-type]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format", "code"),
    [("a.xyz", None, "SUFFIX"), ("a", None, "SUFFIX"), ("a.vaec", None, "SUFFIX"), ("a.png", "XYZ", "FORMAT"),
     ("a.png", "vaec", "FORMAT"), (None, None, "SUFFIX")],
)  # fmt: skip
def test_a_format_that_pillow_does_not_write_is_refused(
    tiny: Codec, name: str | None, format: str | None, code: str, tmp_path: Path
) -> None:
    """Before anything is decoded; a file without a name needs `format`."""
    target = io.BytesIO() if name is None else tmp_path / name
    with pytest.raises(VaecImageError) as caught:
        tiny.decode_file(b"not read", target, format=format)
    assert (caught.value.code, os.listdir(tmp_path)) == (code, [])


def test_a_failure_leaves_the_target_as_it_was(tiny: Codec, tmp_path: Path) -> None:
    """Whatever goes wrong on either way: the old file stays, and there is no other."""
    target = tmp_path / "out.png"
    target.write_bytes(b"old")
    data = damaged(tiny.encode(mixed(), 70), tile=11)
    (tmp_path / "cut.ppm").write_bytes(b"P6 200 150 255\n" + bytes(20000))
    failures: list[tuple[type[Exception], Callable[[], object]]] = [
        (VaecChecksumError, lambda: tiny.decode_file(data, target)),
        (VaecImageError, lambda: tiny.encode_file(tmp_path / "cut.ppm", target)),
        (VaecTargetError, lambda: tiny.encode_file(mixed(), target, target_bytes=9)),
        (FileExistsError, lambda: tiny.encode_file(mixed(), target, overwrite=False)),
        (FileExistsError, lambda: tiny.decode_file(tiny.encode(mixed()), target, overwrite=False)),
    ]
    for error, act in failures:
        with pytest.raises(error):
            act()
        assert (sorted(os.listdir(tmp_path)), target.read_bytes()) == (["cut.ppm", "out.png"], b"old")


class Pipe(io.BytesIO):
    """A file that cannot be moved in."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    tell = truncate = seek


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_pipes_are_read_and_written(tiny: Codec, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows, neither way needs to move in the file."""
    monkeypatch.setattr(pillow, "BIG_PX", 0)
    encoded, decoded = Pipe(), Pipe()
    tiny.encode_file(mixed(), encoded, 70)
    tiny.decode_file(Pipe(encoded.getvalue()), decoded, format=format)
    shown = np.asarray(Image.open(io.BytesIO(decoded.getvalue())))
    assert np.array_equal(shown, tiny.decode(encoded.getvalue(), output="numpy"))


def test_work_that_begins_anew_leaves_no_trace(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device runs out of memory half way, the CPU starts from the first row."""
    expected, shown = tiny.encode(mixed(), 70), io.BytesIO()
    tiny.decode_file(expected, shown, format="PPM")
    monkeypatch.setattr(Codec, "run", lambda self, work, **_: (work(self.engine), work(self.engine))[1])
    encoded, decoded = io.BytesIO(), io.BytesIO()
    tiny.encode_file(mixed(), encoded, 70)
    tiny.decode_file(expected, decoded, format="PPM")
    assert (encoded.getvalue(), decoded.getvalue()) == (expected, shown.getvalue())


def test_a_file_may_begin_anywhere(tiny: Codec) -> None:
    """Source and target are used from where they stand."""
    data = tiny.encode(mixed(), 70)
    source, target = io.BytesIO(b"front" + data), io.BytesIO(b"front")
    source.seek(5)
    target.seek(5)
    tiny.decode_file(source, target, format="PPM")
    assert target.getvalue().startswith(b"frontP6")
    source.seek(5)
    assert tiny.decode_region(source, (0, 0, 7, 3)).size == (7, 3)


def test_the_functions_are_the_methods(tiny: Codec, tiny_weights: Path, tmp_path: Path) -> None:
    """The module's functions, with a model named, do what a codec of that model does."""
    options: dict[str, Any] = {"model": tiny_weights, "device": "cpu"}
    vaecodec.encode_file(mixed(), tmp_path / "a.vaec", 70, **options)
    data = (tmp_path / "a.vaec").read_bytes()
    vaecodec.decode_file(data, tmp_path / "a.png", **options)
    region = vaecodec.decode_region(tmp_path / "a.vaec", (3, 4, 50, 40), **options)
    with Image.open(tmp_path / "a.png") as image:
        assert near(region, image.crop((3, 4, 50, 40)))


def test_learned_files_need_their_model(tiny: Codec, shipped: Codec, tmp_path: Path) -> None:
    """Files and regions name the model that is missing, and nothing is written."""
    data = tiny.encode(mixed(), 70)
    for act in (
        lambda: shipped.decode_file(data, tmp_path / "a.png"),
        lambda: shipped.decode_region(data, (0, 0, 1, 1)),
    ):
        with pytest.raises(VaecError) as caught:
            act()
        assert (caught.value.code, os.listdir(tmp_path)) == ("MODEL_MISSING", [])


@pytest.mark.parametrize(("width", "tile_log2"), [(8192, 10), (8193, 9)])
def test_tiles_of_wide_pictures_are_small(tiny: Codec, tmp_path: Path, width: int, tile_log2: int) -> None:
    """Rows of tiles are held in memory; in memory and by rows the same choice is made, and any choice decodes."""
    samples = np.tile(picture(16, 64), (1, width // 64 + 1, 1))[:, :width]
    data = tiny.encode(samples, 30)
    tiny.encode_file(samples, tmp_path / "wide.vaec", 30)
    assert (tmp_path / "wide.vaec").read_bytes() == data
    assert vaecodec.info(data).header.tile_log2 == tile_log2
    assert tiny.decode(data, output="numpy").shape == samples.shape
