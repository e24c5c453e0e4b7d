"""Plots of benchmarks: quality against rate, and BD-rate against decode time, in colour-blind safe colours."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.metrics import Point

if TYPE_CHECKING:  # matplotlib is optional, and takes a second to load
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without yellow, which is not legible. Each codec has the same colour in all plots.
STYLES = {
    "vaecodec": ("#D55E00", "o"),
    "vaecodec-psnr": ("#AA4499", "p"),
    "jpeg": ("#000000", "s"),
    "jpeg-420": ("#555555", "<"),
    "jpeg-444": ("#999999", ">"),
    "webp": ("#E69F00", "v"),
    "avif": ("#0072B2", "^"),
    "avif-tuned": ("#332288", "d"),
    "avif-444": ("#56B4E9", "D"),
    "jpeg2000": ("#CC79A7", "P"),
    "heic": ("#009E73", "X"),
    "jxl": ("#117733", "*"),
}
OTHERS = (("#882255", "h"), ("#44AA99", "H"), ("#661100", "8"), ("#6699CC", "<"))  # for codecs not named above, in turn
PUBLISHED_SHOWN = {"vtm": (0, (6, 2)), "bpg444": (0, (2, 2)), "mbt2018-mean": (0, (6, 2, 1, 2)), "jpeg": (0, (1, 1))}
LABELS = {
    "ssimulacra2": "SSIMULACRA2", "ms_ssim": "MS-SSIM, dB", "butteraugli": "butteraugli, 3-norm: a distance",
    "psnr_db": "PSNR, dB",
}  # fmt: skip
PLACES = (
    (8, -14, "left"),
    (-8, 6, "right"),
    (8, 6, "left"),
    (-8, -14, "right"),
)  # alternates, so that labels of neighbours do not overlap
SIZE_INCH, DPI, FONT_PT = (8.2, 5.4), 110, 12


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every codec."""
    others = itertools.cycle(OTHERS)
    return {name: STYLES[name] if name in STYLES else next(others) for name in names}


def rate_distortion(
    measured: Mapping[str, Sequence[Point]], published: Mapping[str, Sequence[Point]], *, metric: str, path: Path
) -> None:
    """Draw quality against bits per pixel, measured curves solid with markers, published ones dashed and grey."""
    figure, axes = _canvas("bits per pixel", LABELS[metric])
    for name, curve in published.items():
        if name in PUBLISHED_SHOWN and curve:
            axes.plot(*_sorted(curve), color="#888888", linestyle=PUBLISHED_SHOWN[name], label=f"{name}, published")
    for (name, curve), (colour, marker) in zip(measured.items(), styles(measured).values(), strict=True):
        emphasis = 2.6 if name == "vaecodec" else 1.4
        axes.plot(*_sorted(curve), color=colour, marker=marker, markersize=5, linewidth=emphasis, label=name)
    shown = measured.get("vaecodec") or next(iter(measured.values()))
    right = 1.1 * max(point.bpp for point in shown)
    heights = [point.db for curve in measured.values() for point in curve if point.bpp <= right]
    axes.set_xlim(0, right)
    beyond = 0.03 * (max(heights) - min(heights)) or 0.5
    axes.set_ylim(min(heights) - beyond, max(heights) + beyond)
    if metric == "butteraugli":  # curves hold the negated distance, so that up is better everywhere
        axes.yaxis.set_major_formatter(lambda height, _: f"{abs(height):g}")
    axes.legend(loc="lower right", fontsize=FONT_PT - 3, ncols=2)
    figure.savefig(path, dpi=DPI)


def speed(points: Mapping[str, tuple[float, float]], path: Path, *, label: str, peer_ms: float | None = None) -> None:
    """Draw BD-rate against JPEG in percent over decode time in milliseconds, on a log scale; lower left is better.

    `label` names the metric of the BD-rate. `peer_ms` is the time of a learned codec whose rate was not measured, drawn
    as a line without a point.
    """
    figure, axes = _canvas("decode time, ms per picture", f"BD-rate against jpeg by {label}, %")
    if peer_ms is not None:
        axes.axvline(peer_ms, color="#888888", linestyle=(0, (2, 2)), label="mbt2018-mean of CompressAI: time only")
        axes.legend(loc="upper right", fontsize=FONT_PT - 2)
    by_time, looks = sorted(points.items(), key=lambda item: item[1]), styles(points)
    for number, (name, (milliseconds, percent)) in enumerate(by_time):
        across, above, side = PLACES[number % len(PLACES)]
        colour, marker = looks[name]
        axes.plot(milliseconds, percent, color=colour, marker=marker, markersize=9, linestyle="none")
        axes.annotate(name, (milliseconds, percent), xytext=(across, above), textcoords="offset points", ha=side)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.2)
    figure.savefig(path, dpi=DPI)


def _canvas(across: str, up: str) -> "tuple[Figure, Axes]":
    """A figure outside pyplot's global state, and its axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": FONT_PT}):
        figure = Figure(figsize=SIZE_INCH, layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _sorted(curve: Sequence[Point]) -> tuple[list[float], list[float]]:
    ordered = sorted(curve)
    return [point.bpp for point in ordered], [point.db for point in ordered]
