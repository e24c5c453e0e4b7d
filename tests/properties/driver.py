"""The long form: many drawn cases, and every size up to a side once; a JSON record of what was tried and seen.

Usage: `PYTHONPATH=tests python -m properties.driver [--cases N] [--side N] [--shipped N] [--out FILE]`. Most cases have
weights of few channels, made by the real export path, so that 20,000 take minutes. Exit code 1 if one fails.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conftest import make_tiny_weights
from hypothesis import HealthCheck, given, settings

from properties.laws import SOURCES, Case, Tally, cases, check
from vaecodec import Codec

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "reliability" / "properties.json"


def run_cases(codec: Codec, count: int) -> Tally:
    """Draws so many cases and checks each; the first that fails is made small and raised."""
    tally = Tally()

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases())
    def law(case: Case) -> None:
        check(codec, case, tally)

    law()
    return tally


def run_sizes(codec: Codec, side_px: int) -> Tally:
    """Checks every width and height from 1 to `side_px` once, with channels, qualities and layouts in turn."""
    tally = Tally()
    encodable = [source for source in SOURCES if not source.startswith(("I", "F"))]
    for height in range(1, side_px + 1):
        for width in range(1, side_px + 1):
            number = height * side_px + width
            source, quality = encodable[number % len(encodable)], 1 + number * 37 % 100
            case = Case(width, height, 1 + number % 4, "photograph", source, quality, number, number % 5 == 0)
            check(codec, case, tally)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run each part and write the record after it, so that whoever stops the run keeps what is done."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tiny, shipped = Codec(make_tiny_weights(Path(folder)), "cpu"), Codec(None, "cpu")
        record: dict[str, Any] = {
            "date": date.today().isoformat(),
            "model_id": shipped.engine.model_id.hex(),
            "versions": {name: version(name) for name in ("torch", "numpy", "pillow", "hypothesis")},
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
        parts: dict[str, Callable[[], Tally]] = {
            f"sizes to {options.side}": lambda: run_sizes(tiny, options.side),
            "cases with shipped weights": lambda: run_cases(shipped, options.shipped),
            "cases": lambda: run_cases(tiny, options.cases),
        }
        for name, run in parts.items():
            record[name] = _measured(name, run)
            _write(options.out, record)
    return int(any(record[name]["failures"] for name in parts))


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def _measured(name: str, run: Callable[[], Tally]) -> dict[str, Any]:
    start_s, failure = time.perf_counter(), ""
    try:
        tally = vars(run())
    except Exception as error:
        tally, failure = {}, f"{type(error).__name__}: {error}; {' '.join(getattr(error, '__notes__', []))}"
    counts = {key: dict(sorted(value.items())) if isinstance(value, Counter) else value for key, value in tally.items()}
    seconds = round(time.perf_counter() - start_s, 1)
    print(f"{name}: {counts.get('cases')} cases, {seconds} s {failure}", flush=True)
    return counts | {"failures": int(bool(failure)), "failure": failure, "seconds": seconds}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Round trips of many pictures.")
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="cases drawn, with tiny weights")
    parser.add_argument("--shipped", type=int, default=500, metavar="N", help="cases drawn, with the shipped weights")
    parser.add_argument("--side", type=int, default=130, metavar="N", help="every size up to N x N pixels once")
    parser.add_argument("--out", type=Path, default=RECORD, help="the JSON record")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
