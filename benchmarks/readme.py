"""What README shows of the recorded results, between its markers."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Record
from benchmarks.tables import ANCHOR, METRICS, OURS, PEER, QUALITIES, TIMING_ONLY, between, small_run, text_of

BEGIN, END = "<!-- rd-table -->", "<!-- /rd-table -->"


def text(
    records: Sequence[Record], others: Sequence[Sequence[Record]], speed: Mapping[str, Any] | None, *, picture: str
) -> str:
    """What stands in README between the markers.

    Args:
        records: of the main data set; must hold vaecodec and jpeg.
        others: of other data sets: only their BD-rates by PSNR are shown.
        speed: what throughput.py has written, if it was run.
        picture: where the plot lies, seen from README.
    """
    by_name = {record.name: record for record in records}
    ours, dataset = by_name[OURS], by_name[OURS].dataset
    lines = [
        f"![PSNR against bits per pixel on {dataset['name']}]({picture})",
        "",
        *_table(records, others, speed),
        "",
        "BD-rate: the difference of bytes at equal quality; negative is smaller."
        f" Unless another set is named: {_count(ours)}. jpeg and avif: the defaults of"
        f" {by_name[ANCHOR].codec['version'].split(',')[0]}. {_points(ours)}",
    ]
    if speed is not None:
        lines.append(_speed(speed))
    lines.append("What was measured how, plots, and how to rerun it: [benchmarks](benchmarks/README.md).")
    return "\n".join(lines) + "\n"


def put_between_markers(document: str, shown: str) -> str:
    """The document with `shown` between its markers.

    Raises:
        ValueError: it does not have both markers once, in their order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the document must have {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{shown}{END}{after}"


def _table(records: Sequence[Record], others: Sequence[Sequence[Record]], speed: Mapping[str, Any] | None) -> list[str]:
    """One row a codec."""
    by_name = {record.name: record for record in records}
    used = {name: label for name, label in METRICS.items() if by_name[OURS].curve(name) and by_name[ANCHOR].curve(name)}
    timed = small_run(speed)["codecs"] if speed is not None else {}
    header = [
        "bytes at equal quality", *(f"against JPEG, {label}" for label in used.values()),
        *(f"the same, {each[0].dataset['name']}, PSNR" for each in others), f"{OURS} against it, PSNR",
        *(("encode ms", "decode ms") if timed else ()),
    ]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    for record in records:
        cells = [text_of(between(by_name[ANCHOR], record, metric)) for metric in used]
        for each in others:
            there = {other.name: other for other in each}
            cells.append(text_of(between(there.get(ANCHOR), there.get(record.name), "psnr_db")))
        cells.append(text_of(between(record, by_name[OURS], "psnr_db")))
        cells += _milliseconds(timed.get(record.name)) if timed else []
        name = f"**{record.name}**" if record.name == OURS else record.name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if PEER in timed:
        blank = [""] * (len(header) - 3)
        lines.append(f"| {PEER}, {TIMING_ONLY} | {' | '.join([*blank, *_milliseconds(timed[PEER])])} |")
    return lines


def _milliseconds(timed: Mapping[str, Any] | None) -> list[str]:
    return [f"{1000 * timed[f'{action}_s']:.0f}" if timed else "" for action in ("encode", "decode")]


def _count(record: Record) -> str:
    return f"{record.dataset['name']}, {len(record.dataset['images'])} pictures"


def _points(ours: Record) -> str:
    means = {quality: ours.at(quality) for quality in QUALITIES}
    points = (f"{q}: {mean['bpp']:.2f} bpp, {mean['psnr_db']:.1f} dB" for q, mean in means.items() if mean)
    return f"By quality: {'; '.join(points)}."


def _speed(speed: Mapping[str, Any]) -> str:
    """The ratios that matter most, each the median of turns in which both codecs were timed."""
    run = small_run(speed)
    parts = []
    for name, label in (("avif", "Pillow's AVIF"), (PEER, f"CompressAI's {PEER}")):
        if name in run["codecs"]:
            each = run["codecs"][name]
            parts.append(f"encode {each['encode_ratio']:.2g} and decode {each['decode_ratio']:.2g} times {label}")
    return (
        f"Milliseconds: warm, {run['width']} x {run['height']}, {speed['machine']['cpu']}, {run['threads']} threads,"
        f" all codecs in turn; time of {OURS} in the same turn: {'; '.join(parts)}."
    )
