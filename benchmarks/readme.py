"""README's picture and table of recorded results, written between its markers."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Record
from benchmarks.tables import (
    ANCHOR,
    METRICS,
    OURS,
    OURS_PSNR,
    PEER,
    QUALITIES,
    TIMING_ONLY,
    between,
    leading,
    small_run,
    text_of,
)

BEGIN, END = "<!-- rd-table -->", "<!-- /rd-table -->"


def text(
    records: Sequence[Record], others: Sequence[Sequence[Record]], speed: Mapping[str, Any] | None, *, picture: str
) -> str:
    """The text between README's markers.

    Args:
        records: of the main data set; must include vaecodec and jpeg.
        others: of other data sets; only their BD-rates by the leading metric and by PSNR are shown.
        speed: the output of throughput.py, if it was run.
        picture: path of the plot, relative to README.
    """
    by_name = {record.name: record for record in records}
    ours, dataset, lead = by_name[OURS], by_name[OURS].dataset, leading(by_name)
    lines = [
        f"![{METRICS[lead]} against bits per pixel on {dataset['name']}]({picture})",
        "",
        *_table(records, others, speed),
        "",
        f"BD-rate: difference in bytes between {OURS} and the other codec at equal quality; negative means {OURS} is"
        f" smaller. SSIMULACRA2 agrees best with human ratings, PSNR least. Data set, unless the column names another:"
        f" {_count(ours)}. jpeg and avif: the defaults of {by_name[ANCHOR].codec['version'].split(',')[0]}."
        f"{_tuned(by_name)} {_points(ours)}",
    ]
    if speed is not None:
        lines.append(_speed(speed))
    lines.append("Methods, more plots, and how to rerun the measurements: [benchmarks](benchmarks/README.md).")
    return "\n".join(lines) + "\n"


def put_between_markers(document: str, shown: str) -> str:
    """The document with `shown` between its markers.

    Raises:
        ValueError: the markers are missing, repeated or in the wrong order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the document must have {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{shown}{END}{after}"


def _table(records: Sequence[Record], others: Sequence[Sequence[Record]], speed: Mapping[str, Any] | None) -> list[str]:
    """One row per codec: the BD-rate of vaecodec against it in each metric."""
    by_name = {record.name: record for record in records}
    used = [name for name in METRICS if by_name[OURS].curve(name) and by_name[ANCHOR].curve(name)]
    there = [{record.name: record for record in each} for each in others]
    beside = [(each, metric) for each in there for metric in dict.fromkeys((leading(each), "psnr_db"))]
    timed = small_run(speed)["codecs"] if speed is not None else {}
    header = [
        f"{OURS}'s bytes against", *(METRICS[name] for name in used),
        *(f"{each[OURS].dataset['name']}, {METRICS[metric]}" for each, metric in beside),
        *([f"{OURS_PSNR}, PSNR"] if OURS_PSNR in by_name else []),
        *(("encode ms", "decode ms") if timed else ()),
    ]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    for record in records:
        cells = [text_of(between(record, by_name[OURS], metric)) for metric in used]
        cells += [text_of(between(each.get(record.name), each[OURS], metric)) for each, metric in beside]
        if OURS_PSNR in by_name:
            cells.append(text_of(between(record, by_name[OURS_PSNR], "psnr_db")))
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


def _tuned(by_name: Mapping[str, Record]) -> str:
    """A sentence that names the settings of avif-tuned."""
    if "avif-tuned" not in by_name:
        return ""
    options = by_name["avif-tuned"].codec["settings"].get("advanced", {})
    return f" avif-tuned: with {', '.join(f'{name}={value}' for name, value in options.items())}."


def _points(ours: Record) -> str:
    means = {quality: ours.at(quality) for quality in QUALITIES}
    points = (
        f"{quality}: {mean['bpp']:.2f} bpp, "
        + (f"SSIMULACRA2 {mean['ssimulacra2']:.0f}, " if "ssimulacra2" in mean else "")
        + f"{mean['psnr_db']:.1f} dB"
        for quality, mean in means.items()
        if mean
    )
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
        f" codecs timed in turn. Relative time of {OURS} within a turn: {'; '.join(parts)}."
    )
