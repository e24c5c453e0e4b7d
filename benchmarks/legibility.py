"""Measures the legibility of small text by quality, against JPEG at the same size: `python benchmarks/legibility.py`.

Draws random characters into a grid of cells, codes the picture, and compares each cell with every glyph of the font.
This reader knows font, size and position, so it errs only where the picture no longer distinguishes two characters. It
shows what is lost, not how well a person or an OCR program would read, and needs no such program.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks import lettering
from benchmarks.lettering import DIGITS, SCENES, Picture, Sheet
from benchmarks.results import ROOT, write_atomically
from vaecodec import Codec, info
from vaecodec.pictures import pixels

FONT_SIZES_PX = (9, 12, 16, 24)
QUALITIES = (1, 5, 10, 20, 30, 50, 75, 90)
RECORD = ROOT / "benchmarks" / "results" / "reliability" / "legibility.json"
BEGIN, END = "<!-- legibility -->", "<!-- /legibility -->"


def measure(codec: Codec, scene: str, size_px: int, qualities: Iterable[int]) -> list[dict[str, Any]]:
    """Reads one sheet at each quality, from our file and from the largest JPEG that is no larger.

    Returns:
        A row per quality, and one with quality None for the original: the numbers of characters and digits, and of both
        those read wrongly (for digits, only those taken for another digit); the rate; the JPEG's own quality.
    """
    rng = np.random.default_rng(size_px)
    sheet = lettering.draw_sheet(size_px, rng)
    picture = SCENES[scene](sheet.ink, rng)
    head = {"scene": scene, "font_size_px": size_px, "characters": sheet.characters.size}
    head["digits"] = int((sheet.characters < DIGITS).sum())
    rows = [head | {"quality": None} | _errors(picture, sheet)]
    for quality in qualities:
        data = codec.encode(picture, quality)
        jpeg_quality, jpeg = _jpeg_within(picture, len(data))
        theirs = _errors(np.asarray(Image.open(io.BytesIO(jpeg))), sheet)
        decoded = codec.decode(data, output="numpy")
        rows.append(
            head
            | {"quality": quality, "bpp": _bpp(data), "psnr_db": _rounded_db(picture, decoded)}
            | {"tiles": sorted({entry.mode.name.lower() for entry in info(data).index})}
            | _errors(decoded, sheet)
            | {"jpeg_quality": jpeg_quality, "jpeg_bpp": _bpp(jpeg)}
            | {f"jpeg_{name}": count for name, count in theirs.items()}
        )
    return rows


def tables(record: dict[str, Any]) -> str:
    """The record as Markdown: one table per scene, one line per quality."""
    rows, sizes = record["rows"], sorted({row["font_size_px"] for row in record["rows"]})
    lines = [
        f"Model {record['model_id']}, {record['font']}, {lettering.WIDTH_PX} x {lettering.HEIGHT_PX} pixels per"
        " picture. Characters read wrongly, in percent: vaecodec / JPEG of at most the same size."
        " \\*: even JPEG's lowest quality takes more bytes.",
    ]
    for scene in dict.fromkeys(row["scene"] for row in rows):
        summary = (SCENES[scene].__doc__ or "").rstrip(".")
        cells = " | ".join(f"{size} px" for size in sizes)
        lines += ["", f"**{scene}**: {summary[0].lower()}{summary[1:]}.", "", f"| quality | bpp | {cells} |"]
        lines.append("|--:|--:|" + "--:|" * len(sizes))
        for quality in dict.fromkeys(row["quality"] for row in rows):
            of = [row for row in rows if (row["scene"], row["quality"]) == (scene, quality)]
            rates = f"{min(row['bpp'] for row in of):.2f} to {max(row['bpp'] for row in of):.2f}" if quality else ""
            lines.append(f"| {quality or 'original'} | {rates} | {' | '.join(map(_cell, of))} |")
    lines += ["", _verdict(rows), "", *_digits(rows)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or with --tables-only read the record; rewrite the document's tables if one is given."""
    options = _parser().parse_args(arguments)
    if not options.tables_only:
        codec = Codec(options.model, "cpu")
        record = {
            "date": date.today().isoformat(),
            "model_id": codec.engine.model_id.hex(),
            "font": lettering.font_of(12)[0],
            "versions": {name: version(name) for name in ("torch", "pillow", "numpy")},
        }
        record["rows"] = [
            row
            for scene in SCENES
            for size_px in options.sizes
            for row in measure(codec, scene, size_px, options.qualities)
        ]
        rows = ",\n".join(json.dumps(row, allow_nan=False) for row in record.pop("rows"))
        write_atomically(options.out, f'{json.dumps(record)[:-1]}, "rows": [\n{rows}\n]}}\n')
    shown = tables(json.loads(options.out.read_text()))
    print(shown)
    if options.docs:
        write_atomically(options.docs, put_between_markers(options.docs.read_text(), shown))
    return 0


