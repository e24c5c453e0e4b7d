"""Laws of the Pillow face: a .vaec file behaves as any other image does, and fails as an OSError that says why."""

import gc
import io
import json
import mimetypes
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock, call

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lossless_codec import LosslessCodec, vaec
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from vaecodec import codec
from vaecodec.errors import (
    VaecChecksumError,
    VaecError,
    VaecFormatError,
    VaecImageError,
    VaecModelError,
    VaecResourceError,
    VaecTruncatedError,
    VaecUnsupportedError,
)
from vaecodec.format import container, records
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.interop import pillow_plugin
from vaecodec.interop.pillow_plugin import VaecImageFile
from vaecodec.pictures import metadata as metadata_rules
from vaecodec.pictures import pixels

Samples = NDArray[np.uint8]

EXIF = Image.Exif()
EXIF[274] = 6
METADATA = {"icc_profile": b"\0" * 16 + b"RGB " + b"profile", "exif": EXIF.tobytes()[6:], "xmp": b"<x:xmpmeta/>"}


@pytest.fixture(autouse=True)
def _find_unclosed_files() -> Iterator[None]:
    """A file that nobody closed warns when it is collected, which must happen while its test is still to blame."""
    gc.freeze()  # only what the test itself leaves behind need be searched, which is many times quicker
    yield
    gc.collect()
    gc.unfreeze()


def picture(height: int = 20, width: int = 300, channels: int = 3) -> Samples:
    """A picture [H, W, C] whose samples differ from their neighbours; 300 columns are two tiles."""
    return (np.arange(height * width * channels) * 7 % 251).astype(np.uint8).reshape(height, width, channels)


def solid(width: int, height: int) -> bytes:
    """A file of a few hundred bytes that claims to hold a large black picture."""
    header = Header(PixelFormat.L, width, height, b"none", 60, tile_log2=12)
    return container.write(header, [Tile(TileMode.SOLID, b"\0", 0)] * header.tile_count)


def flipped(data: bytes, position: int) -> bytes:
    """The data with one bit of the byte at the position changed."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A file that has metadata with one more chunk behind it, and all CRCs right."""
    head = kind + struct.pack("<I", len(content))
    longer = bytearray(data + head + struct.pack("<I", zlib.crc32(head + content)) + content)
    index_end = records.HEADER.size_bytes + container.read(data).header.tile_count * records.INDEX_ENTRY.size_bytes
    struct.pack_into("<I", longer, 24, len(longer))
    struct.pack_into("<I", longer, 28, zlib.crc32(longer[:28] + longer[32:index_end]))
    return bytes(longer)


def pixels_of(image: Image.Image) -> Samples:
    """[H, W, C] samples of an image."""
    return np.atleast_3d(np.asarray(image))


DATA = vaec(picture(), METADATA, quality=60)
FIRST_PAYLOAD = records.HEADER.size_bytes + 2 * records.INDEX_ENTRY.size_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A .vaec file on disk."""
    target = tmp_path / "picture.vaec"
    target.write_bytes(DATA)
    return target


@pytest.fixture
def encode(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Takes the encoder's place, needs no weights, and remembers how it was called."""

    def encode_losslessly(image: Image.Image, *, model: Any = None, device: str = "auto", **options: Any) -> bytes:
        return LosslessCodec(model, device).encode(image, **options)

    mock = Mock(side_effect=encode_losslessly)
    monkeypatch.setattr(codec, "encode", mock)
    return mock


REFUSE = Mock(side_effect=AssertionError("must not be called"))
RUN_OUT_OF_MEMORY = Mock(side_effect=MemoryError)


# --- open ---


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_open_gives_the_stored_pixels(height: int, width: int, channels: int) -> None:
    """Size, mode and pixels of an opened image are those of the file, in all four modes."""
    samples = picture(height, width, channels)
    with Image.open(io.BytesIO(vaec(samples))) as image:
        assert (image.format, image.size, image.mode) == ("VAEC", (width, height), pixels.MODES[channels - 1])
        assert np.array_equal(pixels_of(image), samples)


