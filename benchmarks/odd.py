"""Checks that size and fidelity of the odd set rise with quality, also in an older checkout."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "odd.json"
QUALITIES = (1, *range(5, 101, 5))
SHOWN = (1, 25, 50, 75, 90, 100)
SIZE_SLACK, SLACK_BYTES, SLACK_DB = 1.01, 20, 0.3

Curve = list[tuple[int, int, float]]
"""Quality, bytes, dB."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record; returns 0 if size and fidelity rise with quality everywhere in this checkout."""
    options = _parser().parse_args(arguments)
    if options.worker:
        return _work(options.qualities)
    from benchmarks import results  # not in the workers, which import only the package of their own checkout

    sides = {"after": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    report: dict[str, Any] = {
        "machine": results.machine(1), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "qualities": options.qualities,
    }  # fmt: skip
    for name, checkout in sides.items():
        report[name] = {"commit": results.commit(checkout), **_measure(checkout, options.qualities)}
        print(f"{name}: {checkout.name if name == 'before' else 'this checkout'}\n{table(report[name]['curves'])}\n")
    results.write_atomically(options.out, json.dumps(report, separators=(",", ":")) + "\n")
    return int(any(report["after"]["falls"].values()))


def table(curves: dict[str, Curve]) -> str:
    """Bytes and dB of every picture at some qualities, and how often either decreases."""
    lines = [
        "| picture | " + " | ".join(f"{quality}" for quality in SHOWN) + " | falls |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for name, curve in curves.items():
        cells = [f"{size:,} B, {db:.1f} dB" for quality, size, db in curve if quality in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(falls(curve))} |")
    return "\n".join(lines)


def falls(curve: Curve) -> list[int]:
    """The qualities at which a file is smaller, or its picture worse, than at some lower quality."""
    found, largest, best = list[int](), 0, 0.0
    for quality, size, db in curve:
        if SIZE_SLACK * size + SLACK_BYTES < largest or db < best - SLACK_DB:
            found.append(quality)
        largest, best = max(largest, size), max(best, db)
    return found


def _measure(checkout: Path, qualities: Sequence[int]) -> dict[str, Any]:
    """Model, curves and decreases, measured in a process with the checkout's own package."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--worker", "--qualities", *map(str, qualities)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"falls": {name: falls(curve) for name, curve in found["curves"].items()}}


def _work(qualities: Sequence[int]) -> int:
    """The process for one checkout: prints its model and curves."""
    sys.path[0] = os.environ["PYTHONPATH"]
    sys.path.append(str(ROOT / "tests"))
    import numpy as np
    from odd_set import odd_set

    import vaecodec

    codec, curves, model_id = vaecodec.Codec(None, "cpu"), dict[str, Curve](), ""
    for name, samples in odd_set().items():
        curves[name] = []
        for quality in qualities:
            data = codec.encode(samples, quality)
            model_id = vaecodec.info(data).header.model_id.hex()
            difference = np.subtract(codec.decode(data, output="numpy"), samples, dtype=np.float64)
            error = np.mean(difference**2)
            db = 10 * np.log10(255**2 / error) if error else 100.0
            curves[name].append((quality, len(data), round(float(db), 2)))
        print(name, file=sys.stderr, flush=True)
    print(json.dumps({"model_id": model_id, "curves": curves}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="also measure this other checkout")
    parser.add_argument("--qualities", type=int, nargs="+", default=list(QUALITIES))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