def put_between_markers(document: str, shown: str) -> str:
    """The document with `shown` between its markers.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document must have {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n{shown}{END}{after}"


def _errors(picture: Picture, sheet: Sheet) -> dict[str, int]:
    found, true = lettering.read(picture, sheet), sheet.characters
    is_other_digit = (true < DIGITS) & (found >= 0) & (found < DIGITS) & (found != true)
    return {"errors": int((found != true).sum()), "digit_errors": int(is_other_digit.sum())}


def _jpeg_within(picture: Picture, limit_bytes: int) -> tuple[int, bytes]:
    """The highest quality of Pillow's JPEG, with optimized tables, whose file fits; otherwise the lowest."""
    image = Image.fromarray(picture)

    def encoded(quality: int) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        return file.getvalue()

    low, high = 1, 100
    while low < high:
        middle = (low + high + 1) // 2
        if len(encoded(middle)) <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return low, encoded(low)


def _bpp(data: bytes) -> float:
    return round(8 * len(data) / (lettering.WIDTH_PX * lettering.HEIGHT_PX), 4)


def _rounded_db(picture: Picture, decoded: Picture) -> float | None:
    psnr_db = pixels.psnr_db(picture, decoded)
    return round(psnr_db, 2) if psnr_db < np.inf else None


def _cell(row: dict[str, Any]) -> str:
    ours = 100 * row["errors"] / row["characters"]
    if row["quality"] is None:
        return f"{ours:.1f}"
    star = "\\*" if row["jpeg_bpp"] > row["bpp"] else ""
    return f"{ours:.1f} / {100 * row['jpeg_errors'] / row['characters']:.1f}{star}"


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Which codec loses fewer characters, over all fields where JPEG can be that small."""
    fair = [row for row in rows if row["quality"] and row["jpeg_bpp"] <= row["bpp"]]
    fewer, more = (sum(sign * (row["jpeg_errors"] - row["errors"]) > 0 for row in fair) for sign in (1, -1))
    return (
        f"Of the {len(fair)} fields without \\*, vaecodec loses fewer characters than JPEG in {fewer}, more in {more},"
        f" equally many in {len(fair) - fewer - more}."
    )


def _digits(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lowest quality from which no digit is taken for another."""
    lines = ["Lowest quality from which no digit is taken for another:", ""]
    sizes = sorted({row["font_size_px"] for row in rows})
    lines += [f"| | {' | '.join(f'{size} px' for size in sizes)} |", "|---|" + "--:|" * len(sizes)]
    for scene in dict.fromkeys(row["scene"] for row in rows):
        for name, key in (("vaecodec", "digit_errors"), ("JPEG of the same size", "jpeg_digit_errors")):
            cells = []
            for size in sizes:
                of = [row for row in rows if (row["scene"], row["font_size_px"]) == (scene, size) and row["quality"]]
                wrong = [row["quality"] for row in of if row[key]]
                free = [row["quality"] for row in of if row["quality"] > max(wrong, default=0)]
                cells.append(str(min(free)) if free else f"above {max(wrong)}")
            lines.append(f"| {scene}, {name} | {' | '.join(cells)} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the legibility of small text, against JPEG.")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--sizes", type=int, nargs="+", default=FONT_SIZES_PX, metavar="PX", help="font sizes")
    parser.add_argument("--qualities", type=int, nargs="+", default=QUALITIES, metavar="Q")
    parser.add_argument("--out", type=Path, default=RECORD, help="the JSON record")
    parser.add_argument("--docs", type=Path, help="rewrite this document between its markers")
    parser.add_argument("--tables-only", action="store_true", help="use the record in --out instead of measuring")
    return parser


if __name__ == "__main__":
    sys.exit(main())
