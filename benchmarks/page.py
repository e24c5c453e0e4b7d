"""The report as one HTML file without external resources: tables, plots, and pictures of all codecs at equal bytes."""

import base64
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import codecs, datasets, metrics
from benchmarks.adapter import Codec, UnavailableError
from benchmarks.results import Record
from benchmarks.tables import OURS, Table

TEMPLATE = Path(__file__).with_name("page.html")
SLIDER_PX = (1024, 768)
CROP_PX = (150, 110)
SAMPLE = "sample"
CAPTIONS = {
    "ssimulacra2.png": "SSIMULACRA2 over bits per pixel: up and to the left is better; 90 is hard to tell apart.",
    "psnr.png": "PSNR of RGB over bits per pixel. Dashed: published by others.",
    "ms-ssim.png": "MS-SSIM in dB, -10 log10(1 - MS-SSIM), over bits per pixel. Dashed: published by others.",
    "butteraugli.png": "Butteraugli's 3-norm over bits per pixel: a distance, its axis turned so that up is better.",
    "speed.png": "BD-rate over the time to decode, on a log scale: down and to the left is better.",
}

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
    """One picture: the original, then vaecodec, then the other codecs at about the same bytes."""

    picture: str
    panels: list[Panel]


def compare(
    records: Sequence[Record], count: int, *, quality: int, data: str | None, model: Path | None = None
) -> list[Comparison]:
    """Code some pictures of the data set again for the page, evenly spread over it.

    Args:
        records: their codecs are shown if they are unchanged since the measurement; without vaecodec, none are.
        count: number of pictures.
        quality: of vaecodec; the other codecs match its bytes as closely as possible.
        data: where the pictures are; None looks them up by the name of their data set.
        model: weights of vaecodec; None is the built-in file.
    """
    usable = _usable(records, model)
    ours = usable.pop(OURS, None)
    rows = {record.name: record.rows for record in records}
    pictures = _pictures(records[0], data)
    if ours is None or not pictures:
        return []
    step = max(1, len(pictures) // max(1, count))
    comparisons = []
    for picture in pictures[step // 2 :: step][:count]:
        image = picture.load()
        file = ours.encode(image, quality)
        files = {ours: file}
        for codec in usable.values():
            sizes = {row["quality"]: row["file_bytes"] for row in rows[codec.name] if row["image"] == picture.name}
            files[codec] = nearest(codec, image, len(file), between=_bracket(sizes, len(file)))
        panels = [Panel("original", image), *(panel_of(codec, image, each) for codec, each in files.items())]
        comparisons.append(Comparison(picture.name, panels))
    return comparisons


def render(
    records: Sequence[Record], tables: Iterable[Table], plots: Iterable[Path], comparisons: Iterable[Comparison]
) -> str:
    """The whole page."""
    dataset, machine = records[0].dataset, records[0].machine
    about = [(name, str(value)) for name, value in machine.items()] + [("data", f"SHA-256 {dataset['sha256']}")]
    about += [(record.name, f"{record.codec['version']}; {_settings(record)}") for record in records]
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(f"Rate and distortion on {dataset['name']}"),
        tables="\n".join(map(_table, tables)),
        plots="\n".join(figure(inline(path.read_bytes(), "png"), CAPTIONS[path.name]) for path in plots),
        comparisons="\n".join(map(_comparison, comparisons)),
        about="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about),
    )


def _settings(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.codec["settings"].items())


def _usable(records: Iterable[Record], model: Path | None) -> dict[str, Codec]:
    """The codecs that are installed and unchanged since they were measured."""
    usable = {}
    for record in records:
        try:
            codec = codecs.open_codec(record.name, device=record.codec["settings"].get("device", "cpu"), model=model)
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
        found = datasets.find(data or (None if base == SAMPLE else base)).first(len(names))
    except FileNotFoundError as reason:
        print(f"no pictures: {reason}", file=sys.stderr)
        return ()
    if found.sha256 != record.dataset["sha256"]:
        print(f"no pictures: {found.name} is not the measured data set (its checksum differs)", file=sys.stderr)
        return ()
    return found.pictures


def _bracket(sizes: Mapping[int, int], wanted_bytes: int) -> tuple[int, int]:
    """The two measured qualities between whose file sizes a size lies; the last quality twice if it lies outside."""
    by_size = sorted(sizes, key=lambda quality: sizes[quality])
    smaller = sum(size < wanted_bytes for size in sizes.values())
    first, second = by_size[max(0, smaller - 1)], by_size[min(smaller, len(by_size) - 1)]
    return min(first, second), max(first, second)


def nearest(codec: Codec, image: Image.Image, wanted_bytes: int, *, between: tuple[int, int]) -> bytes:
    """The codec's file closest to a size, by bisection, which assumes that size is monotonic in quality."""
    low, high = between
    files = {quality: codec.encode(image, quality) for quality in (low, high)}
    rises = len(files[high]) > len(files[low])
    while high - low > 1:
        middle = (low + high) // 2
        files[middle] = codec.encode(image, middle)
        if (len(files[middle]) < wanted_bytes) == rises:
            low = middle
        else:
            high = middle
    return min(files.values(), key=lambda file: abs(len(file) - wanted_bytes))


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


def _comparison(comparison: Comparison) -> str:
    original, ours, *_ = comparison.panels
    wide, close = (by_detail(original.image, size)[-1] for size in (SLIDER_PX, CROP_PX))  # where codecs differ most
    crops = "\n".join(figure(inline_crop(panel.image, close), panel.caption) for panel in comparison.panels)
    return f"""<h2>{escape(comparison.picture)}</h2>
<div class="slider"><img src="{inline_crop(original.image, wide)}" alt="original">
<img class="over" src="{inline_crop(ours.image, wide)}" alt="{escape(ours.name)}"><div class="line"></div>
<b>original</b><b>{escape(ours.caption)}</b>
<input type="range" min="0" max="100" value="50" step="0.1"
aria-label="original to the left, {escape(ours.name)} to the right"></div>
<p class="note">A crop of every codec at the setting nearest to the same bytes.</p>
<div class="crops">{crops}</div>"""


def _table(table: Table) -> str:
    kinds = [' class="source"' if name == "source" else "" for name in table.header]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, table.header, strict=True))
    opening = {True: '<tr class="ours">', False: "<tr>"}
    body = "\n".join(
        opening[row[0] == OURS]
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return f"""<h2>{escape(table.title)}</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p class="note">{escape(table.note)}</p>"""


def figure(source: str, caption: str) -> str:
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def inline_crop(image: Image.Image, box: Box) -> str:
    """A crop as a lossless data URL."""
    file = io.BytesIO()
    image.crop(box).save(file, "WEBP", lossless=True)
    return inline(file.getvalue(), "webp")


def inline(data: bytes, subtype: str) -> str:
    return f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"
