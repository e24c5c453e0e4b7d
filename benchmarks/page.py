"""The report as one HTML file without external resources: curves to switch on and off, pictures side by side."""

import base64
import io
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import codecs, datasets, metrics, published
from benchmarks.adapter import Codec, UnavailableError
from benchmarks.plots import LABELS, styles
from benchmarks.results import Record, Row
from benchmarks.tables import METRICS, OURS, Table

TEMPLATE = Path(__file__).with_name("page.html")
SLIDER_PX = (1024, 768)
CROP_PX = (150, 110)
SAMPLE = "sample"
CAPTIONS = {"speed.png": "BD-rate over the time to decode, on a log scale: down and to the left is better."}
EQUAL_LABELS = {"file_bytes": "bytes", "ssimulacra2": "SSIMULACRA2"}
VARIANTS = ("vaecodec-psnr", "jpeg-420", "jpeg-444", "avif-tuned", "avif-444")  # curves that the page hides at first
PUBLISHED_COLOURS = ("#888888", "#6b6b6b", "#a0a0a0", "#4d4d4d")

Box = tuple[int, int, int, int]


class Panel(NamedTuple):
    """A picture decoded by one codec; file_bytes is 0 for the original."""

    name: str
    image: Image.Image
    file_bytes: int = 0
    psnr_db: float = metrics.EXACT_DB
    ssimulacra2: float | None = None

    @property
    def caption(self) -> str:
        """Name, size and fidelity as text."""
        if not self.file_bytes:
            return self.name
        score = "" if self.ssimulacra2 is None else f", SSIMULACRA2 {self.ssimulacra2:.1f}"
        return f"{self.name}: {self.file_bytes:,} bytes{score}, {self.psnr_db:.2f} dB"


def panel_of(codec: Codec, original: Image.Image, file: bytes) -> Panel:
    """Decodes a file with its codec, and measures it."""
    shown = codec.decode(file)
    a, b = np.asarray(original), np.asarray(shown)
    return Panel(codec.name, shown, len(file), metrics.psnr_db(a, b), metrics.ssimulacra2(a, b))


class Comparison(NamedTuple):
    """One picture: the original, vaecodec's panel, and the other codecs' panels by the field in which they match it."""

    picture: str
    original: Panel
    ours: Panel
    others: Mapping[str, Sequence[Panel]]


