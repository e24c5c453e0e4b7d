"""Pictures that no photograph looks like, and files that no camera wrote: bounded size, a floor, clear errors."""

import io
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from lossless_codec import LosslessCodec
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageOps

from vaecodec import Codec
from vaecodec.errors import VaecError, VaecImageError
from vaecodec.format import container, records
from vaecodec.format.records import TileMode
from vaecodec.pictures import pixels
from vaecodec.tiling.tile import floor_psnr_db

Samples = NDArray[np.uint8]
HEIGHT, WIDTH = 88, 120
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Samples:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


def grey(values: NDArray[np.generic]) -> Samples:
    """Levels [H, W] as an RGB picture."""
    return np.repeat(values[..., None].astype(np.uint8), 3, 2)


def page(*, paper: object, ink: object) -> Samples:
    """Lines of text in Pillow's own font."""
    image = Image.new("RGB", (WIDTH, HEIGHT), paper)
    for line in range(HEIGHT // 12):
        ImageDraw.Draw(image).text((2, 12 * line), "The 5 boxing wizards jump 0123", fill=ink)
    return np.asarray(image)


def screenshot() -> Samples:
    image = Image.fromarray(page(paper="white", ink="black"))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, WIDTH, 10), fill=(40, 90, 200))
    draw.rounded_rectangle((60, 30, 110, 60), 6, fill=(230, 230, 230), outline=(90, 90, 90))
    return np.asarray(image)


