"""Records everything in results/, and the tables of README and model card from it: `python benchmarks/record.py`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import codecs, complexity, gpu_throughput, model_card, quality_scale, rd_curve, report, throughput
from benchmarks.results import RESULTS, ROOT


class Pass(NamedTuple):
    """A run of rd_curve.py on some codecs; later passes add what is missing."""

    codecs: tuple[str, ...]
    arguments: tuple[str, ...]


class Plan(NamedTuple):
    """How to record a data set, and how many of its pictures the page shows."""

    dataset: str
    passes: tuple[Pass, ...]
    shown: int


# The most expensive measurements are reduced: large pictures at fewer qualities, most codecs only in PSNR.
MAIN = (*codecs.TUNES, "jpeg", "webp", "avif", "avif-tuned")
OTHERS = tuple(name for name in codecs.DEFAULT if name not in MAIN)
PLANS = (
    Plan("kodak", (Pass(codecs.DEFAULT, ("--points", "11")),), shown=2),
    Plan(
        "clic2025-valid",
        (Pass(MAIN, ("--points", "7")), Pass(OTHERS, ("--points", "5", "--metrics", "psnr_db"))),
        shown=1,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the other scripts with the options of the committed results; returns the worst of their exit codes."""
    options = _parser().parse_args(arguments)
    chosen = codecs.DEFAULT if options.all else options.codecs.split(",")
    steps = options.steps.split(",")
    codes = [0]
    if "rd" in steps:
        codes += [_curves(plan, chosen, options.threads) for plan in PLANS]
    if "scale" in steps:
        codes.append(quality_scale.main(["--data", "kodak", "--out", str(RESULTS / "kodak" / "quality_scale.json")]))
    if "speed" in steps:
        codes.append(throughput.main(["--data", "kodak", "--out", str(RESULTS / report.SPEED)]))
    if "cuda" in steps:
        codes.append(gpu_throughput.main(["--data", "kodak", "--out", str(RESULTS / report.CUDA)]))
    if "complexity" in steps:
        complexity.record(RESULTS / "complexity.json")
    if "report" in steps:
        for plan in PLANS:
            codes.append(report.main([str(RESULTS / plan.dataset), "--pictures", str(plan.shown)]))
        codes.append(report.main([str(RESULTS / PLANS[0].dataset), "--no-page", "--readme", str(ROOT / "README.md")]))
        codes.append(model_card.main([]))
    return max(codes)


def _curves(plan: Plan, chosen: Sequence[str], threads: int) -> int:
    common = ["--data", plan.dataset, "--out", str(RESULTS / plan.dataset), "--threads", str(threads)]
    common += ["--repeats", "0"]  # times come from throughput.py, where all codecs take turns
    runs = [(",".join(name for name in chosen if name in each.codecs), each.arguments) for each in plan.passes]
    return max((rd_curve.main([*common, "--codecs", names, *more]) for names, more in runs if names), default=0)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="measure every codec, except results that are unchanged")
    which.add_argument("--codecs", default=",".join(codecs.TUNES), help="codecs whose curves to measure")
    steps = "rd,scale,speed,complexity,report"
    parser.add_argument("--steps", default=steps, help="steps to run, of rd, scale, speed, cuda, complexity, report")
    parser.add_argument("--threads", type=int, default=_processors(), help="torch threads for the curves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
