"""Makes tables, plots, a page and README's table from recorded results: `python benchmarks/report.py DIR`.

Also shows the results of throughput.py and gpu_throughput.py if they are in the parent folder of DIR.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import codecs, page, plots, published, readme, results, tables
from benchmarks.adapter import Codec
from benchmarks.results import Record

PLOTS = {
    "ssimulacra2.png": "ssimulacra2", "ms-ssim.png": "ms_ssim", "butteraugli.png": "butteraugli", "psnr.png": "psnr_db",
}  # fmt: skip
SPEED_PLOT = "speed.png"
PICTURES, QUALITY = 2, 30
SPEED, CUDA = "throughput.json", "throughput-cuda.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write everything that a folder of results allows."""
    options = _parser().parse_args(arguments)
    records = write_all(
        options.folder, pictures=0 if options.no_page else options.pictures, quality=options.quality, data=options.data,
        model=options.model, own=options.codec,
    )  # fmt: skip
    if not records:
        return 2
    if options.readme:
        write_readme(options.readme, records, options.folder)
    return 0


def write_all(
    folder: Path, *, pictures: int = PICTURES, quality: int = QUALITY, data: str | None = None,
    model: Path | None = None, own: Sequence[Codec] = (),
) -> list[Record]:  # fmt: skip
    """Print the tables of a folder of results, and write its plots and its page.

    Args:
        folder: the --out folder of rd_curve.py.
        pictures: number of pictures on the page; 0 writes no page.
        quality: of vaecodec; the other codecs match it on these pictures.
        data: folder of the pictures; None looks where the records say.
        model: weights of vaecodec; None is the built-in file.
        own: codecs that are not in `codecs.names()`.

    Returns:
        The records that cover their data set; none, and nothing is written, if there is no such.
    """
    records = complete(results.load_folder(folder))
    if not records:
        print(f"{folder} holds no complete results", file=sys.stderr)
        return []
    speed, cuda = (_read(folder.parent / name) for name in (SPEED, CUDA))
    drawn = draw(records, folder, speed)
    shown = tables.all_tables(records, speed, cuda)
    print("\n".join(table.markdown() for table in shown))
    if pictures:
        comparisons = page.compare(records, pictures, quality=quality, data=data, model=model, own=own)
        path = folder / "report.html"
        results.write_atomically(path, page.render(records, shown, drawn, comparisons))
        print(path)
    return records


def complete(records: Sequence[Record]) -> list[Record]:
    """The records that cover their whole data set, ours first; prints which are skipped."""
    for record in records:
        if not record.is_complete:
            print(f"{record.name}: skipped: not all pictures are measured yet", file=sys.stderr)
    order = codecs.names()
    whole = [record for record in records if record.is_complete]
    return sorted(whole, key=lambda record: order.index(record.name) if record.name in order else len(order))


def draw(records: Sequence[Record], folder: Path, speed: Mapping[str, Any] | None) -> list[Path]:
    """Write all plots for which there is data."""
    paths = []
    for name, metric in PLOTS.items():
        curves = {record.name: curve for record in records if (curve := record.curve(metric))}
        if curves:
            others = published.curves(records[0].dataset["name"], metric)
            plots.rate_distortion(curves, others, metric=metric, path=folder / name)
            paths.append(folder / name)
    points = tables.anchored(records, speed)
    if points:
        peer = tables.small_run(speed)["codecs"].get(tables.PEER) if speed is not None else None
        label = tables.METRICS[tables.leading({record.name: record for record in records})]
        plots.speed(points, folder / SPEED_PLOT, label=label, peer_ms=1000 * peer["decode_s"] if peer else None)
        paths.append(folder / SPEED_PLOT)
    return paths


def write_readme(document: Path, records: Sequence[Record], folder: Path) -> None:
    """Rewrite the text between README's markers."""
    text = readme_text(document, records, folder)
    results.write_atomically(document, readme.put_between_markers(document.read_text(), text))


def readme_text(document: Path, records: Sequence[Record], folder: Path) -> str:
    """README's text from a folder's records, those of its sibling folders, and the speed measured with them."""
    beside = [complete(results.load_folder(other)) for other in sorted(folder.parent.iterdir()) if other.is_dir()]
    here = records[0].dataset["name"]
    others = [each for each in beside if each and each[0].name == tables.OURS and each[0].dataset["name"] != here]
    speed = _read(folder.parent / SPEED)
    metric = tables.leading({record.name: record for record in records})
    return readme.text(records, others, speed, picture=plot_link(document, folder, metric))


def plot_link(document: Path, folder: Path, metric: str) -> str:
    """The path of the plot of a metric, relative to README."""
    name = next(name for name, shown in PLOTS.items() if shown == metric)
    return Path(os.path.relpath(folder / name, document.resolve().parent)).as_posix()


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out folder of rd_curve.py")
    parser.add_argument("--readme", type=Path, help="rewrite this document between its markers")
    parser.add_argument("--no-page", action="store_true", help="do not write report.html")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--data", help="folder of the pictures [where the records say]")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="number of pictures on the page")
    parser.add_argument(
        "--quality", type=int, default=QUALITY, help="quality of vaecodec; the others match its bytes and SSIMULACRA2"
    )
    parser.add_argument(
        "--codec", type=codecs.argument, action="append", default=[], metavar="MODULE:FUNCTION",
        help="your own codec, already measured by rd_curve.py; may be repeated",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
