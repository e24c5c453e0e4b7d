"""Measures warm speed, memory and where the time goes, by picture size and threads, beside Pillow's AVIF and JPEG."""

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

if not __package__:  # run as a file: the names in this folder (codecs, datasets) must not hide other packages' modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image

from benchmarks import codecs, datasets, results
from benchmarks.codecs import Codec

OURS = "vaecodec"
QUALITY = {OURS: 50, "jpeg": 75, "avif": 70, "mbt2018-mean": 4}  # about 0.6 to 1 bit per pixel on photographs
CLI_REPEATS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size with every number of threads, each in a process of its own, and write one JSON file."""
    options = _parser().parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options)))
        return 0
    runs = []
    for threads in _numbers(options.threads):
        for megapixels in _numbers(options.megapixels):
            run = _in_own_process(options, int(threads), megapixels)
            runs.append(run)
            print(_line(run))
    codec = codecs.open_codec(OURS, device="cpu", model=options.model)
    result = {
        "codec": codec.describe(), "machine": results.machine(), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "cli_cold_s": cold_start(options.model), "runs": runs,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(result, indent=1) + "\n")
    print(options.out)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one size, in this process, whose threads are limited already."""
    import torch

    torch.set_num_threads(int(options.threads))
    image = picture_of(float(options.megapixels), options.data)
    opened = [codecs.open_codec(OURS, device="cpu", model=options.model), *_others(options.codecs)]
    files = {codec: codec.encode(image, QUALITY[codec.name]) for codec in opened[:1]}
    opened[0].decode(files[opened[0]])
    peak_bytes = _peak_rss_bytes()  # before the others have run
    for codec in opened[1:]:
        files[codec] = codec.encode(image, QUALITY[codec.name])
        codec.decode(files[codec])
    times = _in_turn(image, files, options.repeats)
    ours = times[OURS]
    encode, decode = _actions(image, opened[0], files[opened[0]])
    from benchmarks import stages  # loads the network's module, which is not wanted before the memory is read

    return {
        "threads": int(options.threads), "width": image.width, "height": image.height,
        "megapixels": round(image.width * image.height / 1e6, 3), "seconds": times,
        "ratio": {
            name: {key: round(ours[key] / each[key], 3) for key in ("encode_s", "decode_s")}
            for name, each in times.items() if name != OURS
        },
        "stages_s": {
            name: stages.profile(action, options.repeats) for name, action in (("encode", encode), ("decode", decode))
        },
        "peak_rss_bytes": peak_bytes,
    }  # fmt: skip


def _peak_rss_bytes() -> int | None:
    """The most memory that this process has had at a time; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def picture_of(megapixels: float, data: str | None) -> Image.Image:
    """A picture of 3:2 and so many megapixels: mirrored copies of a photograph side by side, so its detail is kept."""
    source = datasets.find(data).pictures[0].load()
    height = max(16, round((megapixels * 1e6 / 1.5) ** 0.5))
    width = round(height * 1.5)
    sheet = Image.new("RGB", (width, height))
    for row in range(-(-height // source.height)):
        for column in range(-(-width // source.width)):
            tile = source.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if row % 2 else source
            tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if column % 2 else tile
            sheet.paste(tile, (column * source.width, row * source.height))
    return sheet


def cold_start(model: Path | None) -> dict[str, float]:
    """Seconds that the command line takes from nothing, for a small picture: median of a few."""
    chosen = ["--model", str(model)] if model else []
    with tempfile.TemporaryDirectory() as folder:
        png, vaec, back = (str(Path(folder) / name) for name in ("a.png", "a.vaec", "b.png"))
        picture_of(0.1, None).save(png)
        commands = {
            "encode": ["encode", "-f", *chosen, png, vaec],
            "info": ["info", vaec],
            "decode": ["decode", "-f", *chosen, vaec, back],
        }
        return {name: _median_s(lambda command=command: _vaecodec(command)) for name, command in commands.items()}


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
    """A run whose process may use no more processors than threads: libavif and torch both obey that."""
    command = [sys.executable, __file__, "--worker", "--threads", str(threads), "--megapixels", str(megapixels)]
    command += ["--repeats", str(options.repeats), "--codecs", options.codecs]
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


def _others(names: str) -> list[Codec]:
    opened = []
    for name in filter(None, names.split(",")):
        try:
            opened.append(codecs.open_codec(name))
        except codecs.UnavailableError as reason:
            print(f"{name}: left out: {reason}", file=sys.stderr)
    return opened


def _in_turn(image: Image.Image, files: dict[Codec, bytes], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of every codec, one after the other in every repeat: what disturbs one disturbs all."""
    times: dict[Codec, list[tuple[float, float]]] = {codec: [] for codec in files}
    for _ in range(repeats):
        for codec, file in files.items():
            encode, decode = _actions(image, codec, file)
            start = time.perf_counter()
            encode()
            between = time.perf_counter()
            decode()
            times[codec].append((between - start, time.perf_counter() - between))
    medians = {codec: [statistics.median(each) for each in zip(*pairs, strict=True)] for codec, pairs in times.items()}
    return {
        codec.name: {
            "encode_s": round(encode_s, 6), "decode_s": round(decode_s, 6), "file_bytes": len(files[codec]),
            "quality": QUALITY[codec.name],
        }
        for codec, (encode_s, decode_s) in medians.items()
    }  # fmt: skip


def _actions(image: Image.Image, codec: Codec, file: bytes) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: codec.encode(image, QUALITY[codec.name]), lambda: codec.decode(file)


def _line(run: dict[str, Any]) -> str:
    peak = f", peak {run['peak_rss_bytes'] / 2**20:.0f} MiB" if run["peak_rss_bytes"] else ""
    parts = [f"{run['threads']} threads, {run['megapixels']:.1f} MP{peak}:"]
    for name, each in run["seconds"].items():
        parts.append(f"{name} {1000 * each['encode_s']:.0f} + {1000 * each['decode_s']:.0f} ms")
    return " ".join(parts)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set whose first picture is taken; the sample if not given")
    parser.add_argument("--megapixels", default="0.4,2,12", help="sizes")
    parser.add_argument("--threads", default="1,2", help="of torch, and processors for every codec")
    parser.add_argument("--codecs", default="jpeg,avif", help=f"beside {OURS}, of {', '.join(list(QUALITY)[1:])}")
    parser.add_argument("--repeats", type=int, default=5, help="times are medians of so many, stages means")
    parser.add_argument("--model", type=Path, help="weights of vaecodec; the built-in file if not given")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "throughput.json"), help="result")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
