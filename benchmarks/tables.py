"""The tables of a benchmark, computed from recorded rows alone: as Markdown, and as what README shows of them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks import published
from benchmarks.metrics import BdRate, bd_rate
from benchmarks.results import Record

OURS, ANCHOR = "vaecodec", "jpeg"
QUALITIES = (10, 30, 50, 70, 90)
README_AGAINST = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
BEGIN, END = "<!-- rd-table -->", "<!-- /rd-table -->"


class Table(NamedTuple):
    """A table of text, and what must be known to read it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown, its first column to the left, the others to the right."""
        rule = ["---"] + ["--:"] * (len(self.header) - 1)
        lines = [f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, "", self.note, ""])


def all_tables(records: Sequence[Record]) -> list[Table]:
    """The tables of one folder of complete records, all on one data set; at least one."""
    tables = [bd_table(records)]
    by_name = {record.name: record for record in records}
    if OURS in by_name:
        tables.append(quality_table(by_name[OURS]))
    if published.sources(records[0].dataset["name"]):
        tables.append(published_table(by_name))
    return tables


def bd_table(records: Sequence[Record]) -> Table:
    """BD-rates of every codec against JPEG, of vaecodec against every codec, and times."""
    by_name = {record.name: record for record in records}
    rows = []
    for record in records:
        against = [_between(by_name.get(ANCHOR), record, metric) for metric in ("psnr_db", "ms_ssim")]
        ours = [_between(record, by_name.get(OURS), metric) for metric in ("psnr_db", "ms_ssim")]
        times = [f"{1000 * mean_seconds(record, name):.1f}" for name in ("encode_s", "decode_s")]
        rows.append([record.name, *map(_text, against), *map(_text, ours), _range(ours[0]), *times])
    header = (
        "codec", "against jpeg, PSNR", "against jpeg, MS-SSIM", f"{OURS} against it, PSNR",
        f"{OURS} against it, MS-SSIM", "PSNR range of that", "encode ms", "decode ms",
    )  # fmt: skip
    machine = records[0].machine
    note = (
        "BD-rate: difference of bytes at equal quality, on the range that both curves cover; negative is smaller."
        " Curves are means over pictures of bpp and quality at each setting. Times are means over pictures and"
        f" settings of medians, on {machine['cpu']}, {machine['threads']} torch threads."
    )
    dataset = records[0].dataset
    return Table(f"{dataset['name']}, {len(dataset['images'])} pictures", note, header, rows)


def quality_table(record: Record) -> Table:
    """What each `quality` means: rate and PSNR, means over the pictures."""
    means = {quality: mean for quality in QUALITIES if (mean := record.at(quality))}
    header = ("quality", *map(str, means))
    rows = [
        ["bits per pixel", *(f"{mean['bpp']:.3f}" for mean in means.values())],
        ["PSNR, dB", *(f"{mean['psnr_db']:.2f}" for mean in means.values())],
    ]
    return Table(f"{record.name} by quality", f"Model {record.codec['settings'].get('model_id')}.", header, rows)


def published_table(by_name: dict[str, Record]) -> Table:
    """Published curves against the published JPEG curve, and ours against them: two sources, so a table apart."""
    dataset = next(iter(by_name.values())).dataset["name"]
    curves = published.curves(dataset)
    ours = by_name[OURS].curve() if OURS in by_name else []
    rows = [
        [
            name,
            str(bd_rate(curves[ANCHOR], curve)),
            str(bd_rate(curve, ours)) if ours else "",
            published.sources(dataset)[name],
        ]
        for name, curve in curves.items()
    ]
    note = "Points measured by others, on their machines, PSNR."
    if ANCHOR in by_name:
        note += f" Our jpeg against the published one: {bd_rate(curves[ANCHOR], by_name[ANCHOR].curve())}."
    header = ("published codec", "against published jpeg", f"our {OURS} against it", "source")
    return Table(f"{dataset}, published points", note, header, rows)


def readme_text(records: Sequence[Record], picture: str) -> str:
    """What stands in README between the markers.

    Args:
        records: must hold vaecodec and those of `README_AGAINST`.
        picture: where the plot lies, seen from README.
    """
    by_name = {record.name: record for record in records}
    ours, dataset = by_name[OURS], by_name[OURS].dataset
    lines = [
        f"![PSNR against bits per pixel on {dataset['name']}]({picture})",
        "",
        f"| {dataset['name']}, {len(dataset['images'])} pictures: bytes at equal |"
        + "".join(f" against {label} |" for label in README_AGAINST.values()),
        "|---|" + "--:|" * len(README_AGAINST),
    ]
    for metric, label in (("psnr_db", "PSNR"), ("ms_ssim", "MS-SSIM")):
        rates = [_text(_between(by_name[name], ours, metric)) for name in README_AGAINST]
        lines.append(f"| {label} | {' | '.join(rates)} |")
    means = {quality: ours.at(quality) for quality in QUALITIES}
    points = (f"{q}: {mean['bpp']:.2f} bpp, {mean['psnr_db']:.1f} dB" for q, mean in means.items() if mean)
    version = by_name[ANCHOR].codec["version"].split(",")[0]
    lines += [
        "",
        f"By quality: {'; '.join(points)}.",
        f"BD-rate, measured with {version}: JPEG and AVIF at its defaults, WebP with method 6."
        " More codecs, times and how to rerun it: [benchmarks](benchmarks/README.md).",
    ]
    return "\n".join(lines) + "\n"


def put_between_markers(document: str, text: str) -> str:
    """The document with `text` between its markers.

    Raises:
        ValueError: it does not have both markers once, in their order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the document must have {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def mean_seconds(record: Record, name: str) -> float:
    """Mean over all rows of "encode_s" or "decode_s"."""
    return sum(row[name] for row in record.rows) / len(record.rows)


def anchored(records: Iterable[Record]) -> dict[str, tuple[float, float]]:
    """(decode in ms, BD-rate against JPEG in percent) of the codecs for which there is one."""
    by_name = {record.name: record for record in records}
    rates = {name: _between(by_name.get(ANCHOR), record, "psnr_db") for name, record in by_name.items()}
    return {
        name: (1000 * mean_seconds(by_name[name], "decode_s"), rate.percent)
        for name, rate in rates.items()
        if rate is not None and rate.percent is not None
    }


def _between(anchor: Record | None, test: Record | None, metric: str) -> BdRate | None:
    """The BD-rate, or None where one of the two was not measured, or both are the same."""
    if anchor is None or test is None:
        return None
    if anchor.name == test.name:
        return BdRate(0.0, math.nan, math.nan) if anchor.name == ANCHOR else None
    curves = anchor.curve(metric), test.curve(metric)
    return bd_rate(*curves) if all(curves) else None


def _text(rate: BdRate | None) -> str:
    return "" if rate is None else str(rate)


def _range(rate: BdRate | None) -> str:
    return "" if rate is None or rate.percent is None else f"{rate.low_db:.1f} to {rate.high_db:.1f} dB"
