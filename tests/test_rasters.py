"""Laws of picture files read and written by rows: what Pillow sees in them, and clear errors where they are damaged."""

import builtins
import io
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from vaecodec.errors import VaecError, VaecFormatError, VaecImageError, VaecLimitError
from vaecodec.pictures import pillow, pixels, png, row_files, vips, writers
from vaecodec.pictures.pixels import ArrayRows, Rows, SequentialRows
from vaecodec.pictures.pnm import PnmRows

Samples = NDArray[np.uint8]

EXIF = Image.Exif()
EXIF[271] = "Maker"
EXIF[274] = 1
EXIF.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
METADATA = {"icc_profile": ICC, "exif": EXIF.tobytes()[6:], "xmp": "<x:xmpmeta>é</x:xmpmeta>".encode()}


@pytest.fixture(autouse=True)
def _all_are_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "BIG_PX", 0)


def rows_in_pieces(rows: Rows, step: int = 37) -> Samples:
    """A whole picture, read in overlapping pieces from the top down, as the encoder does."""
    height = rows.shape[0]
    pieces = [rows.read(max(0, top - 5), min(height, top + step)) for top in range(0, height, step)]
    return np.concatenate([piece[min(5, top) :] for top, piece in zip(range(0, height, step), pieces, strict=True)])


def written(samples: Samples, format: str, metadata: dict[str, bytes], step: int = 50) -> bytes:
    """The bytes that a sink makes of a picture that comes in bands."""
    file = io.BytesIO()
    sink = writers.open_sink(file, format, samples.shape, metadata)  # type: ignore[arg-type]
    with closing(sink):
        for top in range(0, len(samples), step):
            sink.write(samples[top : top + step])
        sink.finish()
    return file.getvalue()


def saved(path: Path, samples: Samples, **options: Any) -> Path:
    """A picture file that Pillow has written."""
    Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(path, **options)
    return path


# --- readers ----------------------------------------------------------------------------------------------------------


class Blocks(SequentialRows):
    """Rows that come in blocks of given heights."""

    def __init__(self, samples: Samples, heights: list[int]) -> None:
        self.shape, self._samples, self._heights = samples.shape, samples, heights  # type: ignore[assignment]
        super().__init__()

    def _blocks(self) -> Any:
        top = 0
        for height in self._heights:
            yield self._samples[top : top + height]
            top += height


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_rows_come_as_they_are_asked_for(heights: list[int], data: st.DataObject) -> None:
    """Whatever the blocks of a file, any rows at any time are those of the picture, also again and backwards."""
    height = sum(heights)
    samples = np.arange(height * 6, dtype=np.uint8).reshape(height, 2, 3)
    rows = Blocks(samples, heights)
    for _ in range(6):
        top = data.draw(st.integers(0, height - 1))
        bottom = data.draw(st.integers(top + 1, height))
        assert np.array_equal(rows.read(top, bottom), samples[top:bottom])


def test_a_picture_that_ends_too_soon_is_an_error() -> None:
    """The rows that are there are told."""
    rows = Blocks(picture(9, 4), [3, 2])
    assert len(rows.read(0, 5)) == 5
    with pytest.raises(VaecImageError, match="ends after 5 of its 9 rows") as caught:
        rows.read(4, 6)
    assert caught.value.code == "READ"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("comment", [b"", b"# made by a program\n", b"#\n# 7 7\n"])
def test_pnm_is_what_pillow_sees(channels: int, comment: bytes, tmp_path: Path) -> None:
    """PGM and PPM, with comments or without."""
    samples = picture(99, 31, channels)
    magic = b"P5" if channels == 1 else b"P6"
    (tmp_path / "a.pnm").write_bytes(magic + b"\n" + comment + b"31 99\n255\n" + samples.tobytes())
    rows = row_files.open_file(tmp_path / "a.pnm", max_pixels=None)
    assert isinstance(rows, PnmRows)
    assert np.array_equal(rows_in_pieces(rows), samples)
    assert np.array_equal(np.atleast_3d(np.asarray(Image.open(tmp_path / "a.pnm"))), samples)


