"""Records the contents of docs/uses.md: figures as JSON, pictures, and the tables between the document's markers.

Usage: python benchmarks/uses.py [STEP...]. Steps: pictures, classify, odd, textbook, denoising, document; all of them
by default. Takes a few minutes on one core; needs `pip install -e ".[bench,examples]"`.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

import numpy as np
from PIL import Image

from benchmarks.results import ROOT, write_atomically
from vaecodec import Codec
from vaecodec.cli.heatmap import heat_map

RESULTS = ROOT / "benchmarks" / "results" / "uses"
DOCUMENT = ROOT / "docs" / "uses.md"
PICTURES = ROOT / "docs" / "pictures"
TEXTBOOK = ROOT / "out" / "textbook"
SAMPLE_PX, GAP_PX = 192, 6
SAMPLE_QUALITIES, TEMPERATURES, SEED = (20, 70), (0.25, 0.5, 1.0), 7
BLEND_PX, BLEND_STEPS = 176, 5
MAP_QUALITY = 50


def show() -> None:
    """The pictures of the document: samples, a blend, a rate map."""
    from sources import from_scikit_image

    explore = Codec().explore
    size = (SAMPLE_PX, SAMPLE_PX)
    _save("samples", [
        [explore.sample(size, seed=SEED, quality=quality, temperature=temperature) for temperature in TEMPERATURES]
        for quality in SAMPLE_QUALITIES
    ])  # fmt: skip
    a, b = (_square(from_scikit_image(name)) for name in ("chelsea.png", "coffee.png"))
    _save("blend", [explore.interpolate(a, b, BLEND_STEPS, quality=70)])
    photograph = from_scikit_image("coffee.png")
    bits = explore.rate_map(photograph, MAP_QUALITY)
    _save("rate-map", [[Image.fromarray(photograph), heat_map(Image.fromarray(photograph), bits)]])


def classify() -> None:
    """Accuracies of examples/classify.py, on a third of the digits, which is enough."""
    import classify as example

    example.main(["--digits", "600", "--json", str(RESULTS / "classify.json")])


def odd() -> None:
    """Areas under the ROC curve of examples/odd_pictures.py."""
    import odd_pictures as example

    example.main(["--json", str(RESULTS / "odd_pictures.json")])


def textbook() -> None:
    """The last epochs and the times of examples/textbook_vae.py on the digits."""
    import textbook_vae as example

    found = {}
    for name in ("ae", "vae", "conv-vae"):
        start_s = time.process_time()
        folder = TEXTBOOK / name
        last = example.main(["--model", name, "--out", str(folder)])
        found[name] = {key: round(value, 2) for key, value in last._asdict().items()}
        found[name]["cpu_s"] = round(time.process_time() - start_s, 1)
    shown = [TEXTBOOK / name / "samples.png" for name in ("ae", "vae", "conv-vae")]
    _save("textbook", [[Image.open(path) for path in shown]])
    _write("textbook", found)


def denoising() -> None:
    """PSNR after coding noisy pictures (benchmarks/denoising.py), if Kodak is available."""
    from benchmarks import denoising as benchmark

    benchmark.main([])


def document() -> None:
    """Rewrite the tables of the document from the recorded figures."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            text = between_markers(text, name, table(json.loads(path.read_text())))
    write_atomically(DOCUMENT, text)


def between_markers(text: str, name: str, shown: str) -> str:
    """The text with `shown` between <!-- name --> and <!-- /name -->.

    Raises:
        ValueError: the markers are missing, repeated or in the wrong order.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document must have {begin.strip()} and {end} once each, in this order")
    return text[: text.index(begin) + len(begin)] + shown + text[text.index(end) :]


def _classify_table(found: dict[str, Any]) -> str:
    rows = [
        (name, str(row["pictures"]), f"{row['latents_accuracy']:.1%}", f"{row['pixels_accuracy']:.1%}", str(row["bpp"]))
        for name, row in found.items() if name != "quality"
    ]  # fmt: skip
    header = ("set", "pictures", f"latents of files, quality {found['quality']}", "raw pixels", "bits per pixel")
    return _table(header, rows)


def _odd_table(found: dict[str, Any]) -> str:
    photos = found["photographs"]
    rows = [("photographs", str(photos["tiles"]), f"{photos['bpp']:.2f}", "", "")]
    for name, row in found.items():
        if name not in ("quality", "photographs"):
            auc = f"{row['auc_bits']:.2f}", f"{row['auc_relative']:.2f}"
            rows.append((name, str(row["tiles"]), f"{row['bpp']:.2f}", *auc))
    return _table(("kind", "tiles", "bits per pixel", "AUC, bits", "AUC, relative to WebP"), rows)


def _textbook_table(found: dict[str, Any]) -> str:
    rows = [
        (name, str(row["number"]), f"{row['log_likelihood']:.1f}", f"{row['kl']:.1f}" if row["kl"] else "",
         f"{row['elbo']:.1f}" if row["kl"] else "", f"{row['cpu_s']:.0f}")
        for name, row in found.items()
    ]  # fmt: skip
    return _table(("model", "epochs", "log p(x given z)", "KL", "ELBO", "seconds of one core"), rows)


def _denoising_table(found: dict[str, Any]) -> str:
    names = [name for name in ("jpeg", "vaecodec", "restorer") if name in found["rows"][0]]
    rows = [
        (str(row["deviation"]), f"{row['noisy_db']:.1f}", *(_best_text(row[name]) for name in names),
         f"{row['non_local_means_db']:.1f}")
        for row in found["rows"]
    ]  # fmt: skip
    labels = {"restorer": f"fine-tuned for {found.get('restorer_steps')} steps"}
    header = ("deviation", "noisy, dB", *(labels.get(name, name) for name in names), "non-local means, dB")
    return _table(header, rows)


def _best_text(best: dict[str, Any]) -> str:
    return f"{best['psnr_db']:.1f} dB, quality {best['quality']}, {best['bpp']:.2f} bpp"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "classify": _classify_table, "odd_pictures": _odd_table, "textbook": _textbook_table, "denoising": _denoising_table,
}  # fmt: skip
STEPS = {
    "pictures": show, "classify": classify, "odd": odd, "textbook": textbook, "denoising": denoising,
    "document": document,
}  # fmt: skip


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ("---", *("--:" for _ in header[1:])), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _square(picture: np.ndarray) -> Image.Image:
    """The middle of a picture, as a small square."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    whole = Image.fromarray(picture[top : top + side, left : left + side])
    return whole.resize((BLEND_PX, BLEND_PX), Image.Resampling.LANCZOS)


def _save(name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Save a sheet of pictures in rows, on a grid of the size of the largest."""
    width, height = (max(image.size[axis] for row in rows for image in row) + GAP_PX for axis in (0, 1))
    sheet = Image.new("RGB", (width * len(rows[0]) - GAP_PX, height * len(rows) - GAP_PX), "white")
    for top, row in enumerate(rows):
        for left, image in enumerate(row):
            sheet.paste(image.convert("RGB"), (left * width, top * height))
    PICTURES.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=90)
    (PICTURES / f"{name}.webp").write_bytes(file.getvalue())


def _write(name: str, record: dict[str, Any]) -> None:
    write_atomically(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the requested steps, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    given = parser.parse_args(arguments).steps or list(STEPS)
    if unknown := set(given) - STEPS.keys():
        parser.error(f"unknown step {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in given:
        STEPS[name]()


if __name__ == "__main__":
    main()
