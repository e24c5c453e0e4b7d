"""The commands. `options` holds shared options, `outputs` places files, `batch` runs many, `conversion` does one.

Commands import what loads numpy or torch only when they need it, so help, version, info and verify start at once.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from vaecodec import __version__
from vaecodec.cli import reports, streams
from vaecodec.cli.batch import Console, Report, Task, exit_code, printable, reading, run
from vaecodec.cli.options import (
    AUTO,
    METADATA_KEYS,
    SCALES,
    byte_size,
    codec_options,
    console_options,
    file_options,
    max_pixels_option,
    pixel_box,
    positive,
    quality,
)
from vaecodec.cli.outputs import STDIO, Job, Placement, expand, plan, write_output
from vaecodec.format import sources
from vaecodec.format.records import Info
from vaecodec.model.architecture import BUILT_IN, DEFAULT_TUNE

if TYPE_CHECKING:
    from vaecodec.cli.conversion import Product

EXIT_CODES = """\b
Exit codes:
  0    success, including requested skips
  1    failure, or at least one file of several failed
  2    usage error
  3    the input cannot be read or is not a picture
  4    not a .vaec file, or damaged or truncated
  5    the file needs a model or format version that is not installed
  6    too many pixels for the limit or for memory
  130  interrupted (143 by SIGTERM)
"""
SPIN_COUNT = "1000"  # a few microseconds; on an idle machine this costs a few percent
ENCODE_EXAMPLES = """\b
Examples:
  vaecodec encode photo.png                        writes photo.vaec
  vaecodec encode photo.png small.vaec -q 30
  vaecodec encode *.jpg --target-size 60k --out-dir small
  vaecodec encode -r holiday --out-dir archive --verify
  curl -s URL | vaecodec encode - > photo.vaec
"""
DECODE_EXAMPLES = """\b
Examples:
  vaecodec decode photo.vaec                       writes photo.png
  vaecodec decode photo.vaec -o - | display
  vaecodec decode -r archive --out-dir pictures --format webp
  vaecodec decode map.vaec corner.png --crop 0,0,1024,768
  vaecodec decode -r archive --out-dir previews --format jpg --scale 1/8
"""
INFO_EXAMPLES = """\b
Examples:
  vaecodec info photo.vaec
  vaecodec info --json *.vaec                      one JSON object per file
"""
VERIFY_EXAMPLES = """\b
Examples:
  vaecodec verify *.vaec                           check all checksums
  vaecodec verify --deep photo.vaec                also decode the file
"""
COMPARE_EXAMPLES = """\b
Examples:
  vaecodec compare photo.png photo.vaec photo.jpg
"""
DOCTOR_EXAMPLES = """\b
Examples:
  vaecodec doctor
  vaecodec doctor --conformance                    also decode the conformance vectors
"""

inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="IN...")


class Group(click.Group):
    """Turns signals into exit codes once everything is cleaned up."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the command line; Ctrl-C exits with 130, SIGTERM with 143."""
        # OpenMP threads spin while they wait: next to another busy process, a decode takes ten times as long.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch loads
        atexit.register(gc.freeze)  # else the interpreter collects all objects that it is about to drop, for 20 ms
        try:
            with streams.stopping_on_signals():
                return super().main(*args, **options)
        except streams.Stopped:
            streams.say("interrupted")
            raise


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, "-V", "--version", prog_name="vaecodec", message="%(prog)s %(version)s")
@console_options
def main() -> None:
    """Encode pictures to .vaec files with a learned codec, and decode them."""