def test_open_reads_everything_but_the_payloads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be told without pixels is told without decoding, even of a file whose payloads are damaged."""
    path.write_bytes(flipped(DATA, FIRST_PAYLOAD))
    monkeypatch.setattr(codec, "decode", REFUSE)
    with Image.open(path) as image:
        assert (image.size, image.mode, image.n_frames, image.is_animated) == ((300, 20), "RGB", 1, False)
        assert image.get_format_mimetype() == "image/x-vaec"
        assert {key: image.info[key] for key in METADATA} == METADATA | {"exif": b"Exif\0\0" + METADATA["exif"]}
        bpp = 8 * len(DATA) / 6000
        assert image.info["vaec"] == {"quality": 60, "bpp": bpp, "model_id": b"none".hex(), "version": 1}
        assert image.getexif()[274] == 6
        assert image.draft("L", (200, 20)) is None
        image.seek(0)
        with pytest.raises(EOFError):
            image.seek(1)


def test_open_leaves_out_absent_metadata() -> None:
    """A file without metadata, or with empty items, leaves no keys in info but the codec's own."""
    empty = dict.fromkeys(METADATA, b"")
    for data in (vaec(picture()), vaec(picture(), empty)):
        with Image.open(io.BytesIO(data)) as image:
            assert set(image.info) == {"vaec"}


def test_a_thumbnail_that_an_old_writer_has_stored_is_skipped() -> None:
    """Files of former versions may hold a small picture: it is neither metadata nor what previews show."""
    old = with_chunk(DATA, b"THMB", vaec(255 - picture(3, 38), quality=60))
    assert container.read(old).metadata == METADATA
    for scale in (1, 8):
        with Image.open(io.BytesIO(old)) as image, Image.open(io.BytesIO(DATA)) as plain:
            for each in (image, plain):
                each.draft(None, (-(-300 // scale) - 1, -(-20 // scale) - 1))
            assert np.array_equal(pixels_of(image), pixels_of(plain))
            assert (set(image.info), image.size) == ({*METADATA, "vaec"}, (-(-300 // scale), -(-20 // scale)))


def test_open_and_decode_give_the_same_metadata() -> None:
    """Metadata looks the same whether it came through Image.open or vaecodec.decode."""
    with Image.open(io.BytesIO(DATA)) as image:
        assert image.info == codec.decode(DATA).info | {"vaec": image.info["vaec"]}


def test_open_identifies_by_content_not_by_name(tmp_path: Path) -> None:
    """The name of a file decides nothing: .vaec data opens from any name, other data from a .vaec name."""
    ours, other = tmp_path / "ours.png", tmp_path / "other.vaec"
    ours.write_bytes(DATA)
    Image.new("L", (3, 2)).save(other, "PNG")
    with Image.open(ours) as first, Image.open(other) as second:
        assert (first.format, second.format) == ("VAEC", "PNG")


def test_open_respects_the_list_of_allowed_formats() -> None:
    """A caller who allows only other formats does not reach this plugin, and one who allows only it does."""
    with Image.open(io.BytesIO(DATA), formats=["VAEC"]) as image:
        assert image.format == "VAEC"
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(DATA), formats=["PNG"])


def test_wrong_magic_is_left_to_other_formats() -> None:
    """Data of another format is a SyntaxError, by which Pillow knows to try its other plugins."""
    with pytest.raises(SyntaxError, match=r"not a \.vaec file"):
        VaecImageFile(io.BytesIO(b"\x89PNG" + DATA[4:]))


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (DATA[:4], VaecTruncatedError, "SHORT_HEADER"),
        (DATA[:-1], VaecTruncatedError, "SHORT_FILE"),
        (DATA + b"\0", VaecFormatError, "TRAILING_DATA"),
        (flipped(DATA, 4), VaecUnsupportedError, "VERSION"),
        (flipped(DATA, 20), VaecChecksumError, "HEADER_CRC"),
        (flipped(DATA, len(DATA) - 1), VaecChecksumError, "META_CRC"),
    ],
)
def test_bad_file_says_at_open_what_is_wrong(path: Path, data: bytes, error: type[VaecError], code: str) -> None:
    """With our magic in place the error is the format's own, not Pillow's 'cannot identify', and the file is closed."""
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        Image.open(path)
    assert caught.value.code == code


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DATA) * 8 - 1))
def test_no_flipped_bit_yields_a_picture(bit: int) -> None:
    """Every flipped bit of a file is an error, one that `except OSError` catches, by the time its pixels are there."""
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VaecError, UnidentifiedImageError)), Image.open(io.BytesIO(data)) as image:
        image.load()


