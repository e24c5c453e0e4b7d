"""Computes the cost of a billion photographs from recorded benchmarks, and writes it into docs/scale.md.

That page has the formulas and assumptions. With --print it only prints: `python benchmarks/scale_costs.py --print`.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import results
from benchmarks.results import Record
from benchmarks.tables import OURS

DOCUMENT = results.ROOT / "docs" / "scale.md"
RESULTS = results.ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- scale-costs -->", "<!-- /scale-costs -->"
COMMAND = "python benchmarks/scale_costs.py"

CODECS = (OURS, "jpeg", "avif")
DECIBELS = (30.0, 33.0, 36.0)
PICTURES = 1e9
PICTURE_MP = 1.0
MACHINE_PROCESSORS = 64
LINK_BYTES_PER_S = 10e9 / 8
SOURCE_QUALITY = 95  # of the JPEG sources, as cameras write them
DAY_S, HOUR_S = 86400, 3600
HOURS = "processor-hours"
WITH_CURVES = "measured with the curves"


class Speed(NamedTuple):
    """Seconds per megapixel on one processor; `origin` says where they were measured."""

    encode_s: float
    decode_s: float
    origin: str


@dataclass(frozen=True)
class Stage:
    """Encoding or decoding all pictures.

    Attributes:
        processor_hours: of one processor of the recorded machine.
        bytes_per_s: bytes per second that a machine reads and writes while all its processors work.
    """

    processor_hours: float
    bytes_per_s: float

    @property
    def machines(self) -> int:
        """Number of machines to finish in a day, limited by processors or network, whichever is slower."""
        by_processors = self.processor_hours * HOUR_S / (MACHINE_PROCESSORS * DAY_S)
        return math.ceil(by_processors * max(1.0, self.bytes_per_s / LINK_BYTES_PER_S))

    @property
    def limit(self) -> str:
        """The bottleneck of a machine."""
        return "processors" if self.bytes_per_s <= LINK_BYTES_PER_S else "network"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the text between the markers of docs/scale.md, or print it; the exit code is 2 without records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the text instead of writing it")
    options = parser.parse_args(arguments)
    try:
        shown = text(RESULTS)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.print:
        print(shown)
    else:
        results.write_atomically(DOCUMENT, put_between_markers(DOCUMENT.read_text(), shown))
        print(DOCUMENT)
    return 0


def text(folder: Path) -> str:
    """The text between the markers.

    Args:
        folder: recorded results: kodak/CODEC.json and, if they exist,
            throughput.json, throughput-cuda.json and scale/dataloader.json.

    Raises:
        FileNotFoundError: a codec has no curves.
        ValueError: a codec has no times.
    """
    records = {name: results.load(folder / "kodak" / f"{name}.json") for name in CODECS}
    measured = _read(folder / "throughput.json")
    speeds = {name: speed_of(record, measured) for name, record in records.items()}
    lines = [
        *_bytes_table(records), "",
        *_stage_table(records, speeds), "",
        *_balance(records, speeds), "",
        *_origins(records, speeds),
    ]  # fmt: skip
    cuda = _read(folder / "throughput-cuda.json")
    loader = _read(folder / "scale" / "dataloader.json")
    return "\n".join([*lines, *(_cuda(cuda) if cuda else ()), *(_loader(loader) if loader else ())]) + "\n"


def put_between_markers(document: str, shown: str) -> str:
    """The document with `shown` between its markers; raises ValueError without exactly one of each, in order."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the document must have {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{shown}{END}{after}"


def bpp_at(record: Record, psnr_db: float) -> float | None:
    """Bits per pixel at which the mean curve of a codec reaches a PSNR; log bpp is interpolated linearly.

    None outside the measured range.
    """
    points = sorted((level_db, math.log(bpp)) for bpp, level_db in record.curve())
    for (low_db, low), (high_db, high) in itertools.pairwise(points):
        if low_db <= psnr_db <= high_db:
            share = (psnr_db - low_db) / (high_db - low_db) if high_db > low_db else 0.0
            return math.exp(low + share * (high - low))
    return None