@main.command(epilog=ENCODE_EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, metavar="IN... [OUT]")
@click.option(
    "-q", "--quality", type=quality, metavar="NUMBER|auto",
    help="Quality, 1 (smallest) to 100 (best). The default, auto, matches that of a JPEG, WebP or AVIF, and is 75 for"
    " other files.",
)  # fmt: skip
@click.option(
    "--target-size", "target_bytes", type=byte_size, metavar="SIZE",
    help="Use the best quality that fits into SIZE, such as 60k or 1.5MiB.",
)  # fmt: skip
@click.option(
    "--target-bpp", type=positive, metavar="NUMBER", help="Use the best quality within NUMBER bits per pixel."
)
@click.option("--target-psnr", type=positive, metavar="NUMBER", help="Write the smallest file with this PSNR in dB.")
@click.option(
    "--target-ssimulacra2", type=positive, metavar="NUMBER",
    help="Write the smallest file with this score (90: no difference when swapped in place, 80: none side by side,"
    " 70: high quality).",
)  # fmt: skip
@click.option("--lossless", is_flag=True, default=None, help="Keep every sample unchanged.")
@click.option(
    "--effort", type=click.IntRange(1, 9), metavar="1..9",
    help="7, 8 and 9 take minutes per picture for smaller files, and need torch; not with --lossless. 1 to 6 encode"
    " alike.",
)  # fmt: skip
@click.option(
    "--quality-map", type=click.Path(exists=True, dir_okay=False), metavar="PICTURE",
    help="Spend fewer bytes where this grey picture is dark: the quality applies to white, and black is as about 33"
    " below. It is stretched over each input, as people see it. Not with --lossless or --effort 7 and up.",
)  # fmt: skip
@click.option(
    "--tune", type=click.Choice([*BUILT_IN]), default=DEFAULT_TUNE, show_default=True,
    help="Choose the built-in weights: for visual quality (eye) or squared error (psnr).",
)  # fmt: skip
@click.option("--background", metavar="COLOR", help="Flatten transparency onto this colour.")
@click.option("--verify", is_flag=True, help="Decode each result before writing it, and print the PSNR.")
@click.option(
    "--delete-originals", is_flag=True,
    help="Delete each input once its .vaec file has been read back and decoded to the same size. Cannot be undone.",
)  # fmt: skip
@file_options
@codec_options
@console_options
@click.pass_context
def encode(ctx: click.Context, /, inputs: tuple[str, ...], **given: Any) -> None:
    """Encode pictures to .vaec files.

    IN is a file, a folder (with -r), a glob pattern, or - for stdin. Metadata (ICC, EXIF, XMP) and transparency are
    kept.
    """
    names = ("quality", "target_bytes", "target_bpp", "target_psnr", "target_ssimulacra2", "lossless")
    rates = {name: given[name] for name in names}
    rates = {name: value for name, value in rates.items() if value is not None}
    if len(rates) == 1:
        rates = {name: value for name, value in rates.items() if value != AUTO}
    if len(rates) > 1:
        raise click.UsageError(
            "-q, the targets (--target-size, --target-bpp, ...) and --lossless cannot be combined: give only one"
        )
    if given["lossless"] and (given["effort"] or 0) >= 7:
        raise click.UsageError("--effort 7 and up refines lossy files, and cannot be combined with --lossless")
    if given["quality_map"] and (given["lossless"] or (given["effort"] or 0) >= 7):
        raise click.UsageError("--quality-map cannot be combined with --lossless or --effort 7 and up")
    from vaecodec.cli import conversion, pictures
    from vaecodec.codec import Codec

    pictures.check_colour(given["background"])
    if given["delete_originals"] and (given["dry_run"] or given["force"]):
        raise click.UsageError("--delete-originals cannot be combined with -n/--dry-run or -f/--force")
    place = _placement(given, pictures.SUFFIX, picks=pictures.is_picture_name, is_output=pictures.is_vaec_name)
    jobs = _plan(ctx, inputs, place)
    for job in jobs:
        pictures.check_vaec_name(job.target)
    if given["delete_originals"] and any(STDIO in (job.source, job.target) for job in jobs):
        raise click.UsageError("--delete-originals needs files: neither input nor output may be -")
    quality_map = given["quality_map"] and pictures.read_map(given["quality_map"], given["max_pixels"])
    if quality_map is not None:
        jobs = [pictures.without_map(job, given["quality_map"]) for job in jobs]
    codec = Codec(given["model"], given["device"], given["tune"], given["engine"])
    options = conversion.EncodeOptions(
        rates, _kept(given), given["max_pixels"], given["auto_orient"], given["background"], given["verify"],
        is_saving=len(jobs) > 1, effort=given["effort"], quality_map=quality_map,
    )  # fmt: skip
    _convert(
        ctx,
        jobs,
        partial(conversion.encode, codec, options),
        given,
        makes_plans=True,
        after=partial(conversion.delete_original, codec) if given["delete_originals"] else None,
    )


