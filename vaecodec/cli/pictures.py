"""Picture files on the command line: opening, saving, and recognizing formats by file name."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vaecodec.cli.batch import InputError, OutputError, reading
from vaecodec.cli.outputs import STDIO, Job
from vaecodec.cli.streams import read_stdin
from vaecodec.codec import Codec
from vaecodec.errors import VaecImageError, VaecLimitError
from vaecodec.format import container, records
from vaecodec.pictures import originals, pixels, quality_map, writers

Picture = Image.Image
VAEC = "VAEC"
SUFFIX = ".vaec"

# The suffixes that -r takes from a folder. Pillow claims many more, including those of videos and documents.
_PICTURE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "heic", "heif", "hif", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


def read_file(source: str) -> bytes:
    """Returns all bytes of a file, or of stdin for "-"; raises InputError."""
    with reading():
        return read_stdin() if source == STDIO else Path(source).read_bytes()


def open_picture(source: str | bytes, *, max_pixels: int, upright: bool = False) -> Picture:
    """Opens and decodes a picture in any format that Pillow reads; the caller must close it.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse larger pictures before decoding them.
        upright: rotate the picture as its EXIF orientation says, and drop that tag.

    Raises:
        InputError: the file cannot be read or is not a picture.
        VaecLimitError: the picture has more than `max_pixels`.
    """
    with reading():
        image = pixels.open_image(io.BytesIO(source) if isinstance(source, bytes) else source)
        try:
            records.check_size(*image.size, max_pixels=max_pixels)
            image.load()
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
        except BaseException:
            image.close()
            raise
        return image


def save_picture(image: Picture, format: str, *, kept: frozenset[str], quality: int | None = None,
                 subsampling: str | None = None) -> bytes:  # fmt: skip
    """Returns the bytes of a picture file.

    Args:
        image: the decoded picture with its metadata in `info`.
        format: Pillow's name of the format.
        kept: keys of the metadata to keep, if the format can.
        quality: 1 to 100, for formats that have one; None is the default of `pictures.pillow`.
        subsampling: JPEG's chroma subsampling.

    Raises:
        OutputError: (SAVE) the format cannot hold the picture.
    """
    file = io.BytesIO()
    image.info = {key: image.info[key] for key in kept if key in image.info}
    with output_errors():
        writers.save(image, file, format, quality=quality, subsampling=subsampling)
    return file.getvalue()


def as_stored(image: Picture) -> Picture:
    """The picture with the mode, colours and metadata that a lossless .vaec file of it has."""
    return pixels.to_image(pixels.to_samples(image), pixels.metadata_of(image))


def read_map(path: str, max_pixels: int | None) -> pixels.Samples:
    """Reads the picture of --quality-map once for all inputs; raises click.BadParameter."""
    try:
        return quality_map.read(path, max_pixels)
    except VaecImageError as error:
        message = str(error).removeprefix("quality_map: ")
        raise click.BadParameter(message, param_hint="--quality-map") from error


def without_map(job: Job, path: str) -> Job:
    """Refuses to encode the quality map itself, which may lie among the pictures."""
    if job.source == STDIO or not os.path.exists(job.source) or not os.path.samefile(job.source, path):
        return job
    return replace(job, refused=InputError("is the quality map, not one of the pictures"))


def is_whole(target: str) -> bool:
    """Whether an existing output is complete: a .vaec file with intact checksums, or any readable picture.

    A file that is neither, nor the beginning of one, belongs to somebody else and counts as complete too.
    """
    try:
        data = Path(target).read_bytes()
    except OSError:  # reported when the file is opened next
        return True
    try:
        if container.is_vaec(data):
            container.read(data, max_pixels=None)
        elif data:
            pixels.open_image(io.BytesIO(data)).load()
    except UnidentifiedImageError:
        return True
    except VaecLimitError:  # Pillow's own limit
        return True
    except (OSError, SyntaxError):
        return False
    return bool(data)


def output_format(target: str | None, wanted: str | None) -> str:
    """Returns Pillow's name of the format to decode to.

    Args:
        target: name of the output, if the user gave one.
        wanted: suffix without its dot, if the user gave one. PNG if neither is given.

    Raises:
        click.UsageError: Pillow cannot write the format, or the two contradict each other.
    """
    originals.register_for(target or f"x.{wanted}")
    known = Image.registered_extensions()
    suffix = os.path.splitext(target or "")[1].lower()
    by_option, by_target = known.get(f".{wanted}".lower()), known.get(suffix)
    if wanted and (by_option not in Image.SAVE or by_option == VAEC):
        raise click.UsageError(
            f"--format is {wanted!r}, must be a format that Pillow writes: png, webp, tiff, jpg, ..."
        )
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


def check_quality(quality: int | None, subsampling: str | None, format: str) -> None:
    """Refuses a quality or subsampling for a format that has none; raises click.UsageError."""
    if quality is not None and format not in writers.LOSSY_FORMATS:
        raise click.UsageError(f"-q needs a lossy format, and {format} is lossless: omit -q, or give --format jpg")
    if subsampling is not None and format != "JPEG":
        raise click.UsageError(f"--subsampling needs JPEG, the format is {format}: omit it, or give --format jpg")


def is_picture_name(name: str) -> bool:
    """Whether -r treats a file of this name as a picture."""
    return os.path.splitext(name)[1].lower() in _PICTURE_SUFFIXES


def is_vaec_name(name: str) -> bool:
    """Whether the name is that of a .vaec file."""
    return os.path.splitext(name)[1].lower() == SUFFIX


def load_samples(codec: Codec, source: str) -> tuple[pixels.Samples, int]:
    """Returns the samples uint8 [H, W, C] of a .vaec file or any other picture, and the size of the file in bytes.

    Raises:
        InputError: the file cannot be read.
        VaecError: as `Codec.decode`.
    """
    data = read_file(source)
    if container.is_vaec(data):
        return np.atleast_3d(codec.decode(data, output="numpy")), len(data)
    with open_picture(data, max_pixels=records.DEFAULT_MAX_PIXELS) as image:
        return pixels.to_samples(image), len(data)


@contextmanager
def output_errors() -> Iterator[None]:
    """Turns VaecImageError into OutputError with the same code: a decoded picture is no fault of the input."""
    try:
        yield
    except VaecImageError as error:
        raise OutputError(str(error), code=error.code) from error
