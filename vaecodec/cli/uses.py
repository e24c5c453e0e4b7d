"""The commands sample, map and html. `codec.explore`, `heatmap` and `page` do the work."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from vaecodec import __version__
from vaecodec.cli import streams
from vaecodec.cli.batch import Console, Report, Task, printable, run
from vaecodec.cli.options import codec_options, console_options, max_pixels_option
from vaecodec.cli.outputs import STDIO, Job, Placement, expand, plan, write_output

if TYPE_CHECKING:
    from vaecodec.cli.page import Shown
    from vaecodec.codec import Codec

Made = tuple[bytes, dict[str, Any]]

SAMPLE_EXAMPLES = """\b
Examples:
  vaecodec sample -o out.png
  vaecodec sample --size 768x512 --seed 7 --temperature 0.5 -o out.png
"""
MAP_EXAMPLES = """\b
Examples:
  vaecodec map photo.png -q 50 -o map.png
  vaecodec map photo.vaec -o map.png
"""
HTML_EXAMPLES = """\b
Examples:
  vaecodec html a.png b.png -q 40 -o page.html
"""

quality_option = click.option(
    "-q",
    "--quality",
    type=click.IntRange(1, 100),
    default=75,
    show_default=True,
    help="Quality, 1 (smallest) to 100 (best).",
)
force_option = click.option("-f", "--force", is_flag=True, help="Overwrite the output (never an input).")


def picture_size(text: str) -> tuple[int, int]:
    """Returns (width, height) of a size such as 512x512.

    Raises:
        click.BadParameter: the text is not a size.
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not a size such as 512x512.")
    return int(match[1]), int(match[2])


@click.command(epilog=SAMPLE_EXAMPLES)
@click.option("--size", type=picture_size, default="512x512", show_default=True, metavar="WxH",
              help="Size of the picture in pixels.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed: equal seeds, equal pictures."
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True, metavar="NUMBER",
    help="1 samples the model's distribution; lower values are smoother; 0 takes the most probable symbols.",
)  # fmt: skip
@click.option("-o", "--output", required=True, metavar="PATH", help="Write the picture to PATH; - is stdout, as PNG.")
@quality_option
@force_option
@codec_options
@console_options
@click.pass_context
def sample(ctx: click.Context, /, output: str, force: bool, **given: Any) -> None:
    """Sample a picture from the model's prior."""
    from vaecodec.cli import pictures
    from vaecodec.codec import Codec

    form = pictures.output_format(output if output != STDIO else None, None)

    def make() -> Made:
        codec = Codec(given["model"], given["device"], engine=given["engine"])
        options = {name: given[name] for name in ("seed", "temperature", "quality")}
        image = codec.explore.sample(given["size"], **options)
        facts = {"width": image.width, "height": image.height, **options}
        return pictures.save_picture(image, form, kept=frozenset()), facts

    _make_one(ctx, [], output, force, make)


@click.command(name="map", epilog=MAP_EXAMPLES)
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="PATH", help="Write the picture to PATH; - is stdout, as PNG.")
@quality_option
@force_option
@max_pixels_option
@codec_options
@console_options
@click.pass_context
def rate_map(ctx: click.Context, /, source: str, output: str, force: bool, **given: Any) -> None:
    """Draw a heat map of where the bits of a picture go, in blocks of 16x16 pixels.

    IN is a picture, a .vaec file (then -q has no effect), or - for stdin.
    """
    from vaecodec.cli import pictures
    from vaecodec.cli.heatmap import heat_map
    from vaecodec.codec import Codec

    form = pictures.output_format(output if output != STDIO else None, None)

    def make() -> Made:
        codec = Codec(given["model"], given["device"], engine=given["engine"])
        image, data = _coded(codec, source, given["quality"], given["max_pixels"])
        bits = codec.explore.rate_map_from_bytes(data)
        facts = {"width": image.width, "height": image.height, "block_px": 16, "bits": round(float(bits.sum()))}
        return pictures.save_picture(heat_map(image, bits), form, kept=frozenset({"icc_profile"})), facts

    _make_one(ctx, [source], output, force, make)