@pytest.mark.parametrize("head", [b"P6 4 4 65535\n", b"P3 4 4 255\n", b"P6 4 x 255\n", b"", b"P6 4 4 255"])
def test_other_pnm_files_are_none_of_ours(head: bytes, tmp_path: Path) -> None:
    """Text, 16 bits, nonsense: said with its code; `open_rows` leaves them to Pillow."""
    (tmp_path / "a.ppm").write_bytes(head)
    with pytest.raises(VaecImageError) as caught:
        PnmRows(tmp_path / "a.ppm")
    assert caught.value.code == "PNM"


def test_a_cut_pnm_is_an_error(tmp_path: Path) -> None:
    """Rows that are not there are not made up."""
    (tmp_path / "a.ppm").write_bytes(b"P6 4 200 255\n" + bytes(4 * 199 * 3))
    rows = row_files.open_file(tmp_path / "a.ppm", max_pixels=None)
    with pytest.raises(VaecImageError, match="ends after"):
        rows.read(0, 200)


@pytest.mark.parametrize("size", [b"0 4", b"4 0"])
def test_a_pnm_without_pixels_is_refused(size: bytes, tmp_path: Path) -> None:
    """As any other picture without pixels."""
    (tmp_path / "a.ppm").write_bytes(b"P6 " + size + b" 255\n")
    with pytest.raises((VaecError, OSError)):
        row_files.open_file(tmp_path / "a.ppm", max_pixels=None)


FILES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "PNG": ("a.png", 3, {"exif": EXIF, "icc_profile": ICC}),
    "PNG, grey": ("a.png", 1, {}),
    "PNG with alpha": ("a.png", 4, {"exif": EXIF}),
    "PNG, grey with alpha": ("a.png", 2, {}),
    "JPEG": ("a.jpg", 3, {"quality": 90, "exif": EXIF, "icc_profile": ICC, "xmp": METADATA["xmp"]}),
    "JPEG, colour at half size": ("a.jpg", 3, {"quality": 70, "subsampling": 2}),
    "JPEG, progressive": ("a.jpg", 3, {"progressive": True}),
    "JPEG, grey": ("a.jpg", 1, {}),
    "TIFF": ("a.tif", 3, {"exif": EXIF}),
    "TIFF, grey, LZW": ("a.tif", 1, {"compression": "tiff_lzw"}),
    "TIFF, deflate": ("a.tif", 3, {"compression": "tiff_adobe_deflate", "icc_profile": ICC}),
    "TIFF with alpha": ("a.tif", 4, {}),
}