def speed_of(record: Record, measured: Mapping[str, Any] | None) -> Speed:
    """Seconds per megapixel on one processor.

    Args:
        record: the curve of a codec; its times are used if there are no better ones, as if a codec that chooses its own
            number of threads had used one.
        measured: results of throughput.py on one processor; the size closest to a megapixel is used.

    Raises:
        ValueError: there are no times.
    """
    runs = [run for run in (measured or {}).get("runs", ()) if run["threads"] == 1 and record.name in run["codecs"]]
    if runs:
        run = min(runs, key=lambda run: abs(math.log(run["megapixels"] / PICTURE_MP)))
        each, megapixels = run["codecs"][record.name], run["megapixels"]
        origin = f"one processor, {megapixels:.2g} MP"
        return Speed(each["encode_s"] / megapixels, each["decode_s"] / megapixels, origin)
    rows = [row for row in record.rows if row["encode_s"] and row["decode_s"]]
    if not rows:
        raise ValueError(f"{record.path.name} has no times, and there is no throughput.json: run benchmarks/record.py")
    threads = record.machine["threads"] or 1
    megapixels = sum(row["width"] * row["height"] for row in rows) / 1e6
    encode_s, decode_s = (threads * sum(row[name] for row in rows) / megapixels for name in ("encode_s", "decode_s"))
    return Speed(encode_s, decode_s, f"{WITH_CURVES}, counted as {threads} {_processors(threads)}")


def stages(seconds: Speed, source_bytes: float, file_bytes: float) -> tuple[Stage, Stage]:
    """Encoding and decoding of all pictures, given the bytes of each before and after encoding."""
    made = []
    for seconds_per_mp, moved_bytes in ((seconds.encode_s, source_bytes + file_bytes), (seconds.decode_s, file_bytes)):
        picture_s = seconds_per_mp * PICTURE_MP
        made.append(Stage(PICTURES * picture_s / HOUR_S, MACHINE_PROCESSORS / picture_s * moved_bytes))
    return made[0], made[1]


def picture_bytes(bpp: float) -> float:
    """Bytes of a picture."""
    return bpp * PICTURE_MP * 1e6 / 8