def test_bombs_are_left_to_pillow_and_cost_nothing_to_open() -> None:
    """Pillow's limits on pixels decide at open, before any memory is taken for them."""
    tracemalloc.start()
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(solid(2**14, 2**14)))
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(solid(10_000, 10_000))) as image:
        assert image._im is None
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_pixels_that_pillow_was_told_to_allow_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither open nor load has a limit on pixels besides Pillow's."""
    decode = Mock(return_value=picture())
    monkeypatch.setattr(codec, "decode", decode)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(io.BytesIO(solid(2**14, 2**14))) as image:
        assert image.size == (2**14, 2**14)
    with Image.open(io.BytesIO(DATA)) as image:
        image.load()
    assert decode.call_args.kwargs["max_pixels"] >= image.width * image.height


# --- where files come from ---


class Pipe(io.RawIOBase):
    """A stream that can only be read from front to back."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._rest.readinto(memoryview(buffer)[:100])


def test_open_takes_whatever_pillow_takes(path: Path) -> None:
    """Paths of every kind, files, memory and streams that cannot seek all give the same picture."""
    moved = io.BytesIO(DATA)
    moved.seek(9)
    with path.open("rb") as file:
        sources: list[Any] = [path, str(path), bytes(path), file, moved, Pipe(DATA)]
        for source in sources:
            with Image.open(source) as image:
                assert np.array_equal(pixels_of(image), picture())


def test_an_image_may_start_anywhere_in_a_file() -> None:
    """Formats that embed images hand over a file that stands at the image's first byte."""
    file = io.BytesIO(b"container" + DATA)
    file.seek(9)
    image = VaecImageFile(file)
    assert np.array_equal(pixels_of(image), picture())


@pytest.mark.parametrize("step", [1000, len(DATA)])
def test_parser_waits_for_the_whole_file(step: int) -> None:
    """ImageFile.Parser gives the picture whether the file comes in pieces or at once."""
    parser = ImageFile.Parser()
    for start in range(0, len(DATA), step):
        parser.feed(DATA[start : start + step])
    assert np.array_equal(pixels_of(parser.close()), picture())


def test_parser_refuses_half_a_file() -> None:
    """ImageFile.Parser on a file cut short is an OSError, not half a picture."""
    parser = ImageFile.Parser()
    parser.feed(DATA[:-1])
    with pytest.raises(OSError, match="cannot parse"):
        parser.close()


# --- load ---


def test_load_decodes_once_and_closes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load does nothing, and a file that Pillow opened is closed after the first."""
    decode = Mock(wraps=codec.decode)
    monkeypatch.setattr(codec, "decode", decode)
    image = Image.open(path)
    image.load()
    image.load()
    assert image.getpixel((5, 4)) == tuple(picture()[4, 5])
    assert decode.call_count == 1
    path.unlink()


def test_load_reports_damage_every_time() -> None:
    """A damaged tile is named by load, by the second load too: it never becomes a picture."""
    with Image.open(io.BytesIO(flipped(DATA, FIRST_PAYLOAD))) as image:
        for _ in range(2):
            with pytest.raises(VaecChecksumError, match="tile 0") as caught:
                image.load()
            assert (caught.value.code, caught.value.tile) == ("TILE_CRC", 0)


def test_tolerant_load_shows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """LOAD_TRUNCATED_IMAGES turns a damaged tile grey with a warning and leaves the others as they are."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(flipped(DATA, FIRST_PAYLOAD))) as image, pytest.warns(UserWarning, match="tile 0"):
        found = pixels_of(image)
    assert image.info["xmp"] == METADATA["xmp"]
    assert np.array_equal(found[:, 256:], picture()[:, 256:])
    assert len(np.unique(found[:, :256])) == 1