def compare(
    records: Sequence[Record], count: int, *, quality: int, data: str | None, model: Path | None = None,
    own: Sequence[Codec] = (),
) -> list[Comparison]:  # fmt: skip
    """Code some pictures of the data set again for the page, evenly spread over it.

    Args:
        records: their codecs are shown if they are unchanged since the measurement; without vaecodec, none are.
        count: number of pictures.
        quality: of vaecodec; the other codecs match its bytes, and its SSIMULACRA2, as closely as possible.
        data: where the pictures are; None looks where the records say.
        model: weights of vaecodec; None is the built-in file.
        own: codecs that are not in `codecs.names()`.
    """
    usable = _usable(records, model, own)
    ours = usable.pop(OURS, None)
    by_name = {record.name: record for record in records}
    pictures = _pictures(records[0], data)
    if ours is None or not pictures:
        return []
    step = max(1, len(pictures) // max(1, count))
    comparisons = []
    for picture in pictures[step // 2 :: step][:count]:
        image = picture.load()
        first = panel_of(ours, image, ours.encode(image, quality))
        others = {}
        for name, measure in EQUAL.items():
            wanted = getattr(first, name)
            if wanted is None:
                continue
            files = {
                codec: nearest(codec, image, wanted, between=_bracket(rows, name, wanted), measure=measure)
                for codec, rows in ((each, by_name[each.name].known(picture.name)) for each in usable.values())
            }
            others[name] = [panel_of(codec, image, file) for codec, file in files.items()]
        comparisons.append(Comparison(picture.name, Panel("original", image), first, others))
    return comparisons


def render(
    records: Sequence[Record], tables: Iterable[Table], plots: Iterable[Path], comparisons: Sequence[Comparison]
) -> str:
    """The whole page.

    Args:
        records: the records of one data set; the browser draws their curves.
        tables: the tables to show.
        plots: image files; rate-distortion plots are skipped.
        comparisons: the compared pictures.
    """
    dataset, machine = records[0].dataset, records[0].machine
    about = [(name, str(value)) for name, value in machine.items()] + [("data", f"SHA-256 {dataset['sha256']}")]
    about += [(record.name, f"{record.codec['version']}; {_settings(record)}") for record in records]
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(f"Rate and distortion on {dataset['name']}"),
        data=json.dumps(curves_of(records), separators=(",", ":")).replace("<", "\\u003c"),
        tables="\n".join(map(_table, tables)),
        plots="\n".join(
            figure(inline(path.read_bytes(), "png"), CAPTIONS[path.name]) for path in plots if path.name in CAPTIONS
        ),
        pictures=_pictures_section(comparisons),
        about="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about),
    )


def curves_of(records: Sequence[Record]) -> dict[str, Any]:
    """The data that the page draws: names, colours, and by measure and codec the points of every picture and the mean.

    A point is quality, bits per pixel, and what curves show of the measure (`metrics.quality_of`). The mean is that of
    picture "".
    """
    looks, dataset = styles(record.name for record in records), records[0].dataset["name"]
    others = {name: PUBLISHED_COLOURS[n % len(PUBLISHED_COLOURS)] for n, name in enumerate(published.sources(dataset))}
    curves: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    for metric in METRICS:
        found = {record.name: _points(record, metric) for record in records if record.curve(metric)}
        if not found:
            continue
        beside = published.curves(dataset, metric)
        found |= {f"{name}, published": {"": [[0, *map(_short, p)] for p in beside[name]]} for name in beside}
        curves[metric] = found
    return {
        "metrics": [{"name": name, "label": LABELS[name]} for name in curves],
        "codecs": [
            *({"name": name, "colour": looks[name][0], "on": name not in VARIANTS} for name in looks),
            *({"name": f"{name}, published", "colour": colour, "on": False} for name, colour in others.items()),
        ],
        "pictures": records[0].dataset["images"],
        "curves": curves,
    }  # fmt: skip


def _points(record: Record, metric: str) -> dict[str, list[list[float]]]:
    measured, points = record.measured(metric), defaultdict[str, list[list[float]]](list)
    for (quality, rows), mean in zip(measured.items(), record.curve(metric), strict=True):
        points[""].append([quality, *map(_short, mean)])
        for row in rows:
            points[row["image"]].append([quality, _short(row["bpp"]), _short(metrics.quality_of(metric, row[metric]))])
    return points


def _short(number: float) -> float:
    return round(number, 3)


def _settings(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.codec["settings"].items())


def _usable(records: Iterable[Record], model: Path | None, own: Sequence[Codec]) -> dict[str, Codec]:
    """The codecs that are installed and unchanged since they were measured."""
    usable, of_others = {}, {codec.name: codec for codec in own}
    for record in records:
        device = record.codec["settings"].get("device", "cpu")
        try:
            codec = of_others.get(record.name) or codecs.open_codec(record.name, device=device, model=model)
        except UnavailableError as reason:
            print(f"{record.name}: no pictures: {reason}", file=sys.stderr)
            continue
        if codec.describe() != record.codec:
            print(
                f"{record.name}: no pictures: installed is {codec.describe()}, measured was {record.codec}",
                file=sys.stderr,
            )
        elif not codec.timing_only:
            usable[record.name] = codec
    return usable


def _pictures(record: Record, data: str | None) -> Sequence[datasets.Picture]:
    name, names = record.dataset["name"], record.dataset["images"]
    base = name.removesuffix(f"-first{len(names)}")
    try:
        found = datasets.find(data or record.dataset.get("folder") or (None if base == SAMPLE else base))
        found = found.first(len(names))
    except FileNotFoundError as reason:
        print(f"no pictures: {reason}", file=sys.stderr)
        return ()
    if found.sha256 != record.dataset["sha256"]:
        print(f"no pictures: {found.name} is not the measured data set (its checksum differs)", file=sys.stderr)
        return ()
    return found.pictures


def _bracket(rows: Mapping[int, Row], name: str, wanted: float) -> tuple[int, int]:
    """The two measured qualities of a picture around a value of a field; the last one twice if it lies outside."""
    values = {quality: row[name] for quality, row in rows.items() if row.get(name) is not None}
    if not values:
        return min(rows), max(rows)
    ordered = sorted(values, key=lambda quality: float(values[quality]))
    less = sum(value < wanted for value in values.values())
    first, second = ordered[max(0, less - 1)], ordered[min(less, len(ordered) - 1)]
    return min(first, second), max(first, second)


Measure = Callable[[Image.Image, Codec, bytes], float]


def _bytes_of(image: Image.Image, codec: Codec, file: bytes) -> float:
    return len(file)


def _score_of(image: Image.Image, codec: Codec, file: bytes) -> float:
    return metrics.ssimulacra2(np.asarray(image), np.asarray(codec.decode(file))) or 0.0


EQUAL: Mapping[str, Measure] = MappingProxyType({"file_bytes": _bytes_of, "ssimulacra2": _score_of})
"""The measures in which codecs can be made equal: fields of rows and panels, and how to measure them from a file."""


def nearest(
    codec: Codec, image: Image.Image, wanted: float, *, between: tuple[int, int], measure: Measure = _bytes_of
) -> bytes:
    """The codec's file closest to a value of a measure, by bisection; assumes that it is monotonic in quality.

    Args:
        codec: the codec whose quality is searched.
        image: the picture.
        wanted: the value of the measure, by default bytes.
        between: the first and the last quality to try.
        measure: one of `EQUAL`.
    """
    low, high = between
    files = {quality: codec.encode(image, quality) for quality in (low, high)}
    values = {quality: measure(image, codec, file) for quality, file in files.items()}
    rises = values[high] > values[low]
    while high - low > 1:
        middle = (low + high) // 2
        files[middle] = codec.encode(image, middle)
        values[middle] = measure(image, codec, files[middle])
        if (values[middle] < wanted) == rises:
            low = middle
        else:
            high = middle
    return files[min(files, key=lambda quality: abs(values[quality] - wanted))]


def by_detail(image: Image.Image, size: tuple[int, int]) -> list[Box]:
    """Boxes of a size all over a picture, in order of increasing detail; the whole picture if it is smaller."""
    width, height = min(size[0], image.width), min(size[1], image.height)
    grey = np.asarray(image.convert("L"), np.int32)
    detail = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    boxes = [
        (left, top, left + width, top + height)
        for top in range(0, image.height - height + 1, max(1, height // 2))
        for left in range(0, image.width - width + 1, max(1, width // 2))
    ]
    return sorted(boxes, key=lambda box: int(detail[box[1] : box[3], box[0] : box[2]].sum()))


def _pictures_section(comparisons: Sequence[Comparison]) -> str:
    """All pictures, below a choice of the measure that is equal; empty without pictures."""
    if not comparisons:
        return ""
    equal = [name for name in EQUAL if any(comparison.others.get(name) for comparison in comparisons)]
    choices = "".join(
        f'<label><input type="radio" name="equal" value="{name}"{" checked" if name == equal[0] else ""}>'
        f" equal {EQUAL_LABELS[name]}</label>"
        for name in equal
    )
    shown = "\n".join(map(_comparison, comparisons))
    return f"""<h2>Pictures</h2>
<p class="note">To the left of the slider the original, to the right {OURS}. Below, a crop of every codec that is
switched on above, each at the setting that comes nearest to {OURS}. A click enlarges a crop.</p>
<div class="choice" role="radiogroup" aria-label="what is equal">{choices}</div>
{shown}"""


def _comparison(comparison: Comparison) -> str:
    original, ours = comparison.original, comparison.ours
    wide, close = (by_detail(original.image, size)[-1] for size in (SLIDER_PX, CROP_PX))  # where codecs differ most
    groups = "\n".join(
        f'<div class="crops" data-equal="{name}">'
        + "\n".join(_crop(panel, close) for panel in (original, ours, *panels))
        + "</div>"
        for name, panels in comparison.others.items()
    )
    return f"""<h3>{escape(comparison.picture)}</h3>
<div class="slider"><img src="{inline_crop(original.image, wide)}" alt="original">
<img class="over" src="{inline_crop(ours.image, wide)}" alt="{escape(ours.name)}"><div class="line"></div>
<b>original</b><b>{escape(ours.caption)}</b>
<input type="range" min="0" max="100" value="50" step="0.1"
aria-label="original to the left, {escape(ours.name)} to the right"></div>
{groups}"""


def _crop(panel: Panel, box: Box) -> str:
    shown = figure(inline_crop(panel.image, box), panel.caption)
    return shown.replace("<figure>", f'<figure data-codec="{escape(panel.name)}">', 1)


def _table(table: Table) -> str:
    kinds = [' class="source"' if name == "source" else "" for name in table.header]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, table.header, strict=True))
    opening = {True: '<tr class="ours">', False: "<tr>"}
    body = "\n".join(
        opening[row[0] == OURS]
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return f"""<h2>{escape(table.title)}</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p class="note">{escape(table.note)}</p>"""


def _cell(text: str) -> str:
    """The text of a cell, with an interval on its own line."""
    value, bracket, rest = text.partition(" [")
    return f"{escape(value)}<small>[{escape(rest)}</small>" if bracket else escape(text)


def figure(source: str, caption: str) -> str:
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def inline_crop(image: Image.Image, box: Box) -> str:
    """A crop as a lossless data URL."""
    file = io.BytesIO()
    image.crop(box).save(file, "WEBP", lossless=True)
    return inline(file.getvalue(), "webp")


def inline(data: bytes, subtype: str) -> str:
    return f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"
