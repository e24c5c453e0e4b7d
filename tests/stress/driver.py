"""The long form of the tests of writing and of living in a process, `make stress`: two JSON records.

Usage: `PYTHONPATH=tests python -m stress.driver [--share 0.1] [--only writing|process] [--out DIR]`.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.driver import machine

from stress import Outcome, living, writing
from vaecodec import Codec

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "reliability"

Experiment = Callable[[Path], Outcome]


def writing_experiments(share: float) -> dict[str, Experiment]:
    """What may stop a program that writes; `share` scales all counts."""

    def killed(way: str, kills: int) -> Experiment:
        def run(folder: Path) -> Outcome:
            make = writing.lossless_files if way in ("writer", "command") else writing.pictures
            sources = make(_made(folder / "sources"), (300, 500))
            return writing.kill_while_overwriting(
                way, sources, _made(folder / "target"), kills=_times(kills, share), seed=1
            )

        return run

    def stopped(command: str, number: signal.Signals, moments: int) -> Experiment:
        def run(folder: Path) -> Outcome:
            if command == "decode":
                writing.lossless_files(folder, [300] * 20)
            else:
                writing.pictures(folder, [160] * 8)
            chance = random.Random(number)
            return writing.stop_command(
                [command, "-r", ".", "--out-dir", "out"], folder, number=number,
                moments=[chance.random() for _ in range(_times(moments, share))],
            )  # fmt: skip

        return run

    def many(folder: Path) -> Outcome:
        sources = writing.lossless_files(_made(folder / "sources"), [200 + 20 * n for n in range(16)])
        return writing.many_writers(sources, _made(folder / "target"), writers=16, reads=_times(5000, share))

    return {
        "kill -9 of a writer": killed("writer", 300),
        "kill -9 of decode -f": killed("command", 100),
        "kill -9 of encode -f": killed("encoding", 10),
        "kill -9 of Image.save": killed("pillow", 50),
        "SIGINT of decode": stopped("decode", signal.SIGINT, 100),
        "SIGTERM of decode": stopped("decode", signal.SIGTERM, 100),
        "SIGINT of encode": stopped("encode", signal.SIGINT, 10),
        "SIGTERM of encode": stopped("encode", signal.SIGTERM, 10),
        "16 writers of one file": many,
    }


def process_experiments(share: float) -> dict[str, Experiment]:
    """What a process that uses the codec goes through; `share` scales all counts."""
    codec = Codec(device="cpu")
    workers = {
        "fork": 100, "fork before loading": 20, "fork while loading": 10, "fork pool": 10, "spawn pool": 5,
        "forkserver pool": 5, "loader, 0 workers": 5, "loader, 2 workers": 20, "loader, 4 workers": 20,
        "loader, 2 spawned workers": 5,
    }  # fmt: skip
    plan = {way: _times(runs, share) for way, runs in workers.items()}
    return {
        "16 threads on one codec": lambda _: living.many_threads(codec, threads=16, rounds=_times(100, share)),
        "worker processes": lambda _: living.worker_processes(plan, threads=2),
        "less and less memory": lambda _: living.starvation(levels=_times(20, share), side_px=768),
        "20,000 pictures": lambda _: living.soak(codec, rounds=_times(20_000, share), seed=1),
    }


def run_all(name: str, experiments: dict[str, Experiment]) -> dict[str, Any]:
    """Runs experiments one after another; returns the record."""
    record: dict[str, Any] = {"machine": machine(), "experiments": {}}
    for title, experiment in experiments.items():
        start_s = time.monotonic()
        with _folder() as folder:
            outcome = experiment(folder)
        record["experiments"][title] = outcome.as_json() | {"seconds": round(time.monotonic() - start_s)}
        print(f"{name}, {title}: {record['experiments'][title]}", flush=True)
    return record


def main() -> int:
    """Command line; returns 1 if a law was broken."""
    options = _options()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background is born deaf to it
    options.out.mkdir(parents=True, exist_ok=True)
    plans = {"writing": writing_experiments, "process": process_experiments}
    broken = 0
    for name in [options.only] if options.only else plans:
        record = run_all(name, plans[name](options.share))
        (options.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        broken += sum(len(outcome["broken"]) for outcome in record["experiments"].values())
    return int(broken > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stop programs at random moments, and live long in one process.")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="of the usual number of runs")
    parser.add_argument("--only", choices=["writing", "process"], help="one of the two records")
    parser.add_argument("--out", type=Path, default=RECORDS, help="folder of the JSON records")
    return parser.parse_args()


def _times(count: int, share: float) -> int:
    return max(1, round(count * share))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stress-") as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