def test_tolerant_open_needs_only_header_and_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """LOAD_TRUNCATED_IMAGES opens a file cut off behind its index, without its metadata, and none cut off before."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(DATA[:FIRST_PAYLOAD])) as image:
        assert (image.size, set(image.info)) == ((300, 20), {"vaec"})
        with warnings.catch_warnings(record=True, action="always") as caught:
            image.load()
        assert sum("payload of tile" in str(warning.message) for warning in caught) == 2
    with pytest.raises(VaecTruncatedError):
        Image.open(io.BytesIO(DATA[: FIRST_PAYLOAD - 1]))


def test_file_that_changes_between_open_and_load_is_refused() -> None:
    """Pixels of another size than the opened image has are an error."""
    file = io.BytesIO(DATA)
    with Image.open(file) as image:
        file.seek(0)
        file.write(vaec(picture(channels=1)))
        file.truncate()
        with pytest.raises(VaecFormatError, match="changed") as caught:
            image.load()
    assert caught.value.code == "CHANGED"


def test_lack_of_memory_is_an_oserror(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError, which `except OSError` would miss, becomes VaecResourceError in load, verify, open and save."""
    monkeypatch.setattr(codec, "encode", RUN_OUT_OF_MEMORY)
    with Image.open(path) as image:
        monkeypatch.setattr(image, "load_prepare", RUN_OUT_OF_MEMORY)
        with pytest.raises(VaecResourceError):
            image.load()
        monkeypatch.setattr(container, "read", RUN_OUT_OF_MEMORY)
        with pytest.raises(VaecResourceError):
            image.verify()
    with pytest.raises(VaecResourceError):
        Image.new("L", (3, 2)).save(io.BytesIO(), "VAEC")
    monkeypatch.setattr(container, "read_info", RUN_OUT_OF_MEMORY)
    with pytest.raises(VaecResourceError):
        Image.open(path)


def test_broken_installation_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the codec cannot be imported, open works, and load and save say what is missing."""
    monkeypatch.delattr("vaecodec.codec")
    monkeypatch.setitem(sys.modules, "vaecodec.codec", None)
    with Image.open(io.BytesIO(DATA)) as image, pytest.raises(VaecModelError, match=r"vaecodec\.codec") as caught:
        image.load()
    assert caught.value.code == "IMPORT"
    with pytest.raises(VaecModelError):
        Image.new("L", (3, 2)).save(io.BytesIO(), "VAEC")


# --- life of an image ---


@pytest.mark.parametrize("is_loaded", [False, True])
def test_image_survives_pickle_and_copy(path: Path, is_loaded: bool) -> None:
    """Copies have the pixels and the info, whether or not the pixels had been decoded before."""
    for copy in (lambda image: pickle.loads(pickle.dumps(image)), Image.Image.copy):
        image = Image.open(path)
        if is_loaded:
            image.load()
        twin = copy(image)
        assert np.array_equal(pixels_of(twin), picture())
        assert twin.info == image.info
        twin.close()


def test_thumbnail_shrinks_in_place(path: Path) -> None:
    """A thumbnail of a file that has not been loaded fits into its box."""
    with Image.open(path) as image:
        image.thumbnail((30, 30))
        assert image.size == (30, 2)


@pytest.mark.parametrize("end", [VaecImageFile.close, VaecImageFile.verify, lambda image: image.fp.close()])
def test_closed_image_says_so(path: Path, end: Any) -> None:
    """Neither pixels nor a check can be had from a closed file."""
    image = Image.open(path)
    end(image)
    for use in (image.load, image.verify):
        with pytest.raises(VaecError, match="closed") as caught:
            use()
        assert caught.value.code == "CLOSED"


@pytest.mark.parametrize("position", [FIRST_PAYLOAD, len(DATA) - 1])
def test_verify_finds_damage_without_decoding(path: Path, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """verify checks payloads and metadata without the decoder, even in tolerant mode, and closes the file."""
    monkeypatch.setattr(codec, "decode", REFUSE)
    with Image.open(path) as image:
        image.verify()
        assert image.fp is None
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path.write_bytes(flipped(DATA, position))
    image = Image.open(path)
    with pytest.raises(VaecChecksumError):
        image.verify()


# --- save ---


def test_save_hands_its_options_on(encode: Mock, path: Path) -> None:
    """The codec sees exactly the options that the caller gave, and no limit on pixels that are in memory already."""
    image = Image.new("RGB", (3, 2))
    given: dict[str, Any] = {name: name.encode() for name in metadata_rules.METADATA_KEYS}
    given |= {"quality": 7, "target_bytes": 1, "target_bpp": 2.0, "target_psnr": 3.0, "target_ssimulacra2": 4.0}
    given |= {"model": "m", "device": "cpu", "tune": "psnr", "lossless": False, "effort": 6}
    given |= {"quality_map": image}
    assert set(given) == set(pillow_plugin.SAVE_OPTIONS)
    image.save(path)
    image.save(path, **given)
    assert encode.call_args_list == [call(ANY, max_pixels=None), call(ANY, max_pixels=None, **given)]


def test_save_keeps_metadata_unless_told_otherwise(encode: Mock, path: Path) -> None:
    """ICC, EXIF and XMP of an opened file are saved with it; None drops one, bytes replace it."""
    target = io.BytesIO()
    with Image.open(path) as image:
        image.save(path)
        image.save(target, "VAEC", exif=None, xmp=b"<other/>")
    with Image.open(path) as image:
        assert image.info == image.info | METADATA | {"exif": b"Exif\0\0" + METADATA["exif"]}
        assert np.array_equal(pixels_of(image), picture())
    with Image.open(target) as image:
        assert set(image.info) == {"icc_profile", "xmp", "vaec"}
        assert image.info["xmp"] == b"<other/>"


def test_save_warns_of_unknown_options(encode: Mock, path: Path) -> None:
    """A misspelt option is named in a warning that points at the caller's line, and is ignored."""
    with pytest.warns(UserWarning, match=r"ignored: qualty, speed;") as caught:
        Image.new("L", (3, 2)).save(path, qualty=9, speed=3, optimize=True)
    assert caught[0].filename == __file__
    encode.assert_called_once_with(ANY, max_pixels=None)


