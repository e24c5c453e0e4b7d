"""Checks the quality scale: rate and PSNR rise on every picture, no quality is wasteful, and no grid is visible.

Also records the mean SSIMULACRA2 at each quality.

`python benchmarks/quality_scale.py --data kodak`
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import codecs, datasets, metrics, results
from benchmarks.metrics import Point
from benchmarks.tables import OURS
from vaecodec.model.torch_engine import network

Samples = NDArray[np.uint8]

QUALITIES = (1, *range(5, 101, 5))
LATENT_PX = 16
GRID_FROM = 10  # the lowest quality that must show no grid
GRID_LIMIT = 0.05


class Measured(NamedTuple):
    """A picture at a quality; `grid` is its `border_ratio` relative to the original's; small pictures have no score."""

    picture: str
    quality: int
    bpp: float
    psnr_db: float
    grid: float
    ssimulacra2: float | None = None


def border_ratio(samples: Samples) -> float:
    """The mean step across multiples of 16 pixels, relative to that across all other columns and rows; 1 is no grid.

    Also 1 for a picture of one colour, or without such borders.
    """
    return network.border_ratio(torch.tensor(samples).permute(2, 0, 1).float(), LATENT_PX)


def measure(pictures: Sequence[datasets.Picture], codec: codecs.Codec, qualities: Sequence[int]) -> list[Measured]:
    """Encodes and measures every picture at every quality."""
    rows = []
    for picture in pictures:
        image = picture.load()
        original = np.asarray(image)
        for quality in qualities:
            data = codec.encode(image, quality)
            shown = np.asarray(codec.decode(data))
            rows.append(Measured(
                picture.name, quality, metrics.bpp(len(data), *image.size), metrics.psnr_db(original, shown),
                border_ratio(shown) / border_ratio(original), metrics.ssimulacra2(original, shown),
            ))  # fmt: skip
    return rows


def mean_curve(rows: Sequence[Measured]) -> dict[int, Point]:
    """Means over the pictures, by quality."""
    return {
        quality: Point(float(np.mean([row.bpp for row in of])), float(np.mean([row.psnr_db for row in of])))
        for quality, of in _by_quality(rows).items()
    }


def mean_scores(rows: Sequence[Measured]) -> dict[int, float]:
    """Mean SSIMULACRA2 over the pictures that have a score, by quality."""
    scored = _by_quality([row for row in rows if row.ssimulacra2 is not None])
    return {quality: float(np.mean([row.ssimulacra2 for row in of])) for quality, of in scored.items()}


def _by_quality(rows: Sequence[Measured]) -> dict[int, list[Measured]]:
    return {quality: [row for row in rows if row.quality == quality] for quality in sorted({r.quality for r in rows})}


def above_hull_percent(curve: Sequence[Point]) -> float:
    """The largest excess rate of a point over the hull of its own curve (PSNR over rate), in percent."""
    hull = list[tuple[float, float]]()
    points = sorted((point.bpp, point.db) for point in curve)
    for x, y in points:
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    rising = [hull[0], *(b for a, b in itertools.pairwise(hull) if b[1] > a[1])]
    x_of, y_of = zip(*rising, strict=True)
    return 100 * max(x / float(np.interp(y, y_of, x_of)) - 1 for x, y in points)


def _is_below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether a point is on or below the line between its neighbours."""
    return (middle[0] - left[0]) * (right[1] - left[1]) >= (middle[1] - left[1]) * (right[0] - left[0])


def verdict(rows: Sequence[Measured]) -> dict[str, Any]:
    """The result for each of the three rules, and the range of the grid by quality."""
    falling = [
        {"picture": a.picture, "from": a.quality, "to": b.quality}
        for a, b in itertools.pairwise(rows)
        if a.picture == b.picture and not (a.bpp < b.bpp and a.psnr_db < b.psnr_db)
    ]
    gridded = [row for row in rows if row.quality >= GRID_FROM]
    outside = [row for row in gridded if abs(row.grid - 1) > GRID_LIMIT]
    curve = mean_curve(rows)
    grids = {
        quality: sorted(row.grid for row in rows if row.quality == quality) for quality in curve if quality >= GRID_FROM
    }
    return {
        "not_rising": falling,
        "above_hull_percent": round(above_hull_percent([*curve.values()]), 3),
        "grid": {
            "asked": len(gridded), "outside": [[row.picture, row.quality, round(row.grid, 3)] for row in outside],
            "by_quality": {
                str(quality): {"min": round(of[0], 3), "mean": round(float(np.mean(of)), 3), "max": round(of[-1], 3)}
                for quality, of in grids.items()
            },
        },
        "curve": {str(quality): [round(point.bpp, 4), round(point.db, 3)] for quality, point in curve.items()},
        "ssimulacra2": {str(quality): round(score, 2) for quality, score in mean_scores(rows).items()},
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, record and print; the exit code is 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder or data set [sample]")
    parser.add_argument("--qualities", default=",".join(map(str, QUALITIES)), help="ascending")
    parser.add_argument("--codec", default=OURS, choices=codecs.TUNES, help="which tune")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "quality_scale.json"), help="result")
    options = parser.parse_args(arguments)
    codec = codecs.open_codec(options.codec, device="cpu", model=options.model)
    dataset = datasets.find(options.data)
    found = verdict(measure(dataset.pictures, codec, [int(quality) for quality in options.qualities.split(",")]))
    record = {
        "codec": codec.describe(), "dataset": dataset.describe(), "machine": results.machine(None),
        "commit": results.commit(), **found,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(record, indent=1) + "\n")
    outside = found["grid"]["outside"]
    print(
        f"{len(found['not_rising'])} steps not rising; {found['above_hull_percent']:.1f} % above the hull at most; "
        f"{len(outside)} of {found['grid']['asked']} grids outside {GRID_LIMIT:.0%}"
    )
    if found["ssimulacra2"]:
        print("SSIMULACRA2:", ", ".join(f"{quality}: {score:.1f}" for quality, score in found["ssimulacra2"].items()))
    return 1 if found["not_rising"] or outside or found["above_hull_percent"] > 3 else 0


if __name__ == "__main__":
    sys.exit(main())
