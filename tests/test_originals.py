"""What picture files hold beside pixels: depth, meaning of colours, metadata as they are now, and what gets lost."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossless_codec import LosslessCodec, vaec
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

import vaecodec
from vaecodec import VaecError
from vaecodec.pictures import colour, exif, originals, pixels, row_files
from vaecodec.pictures.metadata import merge_metadata

GPS, ORIENTATION = ExifTags.IFD.GPSInfo, ExifTags.Base.Orientation
P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SHAPE = (12, 16, 3)


def photo(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape or SHAPE, np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour_type: int, rows: list[bytes], width: int, *extra: tuple[bytes, bytes]) -> bytes:
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (chunk(b"IHDR", head), *(chunk(*each) for each in extra), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rgb_png(*extra: tuple[bytes, bytes]) -> bytes:
    return png(8, 2, [row.tobytes() for row in photo()], SHAPE[1], *extra)


def chromaticities(values: tuple[float, ...]) -> bytes:
    return struct.pack(">8I", *(round(100000 * value) for value in values))


def profile_of(data: bytes) -> bytes:
    return pixels.metadata_of(pixels.open_source(data)).get("icc_profile", b"")


def in_srgb(profile: bytes, *values: int) -> tuple[int, ...]:
    """What a colour of a profile looks like."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    shown = ImageCms.profileToProfile(
        Image.new("RGB", (1, 1), values), own, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return tuple(int(value) for value in np.asarray(shown)[0, 0])


def code_of(function: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(VaecError) as caught:
        function(*arguments, **options)
    return caught.value.code


def losses_of(source: object, **overrides: object) -> str:
    """The only warning about what is lost; empty if there is none."""
    with warnings.catch_warnings(record=True) as heard, contextlib.ExitStack() as opened:
        warnings.simplefilter("always", UserWarning)
        image = pixels.open_source(source)  # type: ignore[arg-type]
        if image is not source:
            opened.callback(image.close)  # type: ignore[union-attr]
        pixels.warn_of_losses(image, overrides)
    assert len(heard) <= 1
    return str(heard[0].message) if heard else ""


# EXIF as it is now


def tagged(**tags: Any) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION], block[ExifTags.Base.Make] = 6, "Maker"
    directory = block.get_ifd(GPS)
    directory[1], directory[2] = "N", (48.0, 51.0, 29.0)
    block[GPS] = directory
    return block


def jpeg(block: bytes | Image.Exif = b"", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "JPEG", exif=block or tagged(), **options)
    return file.getvalue()


def carried(image: Image.Image) -> Image.Exif:
    found = Image.Exif()
    found.load(pixels.metadata_of(image).get("exif", b""))
    return found


@pytest.mark.parametrize("looks_first", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_deleted_gps_is_never_kept(format: str, looks_first: bool) -> None:
    """Nor is another orientation than the one that was set; all else stays."""
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, format, exif=tagged())
    image = Image.open(file)
    block = image.getexif()
    if looks_first:
        assert block.get_ifd(GPS)
    del block[GPS]
    block[ORIENTATION] = 1
    found = carried(image)
    assert not found.get_ifd(GPS)
    assert found.get(ORIENTATION, 1) == 1
    assert found[ExifTags.Base.Make] == "Maker"


def test_gps_edited_in_place_is_kept_as_edited() -> None:
    """A directory that was changed without being set again counts."""
    image = Image.open(io.BytesIO(jpeg()))
    image.getexif().get_ifd(GPS)[1] = "S"
    assert carried(image).get_ifd(GPS)[1] == "S"


def test_exif_that_was_only_read_stays_byte_for_byte() -> None:
    """Reading tags, directories below, and printing changes nothing."""
    data = jpeg()
    stored = Image.open(io.BytesIO(data)).info["exif"][6:]
    image = Image.open(io.BytesIO(data))
    block = image.getexif()
    assert block.get_ifd(GPS) and str(block) and not block.get_ifd(ExifTags.IFD.Exif)
    assert pixels.metadata_of(image)["exif"] == stored


