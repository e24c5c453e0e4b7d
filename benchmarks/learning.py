"""Learning curves: the BD-rate of training runs over steps and hours, from training logs."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from benchmarks.codecs import open_codec
from benchmarks.metrics import Point, bd_rate, bpp, psnr_db
from benchmarks.results import commit, machine, write_atomically
from vaecodec.training.data import Pictures
from vaecodec.training.recipe import PATCH_STEP_PX

IMAGES = 8  # the first of the folder, as in training
JPEG_QUALITIES = (2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98)
INK, GRID_COLOUR = "#0b5c8a", "#d9d9d9"


@dataclass(frozen=True)
class Validation:
    """One validation: steps and hours, including all earlier runs, and the BD-rate against JPEG in percent."""

    run: str
    steps: int
    hours: float
    bd_rate_percent: float


def jpeg_curve(folder: Path) -> list[Point]:
    """Pillow's JPEG on the validation pictures, cropped as in training: mean bpp and mean PSNR."""
    codec = open_codec("jpeg")
    rows = []
    for picture in Pictures(folder, PATCH_STEP_PX, limit=IMAGES).pictures:
        height, width = (length - length % PATCH_STEP_PX for length in picture.shape[:2])
        samples = picture[:height, :width].numpy()
        for quality in JPEG_QUALITIES:
            data = codec.encode(Image.fromarray(samples), quality)
            rows.append((bpp(len(data), width, height), psnr_db(samples, np.asarray(codec.decode(data)))))
    return [Point(*mean) for mean in np.reshape(rows, (-1, len(JPEG_QUALITIES), 2)).mean(0).tolist()]


def validations(
    logs: Sequence[Path], folder: str, anchor: Sequence[Point], *, steps: int, hours: float
) -> Iterator[Validation]:
    """Yields every validation on a folder in the logs of consecutive runs, which started after these steps and hours.

    Logs that name no folder are of the only one that their runs had.
    """
    for log in logs:
        rows: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
        for row in rows:
            if row.get("event") == "validation" and row.get("folder", folder) == folder:
                percent = bd_rate(anchor, [Point(point["bpp"], point["psnr_db"]) for point in row["curve"]]).percent
                if percent is not None:
                    yield Validation(
                        log.parent.name, steps + row["step"], round(hours + row["minutes"] / 60, 3), round(percent, 2)
                    )
        steps += max(row["step"] for row in rows)
        hours += max(row["minutes"] for row in rows) / 60


def plot(curve: Sequence[Validation], path: Path) -> None:
    """Plot BD-rate over hours."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([point.hours for point in curve], [point.bd_rate_percent for point in curve], "o-", color=INK)
    axes.set_xlabel("hours of training on two CPU cores")
    axes.set_ylabel("BD-rate against JPEG, %")
    axes.grid(color=GRID_COLOUR)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(curve: Sequence[Validation]) -> str:
    """The curve as a Markdown table."""
    lines = ["| steps | hours | BD-rate against JPEG |", "|---:|---:|---:|"]
    lines += [f"| {p.steps:,} | {p.hours:.1f} | \N{MINUS SIGN}{-p.bd_rate_percent:.1f} % |" for p in curve]
    return "\n".join(lines)


def recorded(path: Path) -> list[Validation]:
    """The curve of a `learning.json`."""
    return [Validation(**point) for point in json.loads(path.read_text())["curve"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read logs, write learning.json and learning.png, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="log.jsonl of consecutive runs, in order")
    parser.add_argument("--validation", type=Path, required=True, help="their validation folder")
    parser.add_argument("--go-on", action="store_true", help="append to the recorded curve")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training"))
    args = parser.parse_args(arguments)
    curve = recorded(args.out / "learning.json") if args.go_on else []
    steps, hours = (curve[-1].steps, curve[-1].hours) if curve else (0, 0.0)
    curve += validations(args.logs, args.validation.name, jpeg_curve(args.validation), steps=steps, hours=hours)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "images": IMAGES, "machine": machine(None), "commit": commit(), "curve": [asdict(point) for point in curve]
    }  # fmt: skip
    write_atomically(args.out / "learning.json", json.dumps(record, indent=1) + "\n")
    plot(curve, args.out / "learning.png")
    print(table(curve))


if __name__ == "__main__":
    main()
