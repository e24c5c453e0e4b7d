"""Measures the SSIMULACRA2 of lossy files: the curves of `vaecodec/pictures/fidelity.py`, on your pictures.

python benchmarks/fidelity.py FOLDER [--side 448]
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vaecodec import Codec
from vaecodec.pictures.ssimulacra2 import score

QUALITIES = (20, 30, 40, 50, 60, 70, 75, 80, 90, 100)
SOURCES = {
    "JPEG": (10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98, 100),
    "WEBP": (20, 40, 60, 75, 90, 100),
    "AVIF": (20, 40, 50, 60, 80, 90),
}


def crops(folder: Path, side: int) -> Iterator[Image.Image]:
    """The middle of every lossless picture: side x side pixels, or less if the picture is smaller."""
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".png", ".webp", ".tif")):
        with Image.open(path) as image:
            left, top = (max(0, (length - side) // 2) for length in image.size)
            yield image.convert("RGB").crop((left, top, min(image.width, left + side), min(image.height, top + side)))


def measured(original: Image.Image, shown: Image.Image, data: bytes) -> tuple[float, float]:
    """Score and bits per pixel of a file, given the picture that it shows."""
    return score(np.asarray(original), np.asarray(shown.convert("RGB"))), 8 * len(data) / (
        original.width * original.height
    )


def saved(image: Image.Image, format: str, quality: int) -> bytes:
    """The picture as a file of this format."""
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None, codec: Codec | None = None) -> int:
    """Prints a line per format and quality: the mean score and bits per pixel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=448)
    given = parser.parse_args(arguments)
    codec, originals = codec or Codec(), list(crops(given.folder, given.side))
    if not originals:
        parser.error(f"{given.folder} has no PNG, WebP or TIFF files, must have at least one")
    for quality in QUALITIES:  # the artefacts of lossy originals make no difference here
        made = [codec.encode(each, quality) for each in originals]
        shown = [codec.decode(data) for data in made]
        found = np.mean([*map(measured, originals, shown, made)], axis=0)
        print(f"VAEC {quality}: {found[0]:.1f}, {found[1]:.2f} bpp", flush=True)
    for format, qualities in SOURCES.items():
        for quality in qualities:
            made = [saved(each, format, quality) for each in originals]
            shown = [Image.open(io.BytesIO(data)) for data in made]
            found = np.mean([*map(measured, originals, shown, made)], axis=0)
            print(f"{format} {quality}: {found[0]:.1f}, {found[1]:.2f} bpp", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
