"""Shows crops of pictures side by side at equal bytes or score: `python benchmarks/crops.py PICTURE... --out DIR`.

For each picture, shows the boxes with the most and the least detail, or the one given by --box.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image, ImageDraw, ImageFont

from benchmarks import codecs, datasets, metrics, page, results
from benchmarks.adapter import Codec, UnavailableError
from benchmarks.page import Box, Panel
from benchmarks.tables import OURS

ZOOM, SIZE_PX, QUALITIES = 2, (240, 180), (15, 35, 60, 85)
GAP_PX, LINE_PX, FONT_PX = 8, 20, 14
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Crops at equal $equal</title>
<style>
body { font: 14px/1.3 system-ui, sans-serif; color: #ddd; background: #333; margin: 1rem; }
.row { display: flex; gap: .5rem; margin-bottom: 1rem; }
figure { margin: 0; } img { display: block; zoom: $zoom; image-rendering: pixelated; }
</style>
</head>
<body>
$rows
</body>
</html>
""")


class Row(NamedTuple):
    """One box of a picture at one quality: the original, and the result of each codec."""

    title: str
    box: Box
    panels: list[Panel]


def compare(
    picture: datasets.Picture, pair: Sequence[Codec], qualities: Sequence[int], boxes: Sequence[Box],
    equal: str = "file_bytes",
) -> list[Row]:  # fmt: skip
    """Every box at every quality of the first codec; the others match it in `equal`, a key of `page.EQUAL`."""
    image = picture.load()
    first, *others = pair
    rows = []
    for quality in qualities:
        file = first.encode(image, quality)
        measure = page.EQUAL[equal]
        wanted = measure(image, first, file)
        files = {first: file} | {
            codec: page.nearest(codec, image, wanted, between=_scale(codec), measure=measure) for codec in others
        }
        panels = [Panel("original", image), *(page.panel_of(codec, image, each) for codec, each in files.items())]
        rows += [Row(f"{picture.name}, {first.name} {quality}", box, panels) for box in boxes]
    return rows


def sheet(rows: Sequence[Row], zoom: int) -> Image.Image:
    """All rows as one picture, with every pixel enlarged and a caption above each crop."""
    font = ImageFont.load_default(FONT_PX)
    cells = [[_enlarged(panel.image, row.box, zoom) for panel in row.panels] for row in rows]
    columns = [max(cell.width for cell in column) + GAP_PX for column in zip(*cells, strict=True)]
    heights = [max(cell.height for cell in each) + GAP_PX + 2 * LINE_PX for each in cells]
    canvas = Image.new("RGB", (sum(columns), sum(heights)), "#333333")
    draw = ImageDraw.Draw(canvas)
    for row, each, top in zip(rows, cells, itertools.accumulate(heights, initial=0), strict=False):
        draw.text((GAP_PX, top), row.title, "#dddddd", font)
        for panel, cell, left in zip(row.panels, each, itertools.accumulate(columns, initial=0), strict=False):
            draw.text((left + GAP_PX, top + LINE_PX), panel.caption, "#dddddd", font)
            canvas.paste(cell, (left + GAP_PX // 2, top + 2 * LINE_PX))
    return canvas


def render(rows: Sequence[Row], zoom: int, equal: str = "file_bytes") -> str:
    """All rows as a page without external resources."""
    shown = []
    for row in rows:
        figures = (page.figure(page.inline_crop(panel.image, row.box), panel.caption) for panel in row.panels)
        shown.append(f'<h2>{escape(row.title)}</h2>\n<div class="row">{"".join(figures)}</div>')
    return PAGE.substitute(zoom=zoom, equal=page.EQUAL_LABELS[equal], rows="\n".join(shown))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write DIR/crops.html and a sheet DIR/PICTURE.png per picture; exit code 2 without pictures or codecs."""
    options = _parser().parse_args(arguments)
    try:
        found = datasets.find(options.data).pictures if options.data else ()
        pair = [codecs.open_codec(name, model=options.model) for name in options.codecs.split(",")]
    except (FileNotFoundError, UnavailableError) as error:
        print(error, file=sys.stderr)
        return 2
    pictures = [*found, *(datasets.Picture(path.name, path) for path in options.pictures)]
    if not pictures:
        print("no pictures: give some, or a data set with --data", file=sys.stderr)
        return 2
    equal = next(name for name, label in page.EQUAL_LABELS.items() if label.lower() == options.equal)
    options.out.mkdir(parents=True, exist_ok=True)
    everything = []
    for picture in pictures:
        if not metrics.is_large_enough(equal, *picture.load().size):
            print(f"{picture.name} is too small for {options.equal}", file=sys.stderr)
            return 2
        by_detail = [options.box] if options.box else page.by_detail(picture.load(), options.size)
        boxes = list(dict.fromkeys((by_detail[-1], by_detail[0])))
        rows = compare(picture, pair, options.qualities, boxes, equal)
        sheet(rows, options.zoom).save(options.out / f"{Path(picture.name).stem}.png")
        everything += rows
        results.write_atomically(options.out / "crops.html", render(everything, options.zoom, equal))
    print(options.out / "crops.html")
    return 0


def _scale(codec: Codec) -> tuple[int, int]:
    """All of a codec's qualities."""
    return min(1, *codec.qualities), max(100, *codec.qualities)


def _enlarged(image: Image.Image, box: Box, zoom: int) -> Image.Image:
    crop = image.crop(box)
    return crop.resize((zoom * crop.width, zoom * crop.height), Image.Resampling.NEAREST)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, help="lossless pictures")
    parser.add_argument("--data", help="also show all pictures of this folder or data set")
    parser.add_argument("--codecs", default=f"{OURS},avif", help="codecs; the others match the first")
    parser.add_argument("--equal", default="bytes", choices=[each.lower() for each in page.EQUAL_LABELS.values()])
    parser.add_argument("--qualities", type=_numbers, default=QUALITIES, help="qualities of the first codec")
    parser.add_argument("--size", type=_numbers, default=SIZE_PX, help="width,height of a crop before enlargement")
    parser.add_argument("--box", type=_numbers, help="show this crop of every picture: left,top,right,bottom")
    parser.add_argument("--zoom", type=int, default=ZOOM, help="enlargement factor of every pixel")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, default=Path("out", "crops"), help="output folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
