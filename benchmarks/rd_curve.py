"""Measures rate, distortion and time of codecs on a set of pictures: `python benchmarks/rd_curve.py --help`."""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import codecs, datasets, metrics, results
from benchmarks.adapter import Codec, UnavailableError
from benchmarks.results import Record, Row


class Job(NamedTuple):
    """One file to encode from a picture."""

    codec: Codec
    quality: int


class BrokenCodecError(Exception):
    """A codec does not decode its own file to a picture of the same size."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the paths of the results.

    The exit code is 1 if a codec failed, 2 if nothing could be measured.
    """
    options = _parser().parse_args(arguments)
    try:
        dataset = datasets.find(options.data).first(options.images)
        out = options.out or Path("out", "benchmark", dataset.name)
        pairs = _open_all(options, dataset, out)
    except (FileNotFoundError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 2
    if not pairs:
        print("nothing measured: none of the codecs can be used", file=sys.stderr)
        return 2
    measures = options.metrics.split(",")
    for name in measures:
        if reason := metrics.why_not(name):
            print(f"{name}: not measured: {reason}", file=sys.stderr)
    broken = measure_all(dataset, pairs, repeats=options.repeats, measures=measures)
    for name, reason in broken.items():
        print(f"{name}: broken: {reason}", file=sys.stderr)
    for _, record in pairs:
        if record.is_complete and record.curve():
            results.write_for_compressai(record, out / "compressai" / record.path.name)
        print(f"{record.path}: {len(record.rows)} rows{'' if record.is_complete else ', not complete'}")
    if options.page:
        from benchmarks import report  # needs more packages than measuring

        report.write_all(out, data=options.data, model=options.model, own=options.codec)
    return 1 if broken else 0


def measure_all(
    dataset: datasets.Dataset, pairs: list[tuple[Codec, Record]], *, repeats: int, measures: Sequence[str]
) -> dict[str, str]:
    """Measures every picture that is not in the records yet.

    Returns:
        The codecs that failed, with reasons; they are not measured further.
    """
    broken: dict[str, str] = {}
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for number, picture in enumerate(progress.track(dataset.pictures, description="pictures")):
            jobs = [
                Job(codec, quality)
                for codec, record in pairs
                if codec.name not in broken
                for quality in record.missing(picture.name, codec.qualities, () if codec.timing_only else measures)
            ]
            if not jobs:
                continue
            known = {codec.name: record.known(picture.name) for codec, record in pairs}
            rows = measure(picture.load(), jobs, repeats=repeats, measures=measures, broken=broken, known=known)
            for codec, record in pairs:
                if rows.get(codec.name):
                    record.add([{"image": picture.name, **row} for row in rows[codec.name]])
            if not console.is_terminal:  # a log shows no progress bar
                console.print(f"{picture.name}: {len(jobs)} files, picture {number + 1} of {len(dataset.pictures)}")
    return broken


def measure(
    image: Image.Image,
    jobs: Sequence[Job],
    *,
    repeats: int,
    measures: Sequence[str],
    broken: dict[str, str],
    known: Mapping[str, Mapping[int, Row]] = MappingProxyType({}),
) -> dict[str, list[Row]]:
    """The rows of one picture by codec.

    Every job first runs once, and its file is decoded and compared. Then all jobs are timed in turn, `repeats` times,
    so that other load on the machine affects all codecs alike. Without repeats, the times are those of the first call.
    Measures that are `known` for a file of the same size, by codec and quality, are not taken again.
    """
    files: dict[Job, tuple[bytes, Row]] = {}
    times: dict[Job, list[tuple[float, float]]] = {}
    for job in jobs:
        if job.codec.name in broken:
            continue
        try:
            files[job], times[job] = _check(image, job, measures, known.get(job.codec.name, {}).get(job.quality, {}))
        except Exception as error:  # a foreign codec may raise anything, and the other codecs should continue
            broken[job.codec.name] = f"quality {job.quality}: {type(error).__name__}: {error}"
    sound = {job: file for job, file in files.items() if job.codec.name not in broken}
    if repeats:
        times = {job: [] for job in sound}
    for _ in range(repeats):
        for job, (data, _) in sound.items():
            times[job].append(_time(image, job, data))
    rows: dict[str, list[Row]] = {}
    for job, (_, row) in sound.items():
        encode_s, decode_s = (round(statistics.median(each), 6) for each in zip(*times[job], strict=True))
        rows.setdefault(job.codec.name, []).append({**row, "encode_s": encode_s, "decode_s": decode_s})
    return rows


def _check(
    image: Image.Image, job: Job, measures: Sequence[str], known: Row
) -> tuple[tuple[bytes, Row], list[tuple[float, float]]]:
    """The file and its row without times; and the times of this first call, or those known for the same file.

    Raises:
        BrokenCodecError: the file decodes to another size or mode.
    """
    start = time.perf_counter()
    data = job.codec.encode(image, job.quality)
    between = time.perf_counter()
    decoded = job.codec.decode(data)
    first_call = between - start, time.perf_counter() - between
    if (decoded.size, decoded.mode) != (image.size, "RGB"):
        raise BrokenCodecError(f"decodes to {decoded.size} {decoded.mode}, must be {image.size} RGB")
    row: Row = {
        "width": image.width, "height": image.height, "quality": job.quality, "file_bytes": len(data),
        "bpp": round(metrics.bpp(len(data), *image.size), 6),
    }  # fmt: skip
    same = known if known.get("file_bytes") == len(data) else {}
    original, samples = np.asarray(image), np.asarray(decoded)
    for name, measure_of in metrics.MEASURES.items():
        row[name] = same.get(name)
        if row[name] is None and name in measures and not job.codec.timing_only:
            value = measure_of(original, samples)
            row[name] = None if value is None else round(value, 6)
    return (data, row), [(same["encode_s"], same["decode_s"]) if same else first_call]


def _time(image: Image.Image, job: Job, data: bytes) -> tuple[float, float]:
    """Seconds to encode and to decode, from a picture in memory to bytes in memory and back."""
    start = time.perf_counter()
    job.codec.encode(image, job.quality)
    between = time.perf_counter()
    job.codec.decode(data)
    return between - start, time.perf_counter() - between


def _open_all(options: argparse.Namespace, dataset: datasets.Dataset, out: Path) -> list[tuple[Codec, Record]]:
    """The usable codecs, each once and with its record; prints the reason for the others."""
    if options.threads:
        torch.set_num_threads(options.threads)
    pairs = []
    named = options.codecs.split(",") if options.codecs else codecs.default(options.device)
    opened = {name: _open(name, options.device, options.model) for name in named}
    by_name = {codec.name: codec for codec in [*filter(None, opened.values()), *options.codec]}
    for codec in by_name.values():
        codec = dataclasses.replace(codec, qualities=_spread(codec.qualities, options.points))
        record = results.open_record(
            out / f"{codec.name}.json", codec.describe(), dataset.describe(), threads=codec.threads, again=options.again
        )
        pairs.append((codec, record))
    return pairs


def _open(name: str, device: str, model: Path | None) -> Codec | None:
    try:
        return codecs.open_codec(name, device=device, model=model)
    except UnavailableError as reason:
        print(f"{name}: skipped: {reason}", file=sys.stderr)
        return None


def _spread(qualities: tuple[int, ...], count: int | None) -> tuple[int, ...]:
    """`count` qualities, evenly spread from end to end; all without a count."""
    if count is None or count >= len(qualities):
        return qualities
    return tuple(qualities[round(n * (len(qualities) - 1) / (count - 1))] for n in range(count))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    known = ", ".join(datasets.KNOWN)
    parser.add_argument("--data", help=f"a folder of lossless pictures, or {known} [sample]")
    parser.add_argument(
        "--codecs",
        help=f"of {', '.join(codecs.names())} [{','.join(codecs.DEFAULT)}; with --device cuda also jpeg-cuda]",
    )
    parser.add_argument(
        "--codec", type=codecs.argument, action="append", default=[], metavar="MODULE:FUNCTION",
        help="your own codec, see benchmarks/README.md; may be repeated",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device of vaecodec and CompressAI")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, help="folder of the results [out/benchmark/NAME]")
    parser.add_argument("--images", type=int, help="number of pictures [all]")
    parser.add_argument("--points", type=_several, help="number of qualities of each codec [all]")
    parser.add_argument("--metrics", type=_measures, default=",".join(metrics.MEASURES), help="measures, if installed")
    parser.add_argument("--threads", type=_positive, help="torch threads [torch's default]")
    parser.add_argument(
        "--repeats", type=_natural, default=3, help="number of turns; times are medians, with 0 those of the first call"
    )
    parser.add_argument("--again", action="store_true", help="discard finished rows")
    parser.add_argument("--page", action="store_true", help="then print tables and write the page, as report.py does")
    return parser


def _natural(text: str) -> int:
    return _at_least(0, text)


def _positive(text: str) -> int:
    return _at_least(1, text)


def _several(text: str) -> int:
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is not {least} or more")
    return value


def _measures(text: str) -> str:
    unknown = set(text.split(",")) - set(metrics.MEASURES)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: must be of {', '.join(metrics.MEASURES)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
