"""Plots the results of short training runs in results/training/*.json: `python benchmarks/ablations.py`."""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the names in this folder (codecs, datasets) must not hide other packages' modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.results import RESULTS, ROOT

if TYPE_CHECKING:  # matplotlib is optional, and takes a second to load
    from matplotlib.axes import Axes

ORANGE, BLUE, BLACK = "#D55E00", "#0072B2", "#000000"
SIZE_INCH, DPI, FONT_PT, LABEL_CHARACTERS = (11, 7.6), 90, 11, 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "ablations.png", help="a PNG file")
    options = parser.parse_args(arguments)
    draw(options.out)
    print(options.out)
    return 0


def draw(path: Path) -> None:
    """Draws four panels: parts of the prior, number of latents, anchors of gains, parts removed for speed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": FONT_PT}):
        figure = Figure(figsize=SIZE_INCH, layout="constrained")
        prior, latents, gains, pruning = figure.subplots(2, 2).flat
        _prior(prior)
        _latents(latents)
        _gains(gains)
        _pruning(pruning)
        figure.savefig(path, dpi=DPI)


def record(name: str) -> dict[str, Any]:
    """The recorded results on one question."""
    return json.loads((RESULTS / "training" / f"{name}.json").read_text())


def _prior(axes: "Axes") -> None:
    context, scales = record("context"), record("scales")
    levels = [100 * run["level"] for run in context["runs"]]
    axes.plot(levels, context["percent_more_bits_without"], "o-", color=ORANGE, label="no context")
    linear = scales["percent_more_bits_linear_then_fitted"]
    axes.plot(levels, linear, "s-", color=BLUE, label="scales by a linear map")
    _label(axes, "A simpler prior, all else left as it was", "quality", "more bits, %")
    axes.set_ylim(0)
    axes.legend()


def _latents(axes: "Axes") -> None:
    found = record("latents")
    linear = {int(count): db for count, db in found["linear_ceiling_db"].items()}
    axes.plot(list(linear), list(linear.values()), "o-", color=BLUE, label="principal components")
    counts, ceilings = zip(*((run["latents"], run["ceiling_db"]) for run in found["runs"]), strict=True)
    axes.plot(counts, ceilings, "s", color=ORANGE, markersize=9, label="the network")
    _label(axes, "Without any quantization", "latents a patch of 768 samples", "PSNR, dB")
    axes.legend()


def _gains(axes: "Axes") -> None:
    runs = record("gains")["runs"]
    places = range(len(runs))
    for shift, (name, label, colour) in enumerate(
        (("low_percent", "low qualities", BLUE), ("bd_rate_percent", "all", BLACK), ("high_percent", "high", ORANGE))
    ):
        at = [place + 0.27 * (shift - 1) for place in places]
        axes.bar(at, [run[name] for run in runs], 0.25, color=colour, label=label)
    axes.set_xticks(places, [str(run["anchors"]) for run in runs])
    axes.axhline(0, color=BLACK, linewidth=0.8)
    _label(axes, "Fewer anchors of the gains", "anchors", "BD-rate, %")
    axes.legend()


def _pruning(axes: "Axes") -> None:
    (untouched, *_), (first, *rest) = record("pruning")["first"], record("pruning")["first"][1:]
    bars = [(first["left_out"], _more(first, untouched))]
    bars += [(run["left_out"].removeprefix(f"{first['left_out']}, "), _more(run, first)) for run in rest]
    bars.sort(key=lambda bar: bar[1])
    axes.barh([textwrap.fill(name, LABEL_CHARACTERS) for name, _ in bars], [more for _, more in bars], color=BLUE)
    axes.tick_params(axis="y", labelsize=FONT_PT - 2)
    _label(axes, "Left out for speed, after 170 steps", "BD-rate, % more", "")


def _more(run: dict[str, Any], base: dict[str, Any]) -> float:
    name = "bd_rate_percent_against_untouched"
    return float(run[name] - base[name])


def _label(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=FONT_PT, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    sys.exit(main())
