"""The transcode command: encodes a folder or bucket of pictures, here or on a Ray cluster, with a manifest."""

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vaecodec.cli.batch import EXIT_FAILED, Console, Report, exit_code, printable
from vaecodec.cli.options import AUTO, console_options, max_pixels_option, quality
from vaecodec.errors import VaecError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from vaecodec.cli.transcoding.manifest import Record
    from vaecodec.cli.transcoding.worker import Job, Work

USAGE_CODES = {"PLACE", "OTHER_SETTINGS", "TARGET_TAKEN", "NO_RAY", "NO_CLUSTER", "NO_PLACE"}
EXAMPLES = """\b
Examples:
  vaecodec transcode photos archive                one picture at a time, in this process
  vaecodec transcode photos archive --ray          workers on all processors of this machine
  vaecodec transcode photos archive --ray auto     workers on the cluster that this machine belongs to
  cat archive/manifest/*.jsonl                     the result for each picture
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "-q", "--quality", type=quality, default=AUTO, metavar="NUMBER|auto",
    help="Quality, 1 (smallest) to 100 (best). The default, auto, matches that of each JPEG, WebP or AVIF, and is 75"
    " for other files.",
)  # fmt: skip
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Distribute the work with Ray Data (extra [dist]) over this machine, or over the cluster at ADDRESS.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Use at most N workers. [all processors]")
@click.option(
    "--gpu-share",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SHARE",
    help="Encode on GPUs, with this share of one per worker, such as 1 or 0.25.",
)
@click.option(
    "--model", metavar="PATH", help="Use this weights file instead of the built-in ones; every machine must have it."
)
@max_pixels_option
@console_options
@click.pass_context
def transcode(ctx: click.Context, /, source: str, target: str, **given: Any) -> None:  # fmt: skip
    """Encode all pictures of a folder, or of a bucket that fsspec can open (s3://bucket/photos), to .vaec files in DST.

    DST/manifest/ records the size, bits per pixel and PSNR of each picture, or why it failed. Run the same command
    again to continue a stopped run: finished pictures are skipped, failed ones are tried again.
    """
    if given["address"] is None and (given["workers"] or given["gpu_share"]):
        raise click.UsageError("--workers and --gpu-share need Ray: also give --ray (or use encode -j)")
    from vaecodec.cli.pictures import is_picture_name
    from vaecodec.cli.transcoding import run

    console = ctx.ensure_object(Console)
    try:
        work = _work(source, target, given)
        plan = run.plan(work, is_picture_name)
        records = run.run(plan, work.target, _answers(plan.jobs, work, given))
        counts = _print_reports(console, records, len(plan.jobs) + len(plan.refused))
    except VaecError as error:
        if error.code in USAGE_CODES:
            raise click.UsageError(str(error)) from error
        console.fail({"path": target}, error)
        ctx.exit(exit_code([error], 1))
    counts["skipped"] += plan.skipped
    console.sum_up(+counts)
    ctx.exit(EXIT_FAILED if counts["failed"] else 0)


def _work(source: str, target: str, given: dict[str, Any]) -> "Work":
    from vaecodec.cli.transcoding.places import open_place
    from vaecodec.cli.transcoding.worker import Work
    from vaecodec.codec import Codec

    places = open_place(source), open_place(target)
    model_id = Codec(given["model"], "cpu").engine.model_id.hex()
    on_cluster = "cuda" if given["gpu_share"] else "cpu"
    device = "auto" if given["address"] is None else on_cluster
    wanted = None if given["quality"] == AUTO else given["quality"]
    return Work(*places, wanted, given["model"], model_id, device, given["max_pixels"])


def _answers(jobs: "Sequence[Job]", work: "Work", given: dict[str, Any]) -> "Iterator[Record]":
    if given["address"] is None:
        from vaecodec.cli.transcoding.worker import Transcoder

        return map(Transcoder(work), jobs)
    from vaecodec.cli.transcoding import cluster

    where = cluster.Cluster(given["address"], given["workers"], given["gpu_share"] or 0.0)
    return cluster.answers(jobs, work, where)


def _print_reports(console: Console, records: "Generator[Record]", total: int) -> Counter[str]:
    """Prints the result for each picture as it arrives; returns the number of pictures per status."""
    counts: Counter[str] = Counter()
    with console.progress(total) as advance, closing(records):
        for record in records:
            counts[record["status"]] += 1
            label = {"path": record["path"]}
            if record["status"] == "failed":
                console.fail(label, VaecError(record["message"], code=record["code"]))
            else:
                console.report(label, _report(record), is_answer=False, warned=record.get("warnings", ()))
            advance()
    return counts


def _report(record: "Record") -> Report:
    facts = {name: value for name, value in record.items() if name not in ("path", "status", "warnings")}
    likeness = "identical" if record["psnr_db"] is None else f"{record['psnr_db']:.2f} dB"
    text = (
        f"{printable(record['path'])} -> {printable(record['output'])}  {record['width']} x {record['height']},"
        f" {record['output_bytes']:,} bytes, {record['bpp']:.3f} bpp, quality {record['quality']}, {likeness}"
    )
    return Report(record["status"], text, facts)
