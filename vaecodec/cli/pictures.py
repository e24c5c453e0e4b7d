"""What the command line does with one picture: open, encode, decode, save it, and tell formats by their names."""

import io
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from vaecodec import bitstream, pixels, sources
from vaecodec.cli.batch import OutputError, reading
from vaecodec.cli.comparison import finite
from vaecodec.cli.outputs import STDIO
from vaecodec.cli.streams import read_stdin, stdin
from vaecodec.codec import Codec
from vaecodec.errors import VaecError, VaecImageError
from vaecodec.metadata import METADATA_KEYS

Picture = Image.Image
VAEC = "VAEC"
SUFFIX = ".vaec"

# What -r takes from a folder. Pillow claims many more suffixes, of videos and of documents among them.
_PICTURE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
# Lossless where the format can: Pillow's own defaults would lose quality a second time.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 90},
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True},
}
_TIFF_XMP = 700


@dataclass(frozen=True)
class Product:
    """An output before it is written; `damage` says what is missing in it."""

    data: bytes
    facts: dict[str, Any]
    damage: VaecError | None = None


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; `rate` has at most one of quality, target_bytes, target_bpp and target_psnr."""

    rate: Mapping[str, Any] = field(default_factory=dict)
    kept: frozenset[str] = frozenset(METADATA_KEYS)
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS
    is_upright: bool = False
    background: str | None = None
    is_verified: bool = False


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode, and into which of Pillow's formats."""

    format: str = "PNG"
    kept: frozenset[str] = frozenset(METADATA_KEYS)
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS
    is_upright: bool = False
    keeps_going: bool = False


def encode(codec: Codec, options: EncodeOptions, source: str) -> Product:
    """Encodes a picture file, or stdin.

    Raises:
        InputError: it cannot be read.
        OutputError: the result does not decode to a picture of the same size and mode (VERIFY).
        VaecError: as `Codec.encode`.
    """
    start_s = time.perf_counter()
    content = read_file(source) if source == STDIO else source
    dropped = dict.fromkeys(set(METADATA_KEYS) - options.kept)
    with open_picture(content, max_pixels=options.max_pixels, upright=options.is_upright) as opened:
        image = opened if options.background is None else pixels.flatten_alpha(opened, options.background)
        data = codec.encode(image, **options.rate, max_pixels=options.max_pixels, **dropped)
        psnr = {"psnr_db": _verified_psnr_db(codec, image, data)} if options.is_verified else {}
    header = bitstream.read_info(io.BytesIO(data), max_pixels=None).header
    facts = {
        "width": header.width,
        "height": header.height,
        "mode": header.pixel_format.mode,
        "quality": header.quality,
        "output_bytes": len(data),
        "bpp": round(8 * len(data) / (header.width * header.height), 4),
    }
    return Product(data, facts | psnr | {"seconds": round(time.perf_counter() - start_s, 3)})


def decode(codec: Codec, options: DecodeOptions, source: str) -> Product:
    """Decodes a .vaec file, or stdin, to the bytes of a picture file.

    Raises:
        InputError: it cannot be read.
        OutputError: the format cannot hold the picture.
        VaecError: as `Codec.decode`.
    """
    start_s = time.perf_counter()
    with reading():
        data, damage = sources.read_all(stdin() if source == STDIO else source), None
    try:
        image = codec.decode(data, max_pixels=options.max_pixels)
    except VaecError as error:
        if not options.keeps_going:
            raise
        damage = error
        image = codec.decode(data, max_pixels=options.max_pixels, on_error="partial")
    if options.is_upright:
        image = _upright(image)
    saved = save_picture(image, options.format, kept=options.kept)
    facts = {"width": image.width, "height": image.height, "mode": image.mode, "format": options.format}
    seconds = round(time.perf_counter() - start_s, 3)
    return Product(saved, facts | {"output_bytes": len(saved), "seconds": seconds}, damage)


def read_file(source: str) -> bytes:
    """Returns all bytes of a file, or of stdin for "-"; raises InputError."""
    with reading():
        return read_stdin() if source == STDIO else Path(source).read_bytes()


def open_picture(source: str | bytes, *, max_pixels: int, upright: bool = False) -> Picture:
    """Opens a picture that Pillow knows, and decodes it; the caller must close it.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse larger ones before they are decoded.
        upright: turn it as its EXIF orientation says, and drop that.

    Raises:
        InputError: it cannot be read or is not a picture.
        VaecLimitError: it has more pixels.
    """
    with reading():
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        try:
            bitstream.check_size(*image.size, max_pixels=max_pixels)
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo that holds its own preview
                warnings.warn("only the first of its frames is taken", UserWarning, stacklevel=2)
            image.load()
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
        except BaseException:
            image.close()
            raise
        return image