def test_save_without_loss(path: Path) -> None:
    """Every sample comes back; a quality beside it, which is WebP's effort then, is ignored, but no target is."""
    samples = np.random.default_rng(3).integers(0, 256, (9, 14, 4), np.uint8)
    Image.fromarray(samples).save(path, lossless=True, quality=80)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), samples)
    with pytest.raises(VaecError, match="lossless cannot be combined") as caught:
        Image.new("L", (3, 2)).save(path, lossless=True, target_bpp=2.0)
    assert caught.value.code == "ARGUMENT"


@pytest.mark.parametrize(
    "options", [{"quality": "keep"}, {"append": True}, {"lossless": True, "target_psnr": 9}, {"model": "nowhere"}]
)
def test_a_save_that_fails_keeps_the_old_file(path: Path, options: dict[str, Any]) -> None:
    """Whatever fails; nothing else is left in the folder."""
    for target in (path, str(path), os.fsencode(path)):
        with pytest.raises(OSError, match="."):
            Image.new("L", (3, 2)).save(target, **options)
    assert path.read_bytes() == DATA and os.listdir(path.parent) == [path.name]


@pytest.mark.usefixtures("encode")
def test_a_save_replaces_the_file_whole(path: Path) -> None:
    """Also under a name without our suffix, and through a link; other formats are saved as ever."""
    link = path.with_name("link.vaec")
    link.symlink_to(path)
    saved = vaec(np.zeros((2, 3, 1), np.uint8))
    Image.new("L", (3, 2)).save(link)
    assert link.is_symlink() and path.read_bytes() == saved
    Image.new("L", (3, 2)).save(other := path.with_name("other"), format="vaec")
    assert other.read_bytes() == saved
    Image.new("L", (3, 2)).save(other, "PNG")
    assert other.read_bytes().startswith(b"\x89PNG")


def test_registering_again_wraps_save_once() -> None:
    """Or each call would add a turn."""
    before = Image.Image.save
    pillow_plugin.register()
    assert Image.Image.save is before


def test_save_is_silent_about_options_of_other_formats(encode: Mock, path: Path) -> None:
    """Options that people pass to every format neither warn nor reach the codec."""
    options: dict[str, Any] = {
        "optimize": True,
        "progressive": True,
        "dpi": (72, 72),
        "comment": "",
        "subsampling": 0,
        "method": 6,
    }
    Image.new("L", (3, 2)).save(path, **options, save_all=False, append_images=[], append=False)
    encode.assert_called_once_with(ANY, max_pixels=None)


class CountingFile(io.BytesIO):
    """A file that knows how often it was written to."""

    writes = 0

    def write(self, data: Any) -> int:
        self.writes += 1
        return super().write(data)


