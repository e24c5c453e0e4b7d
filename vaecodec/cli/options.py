"""Options that several commands share, and their value types."""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vaecodec.cli.batch import Console
from vaecodec.format.records import DEFAULT_MAX_PIXELS

Command = TypeVar("Command", bound=Callable[..., Any])


AUTO = "auto"
SCALES = {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}
METADATA_KEYS = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}


def byte_size(text: str) -> int:
    """Returns the bytes of a size such as 60000, 60k, 1.5M, 60kB or 60KiB. k and M are decimal, Ki and Mi binary.

    Raises:
        click.BadParameter: the text is not a size, or the size is less than a byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKM]?)(i?)B?", text)
    if not match or (match[3] and not match[2]):
        raise click.BadParameter(f"{text!r} is not a size such as 60000, 60k, 1.5M, 60kB or 60KiB.")
    size_bytes = int(float(match[1]) * (1024 if match[3] else 1000) ** " KM".index(match[2].upper() or " "))
    if not size_bytes:
        raise click.BadParameter(f"{text!r} is less than a byte.")
    return size_bytes


def quality(text: str) -> int | str:
    """Returns a quality, 1 to 100, or AUTO.

    Raises:
        click.BadParameter: the text is neither.
    """
    if text == AUTO:
        return AUTO
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 100:
        raise click.BadParameter(f"{text!r} is neither a whole number from 1 to 100 nor auto.")
    return int(text)


def positive(text: str) -> float:
    """Returns a finite number above 0.

    Raises:
        click.BadParameter: the text is not one.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"{text!r} is not a number above 0.")
    return number


def pixel_box(text: str) -> tuple[int, int, int, int]:
    """Returns the four sides of a rectangle in pixels, as `Image.crop` takes them.

    Raises:
        click.BadParameter: the text is not four whole numbers, or the rectangle is empty.
    """
    numbers = [int(part) for part in text.split(",") if re.fullmatch(r" *\d{1,9} *", part)]
    if len(numbers) == len(text.split(",")) == 4:
        left, top, right, bottom = numbers
        if left < right and top < bottom:
            return left, top, right, bottom
    raise click.BadParameter(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM in pixels, such as 0,0,640,480.")


def metadata_keys(text: str) -> frozenset[str]:
    """Returns Pillow's names of the metadata to keep: all, none, or a list such as icc,exif.

    Raises:
        click.BadParameter: the text holds another word.
    """
    names = {"all": METADATA_KEYS.keys(), "none": set()}.get(text, set(text.split(",")))
    if not names <= METADATA_KEYS.keys():
        raise click.BadParameter(f"{text!r} is not all, none or a list of {', '.join(METADATA_KEYS)}.")
    return frozenset(METADATA_KEYS[name] for name in names)


def _set_console(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Console), field, value)

    return callback


def _together(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Combines several option decorators into one, in the order of the help page."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


# Accepted both before and after the command name.
console_options = _together(
    click.option("-v", "--verbose", count=True, expose_value=False, callback=_set_console("verbosity"),
                 help="Print more details; twice, also tracebacks."),
    click.option("--quiet", is_flag=True, expose_value=False, callback=_set_console("is_quiet"),
                 help="Print only errors and warnings."),
    click.option("--json", is_flag=True, expose_value=False, callback=_set_console("is_json"),
                 help="Print one JSON object per file on stdout."),
    click.option("--no-progress", is_flag=True, expose_value=False, callback=_set_console("hides_progress"),
                 help="Do not show a progress bar."),
)  # fmt: skip
codec_options = _together(
    click.option("--model", metavar="PATH", help="Use this weights file instead of the built-in ones."),
    click.option("--device", default="auto", show_default=True, help="Compute on auto, cpu, cuda, cuda:1, ..."),
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "torch"]),
        default="auto",
        show_default=True,
        help="Compute with the native CPU library or with torch.",
    ),
)
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(min=1), default=DEFAULT_MAX_PIXELS, show_default=True, metavar="N",
    help="Refuse larger pictures before decoding them.",
)  # fmt: skip
file_options = _together(
    click.option("-o", "--output", metavar="PATH", help="Write the output of a single input to PATH; - is stdout."),
    click.option("--out-dir", metavar="DIR", help="Write outputs to DIR, keeping the tree below an input folder."),
    click.option("-r", "--recursive", is_flag=True, help="Process the files in folders."),
    click.option("-f", "--force", is_flag=True, help="Overwrite existing outputs (never inputs)."),
    click.option("--skip-existing", is_flag=True, help="Skip inputs whose output exists and is complete."),
    click.option("-n", "--dry-run", is_flag=True, help="Only print what would be written."),
    click.option("-p", "--preserve", is_flag=True, help="Copy the timestamps of the input to the output."),
    click.option("-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                 help="Process N files at a time."),
    max_pixels_option,
    click.option("--metadata", type=metadata_keys, default="all", show_default=True, metavar="NAMES",
                 help="Keep all metadata, none, or some of icc,exif,xmp."),
    click.option("--strip", is_flag=True,
                 help="Drop all metadata except the ICC profile, which defines the colours. Add --auto-orient to keep"
                 " photos upright."),
    click.option("--auto-orient", is_flag=True, help="Rotate the pixels as EXIF says, and drop the orientation tag."),
)  # fmt: skip
