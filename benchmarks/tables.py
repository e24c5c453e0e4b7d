"""The tables of a benchmark, computed only from recorded rows: as Markdown, and for the page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import bootstrap, published
from benchmarks.metrics import BdRate, bd_rate
from benchmarks.results import Record

OURS, OURS_PSNR, ANCHOR = "vaecodec", "vaecodec-psnr", "jpeg"
QUALITIES = (10, 30, 50, 70, 90)
METRICS = {"ssimulacra2": "SSIMULACRA2", "ms_ssim": "MS-SSIM", "butteraugli": "butteraugli", "psnr_db": "PSNR"}
"""In table order: first the measure that agrees best with human ratings."""
FORMATS = {"ssimulacra2": ".1f", "ms_ssim": ".4f", "butteraugli": ".2f", "psnr_db": ".2f"}
TIMING_ONLY = "untrained: timing only"
PEER = "mbt2018-mean"


class Table(NamedTuple):
    """A table of text, with a note that explains it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown, with the first column left-aligned and the others right-aligned."""
        rule = ["---"] + ["--:"] * (len(self.header) - 1)
        lines = [f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, "", self.note, ""])


def all_tables(
    records: Sequence[Record], speed: Mapping[str, Any] | None, cuda: Mapping[str, Any] | None
) -> list[Table]:
    """The tables of one folder of complete records, all on one data set; at least one.

    Args:
        records: of one data set.
        speed: the output of throughput.py, if it was run.
        cuda: the output of gpu_throughput.py, if it was run.
    """
    tables = [bd_table(records, with_times=speed is None)]
    by_name = {record.name: record for record in records}
    if OURS in by_name:
        tables.append(quality_table(by_name[OURS]))
    if speed is not None:
        tables += [speed_table(speed), size_table(speed), batch_table(speed), stage_table(speed)]
    if cuda is not None:
        tables.append(cuda_table(cuda))
    if published.sources(records[0].dataset["name"]):
        tables.append(published_table(by_name))
    return tables


def bd_table(records: Sequence[Record], *, with_times: bool) -> Table:
    """BD-rates of every codec against JPEG, and of vaecodec against every codec; and the times of the same run."""
    by_name = {record.name: record for record in records}
    anchor = by_name.get(ANCHOR)
    used = {name: label for name, label in METRICS.items() if anchor and anchor.curve(name)}
    lead = next(iter(used.values()), METRICS["psnr_db"])
    rows = []
    for record in records:
        against = [with_interval(anchor, record, metric) for metric in used]
        ours = [with_interval(record, by_name.get(OURS), metric) for metric in used]
        times = [f"{1000 * mean_seconds(record, name):.1f}" for name in ("encode_s", "decode_s") if with_times]
        rows.append(
            [record.name, *map(text_of, against), *map(text_of, ours), _range(ours[0] if ours else None), *times]
        )
    header = (
        "codec", *(f"against {ANCHOR}, {label}" for label in used.values()),
        *(f"{OURS} against it, {label}" for label in used.values()), f"range of that, {lead}",
        *(("encode ms", "decode ms") if with_times else ()),
    )  # fmt: skip
    note = (
        "BD-rate: difference of bytes at equal quality, on the range that both curves cover; negative is smaller."
        " Curves are means over pictures of bpp and quality at each setting."
    )
    if len(records[0].dataset["images"]) >= bootstrap.MIN_PICTURES:
        note += f" {bootstrap.NOTE}"
    if with_times:
        note += (
            " Milliseconds are means over pictures and settings, measured with the curves: codecs that were measured at"
            " different times may have run under different load."
        )
    dataset = records[0].dataset
    return Table(f"{dataset['name']}, {len(dataset['images'])} pictures", note, header, rows)


def quality_table(record: Record) -> Table:
    """The rate and all measures at each `quality`, as means over the pictures."""
    means = {quality: mean for quality in record.qualities if (mean := record.at(quality))}
    header = ("quality", *map(str, means))
    rows = [
        ["bits per pixel", *(f"{mean['bpp']:.3f}" for mean in means.values())],
        *(
            [label, *(f"{mean[name]:{FORMATS[name]}}" if name in mean else "" for mean in means.values())]
            for name, label in METRICS.items() if any(name in mean for mean in means.values())
        ),
    ]  # fmt: skip
    return Table(f"{record.name} by quality", f"Model {record.codec['settings'].get('model_id')}.", header, rows)


def small_run(speed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run of the smallest picture with the most threads, which includes every codec."""
    return min(speed["runs"], key=lambda run: (run["megapixels"], -run["threads"]))