def test_exif_taken_out_of_info_is_gone() -> None:
    """Also after it was read; and one that was put in its place is kept."""
    image = Image.open(io.BytesIO(jpeg()))
    image.getexif()
    other = Image.Exif()
    other[ExifTags.Base.Make] = "Other"
    image.info["exif"] = other.tobytes()
    assert dict(carried(image)) == {ExifTags.Base.Make: "Other"}
    del image.info["exif"]
    assert "exif" not in pixels.metadata_of(image)


def test_exif_that_cannot_be_written_is_left_out_with_a_warning() -> None:
    """The old block could hold what was deleted."""
    image = Image.open(io.BytesIO(jpeg()))
    image.getexif()[ExifTags.Base.Make] = object()
    with pytest.warns(UserWarning, match="EXIF cannot be written"):
        assert "exif" not in pixels.metadata_of(image)


def test_xmp_agrees_with_exif() -> None:
    """A packet that names another orientation, or the place that was deleted, would undo the edit."""
    xmp = b"<x tiff:Orientation='6' exif:GPSLatitude='48,51N' dc:a='b'><exif:GPSLongitude>2,17E</exif:GPSLongitude></x>"
    image = Image.open(io.BytesIO(jpeg(xmp=xmp)))
    assert pixels.metadata_of(image)["xmp"] == xmp
    block = image.getexif()
    del block[GPS]
    block[ORIENTATION] = 1
    assert pixels.metadata_of(image)["xmp"] == b"<x tiff:Orientation='1' dc:a='b'></x>"


def test_tiff_is_turned_once() -> None:
    """Pillow turns TIFF when it is loaded: a packet that says so, too, would turn it again."""
    file = io.BytesIO()
    block = Image.Exif()
    block[ORIENTATION], block[700] = 6, b"<x tiff:Orientation='6'/>"
    Image.fromarray(photo()).save(file, "TIFF", exif=block)
    found = pixels.metadata_of(pixels.open_source(file.getvalue()))
    assert found["xmp"] == b"<x tiff:Orientation='1'/>"
    assert exif.orientation(found.get("exif", b"")) in (None, 1)


# Small pictures in EXIF

SMALL = b"\xff\xd8\xff small picture \xff\xd9"


def with_thumbnail(*, note: bytes = b"") -> bytes:
    """A block of a directory with an orientation, and one of a small picture; behind it a note."""
    block = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 1, 0, 26)
    block += struct.pack("<H", 3) + struct.pack("<HHIHH", 0x103, 3, 1, 6, 0)
    block += struct.pack("<HHII", 0x201, 4, 1, 68) + struct.pack("<HHII", 0x202, 4, 1, len(SMALL))
    return block + struct.pack("<I", 0) + SMALL + note


@pytest.mark.parametrize("note", [b"", b"a note behind"])
def test_thumbnail_is_cut_out(note: bytes) -> None:
    """What stands behind keeps its place; what is no block, or has none, stays as it is."""
    block = with_thumbnail(note=note)
    cut = exif.without_thumbnail(block)
    assert SMALL not in cut and exif.orientation(cut) == 1
    assert cut.endswith(note) and len(cut) == (len(block) if note else 26)
    assert exif.without_thumbnail(cut) == cut
    for other in (b"", b"Exif", b"II*\0", block[:30], b"MM\0*\0\0\0\x08\xff\xff"):
        assert exif.without_thumbnail(other) == other


def test_changed_pictures_do_not_show_what_they_were() -> None:
    """Of a file the block is kept whole; of an image that a program holds, which may be cut or painted over, not."""
    data = jpeg(b"Exif\0\0" + with_thumbnail(), xmp=b"<x><xmp:Thumbnails>small</xmp:Thumbnails></x>")
    assert SMALL in pixels.metadata_of(pixels.open_source(data))["exif"]
    for change in (lambda image: image.crop((0, 0, 4, 4)), lambda image: image.resize((4, 4)), lambda image: image):
        found = pixels.metadata_of(change(Image.open(io.BytesIO(data))))
        assert SMALL not in found["exif"] and found["xmp"] == b"<x></x>"
        assert exif.orientation(found["exif"]) == 1


def test_parts_and_previews_do_not_show_the_whole() -> None:
    """Files of before hold small pictures, too; the whole keeps them."""
    data = vaec(photo(), {"exif": with_thumbnail()})
    codec = LosslessCodec()
    assert SMALL in codec.decode(data).info["exif"]
    assert SMALL not in codec.decode_region(data, (0, 0, 4, 4)).info["exif"]
    assert SMALL not in codec.decode(data, scale=1 / 2).info["exif"]