@main.command(epilog=DECODE_EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, metavar="IN... [OUT]")
@click.option(
    "--format", metavar="NAME",
    help="Output format: png, webp, tiff, jpg, ... Default: from the name of the output, otherwise png.",
)  # fmt: skip
@click.option(
    "--crop", "box", type=pixel_box, metavar="LEFT,TOP,RIGHT,BOTTOM",
    help="Decode only this rectangle, in pixels.",
)  # fmt: skip
@click.option(
    "--scale", type=click.Choice(list(SCALES)), help="Decode a preview, in about half the time; 1/8 is faster still."
)
@click.option(
    "--fit", "fit_px", type=click.IntRange(min=1), metavar="PX", help="Downscale so that no side is longer than PX."
)
@click.option(
    "-q", "--quality", type=click.IntRange(1, 100),
    help="Quality of a lossy output format such as JPEG, WebP or AVIF. Default for JPEG: matches the .vaec file.",
)  # fmt: skip
@click.option(
    "--subsampling", type=click.Choice(["4:2:0", "4:2:2", "4:4:4"]), help="Chroma subsampling of JPEG output."
)
@click.option("--background", metavar="COLOR", help="Flatten transparency onto this colour.")
@click.option(
    "--keep-going", is_flag=True, help="Write damaged pictures too, with grey tiles; the exit code reports the damage."
)
@file_options
@codec_options
@console_options
@click.pass_context
def decode(ctx: click.Context, /, inputs: tuple[str, ...], **given: Any) -> None:
    """Decode .vaec files to pictures.

    IN is a file, a folder (with -r), a glob pattern, or - for stdin.
    """
    from vaecodec.cli import conversion, pictures
    from vaecodec.codec import Codec

    pictures.check_colour(given["background"])
    if given["fit_px"] and (given["box"] or given["scale"] or given["keep_going"]):
        raise click.UsageError("--fit cannot be combined with --crop, --scale or --keep-going")
    if given["box"] and (given["scale"] or given["keep_going"] or given["auto_orient"]):
        raise click.UsageError("--crop cannot be combined with --scale, --keep-going or --auto-orient")
    wanted = (given["format"] or "").lower().lstrip(".")
    suffix, picks = f".{wanted or 'png'}", pictures.is_vaec_name
    place = _placement(given, suffix, picks=picks, is_output=lambda name: not picks(name))
    jobs = _plan(ctx, inputs, place)
    form = pictures.output_format(jobs[0].target if jobs else STDIO, wanted)
    options = conversion.DecodeOptions(
        form, given["box"], SCALES.get(given["scale"], 1), _kept(given), given["max_pixels"], given["auto_orient"],
        given["keep_going"], given["background"], given["quality"], given["subsampling"], given["fit_px"],
    )  # fmt: skip
    pictures.check_quality(options.quality, options.subsampling, form)
    _convert(
        ctx,
        jobs,
        partial(conversion.decode, Codec(given["model"], given["device"], engine=given["engine"]), options),
        given,
    )


@main.command(epilog=INFO_EXAMPLES)
@inputs_argument
@console_options
@click.pass_context
def info(ctx: click.Context, /, inputs: tuple[str, ...]) -> None:
    """Print size, quality, tiles and metadata of .vaec files, without decoding them."""

    def look(path: str) -> Info:
        with reading():
            return sources.info(_source(path), max_pixels=None)

    _answer(ctx, inputs, look, reports.of_info)


@main.command(epilog=VERIFY_EXAMPLES)
@inputs_argument
@click.option("--deep", is_flag=True, help="Also decode the files.")
@max_pixels_option
@codec_options
@console_options
@click.pass_context
def verify(ctx: click.Context, /, inputs: tuple[str, ...], deep: bool, max_pixels: int, **given: Any) -> None:
    """Check every checksum of .vaec files and, with --deep, that they decode."""
    from vaecodec import codec

    def look(path: str) -> Info:
        with reading():
            data = sources.read_all(_source(path))
        return codec.verify(data, deep=deep, max_pixels=max_pixels if deep else None, **given)

    done = "ok, decodes" if deep else "ok"
    _answer(ctx, inputs, look, lambda path, _: Report("ok", f"{printable(path)}: {done}", {"deep": deep}))


@main.command(epilog=COMPARE_EXAMPLES)
@click.argument("reference", metavar="REF")
@click.argument("inputs", nargs=-1, required=True, metavar="IMG...")
@codec_options
@console_options
@click.pass_context
def compare(ctx: click.Context, /, reference: str, inputs: tuple[str, ...], model: str | None, **where: str) -> None:
    """Measure how close pictures (.vaec or any other format) are to the picture REF.

    Print PSNR, SSIMULACRA2 and bits per pixel, and MS-SSIM if pytorch-msssim is installed.
    """
    from vaecodec.cli import comparison, pictures
    from vaecodec.codec import Codec

    codec = Codec(model, **where)
    try:
        expected, _ = pictures.load_samples(codec, reference)
    except Exception as error:  # reported as for any other file
        ctx.ensure_object(Console).fail({"path": reference}, error)
        ctx.exit(exit_code([error], 1))

    def look(path: str) -> dict[str, Any]:
        samples, file_bytes = pictures.load_samples(codec, path)
        bpp = round(8 * file_bytes / (samples.shape[0] * samples.shape[1]), 4)
        return comparison.compare(expected, samples) | {"bpp": bpp, "file_bytes": file_bytes}

    _answer(ctx, inputs, look, reports.of_comparison)