def speed_table(speed: Mapping[str, Any]) -> Table:
    """The times of every codec on one small picture, measured in turn."""
    run = small_run(speed)
    rows = [
        [
            f"{name} ({TIMING_ONLY})" if each.get("timing_only") else name, str(each["quality"]),
            f"{each['file_bytes']:,}", f"{1000 * each['encode_s']:.1f}", f"{1000 * each['decode_s']:.1f}",
            _ratio(each["encode_ratio"]), _ratio(each["decode_ratio"]),
        ]
        for name, each in run["codecs"].items()
    ]  # fmt: skip
    header = (
        "codec", "quality", "bytes", "encode ms", "decode ms", f"{OURS}'s encode is", f"{OURS}'s decode is",
    )  # fmt: skip
    cold = speed["cli_cold_s"]
    note = (
        f"Warm medians of {run['repeats']} turns on {_machine(speed, run)}; the last two columns are medians of the"
        " ratio within a turn. The command line from nothing, loading torch and weights:"
        f" encode {cold['encode']:.2f} s, decode {cold['decode']:.2f} s, info {cold['info']:.2f} s."
    )
    return Table(f"Speed, {run['width']} x {run['height']}", note, header, rows)


def size_table(speed: Mapping[str, Any]) -> Table:
    """vaecodec by picture size, against the codecs that are measured at every size."""
    beside = ("jpeg", "avif", PEER)
    rows = []
    for run in speed["runs"]:
        ours, others = run["codecs"][OURS], [run["codecs"].get(name) for name in beside]
        ratios = [_ratio(each[f"{action}_ratio"]) if each else "" for each in others for action in ("encode", "decode")]
        peak = run["peak_rss_bytes"]
        rows.append([
            f"{run['megapixels']:.1f} MP", str(run["threads"]), f"{ours['encode_s']:.2f}", f"{ours['decode_s']:.2f}",
            f"{peak / 2**20:,.0f}" if peak else "", *ratios,
        ])  # fmt: skip
    columns = (f"{action} / {name}'s" for name in beside for action in ("encode", "decode"))
    header = ("picture", "threads", "encode s", "decode s", "peak MiB", *columns)
    note = (
        f"Ratios are {OURS}'s time over the other's in the same turn: below 1 is faster. Peak memory is that of the"
        f" process, torch included. {PEER} is CompressAI's, {TIMING_ONLY}; its latents are nearly all zero then, so"
        " that its entropy coder has less to do than with trained weights."
    )
    return Table(f"{OURS} by size", note, header, rows)


def batch_table(speed: Mapping[str, Any]) -> Table:
    """Batches against single pictures, for the runs that measured them."""
    rows = []
    for run in (run for run in speed["runs"] if run.get("batch")):
        batch = run["batch"]
        for action in ("encode", "decode"):
            rates = (batch["pictures"] / batch[name] for name in (f"{action}_s", f"{action}_one_by_one_s"))
            what = f"{action}, {batch['pictures']} of {run['megapixels']:.1f} MP, {run['threads']} threads"
            rows.append([what, *(f"{rate:.2f}" for rate in rates)])
    note = "`encode_batch` and `decode_batch` in turn with calls for one picture at a time."
    return Table(f"{OURS} in batches", note, ("what", "images/s at once", "images/s one by one"), rows)