def test_save_writes_once_and_only_after_encoding(encode: Mock, tmp_path: Path) -> None:
    """A file is written in one piece; when encoding fails nothing is written and no new file stays."""
    image, target = Image.new("L", (3, 2)), CountingFile()
    image.save(target, "VAEC")
    assert target.writes == 1
    with pytest.raises(VaecImageError):
        image.save(target, "VAEC", exif=3)
    assert target.writes == 1
    with pytest.raises(VaecImageError):
        image.save(tmp_path / "new.vaec", exif=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {"quality": 0}), ("RGB", {"quality": "high"}), ("RGB", {"quality": 5, "target_bpp": 1}), ("F", {})],
)
def test_codec_refuses_bad_options_and_images(mode: str, options: dict[str, Any]) -> None:
    """What cannot be encoded comes through save as the codec's own error."""
    with pytest.raises(VaecImageError):
        Image.new(mode, (3, 2)).save(io.BytesIO(), "VAEC", **options)


def test_save_all_takes_exactly_one_image(encode: Mock, path: Path) -> None:
    """save_all saves a single frame; more than one, in whatever way, is refused in words and leaves the file alone."""
    still = Image.new("L", (3, 2))
    still.save(path, save_all=True)
    saved = path.read_bytes()
    animation = io.BytesIO()
    still.save(animation, "GIF", save_all=True, append_images=[Image.new("L", (3, 2), 255)])
    with Image.open(animation) as animated:
        several: list[tuple[Image.Image, dict[str, Any]]] = [
            (animated, {"save_all": True}),
            (still, {"save_all": True, "append_images": [still]}),
            (still, {"save_all": True, "append_images": iter([still])}),
            (still, {"append": True}),
        ]
        for image, options in several:
            with pytest.raises(VaecImageError, match="exactly 1") as caught:
                image.save(io.BytesIO(), "VAEC", **options)
            assert caught.value.code == "FRAMES"
    with pytest.raises(VaecImageError):
        still.save(path, append=True)
    assert path.read_bytes() == saved


# --- registration ---


def test_register_twice_changes_nothing() -> None:
    """Pillow and mimetypes know the format after import, and the same of it after another call."""
    tables = (Image.ID, Image.OPEN, Image.SAVE, Image.SAVE_ALL, Image.EXTENSION, Image.MIME, Image.DECODERS)
    before = [table.copy() for table in tables]
    pillow_plugin.register()
    assert [table.copy() for table in tables] == before
    assert Image.ID.count("VAEC") == 1
    assert Image.registered_extensions()[".vaec"] == "VAEC"
    assert mimetypes.guess_type("a.vaec") == ("image/x-vaec", None)
    assert mimetypes.guess_all_extensions("image/x-vaec") == [".vaec"]


PROGRAM = """
import json, sys
heavy = lambda: sorted({"numpy", "torch"} & {name.split(".")[0] for name in sys.modules})
import vaecodec
seen = [heavy()]
from PIL import Image
with Image.open(sys.argv[1]) as image:
    image.getexif()
    seen.append(heavy())
    image.verify()
    seen.append(heavy())
with Image.open(sys.argv[1]) as image:
    image.load()
    seen.append(heavy())
print(json.dumps(seen))
"""


def test_heavy_modules_load_only_with_pixels(path: Path) -> None:
    """import, open and verify need neither numpy nor torch; loading a file without learned tiles needs no torch."""
    finished = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout) == [[], [], [], ["numpy"]]


@pytest.mark.engines("native", "torch")
def test_learned_round_trip(path: Path) -> None:
    """A picture saved with the built-in weights comes back close, and its alpha exactly."""
    rows, columns, channels = np.ogrid[:48, :80, :4]
    noise = np.random.default_rng(1).integers(-9, 10, (48, 80, 4))
    samples = (100 + rows + columns + 10 * channels + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(samples).save(path, quality=50, xmp=b"<x/>")
    with path.open("rb") as file:
        assert container.read_info(file).index[0].mode == TileMode.LEARNED
    with Image.open(path) as image:
        found = pixels_of(image)
    assert (image.info["vaec"]["quality"], image.info["xmp"]) == (50, b"<x/>")
    assert np.array_equal(found[..., 3], samples[..., 3])
    assert pixels.psnr_db(found[..., :3], samples[..., :3]) > 25