def _bytes_table(records: Mapping[str, Record]) -> list[str]:
    header = ["", *(f"{level:g} dB: bpp | TB" for level in DECIBELS)]
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|--:|" * len(DECIBELS)]
    for name, record in records.items():
        cells = []
        for level in DECIBELS:
            bpp = bpp_at(record, level)
            cells.append(" | " if bpp is None else f"{bpp:.3f} | {PICTURES * picture_bytes(bpp) / 1e12:,.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _stage_table(records: Mapping[str, Record], speeds: Mapping[str, Speed]) -> list[str]:
    """Hours and machines of both stages at the middle quality."""
    columns = (HOURS, "machines for one day", "MB/s per machine", "limit")
    header = ["", *(f"{action}: {columns[0]}" if not n else name for action in ("encode", "decode")
                    for n, name in enumerate(columns))]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|--:|--:|---|" * 2]
    for name in records:
        cells = []
        for stage in _stages_of(name, records, speeds):
            rate = f"{stage.bytes_per_s / 1e6:,.0f}"
            cells += [f"{stage.processor_hours:,.0f}", f"{stage.machines:,}", rate, stage.limit]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _stages_of(name: str, records: Mapping[str, Record], speeds: Mapping[str, Speed]) -> tuple[Stage, Stage]:
    level = DECIBELS[len(DECIBELS) // 2]
    bpp = bpp_at(records[name], level)
    if bpp is None:
        raise ValueError(f"{records[name].path.name} does not reach {level:g} dB")
    source = records["jpeg"].at(SOURCE_QUALITY)
    if not source:
        raise ValueError(f"jpeg.json has no quality {SOURCE_QUALITY}, which the sources are taken to have")
    return stages(speeds[name], picture_bytes(source["bpp"]), picture_bytes(bpp))


def _balance(records: Mapping[str, Record], speeds: Mapping[str, Speed]) -> list[str]:
    """The processor time paid for the bytes saved."""
    level = DECIBELS[len(DECIBELS) // 2]
    terabytes = {name: PICTURES * picture_bytes(bpp_at(records[name], level) or 0) / 1e12 for name in CODECS}
    encode, decode = _stages_of(OURS, records, speeds)
    lines = []
    for name in CODECS[1:]:
        other_encode, other_decode = _stages_of(name, records, speeds)
        saved = terabytes[name] - terabytes[OURS]
        once = encode.processor_hours - other_encode.processor_hours
        each = decode.processor_hours - other_decode.processor_hours
        lines.append(
            f"- {OURS} instead of {name}, at {level:g} dB: {_more(-saved, 'TB', 1)} to store,"
            f" {_more(once, HOURS)} to encode, and {_more(each, HOURS)} each time everything is decoded."
        )
    return lines


def _origins(records: Mapping[str, Record], speeds: Mapping[str, Speed]) -> list[str]:
    ours = records[OURS]
    origins = "; ".join(f"{name}: {speed.origin}" for name, speed in speeds.items())
    if any(speed.origin.startswith(WITH_CURVES) for speed in speeds.values()):
        origins += (
            f". Times {WITH_CURVES} were not measured in turn, so other load may have slowed some codecs more than"
            " others: run benchmarks/throughput.py to measure them together"
        )
    return [
        f"From benchmarks/results: {ours.dataset['name']}, {len(ours.dataset['images'])} pictures, model"
        f" {ours.codec['settings']['model_id']}, {ours.machine['cpu']}. Times: {origins}."
    ]


def _cuda(cuda: Mapping[str, Any]) -> list[str]:
    """Hours of the recorded GPU, at the largest batch."""
    rows = [row for row in cuda["batches"] if row["codec"] == OURS]
    largest = max(row["batch"] for row in rows)
    hours = {row["action"]: PICTURES * PICTURE_MP / row["megapixels_per_s_with_transfers"] / HOUR_S
             for row in rows if row["batch"] == largest}  # fmt: skip
    parts = " and ".join(f"{each:,.0f} hours to {action}" for action, each in hours.items())
    device = cuda["machine"]["device"]
    return ["", f"On {device}, {OURS} in batches of {largest}: {parts}, with the pictures in host memory."]


def _loader(record: Mapping[str, Any]) -> list[str]:
    """Rates and bytes measured by dataloader.py."""
    lines = ["", "| DataLoader | images/s | JPEG images/s | bytes | JPEG bytes | dB | JPEG dB |"]
    lines.append("|---|" + "--:|" * 6)
    for row in record["rows"]:
        cells = [f"{row[f'{name}_images_per_s']:,.1f}" for name in ("vaec", "jpeg")]
        cells += [f"{row[f'{name}_bytes']:,}" for name in ("vaec", "jpeg")]
        cells += [f"{row[f'{name}_psnr_db']:.2f}" for name in ("vaec", "jpeg")]
        lines.append(f"| {row['width']} x {row['height']} | {' | '.join(cells)} |")
    note = f" {record['note']}" if record["note"] else ""
    where = f"{record['dataset']['name']}, {record['machine']['cpu']}, {record['workers']} workers"
    return [*lines, "", f"Model {record['codec']['model_id']}, quality {record['codec']['quality']}; {where}.{note}"]


def _more(amount: float, unit: str, places: int = 0) -> str:
    return f"{abs(amount):,.{places}f} {unit} {'more' if amount >= 0 else 'less'}"


def _processors(count: int) -> str:
    return "processor" if count == 1 else "processors"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