def stage_table(speed: Mapping[str, Any]) -> Table:
    """Milliseconds by stage of every run, for codecs that report them."""
    stages = list(speed["runs"][0]["codecs"][OURS]["encode_stages_s"])
    rows = []
    for run in speed["runs"]:
        for action in ("encode", "decode"):
            seconds = run["codecs"][OURS][f"{action}_stages_s"]
            cells = (f"{1000 * seconds[stage]:.0f}" for stage in stages)
            rows.append([f"{action}, {run['megapixels']:.1f} MP, {run['threads']} threads", *cells])
    peer = small_run(speed)["codecs"].get(PEER, {})
    parts = [
        f"{action}: "
        + ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in peer[f"{action}_stages_s"].items())
        for action in ("encode", "decode")
        if f"{action}_stages_s" in peer
    ]
    note = f"Milliseconds, medians. {PEER} ({TIMING_ONLY}) on the small picture: {'; '.join(parts)}." if parts else ""
    return Table(f"{OURS} by stage", note, ("run", *stages), rows)


def cuda_table(cuda: Mapping[str, Any]) -> Table:
    """Batches on a GPU."""
    rows = [
        [
            f"{row['codec']}, {row['action']}", str(row["batch"]), f"{row['images_per_s']:,.1f}",
            f"{row['megapixels_per_s']:,.1f}", f"{row['images_per_s_with_transfers']:,.1f}",
            f"{row['megapixels_per_s_with_transfers']:,.1f}",
        ]
        for row in cuda["batches"]
    ]  # fmt: skip
    header = ("codec", "batch", "images/s", "MP/s", "images/s with transfers", "MP/s with transfers")
    versions = ", ".join(cuda["codecs"].values())
    note = f"{versions}; on {cuda['machine']['device']}. Transfers: pictures start and end in host memory."
    return Table("On the GPU", note, header, rows)


def published_table(by_name: Mapping[str, Record]) -> Table:
    """Published curves against the published JPEG curve, and ours against them; a separate table for another source."""
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


def mean_seconds(record: Record, name: str) -> float:
    """Mean over all rows of "encode_s" or "decode_s"."""
    return sum(row[name] for row in record.rows) / len(record.rows)


def leading(by_name: Mapping[str, Record]) -> str:
    """The first of `METRICS` in which vaecodec and JPEG are both measured; shown where there is room for only one."""
    both = [by_name[name] for name in (OURS, ANCHOR) if name in by_name]
    return next((name for name in METRICS if all(record.curve(name) for record in both)), "psnr_db")


def anchored(records: Iterable[Record], speed: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """(decode in ms, BD-rate against JPEG in percent, in the leading metric) of all codecs that have one.

    Times come from `speed`, where all codecs took turns, and without it from the records.
    """
    by_name = {record.name: record for record in records}
    metric = leading(by_name)
    rates = {name: between(by_name.get(ANCHOR), record, metric) for name, record in by_name.items()}
    timed = small_run(speed)["codecs"] if speed is not None else None
    return {
        name: (1000 * (timed[name]["decode_s"] if timed else mean_seconds(by_name[name], "decode_s")), rate.percent)
        for name, rate in rates.items()
        if rate is not None and rate.percent is not None and (timed is None or name in timed)
    }


def between(anchor: Record | None, test: Record | None, metric: str) -> BdRate | None:
    """The BD-rate; None if one of the two was not measured, or both are the same."""
    if anchor is None or test is None:
        return None
    if anchor.name == test.name:
        return BdRate(0.0, math.nan, math.nan) if anchor.name == ANCHOR else None
    curves = anchor.curve(metric), test.curve(metric)
    return bd_rate(*curves) if all(curves) else None


def with_interval(anchor: Record | None, test: Record | None, metric: str) -> BdRate | None:
    """As `between`, with its confidence interval."""
    rate = between(anchor, test, metric)
    if anchor is None or test is None or anchor.name == test.name or rate is None or rate.percent is None:
        return rate
    return rate._replace(interval=bootstrap.interval(anchor, test, metric))


def text_of(rate: BdRate | None) -> str:
    """A BD-rate as text for tables; empty if there is none."""
    return "" if rate is None else str(rate)


def _machine(speed: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return f"{speed['machine']['cpu']}, {run['threads']} threads"


def _ratio(value: float) -> str:
    return f"{value:.2g} x" if value < 10 else f"{value:.0f} x"


def _range(rate: BdRate | None) -> str:
    if rate is None or rate.percent is None:
        return ""
    return f"{rate.low_db:.1f} to {rate.high_db:.1f}".replace("-", "\N{MINUS SIGN}")
