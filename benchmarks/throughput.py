"""Measures warm speed, memory and time by stage, by picture size and threads, against the other codecs."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import vaecodec
from benchmarks import codecs, datasets, results, timings
from benchmarks.tables import OURS

CLI_REPEATS = 3
KODAK_MP = 0.393216


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size with every number of threads, each in its own process; writes the JSON after every run.

    The exit code is 1 if a size failed, perhaps for lack of memory.
    """
    options = _parser().parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options)))
        return 0
    runs: list[dict[str, Any]] = []
    failed = False
    cold = cold_start(options.model)
    for threads in _numbers(options.threads):
        for megapixels in _numbers(options.megapixels):
            try:
                runs.append(_in_own_process(options, int(threads), megapixels))
            except subprocess.CalledProcessError as error:
                print(f"{int(threads)} threads, {megapixels:g} MP: failed: {error}", file=sys.stderr)
                failed = True
                continue
            print(_line(runs[-1]))
            results.write_atomically(options.out, json.dumps(_result(options, cold, runs), indent=1) + "\n")
    print(options.out)
    return int(failed)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one size, in this process, whose threads are already limited."""
    import torch

    threads, megapixels = int(options.threads), float(options.megapixels)
    torch.set_num_threads(threads)
    images = timings.pictures_of(megapixels, options.data, options.pictures if megapixels <= timings.SMALL_MP else 1)
    ours = codecs.open_codec(OURS, device="cpu", model=options.model)
    names = timings.names_at(filter(None, options.codecs.split(",")), megapixels)
    repeats = timings.repeats_at(options.repeats, megapixels)
    run = timings.measure(images, ours, lambda: timings.open_others(names), repeats=repeats)
    batch = None
    if megapixels <= timings.SMALL_MP and options.batch:
        codec = vaecodec.Codec(options.model, "cpu")
        batch = timings.measure_batch(images[0], codec, count=options.batch, repeats=repeats)
    return {"threads": threads, **run, "batch": batch}


def cold_start(model: Path | None) -> dict[str, float]:
    """Seconds of a cold start of the command line, for a small picture; median of a few."""
    chosen = ["--model", str(model)] if model else []
    with tempfile.TemporaryDirectory() as folder:
        png, vaec, back = (str(Path(folder) / name) for name in ("a.png", "a.vaec", "b.png"))
        timings.pictures_of(0.1, None)[0].save(png)
        commands = {
            "encode": ["encode", "-f", *chosen, png, vaec],
            "info": ["info", vaec],
            "decode": ["decode", "-f", *chosen, vaec, back],
        }
        return {name: _median_s(lambda command=command: _vaecodec(command)) for name, command in commands.items()}


def _result(options: argparse.Namespace, cold: dict[str, float], runs: list[dict[str, Any]]) -> dict[str, Any]:
    codec = codecs.open_codec(OURS, device="cpu", model=options.model)
    return {
        "codec": codec.describe(), "machine": results.machine(None), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "dataset": datasets.find(options.data).name,
        "cli_cold_s": cold, "runs": runs,
    }  # fmt: skip


def _vaecodec(command: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "vaecodec", *command], check=True, capture_output=True, cwd=results.ROOT)


def _median_s(action: Callable[[], object]) -> float:
    times = []
    for _ in range(CLI_REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 3)


def _in_own_process(options: argparse.Namespace, threads: int, megapixels: float) -> dict[str, Any]:
    """A run in a process restricted to as many processors as threads, which libavif and torch both respect."""
    command = [sys.executable, __file__, "--worker", "--threads", str(threads), "--megapixels", str(megapixels)]
    command += ["--repeats", str(options.repeats), "--codecs", options.codecs, "--batch", str(options.batch)]
    command += ["--pictures", str(options.pictures)]
    command += ["--data", options.data] if options.data else []
    command += ["--model", str(options.model)] if options.model else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    limit = _limit_processors(threads)
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=limit)
    return json.loads(result.stdout)


def _limit_processors(count: int) -> Callable[[], None] | None:
    if not hasattr(os, "sched_setaffinity"):  # only Linux has it
        return None
    chosen = sorted(os.sched_getaffinity(0))[:count]
    return lambda: os.sched_setaffinity(0, chosen)


def _line(run: dict[str, Any]) -> str:
    peak = f", peak {run['peak_rss_bytes'] / 2**20:.0f} MiB" if run["peak_rss_bytes"] else ""
    parts = [f"{run['threads']} threads, {run['megapixels']:.1f} MP{peak}:"]
    for name, each in run["codecs"].items():
        parts.append(f"{name} {1000 * each['encode_s']:.0f} + {1000 * each['decode_s']:.0f} ms")
    return " ".join(parts)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set whose first pictures are used [sample]")
    parser.add_argument("--pictures", type=int, default=24, help="number of pictures at small sizes; one at others")
    parser.add_argument("--megapixels", default=f"{KODAK_MP},2,12,48", help="sizes")
    parser.add_argument("--threads", default="1,2", help="numbers of torch threads, and of processors for every codec")
    others = ",".join(name for name in timings.QUALITY if name != OURS)
    parser.add_argument(
        "--codecs", default=others, help=f"codecs to compare with {OURS}; most of them only at small sizes"
    )
    parser.add_argument("--batch", type=int, default=8, help="batch size for small pictures; 0 for none")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every picture; fewer for large ones")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "throughput.json"), help="result")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