def spliced(top: Samples, bottom: Samples) -> Samples:
    return np.concatenate([top[: HEIGHT // 2], bottom[HEIGHT // 2 :]])


ODD: dict[str, Callable[[], Samples]] = {
    "noise": noise,
    "grey noise": lambda: noise(channels=1),
    "noise with alpha": lambda: noise(channels=4),
    "grey noise with alpha": lambda: noise(channels=2),
    "red noise": lambda: noise() * np.array([1, 0, 0], np.uint8),
    "black and white noise": lambda: grey((noise(channels=1)[..., 0] > 127) * 255),
    "salt": lambda: grey((noise(channels=1)[..., 0] > 250) * 255),
    "checkerboard": lambda: grey((X + Y) % 2 * 255),
    "checkerboard of eights": lambda: grey((X // 8 + Y // 8) % 2 * 255),
    "columns of one pixel": lambda: grey(X % 2 * 255),
    "rows of one pixel": lambda: grey(Y % 2 * 255),
    "one line": lambda: grey((Y == 40) * 255),
    "diagonals": lambda: grey((X + Y) % 7 // 6 * 255),
    "rings": lambda: grey(127.5 + 127.5 * np.sin((X**2 + Y**2) / 40)),
    "horizontal gradient": lambda: grey(X * 255 / WIDTH),
    "faint gradient": lambda: grey(100 + Y * 4 / HEIGHT),
    "gradients of colour": lambda: np.stack([X * 2, Y * 2, 255 - X], 2).astype(np.uint8),
    "bars": lambda: np.stack([X // 15 % 2, X // 30 % 2, X // 60 % 2], 2).astype(np.uint8) * 255,
    "flat": lambda: grey(np.full((HEIGHT, WIDTH), 77)),
    "flat but for a pixel": lambda: grey(77 + ((X == 3) & (Y == 80))),
    "text": lambda: page(paper="white", ink="black"),
    "faint text": lambda: page(paper=(120, 120, 120), ink=(126, 120, 120)),
    "screenshot": screenshot,
    "photograph above noise": lambda: spliced(picture(HEIGHT, WIDTH), noise()),
    "photograph above text": lambda: spliced(picture(HEIGHT, WIDTH), page(paper="yellow", ink="blue")),
    "one pixel": lambda: noise(1, 1),
    "one pixel with alpha": lambda: noise(1, 1, 4),
    "a row": lambda: noise(1, 700),
    "a column": lambda: noise(700, 1),
    "a strip of a photograph": lambda: picture(3, 1500),
    "a pole of a photograph": lambda: picture(1500, 3),
}


def largest_file_bytes(samples: Samples) -> float:
    """1.001 times the samples, the header, and for each tile its entry and what an incompressible one adds."""
    height, width, channels = samples.shape
    tile_count = -(-height // 1024) * -(-width // 1024) * (1 + (channels in (2, 4)))
    return 1.001 * samples.size + 32 + tile_count * (12 + 500)


@pytest.mark.parametrize("quality", [3, 75, 95])
@pytest.mark.parametrize("name", ODD)
def test_size_is_bounded_and_quality_has_a_floor(shipped: Codec, name: str, quality: int) -> None:
    """Whatever the picture: at most 1.001 times its raw size and the overhead; no tile below the floor; alpha exact."""
    samples = ODD[name]()
    data = shipped.encode(samples, quality)
    assert len(data) <= largest_file_bytes(samples)
    decoded = np.atleast_3d(shipped.decode(data, output="numpy")).reshape(samples.shape)
    colour = samples.shape[2] - (samples.shape[2] in (2, 4))
    np.testing.assert_array_equal(decoded[..., colour:], samples[..., colour:])
    stream = container.read(data)
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        if box.plane == "colour":
            part = np.s_[box.top : box.top + box.height, box.left : box.left + box.width, :colour]
            assert tile is not None
            assert pixels.psnr_db(samples[part], decoded[part]) >= floor_psnr_db(quality)
            is_solid = (samples[part] == samples[part][0, 0]).all()
            assert not is_solid or (tile.mode == TileMode.SOLID and np.array_equal(samples[part], decoded[part]))


@pytest.mark.parametrize(("quality", "least_db"), [(1, 5), (38, 15.75), (75, 26.5), (80, 29.83), (90, 36.5), (100, 40)])
def test_floor_is_the_one_in_the_document(quality: int, least_db: float) -> None:
    """docs/reliability.md says what a tile has at least, in dB."""
    assert floor_psnr_db(quality) == pytest.approx(least_db, abs=0.01)


# Files of every kind of PNG, written from its specification


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(
    bits: int, colour_type: int, rows: list[bytes], *, width: int = 5, height: int | None = None, **chunks: bytes
) -> bytes:
    """A PNG file of rows that are packed already; `chunks` go between header and pixels."""
    height = len(rows) if height is None else height
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([bits, colour_type, 0, 0, 0])
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    extra = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def packed(values: NDArray[np.int64], bits: int) -> list[bytes]:
    """Rows of values [H, W, C], each in so many bits, most significant first."""
    digits = (values.reshape(len(values), -1, 1) >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.astype(np.uint8)).tobytes() for row in digits.reshape(len(values), -1)]


COLOUR_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG's number: samples per pixel
KINDS = [(bits, 0) for bits in (1, 2, 4, 8)] + [(bits, 3) for bits in (1, 2, 4, 8)] + [(8, kind) for kind in (2, 4, 6)]


@pytest.mark.parametrize(("bits", "colour_type"), KINDS)
def test_every_kind_of_png_with_up_to_8_bits(tmp_path: Path, bits: int, colour_type: int) -> None:
    """Grey levels are spread to 0..255, palettes are looked up, all else is stored as it is."""
    rng = np.random.default_rng(bits + 16 * colour_type)
    values = rng.integers(0, 2**bits, (4, 5, COLOUR_TYPES[colour_type]))
    palette = rng.integers(0, 256, (2**bits, 3), np.uint8)
    chunks = {"PLTE": palette.tobytes()} if colour_type == 3 else {}
    (tmp_path / "a.png").write_bytes(png(bits, colour_type, packed(values, bits), **chunks))
    expected = palette[values[..., 0]] if colour_type == 3 else values * 255 // (2**bits - 1)
    decoded = np.atleast_3d(LosslessCodec().decode(LosslessCodec().encode(tmp_path / "a.png"), output="numpy"))
    np.testing.assert_array_equal(decoded, expected)


def test_png_with_16_bits(tmp_path: Path) -> None:
    """Refused, with advice; a copy, which Pillow has cut to the upper 8 bits, is taken."""
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3))
    (tmp_path / "grey.png").write_bytes(png(16, 0, packed(values[..., :1], 16)))
    (tmp_path / "rgb.png").write_bytes(png(16, 2, packed(values, 16)))
    for name, advice in (("grey.png", "scale to 0..255"), ("rgb.png", "image.copy")):
        with pytest.raises(VaecImageError, match=advice) as caught:
            LosslessCodec().encode(tmp_path / name)
        assert caught.value.code == "BIT_DEPTH"
    with Image.open(tmp_path / "rgb.png") as image:
        decoded = LosslessCodec().decode(LosslessCodec().encode(image.copy()), output="numpy")
    np.testing.assert_array_equal(decoded, values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_shows_upright(tmp_path: Path, orientation: int) -> None:
    """Pixels are stored as they lie in the file; a viewer that heeds the tag shows what it showed before."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise(6, 9)).save(tmp_path / "a.jpg", exif=exif)
    decoded = LosslessCodec().decode(LosslessCodec().encode(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "a.jpg") as original:
        assert decoded.size == original.size
        assert decoded.getexif()[ExifTags.Base.Orientation] == orientation
        before, after = (np.asarray(ImageOps.exif_transpose(image)) for image in (original, decoded))
    np.testing.assert_array_equal(before, after)


def test_cmyk_files_become_rgb(tmp_path: Path) -> None:
    """A CMYK JPEG is stored as Pillow converts it."""
    Image.fromarray(noise(6, 9, 4), "CMYK").save(tmp_path / "a.jpg")
    decoded = LosslessCodec().decode(LosslessCodec().encode(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "a.jpg") as original:
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(original.convert("RGB")))


# Damaged files

ROWS = packed(np.arange(60).reshape(4, 5, 3), 8)
GOOD = png(8, 2, ROWS)
DAMAGED = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "signature only": GOOD[:8],
    "half a header": GOOD[:20],
    "newlines converted": GOOD.replace(b"\r\n", b"\n"),
    "no width": png(8, 2, ROWS, width=0),
    "no height": png(8, 2, ROWS, height=0),
    "negative width": png(8, 2, ROWS, width=2**31 + 5),
    "too large": png(8, 2, ROWS, width=2**30, height=2**30),
    "3 bits": png(3, 0, ROWS),
    "colour type 1": png(8, 1, ROWS),
    "colour type 2 with 4 bits": png(4, 2, ROWS),
    "header too short": GOOD[:8] + chunk(b"IHDR", b"\0\0\0\1") + GOOD[33:],
    "header damaged": GOOD[:18] + b"\x07" + GOOD[19:],
    "pixels damaged": GOOD.replace(b"IDAT\x78", b"IDAT\x79"),
    "pixels missing": GOOD[:33] + chunk(b"IEND", b""),
    "cut in the pixels": GOOD[:60],
    "unknown filter": png(8, 2, [b"", b"\7" + ROWS[0]], width=5),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_translated_errors(tmp_path: Path, name: str) -> None:
    """Nothing but OSError, VaecError among them, comes out of a damaged file, and it says why."""
    path = tmp_path / "a.png"
    path.write_bytes(DAMAGED[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's own, about what it could not read
        with pytest.raises(OSError, match=".") as caught:
            Codec(device="cpu").encode(path)
    assert not isinstance(caught.value, VaecError) or caught.value.code in (
        "READ",
        "MAX_PIXELS",
        "FORMAT_DIM",
        "ZERO_DIM",
    )


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS", "IM", "ICO", "BLP")


def mutants(count: int) -> Iterator[bytes]:
    """Files of many formats with bytes changed near the start or anywhere, or cut."""
    rng, seeds = random.Random(3), {}
    for name in FORMATS:
        file, image = io.BytesIO(), Image.fromarray(noise(12, 17))
        (image.quantize(8) if name == "BLP" else image).save(file, name)
        seeds[name] = file.getvalue()
    for _ in range(count):
        name = rng.choice(FORMATS)
        data = bytearray(seeds[name])
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(min(len(data), rng.choice((16, 64, len(data)))))] = rng.choice(
                (0, 255, rng.randrange(256))
            )
        yield bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)


def test_no_reader_of_pillow_lets_other_errors_out(tmp_path: Path) -> None:
    """Of 600 damaged files in 14 formats, each is a picture or an OSError that says why; Pillow alone raises others."""
    pictures = errors = 0
    path = tmp_path / "a"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in mutants(600):
            path.write_bytes(data)
            try:
                opened = pixels.open_source(path)
                records.check_size(*pixels.size_of(opened), max_pixels=10**6)
                pixels.to_samples(opened)
                pixels.metadata_of(opened)
                pictures += 1
            except OSError as error:
                errors += bool(str(error))
    assert pictures + errors == 600
    assert min(pictures, errors) > 60