@click.command(epilog=HTML_EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, metavar="IMG...")
@click.option("-o", "--output", required=True, metavar="PATH", help="Write the page to PATH; - is stdout.")
@click.option("--title", default="vaecodec: before and after", show_default=True, metavar="TEXT",
              help="Title of the page.")  # fmt: skip
@quality_option
@force_option
@max_pixels_option
@codec_options
@console_options
@click.pass_context
def html(ctx: click.Context, /, inputs: tuple[str, ...], output: str, force: bool, title: str, **given: Any) -> None:
    """Write one self-contained page that compares pictures before and after: slider, bytes, rate map, crops."""
    from vaecodec.cli import page
    from vaecodec.codec import Codec

    paths = list(dict.fromkeys(found.source for argument in inputs for found in expand(argument)))

    def make() -> Made:
        codec = Codec(given["model"], given["device"], engine=given["engine"])
        shown = [_shown(codec, path, given["quality"], given["max_pixels"]) for path in paths]
        text = page.render(shown, title=title, version=__version__, model=codec.engine.model_id.hex())
        return text.encode(), {"pictures": len(shown)}

    _make_one(ctx, paths, output, force, make)


def _make_one(ctx: click.Context, inputs: Sequence[str], output: str, force: bool, make: Callable[[], Made]) -> None:
    """Makes and writes one output from any number of inputs, and exits."""
    console = ctx.ensure_object(Console)
    if output == STDIO and console.is_json:
        raise click.UsageError("--json and the output both go to stdout: give -o")
    if output == STDIO and streams.is_terminal(sys.stdout):
        raise click.UsageError("the output would go to the terminal: give -o, or redirect stdout")
    if os.path.isdir(output):
        raise click.BadParameter(f"{output!r} is a folder, must be a file.", param_hint="-o")
    place = Placement("", lambda _: False, lambda _: False, output=output, force=force, has_recursive=False)
    jobs = [plan([source], place)[0] for source in inputs or [STDIO]]
    job = next((each for each in jobs if each.refused), jobs[0])

    def compute(job: Job) -> Made:
        if job.refused:
            raise job.refused
        return make()

    def finish(job: Job, made: Made) -> Report:
        data, facts = made
        write_output(job, data, overwrite=force)
        return Report("done", f"{printable(output)}  {len(data):,} bytes", facts | {"output_bytes": len(data)})

    ctx.exit(run([job], Task(lambda job: job.target, compute, finish, key="output"), console=console))


def _coded(codec: "Codec", source: str, quality: int, max_pixels: int) -> tuple[Any, bytes]:
    """A picture and its .vaec file, which is the source itself if that is one."""
    from vaecodec.cli import pictures
    from vaecodec.format import container

    data = pictures.read_file(source)
    if container.is_vaec(data):
        return codec.decode(data, max_pixels=max_pixels), data
    with pictures.open_picture(data, max_pixels=max_pixels) as image:
        return pictures.as_stored(image), codec.encode(image, quality, max_pixels=max_pixels)


def _shown(codec: "Codec", path: str, quality: int, max_pixels: int) -> "Shown":
    import numpy as np

    from vaecodec.cli import pictures
    from vaecodec.cli.page import Shown
    from vaecodec.pictures import pixels

    with pictures.open_picture(pictures.read_file(path), max_pixels=max_pixels) as opened:
        image, data = pictures.as_stored(opened), codec.encode(opened, quality, max_pixels=max_pixels)
    decoded = codec.decode(data, max_pixels=max_pixels)
    psnr_db = pixels.psnr_db(pixels.to_samples(image), np.atleast_3d(np.asarray(decoded)))
    bits = codec.explore.rate_map_from_bytes(data)
    return Shown(os.path.basename(path), image, decoded, len(data), quality, psnr_db, bits)