@pytest.mark.parametrize("has_vips", [True, False])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_what_pillow_sees(kind: str, has_vips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and metadata, read by libvips where it is, and by Pillow where it is not."""
    if has_vips:
        pytest.importorskip("pyvips")
    else:
        without_pyvips(monkeypatch)
    name, channels, options = FILES[kind]
    path = saved(tmp_path / name, picture(150, 70, channels), **options)
    rows = row_files.open_file(path, max_pixels=None)
    assert isinstance(rows, vips.VipsRows) == has_vips
    with Image.open(path) as image:
        assert np.array_equal(rows_in_pieces(rows), pixels.to_samples(image))
        assert rows.metadata == pixels.metadata_of(image)
    assert np.array_equal(rows.read(0, 3), rows.read(0, 3)), "it can go back"
    rows.close()


def without_pyvips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the import of pyvips fail."""
    load = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "pyvips":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: Image.fromarray(picture(20, 30)).quantize(8).save(path),
        lambda path: saved(path, picture(20, 30), transparency=(1, 2, 3)),
        lambda path: Image.fromarray(np.ones((20, 30), np.uint16) * 777).save(path),
        lambda path: Image.fromarray(picture(20, 30)).convert("1").save(path),
    ],
)
def test_what_libvips_may_see_otherwise_is_left_to_pillow(make: Callable[[Path], object], tmp_path: Path) -> None:
    """Palettes, transparent colours, 16 bits, one bit: Pillow's answer, be it a picture or an error."""
    pytest.importorskip("pyvips")
    make(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert vips.open_rows(str(tmp_path / "a.png"), image) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("has_vips", [True, False])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_cut_file_is_an_error(name: str, has_vips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut, nothing is made up."""
    if has_vips:
        pytest.importorskip("pyvips")
    else:
        without_pyvips(monkeypatch)
    data = saved(
        tmp_path / name, picture(200, 90), **({"compression": "tiff_lzw"} if "tif" in name else {})
    ).read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises((VaecError, OSError)):
            row_files.open_file(tmp_path / name, max_pixels=None).read(0, 200)


def test_png_metadata_is_found_before_and_behind_the_pixels(tmp_path: Path) -> None:
    """As Pillow finds it when it loads the picture."""
    path = saved(tmp_path / "a.png", picture(50, 40), icc_profile=ICC, exif=EXIF)
    data = path.read_bytes()
    text = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + METADATA["xmp"]
    chunk = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    path.write_bytes(data[:-12] + chunk + data[-12:])
    with Image.open(path) as image:
        assert png.metadata_of(path, 3) == pixels.metadata_of(image) == METADATA


def test_a_png_that_ends_in_a_chunk_is_an_error(tmp_path: Path) -> None:
    """Also behind the pixels."""
    path = saved(tmp_path / "a.png", picture(50, 40))
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(VaecImageError, match="in a chunk") as caught:
        png.metadata_of(path, 3)
    assert caught.value.code == "READ"


@pytest.mark.parametrize("make", [lambda: picture(20, 30), lambda: Image.fromarray(picture(20, 30))])
def test_pictures_in_memory_are_rows(make: Callable[[], Any]) -> None:
    """Arrays and images, too."""
    assert np.array_equal(rows_in_pieces(pixels.open_rows(make(), max_pixels=None)), picture(20, 30))


class Shaped:
    """Says that it is an array."""

    def __init__(self, shape: tuple[int, ...], dtype: object = np.uint8) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("source", [Shaped((4, 4, 5)), Shaped((4,)), Shaped((4, 4), np.uint16), Shaped((4, 4, 0))])
def test_an_array_that_is_no_picture_is_refused(source: Shaped) -> None:
    """By its shape and dtype, before anything is read of it."""
    with pytest.raises(VaecImageError) as caught:
        pixels.open_rows(source, max_pixels=None)
    assert caught.value.code == "SHAPE"


def test_sizes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    """Of arrays, rows, PPM and other files."""
    big = Shaped((1000, 1000, 3))
    saved(tmp_path / "a.png", picture(20, 30))
    saved(tmp_path / "a.ppm", picture(20, 30))
    for source in (big, ArrayRows(big), tmp_path / "a.png", tmp_path / "a.ppm", picture(20, 30)):
        with pytest.raises(VaecLimitError):
            pixels.open_rows(source, max_pixels=599)
    with pytest.raises(VaecFormatError, match="at least 1 x 1"):
        pixels.open_rows(Shaped((0, 3, 3)), max_pixels=None)


# --- writers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [{}, METADATA, {"exif": METADATA["exif"]}, {"xmp": METADATA["xmp"]}])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("format", ["PNG", "PPM"])
@pytest.mark.filterwarnings("ignore:PPM cannot hold")
def test_what_is_written_by_rows_is_what_pillow_writes(format: str, channels: int, metadata: dict[str, bytes]) -> None:
    """Read again by Pillow: the samples, the mode and the metadata are those of the file that Pillow writes."""
    if format == "PPM" and channels in (2, 4):
        pytest.skip("left to Pillow")
    if channels < 3:
        metadata = {key: value for key, value in metadata.items() if key != "icc_profile"}
    samples, by_pillow = picture(130, 41, channels), io.BytesIO()
    pillow.save(pixels.to_image(samples, metadata), by_pillow, format)
    with Image.open(io.BytesIO(written(samples, format, metadata))) as image, Image.open(by_pillow) as expected:
        assert np.array_equal(pixels.to_samples(image), samples)
        assert (image.mode, image.getexif().get_ifd(0x8769)) == (expected.mode, expected.getexif().get_ifd(0x8769))
        assert pixels.metadata_of(image) == pixels.metadata_of(expected)


@pytest.mark.parametrize("metadata", [{}, METADATA, {"xmp": METADATA["xmp"]}])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_has_samples_and_all_metadata(channels: int, metadata: dict[str, bytes]) -> None:
    """EXIF with its directories, which Pillow's own writer cannot write compressed, XMP and the profile."""
    samples = picture(130, 41, channels)
    metadata = {key: value for key, value in metadata.items() if channels > 2 or key != "icc_profile"}
    with Image.open(io.BytesIO(written(samples, "TIFF", metadata))) as image:
        assert np.array_equal(pixels.to_samples(image), samples)
        found = pixels.metadata_of(image)
        assert found.keys() == metadata.keys()
        assert all(found[key] == metadata[key] for key in metadata.keys() - {"exif"})
        if "exif" in metadata:
            exif = image.getexif()
            assert (exif[271], exif.get_ifd(0x8769)) == ("Maker", {0x9003: "2026:01:02 03:04:05"})


@given(st.integers(1, 140), st.integers(1, 9), st.integers(1, 4), st.integers(1, 70))
def test_tiff_of_any_size_in_any_bands(height: int, width: int, channels: int, step: int) -> None:
    """Strips and bands need not begin together."""
    samples = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    image = Image.open(io.BytesIO(written(samples, "TIFF", {}, step)))
    assert np.array_equal(np.atleast_3d(np.asarray(image)), samples)


@given(st.integers(1, 140), st.integers(1, 9), st.integers(1, 4), st.integers(1, 70))
def test_png_of_any_size_in_any_bands(height: int, width: int, channels: int, step: int) -> None:
    """The filter goes on from band to band."""
    samples = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    image = Image.open(io.BytesIO(written(samples, "PNG", {}, step)))
    assert np.array_equal(np.atleast_3d(np.asarray(image)), samples)


@pytest.mark.parametrize("format", ["TIFF", "PNG", "JPEG"])
def test_metadata_that_cannot_be_written_is_said(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow's writers raise becomes an error with a code."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("tag")

    monkeypatch.setattr(Image.Exif, "load", fail)
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(VaecImageError, match=f"cannot write it as {format}") as caught:
        written(picture(9, 9), format, METADATA)
    assert caught.value.code == "SAVE"


def test_errors_of_the_disk_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is no fault of the format; nor is memory."""
    for error in (OSError(28, "No space left on device"), MemoryError()):
        with pytest.raises(type(error)), pillow.saving("PNG"):
            raise error


def test_small_pictures_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost no memory, and Pillow's files are smaller."""
    monkeypatch.setattr(pillow, "BIG_PX", 101)
    samples, expected = picture(10, 10), io.BytesIO()
    pillow.save(pixels.to_image(samples, METADATA), expected, "PNG")
    assert written(samples, "PNG", METADATA) == expected.getvalue()


def test_formats_are_told_by_name() -> None:
    """Suffixes in any case; formats as Pillow names them."""
    assert [writers.format_of(name) for name in ("a.PNG", "b.tif", "c.pgm", Path("d.jpeg"))] == [
        "PNG", "TIFF", "PPM", "JPEG",
    ]  # fmt: skip
    assert writers.check_format("tiff") == "TIFF"