def save_picture(image: Picture, format: str, *, kept: frozenset[str]) -> bytes:
    """Returns the bytes of a picture file.

    Args:
        image: the picture with its metadata in `info`, as decoded.
        format: one of Pillow's.
        kept: keys of the metadata to keep, as far as the format can.

    Raises:
        OutputError: the format cannot hold the picture.
    """
    metadata = {key: image.info[key] for key in kept if key in image.info}
    image.info = {}  # some of Pillow's writers take metadata from there unasked
    options = _SAVE_OPTIONS.get(format, {}) | metadata
    if "xmp" in metadata and format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata["xmp"].decode(errors="replace"))
    file = io.BytesIO()
    try:
        if "xmp" in metadata and format == "TIFF":
            options["exif"] = Image.Exif()
            options["exif"].load(metadata.get("exif", b""))
            options["exif"][_TIFF_XMP] = metadata["xmp"]
        image.save(file, format, **options)
    except Exception as error:  # Pillow's writers fail in many ways
        raise OutputError(f"cannot write it as {format}: {error}") from error
    return file.getvalue()


def output_format(target: str | None, wanted: str | None) -> str:
    """Returns Pillow's name of the format to decode to.

    Args:
        target: name of the output, if the user gave one.
        wanted: suffix without its dot, if the user gave one; PNG if neither says otherwise.

    Raises:
        click.UsageError: Pillow cannot write the format, or the two contradict each other.
    """
    known = Image.registered_extensions()
    suffix = os.path.splitext(target or "")[1].lower()
    by_option, by_target = known.get(f".{wanted}".lower()), known.get(suffix)
    if wanted and (by_option not in Image.SAVE or by_option == VAEC):
        raise click.UsageError(f"--format is {wanted!r}, must be one that Pillow writes: png, webp, tiff, jpg, ...")
    if target and not wanted and suffix and (by_target not in Image.SAVE or by_target == VAEC):
        hint = "(of two names, the second is the output if there is no such file)"
        raise click.UsageError(f"output {target!r} must have the suffix of a format that Pillow writes {hint}")
    if by_option and by_target and by_option != by_target:
        raise click.UsageError(f"--format is {wanted!r}, but the output is {target!r}: they must agree")
    return by_option or by_target or "PNG"


def check_vaec_name(target: str) -> None:
    """Refuses to write a .vaec file under the name of another format; raises click.UsageError."""
    suffix = os.path.splitext(target)[1].lower()
    if suffix != SUFFIX and suffix in Image.registered_extensions():
        hint = "(of two names, the second is the output if there is no such file)"
        raise click.UsageError(f"output {target!r} must end in {SUFFIX} {hint}")


def check_colour(colour: str | None) -> None:
    """Refuses a background that is not an opaque colour; raises click.UsageError."""
    try:
        if colour is not None:
            pixels.flatten_alpha(Image.new("L", (1, 1)), colour)
    except VaecImageError as error:
        raise click.UsageError(str(error)) from error


def is_picture_name(name: str) -> bool:
    """Tells whether -r takes a file of this name for a picture."""
    return os.path.splitext(name)[1].lower() in _PICTURE_SUFFIXES


def is_vaec_name(name: str) -> bool:
    """Tells whether a file of this name should be a .vaec file."""
    return os.path.splitext(name)[1].lower() == SUFFIX


def load_samples(codec: Codec, source: str) -> tuple[pixels.Samples, int]:
    """Returns the samples uint8 [H, W, C] of a .vaec file or any other picture, and the size of the file in bytes.

    Raises:
        InputError: it cannot be read.
        VaecError: as `Codec.decode`.
    """
    data = read_file(source)
    if bitstream.is_vaec(data):
        return np.atleast_3d(codec.decode(data, output="numpy")), len(data)
    with open_picture(data, max_pixels=bitstream.DEFAULT_MAX_PIXELS) as image:
        return pixels.to_samples(image), len(data)


def _upright(image: Picture) -> Picture:
    """The picture turned as its EXIF says, without that tag; as it is, EXIF included, where Pillow cannot read that."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's reader and writer of EXIF fail in many ways
        warnings.warn(f"EXIF cannot be read ({error}): the picture is left as it is stored", UserWarning, stacklevel=2)
        return image


def _verified_psnr_db(codec: Codec, image: Picture, data: bytes) -> float | None:
    """PSNR in dB of what was encoded, all samples counted; None where nothing was lost."""
    expected, decoded = pixels.to_samples(image), np.atleast_3d(codec.decode(data, output="numpy", max_pixels=None))
    if decoded.shape != expected.shape:
        message = f"what was encoded decodes to samples of shape {decoded.shape}, must be {expected.shape}"
        raise OutputError(message, code="VERIFY")
    return finite(pixels.psnr_db(expected, decoded))