@main.command(epilog=DOCTOR_EXAMPLES)
@click.option("--conformance", is_flag=True, help="Also decode the conformance vectors: files with known pictures.")
@console_options
@click.pass_context
def doctor(ctx: click.Context, /, conformance: bool) -> None:
    """Check this installation: versions, Pillow plugin, weights, exact arithmetic, a round trip."""
    from vaecodec.cli.doctor import Check, checks

    task: Task[Check, str] = Task(
        name=lambda check: check.name,
        compute=lambda check: check.look(),
        finish=lambda check, found: Report("ok", f"{check.name}: {found}", {"found": found}),
        answers=True,
        key="check",
    )
    ctx.exit(run(checks(with_vectors=conformance), task, console=ctx.ensure_object(Console)))


def _placement(
    given: dict[str, Any], suffix: str, *, picks: Callable[[str], bool], is_output: Callable[[str], bool]
) -> Placement:
    if given["force"] and given["skip_existing"]:
        raise click.UsageError("-f/--force and --skip-existing cannot be combined: give only one")
    names = ("output", "out_dir", "recursive", "force", "skip_existing")
    return Placement(suffix, picks, is_output, **{name: given[name] for name in names})


def _plan(ctx: click.Context, /, inputs: Sequence[str], place: Placement) -> list[Job]:
    jobs = plan(inputs, place)
    if any(job.target == STDIO for job in jobs):
        if ctx.ensure_object(Console).is_json:
            raise click.UsageError("--json and the output both go to stdout: give -o")
        if streams.is_terminal(sys.stdout):
            raise click.UsageError("the output would go to the terminal: give -o, or redirect stdout")
    return jobs


def _kept(given: dict[str, Any]) -> frozenset[str]:
    kept: frozenset[str] = given["metadata"]
    if given["strip"] and kept != frozenset(METADATA_KEYS.values()):
        raise click.UsageError("--strip and --metadata cannot be combined: give only one")
    return frozenset({"icc_profile"}) if given["strip"] else kept


def _convert(
    ctx: click.Context, jobs: list[Job], make: Callable[[str, str], "Product"], given: dict[str, Any], *,
    makes_plans: bool = False, after: Callable[[str, str], None] | None = None,
) -> None:  # fmt: skip
    """Makes and writes the outputs of all jobs, and exits.

    With `makes_plans` a dry run makes them too, to report their sizes. `after` is called with each input and output.
    """
    from vaecodec.cli import pictures

    console = ctx.ensure_object(Console)

    def compute(job: Job) -> "Product | None":
        if job.refused:
            raise job.refused
        if job.is_skipped and pictures.is_whole(job.target):
            return None
        return None if given["dry_run"] and not makes_plans else make(job.source, job.target)

    def finish(job: Job, product: "Product | None") -> Report:
        if product is not None:
            times_ns = _times_ns(job.source) if given["preserve"] else None
            with product.content:
                if not (given["dry_run"] or product.is_left_out):
                    overwrites = given["force"] or job.is_skipped  # the existing output is incomplete
                    write_output(job, product.content, overwrite=overwrites, times_ns=times_ns)
                    if after:
                        after(job.source, job.target)
        return reports.of_job(job, product, verbosity=console.verbosity, is_planned=given["dry_run"])

    threads = given["jobs"]
    if threads > 1 and "torch" not in sys.modules:
        # Otherwise each thread starts as many torch threads as there are cores, and all of them crawl.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // threads)))
    ctx.exit(run(jobs, Task(lambda job: job.source, compute, finish), console=console, threads=threads))


def _answer(
    ctx: click.Context, inputs: Sequence[str], look: Callable[[str], Any], report: Callable[[str, Any], Report]
) -> None:
    """Inspects all files, prints a report on each, and exits."""
    found = {each.source: each for argument in inputs for each in expand(argument)}

    def compute(path: str) -> Any:
        if refused := found[path].refused:
            raise refused
        return look(path)

    ctx.exit(run(list(found), Task(str, compute, report, answers=True), console=ctx.ensure_object(Console)))


def _source(path: str) -> sources.Source:
    return streams.stdin() if path == STDIO else path


def _times_ns(source: str) -> tuple[int, int] | None:
    if source == STDIO:
        return None
    status = os.stat(source)
    return status.st_atime_ns, status.st_mtime_ns