# Resolution


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
def test_resolution_goes_into_exif(format: str) -> None:
    """What PNG and JPEG tell beside it comes back; 72, which says nothing, takes no bytes."""
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, format, dpi=(300, 150))
    found = pixels.metadata_of(pixels.open_source(file.getvalue()))
    assert exif.resolution_dpi(found["exif"]) == pytest.approx((300, 150), abs=0.1)
    assert pixels.to_image(photo(), found).info["dpi"] == pytest.approx((300, 150), abs=0.1)
    Image.fromarray(photo()).save(file := io.BytesIO(), format, dpi=(72, 72))
    assert pixels.metadata_of(pixels.open_source(file.getvalue())) == {}


@pytest.mark.parametrize("order", ["<", ">"])
def test_resolution_moves_nothing(order: str) -> None:
    """Maker notes point to places in the block: these stay. A block that tells one already is left alone."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IHHHIHHI", 8, 1, 0x112, 3, 1, 8, 0, 0)
    block = head + b"note"
    more = exif.with_resolution(block, (300, 200.5))
    assert more[8 : len(block)] == block[8:] and exif.orientation(more) == 8
    assert exif.resolution_dpi(more) == (300, 200.5)
    assert exif.with_resolution(more, (1, 1)) == more
    read = Image.Exif()
    read.load(more)
    assert (read[ORIENTATION], read[282], read[283], read[296]) == (8, 300, 200.5, 2)


# Depth


def deep_files() -> dict[str, bytes]:
    values = np.linspace(0, 65535, np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)
    big = [row.astype(">u2").tobytes() for row in values]
    height, width, _ = SHAPE
    raw = values.astype("<u2").tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 128), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 134),
        (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(raw)),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(struct.pack("<HHII", *each) for each in entries) + bytes(4)
    sgi = struct.pack(">hBBHHHH", 474, 0, 2, 3, width, height, 3).ljust(512, b"\0")
    return {
        "a.png": png(16, 2, big, width),
        "grey.png": png(16, 0, [row[:, 0].astype(">u2").tobytes() for row in values], width),
        "alpha.png": png(16, 4, [row[:, :2].astype(">u2").tobytes() for row in values], width),
        "a.ppm": b"P6 %d %d 65535\n" % (width, height) + values.astype(">u2").tobytes(),
        "a.tif": head + bytes(128 - len(head)) + struct.pack("<3H", 16, 16, 16) + raw,
        "a.sgi": sgi + values[::-1].transpose(2, 0, 1).astype(">u2").tobytes(),
    }


@pytest.mark.parametrize("name", deep_files())
def test_more_than_8_bits_are_refused_in_every_path(tmp_path: Path, name: str) -> None:
    """By path, bytes, by rows, and of an image that Pillow has cut to 8 bits already; a copy of that is taken."""
    path = tmp_path / name
    path.write_bytes(deep_files()[name])
    with pixels.open_image(path) as image:
        assert code_of(pixels.metadata_of, image) == code_of(pixels.to_samples, image) == "BIT_DEPTH"
    assert code_of(lambda: pixels.to_samples(pixels.open_source(path.read_bytes()))) == "BIT_DEPTH"
    assert code_of(pixels.open_rows, path, max_pixels=None) == "BIT_DEPTH"
    with Image.open(path) as image:
        image.load()
        assert code_of(pixels.to_samples, image) == "BIT_DEPTH"
        assert code_of(image.save, tmp_path / "a.vaec") == "BIT_DEPTH"
        if not image.mode.startswith("I"):
            assert pixels.to_samples(image.copy()).dtype == np.uint8
    assert not (tmp_path / "a.vaec").exists()


def test_samples_of_10_bits_in_lossy_files_are_taken_with_a_warning() -> None:
    """What AVIF's reader rounds away is below what its encoder has lost."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    deep = pillow_heif.from_bytes("RGB;16", (16, 12), (photo().astype(np.uint16) * 257).tobytes())
    file = io.BytesIO()
    deep.save(file, quality=50)
    assert "8 of 10 bits" in losses_of(file.getvalue()) or "8 of 12 bits" in losses_of(file.getvalue())
    assert pixels.to_samples(pixels.open_source(file.getvalue())).shape == SHAPE


