"""The result tables of the model card, from records or newly measured: `python benchmarks/model_card.py`.

Without --measure, the card is rewritten between its markers from the committed records. With it, rd_curve.py first
measures the codecs that the tables need; the tables are printed, and the card stays unchanged.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the names in this folder (codecs, datasets) must not hide other packages' modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import bootstrap, rd_curve, readme, report, results
from benchmarks.results import RESULTS, ROOT, Record
from benchmarks.tables import ANCHOR, FORMATS, METRICS, OURS, OURS_PSNR, text_of, with_interval

CARD = ROOT / "pretrained" / "README.md"
SETS = {"kodak": "Kodak", "clic2025-valid": "CLIC 2025 validation"}
AGAINST = {ANCHOR: "Pillow JPEG, 4:2:0", "webp": "Pillow WebP, method 6", "avif": "Pillow AVIF, default"}
CODECS = (OURS, OURS_PSNR, *AGAINST)
BY_QUALITY = {OURS: ("ssimulacra2", "psnr_db"), OURS_PSNR: ("psnr_db",)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the card or print its tables; exit code 1 if a measurement failed, 2 without records."""
    options = _parser().parse_args(arguments)
    codes, sets_named = [0], options.data or list(SETS)
    if options.measure:
        for name in sets_named:
            asked = ["--data", name, "--codecs", ",".join(CODECS), "--repeats", "0"]
            asked += ["--points", str(options.points)] if options.points else []
            asked += ["--images", str(options.images)] if options.images else []
            codes.append(rd_curve.main([*asked, "--out", str(options.measure / Path(name).name)]))
        folders = [options.measure / Path(name).name for name in sets_named]
    else:
        folders = [RESULTS / name for name in SETS]
    sets = [found for folder in folders if (found := report.complete(results.load_folder(folder)))]
    if not sets or not any(each.name == OURS for each in sets[0]):
        print(f"{folders[0]} holds no complete results of {OURS}", file=sys.stderr)
        return max(2, *codes)
    shown = text(sets)
    if options.measure:
        print(shown)
    else:
        results.write_atomically(CARD, readme.put_between_markers(CARD.read_text(), shown))
        print(CARD)
    return max(codes)


def text(sets: Sequence[Sequence[Record]]) -> str:
    """The text between the markers of the card.

    Args:
        sets: the records of each data set, the main one first.
    """
    by_name = [{record.name: record for record in records} for records in sets]
    lines = [f"| bytes against | {' | '.join(AGAINST.values())} |", "|---|" + "--:|" * len(AGAINST)]
    chosen = [(each, OURS, metric) for each in by_name for metric in METRICS]
    chosen += [(each, OURS_PSNR, "psnr_db") for each in by_name if OURS_PSNR in each]
    for each, ours, metric in chosen:
        rates = [text_of(with_interval(each.get(other), each[ours], metric)) for other in AGAINST]
        lines.append(f"| {ours}, {_label(each[ours])}, {METRICS[metric]} | {' | '.join(rates)} |")
    lines += ["", *_by_quality(by_name[0])]
    if len(by_name[0][OURS].dataset["images"]) >= bootstrap.MIN_PICTURES:
        lines += [bootstrap.NOTE, ""]
    return "\n".join(lines)


def _label(record: Record) -> str:
    return SETS.get(record.dataset["name"], record.dataset["name"])


def _by_quality(by_name: dict[str, Record]) -> list[str]:
    """One table per tune: rate and measures at each quality."""
    lines = []
    for name in (each for each in BY_QUALITY if each in by_name):
        ours = by_name[name]
        means = {quality: mean for quality in ours.qualities if (mean := ours.at(quality))}
        lines += [f"| {name}: quality, {_label(ours)} | {' | '.join(map(str, means))} |", "|---|" + "--:|" * len(means)]
        for field in ("bpp", *BY_QUALITY[name]):
            cells = (f"{mean[field]:{FORMATS.get(field, '.3f')}}" if field in mean else "" for mean in means.values())
            lines.append(f"| {METRICS.get(field, field)} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="DIR", help="measure into folders in DIR, and print the tables")
    parser.add_argument("--data", action="append", help=f"with --measure: data sets [{', '.join(SETS)}]")
    parser.add_argument("--images", type=int, help="with --measure: number of pictures of each [all]")
    parser.add_argument("--points", type=int, help="with --measure: number of qualities of each codec [all]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