# Colour


def test_png_gamma_and_chromaticities_become_a_profile() -> None:
    """What they mean, checked by LittleCMS; those of sRGB are none, and a chunk that says sRGB wins."""
    linear = profile_of(rgb_png((b"gAMA", struct.pack(">I", 100000))))
    assert in_srgb(linear, 55, 55, 55) == pytest.approx((128, 128, 128), abs=2)
    wide = profile_of(rgb_png((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", chromaticities(P3))))
    assert in_srgb(wide, 200, 100, 50) == pytest.approx((215, 93, 31), abs=2)
    assert profile_of(rgb_png((b"cHRM", chromaticities(P3)))) == wide
    srgb = ((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", chromaticities(colour.SRGB)))
    assert profile_of(rgb_png(*srgb)) == profile_of(rgb_png(srgb[0])) == profile_of(rgb_png(srgb[1])) == b""
    assert profile_of(rgb_png((b"gAMA", struct.pack(">I", 100000)), (b"sRGB", b"\0"))) == b""


def test_grey_png_with_a_gamma() -> None:
    """Gets a profile for grey."""
    data = png(8, 0, [bytes(range(16))] * 4, 16, (b"gAMA", struct.pack(">I", 100000)))
    profile = profile_of(data)
    assert profile[16:20] == b"GRAY"
    shown = colour.to_srgb(Image.new("L", (1, 1), 55), profile)
    assert shown is not None and shown.getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=2)


@pytest.mark.parametrize("chromaticity", [(0.0,) * 8, (0.3127, 0.329) * 4, (2.0,) * 8, (0.3, 0.0, *P3[2:])])
def test_chromaticities_that_are_no_colours(chromaticity: tuple[float, ...]) -> None:
    """Nonsense makes no profile, and no error."""
    assert isinstance(colour.of_gamma(None, chromaticity, is_grey=False), bytes)
    assert pixels.to_samples(pixels.open_source(rgb_png((b"cHRM", chromaticities(chromaticity))))).shape == SHAPE


def test_png_code_points_come_first() -> None:
    """Display P3, also of an image that is loaded already; numbers without a meaning are named."""
    data = rgb_png((b"cICP", bytes((12, 13, 0, 1))), (b"gAMA", struct.pack(">I", 100000)))
    assert in_srgb(profile_of(data), 200, 100, 50) == pytest.approx((215, 93, 31), abs=2)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert pixels.metadata_of(image)["icc_profile"] == profile_of(data)
    assert profile_of(rgb_png((b"cICP", bytes((1, 13, 0, 1))))) == b""
    assert "code points 200, 13" in losses_of(rgb_png((b"cICP", bytes((200, 13, 0, 1)))))


@pytest.mark.parametrize("points", [(9, 16), (9, 18), (1, 8), (5, 4), (11, 17), (10, 8), (12, 2)])
def test_profiles_of_code_points_are_read(points: tuple[int, int]) -> None:
    """White stays white; the profile names the numbers, for viewers that know HDR."""
    profile = colour.of_code_points(*points, is_grey=False)
    assert in_srgb(profile, 255, 255, 255) == (255, 255, 255) and in_srgb(profile, 0, 0, 0) == (0, 0, 0)
    assert b"cicp\0\0\0\0" + bytes((*points, 0, 1)) in profile
    assert ("1000 nits" in losses_of(rgb_png((b"cICP", bytes((*points, 0, 1)))))) == (points[1] == colour.PQ)


def test_avif_code_points_become_a_profile() -> None:
    """In the file's boxes, which Pillow does not tell of."""
    Image.fromarray(photo()).save(file := io.BytesIO(), "AVIF", quality=90)
    data = file.getvalue()
    at = data.index(b"colrnclx") + 8
    assert profile_of(data) == b""
    wide = data[:at] + struct.pack(">H", 12) + data[at + 2 :]
    assert in_srgb(profile_of(wide), 200, 100, 50) == pytest.approx((215, 93, 31), abs=2)


def test_tiff_chromaticities_become_a_profile() -> None:
    """As those of PNG do."""
    ifd = Image.Exif()
    ifd[318], ifd[319] = P3[:2], P3[2:]
    Image.fromarray(photo()).save(file := io.BytesIO(), "TIFF", exif=ifd)
    assert in_srgb(profile_of(file.getvalue()), 200, 100, 50) == pytest.approx((215, 93, 31), abs=3)


def cmyk_profile() -> bytes:
    """A profile of CMYK with two table entries a channel: an ink takes its third of the light away."""
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = 100 * (1 - grid[:, :3].mean(1)) * (1 - grid[:, 3])
    lab = np.stack([lightness * 65280 / 100, np.full(16, 32768), np.full(16, 32768)], -1).round().astype(">u2")
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft2\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + struct.pack(">HH", 2, 2)
    table += struct.pack(">2H", 0, 65535) * 4 + lab.tobytes() + struct.pack(">2H", 0, 65535) * 3
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    tags = {
        b"desc": text,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
    }
    tags |= {b"A2B0": table}
    at, listed, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        listed += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x", at + len(body), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp", 63190, 65536, 54061
    )
    return head + struct.pack(">I", len(tags)) + listed + body


def test_cmyk_goes_through_its_profile() -> None:
    """To grey here, as the profile says and Pillow's formula does not; no profile is left."""
    inks = Image.new("CMYK", (4, 3), (255, 0, 0, 0))
    inks.save(file := io.BytesIO(), "TIFF", icc_profile=cmyk_profile())
    opened = pixels.open_source(file.getvalue())
    samples = pixels.to_samples(opened)
    assert samples.shape == (3, 4, 3) and np.ptp(samples[0, 0].astype(int)) < 4 and samples[0, 0, 0] > 100
    assert "icc_profile" not in pixels.metadata_of(opened) and losses_of(file.getvalue()) == ""


def test_cmyk_with_a_profile_of_no_use_warns() -> None:
    """Colours are a guess then."""
    broken = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    broken[16:20] = b"CMYK"
    Image.new("CMYK", (4, 3)).save(file := io.BytesIO(), "JPEG", icc_profile=bytes(broken))
    assert "ICC profile" in losses_of(file.getvalue())
    assert pixels.to_samples(pixels.open_source(file.getvalue())).shape == (3, 4, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_grey_of_every_depth(bits: int) -> None:
    """The level that the file calls transparent is, and no other."""
    levels = np.arange(2**bits) if bits < 8 else np.arange(16)
    levels = np.resize(levels, 16)
    rows = [np.packbits(((levels[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()] * 2
    for key in {0, 1, 2**bits - 1 if bits < 8 else 15}:
        data = png(bits, 0, rows, 16, (b"tRNS", struct.pack(">H", key)))
        samples = pixels.to_samples(pixels.open_source(data))
        assert (samples[0, :, -1] == np.where(levels == key, 0, 255)).all()
        np.testing.assert_array_equal(samples[0, :, 0], levels * (255 // (2**bits - 1)))
        loaded = Image.open(io.BytesIO(data))
        loaded.load()
        np.testing.assert_array_equal(pixels.to_samples(loaded), samples)


# What gets lost


def segment(marker: int, data: bytes) -> bytes:
    return bytes((255, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes, behind: bytes = b"") -> bytes:
    data = jpeg(Image.Exif())
    return data[:2] + b"".join(segments) + data[2:] + behind


XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
IPTC = segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0c\x1c\x02\x19\0\x07keyword")
EXTENDED = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 7, 0) + b"<depth>")
LOST_IN_JPEG = {
    "IPTC": jpeg_with(IPTC),
    "extended XMP": jpeg_with(EXTENDED),
    "comment": jpeg_with(segment(0xFE, b"by hand")),
    "content credentials": jpeg_with(segment(0xEB, b"JP\0\1")),
    "gain map": jpeg_with(segment(0xE1, XMP_HEAD + b'<x hdrgm:Version="1.0"/>')),
    "motion video": jpeg_with(behind=b"\0\0\0\x18ftypmp42" + bytes(300)),
    "video": jpeg_with(behind=bytes(70000) + b"\0\0\0\x18ftypmp42moov"),
}


@pytest.mark.parametrize("name", LOST_IN_JPEG)
def test_what_a_jpeg_loses_is_named(name: str) -> None:
    """In one warning; metadata not to those who keep none."""
    assert name in losses_of(LOST_IN_JPEG[name])
    is_metadata = name not in ("gain map", "motion video", "video")
    assert bool(losses_of(LOST_IN_JPEG[name], exif=None, xmp=None)) != is_metadata


def test_plain_files_lose_nothing() -> None:
    """Nor do zeros behind a picture make a video."""
    for data in (jpeg(), jpeg_with(behind=bytes(20)), rgb_png()):
        assert losses_of(data) == ""


def test_xmp_does_not_point_to_a_video_that_is_gone() -> None:
    """Viewers would look for it."""
    xmp = b"<x GCamera:MotionPhoto='1' GCamera:MicroVideo=\"1\" GCamera:MicroVideoOffset='40'/>"
    data = jpeg_with(segment(0xE1, XMP_HEAD + xmp))
    assert "motion video" in losses_of(data)
    assert pixels.metadata_of(pixels.open_source(data))["xmp"] == xmp.replace(b"'1'", b"'0'").replace(b'"1"', b'"0"')


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP", "AVIF", "MPO"])
def test_further_frames_of_files_are_named(tmp_path: Path, format: str) -> None:
    """Not those of an image: who passes it means the frame that it shows."""
    first, *others = (Image.fromarray(photo(seed=seed)) for seed in range(3))
    path = tmp_path / "a"
    first.save(path, format, save_all=True, append_images=others)
    assert "2 further frames" in losses_of(path)
    with Image.open(path) as image:
        assert losses_of(image) == ""


def test_png_texts_are_named() -> None:
    """By their keys, but for dates that ImageMagick writes into every file."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat, Steps: 20")
    texts.add_text("date:create", "today")
    Image.fromarray(photo()).save(file := io.BytesIO(), "PNG", pnginfo=texts)
    assert losses_of(file.getvalue()).endswith("text (parameters)")


def test_raw_profiles_of_png_are_read() -> None:
    """XMP, EXIF and ICC as ImageMagick writes them; IPTC is named."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = {"xmp": b"<x:xmpmeta/>", "exif": tagged().tobytes(), "icc": icc}
    texts = PngImagePlugin.PngInfo()
    for name, data in {**made, "iptc": b"\x1c\x02"}.items():
        texts.add_text(f"Raw profile type {name}", f"\n{name}\n{len(data):8}\n{data.hex()}\n", zip=True)
    Image.fromarray(photo()).save(file := io.BytesIO(), "PNG", pnginfo=texts)
    found = pixels.metadata_of(pixels.open_source(file.getvalue()))
    assert found == {"xmp": made["xmp"], "exif": made["exif"][6:], "icc_profile": icc}
    assert losses_of(file.getvalue()).endswith("IPTC")


def test_raw_exif_that_pillow_has_turned_is_read() -> None:
    """`exif_transpose` writes it without the lines before it."""
    texts = PngImagePlugin.PngInfo()
    block = tagged().tobytes()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    Image.fromarray(photo()).save(file := io.BytesIO(), "PNG", pnginfo=texts)
    image = Image.open(file)
    assert carried(image)[ORIENTATION] == 6
    ImageOps.exif_transpose(image, in_place=True)
    assert dict(carried(image))[ExifTags.Base.Make] == "Maker" and ORIENTATION not in carried(image)


def test_profiles_for_other_colours_are_named() -> None:
    """A grey picture with a profile for RGB."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (4, 4)).save(file := io.BytesIO(), "PNG", icc_profile=icc)
    assert "ICC profile, which is for RGB, not GRAY" in losses_of(file.getvalue())


def test_metadata_longer_than_a_file_holds_is_named() -> None:
    """Rather than make the picture fail."""
    block = tagged()
    block[ExifTags.Base.ImageDescription] = "x" * 2**20
    Image.fromarray(photo()).save(file := io.BytesIO(), "PNG", exif=block)
    assert "EXIF of more than 1,048,576 bytes" in losses_of(file.getvalue())
    assert pixels.metadata_of(pixels.open_source(file.getvalue())) == {}


def test_the_codec_warns_once(tmp_path: Path) -> None:
    """Of files and of images that come from files."""
    (tmp_path / "a.jpg").write_bytes(LOST_IN_JPEG["IPTC"])
    with pytest.warns(UserWarning, match="IPTC") as heard:
        vaecodec.encode(tmp_path / "a.jpg", device="cpu")
    assert len(heard) == 1
    with pytest.warns(UserWarning, match="IPTC") as heard:
        vaecodec.encode_file(tmp_path / "a.jpg", tmp_path / "a.vaec", device="cpu")
    assert len(heard) == 1


# Where pictures come from


def test_bytes_and_open_files_are_pictures(tmp_path: Path) -> None:
    """As for decode; from a file's beginning."""
    data = rgb_png()
    (tmp_path / "a.png").write_bytes(data)
    with open(tmp_path / "a.png", "rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            np.testing.assert_array_equal(pixels.to_samples(pixels.open_source(source)), photo())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize("read", [
    lambda path: pixels.to_samples(pixels.open_source(path)),
    lambda path: row_files.open_file(path, max_pixels=None).read(0, SHAPE[0]),
])  # fmt: skip
def test_pipes_are_read_once(tmp_path: Path, read: Callable[[Path], NDArray[np.uint8]]) -> None:
    """A picture that comes through a pipe with a name."""
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(rgb_png()), daemon=True)
    writer.start()
    np.testing.assert_array_equal(read(path), photo())
    writer.join()


def test_heic_is_read_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the package is named where it is not."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    Image.fromarray(photo()).save(file := io.BytesIO(), "HEIF")
    for registry in (Image.OPEN, Image.ID):
        monkeypatch.setattr(Image, "OPEN" if registry is Image.OPEN else "ID", registry.copy())
    Image.OPEN.pop("HEIF")
    Image.ID.remove("HEIF")
    assert pixels.to_samples(pixels.open_source(file.getvalue())).shape == SHAPE


@pytest.mark.parametrize(("head", "package"), [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"), (b"\xff\x0a rest", "pillow-jxl-plugin"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "pillow-jxl-plugin"),
])  # fmt: skip
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, head: bytes, package: str) -> None:
    """With the command that installs them."""
    for name in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(VaecError, match=f"pip install {package}") as caught:
        originals.open_with_package(io.BytesIO(head))
    assert caught.value.code == "PACKAGE"


def test_files_are_not_written_over_their_source(tmp_path: Path) -> None:
    """Under whatever name; the original stays."""
    path, link = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(rgb_png())
    link.symlink_to(path)
    with Image.open(path) as image:
        for source in (path, str(path), image, link):
            assert code_of(vaecodec.encode_file, source, path) == "SAME_FILE"
    (tmp_path / "a.vaec").write_bytes(vaec(photo()))
    assert code_of(vaecodec.decode_file, tmp_path / "a.vaec", tmp_path / "a.vaec", format="PNG") == "SAME_FILE"
    assert path.read_bytes() == rgb_png()


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_private_pictures_stay_private(tmp_path: Path) -> None:
    """A new file has the permissions of its source, and is never wider than the process makes files."""
    source, target = tmp_path / "a.vaec", tmp_path / "a.png"
    source.write_bytes(vaec(photo()))
    for mode, expected in ((0o600, 0o600), (0o640, 0o640 & ~_umask()), (0o777, 0o666 & ~_umask())):
        source.chmod(mode)
        LosslessCodec().decode_file(source, target)
        assert target.stat().st_mode & 0o777 == expected
        target.unlink()


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_originals_of_images_that_come_from_nowhere() -> None:
    """Nothing is known of them."""
    assert originals.inspect(Image.new("L", (1, 1))) == originals.Original()
    assert merge_metadata(pixels.metadata_of(Image.new("L", (1, 1)))) == {}


def test_pictures_in_memory_need_nothing_of_this() -> None:
    """What looks into files, at metadata and at colours is imported by the first picture that has such."""
    code = (
        "import sys, numpy, vaecodec; from PIL import Image; samples = numpy.zeros((64, 64, 3), numpy.uint8);"
        "[vaecodec.decode(vaecodec.encode(each, device='cpu')) for each in (samples, Image.fromarray(samples))];"
        "print([name for name in ('carried', 'colour', 'originals') if f'vaecodec.pictures.{name}' in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
