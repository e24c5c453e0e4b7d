"""Times two checkouts in turn, encode and decode, to measure a change on a machine with varying load."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

WAYS = ("encode", "decode")
QUALITY = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; returns 0."""
    options = _parser().parse_args(arguments)
    if options.worker:
        return _work(options.worker, options.threads)
    from benchmarks import datasets, results  # not in the workers, which import only the package of their own checkout

    dataset = datasets.find(options.data).first(options.images)
    paths = [str(picture.path) for picture in dataset.pictures]
    sides = [Side(checkout, paths, options.threads) for checkout in (options.before, options.after)]
    for _ in range(options.rounds):
        for number in range(len(paths)):
            for way in WAYS:
                for side in sides:
                    side.take(way, number)
    for side in sides:
        side.close()
    before, after = sides
    ratios = {
        way: round(statistics.median(b / a for a, b in zip(before.times[way], after.times[way], strict=True)), 3)
        for way in WAYS
    }
    report = {
        "before": {"commit": results.commit(before.checkout), **before.describe()},
        "after": {"commit": results.commit(after.checkout), **after.describe()}, "ratio": ratios, "quality": QUALITY,
        "threads": options.threads, "rounds": options.rounds, "machine": results.machine(options.threads),
        "dataset": dataset.describe(),
    }  # fmt: skip
    text = json.dumps(report, indent=1) + "\n"
    print(text, end="")
    if options.out:
        results.write_atomically(options.out, text)
    return 0


class Side:
    """One checkout: a process that imports its package, and its recorded seconds."""

    def __init__(self, checkout: Path, paths: Sequence[str], threads: int) -> None:
        self.checkout = checkout.resolve()
        self.times: dict[str, list[float]] = {way: [] for way in WAYS}
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--threads", str(threads), "--worker", *paths]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.model_id = self._answer()

    def close(self) -> None:
        """Ends the process."""
        with self._process:
            self._process.communicate()

    def take(self, way: str, number: int) -> None:
        """Encodes a picture, or decodes its file, once."""
        assert self._process.stdin
        print(way, number, file=self._process.stdin, flush=True)
        self.times[way].append(float(self._answer()))

    def describe(self) -> dict[str, Any]:
        """Model and median seconds."""
        medians = {f"{way}_s": round(statistics.median(times), 6) for way, times in self.times.items()}
        return {"model_id": self.model_id, **medians}

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def _work(paths: Sequence[str], threads: int) -> int:
    """The process for one side: prints its model, then the seconds of every request."""
    sys.path[0] = os.environ["PYTHONPATH"]
    import torch
    from PIL import Image

    import vaecodec

    torch.set_num_threads(threads)
    codec, files = vaecodec.Codec(None, "cpu"), list[bytes]()
    images = [Image.open(path).convert("RGB") for path in paths]
    for image in images:  # warms up, and makes the files to decode
        files.append(codec.encode(image, QUALITY))
        codec.decode(files[-1])
    print(vaecodec.info(files[0]).header.model_id.hex(), flush=True)
    for line in sys.stdin:
        way, number = line.split()
        start = time.perf_counter()
        if way == "encode":
            codec.encode(images[int(number)], QUALITY)
        else:
            codec.decode(files[int(number)])
        print(time.perf_counter() - start, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--before", type=Path, default=Path(), help="a checkout of the project")
    parser.add_argument("--after", type=Path, default=Path(), help="another one")
    parser.add_argument("--data", help="folder or data set [sample]")
    parser.add_argument("--images", type=int, default=6, help="number of pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds; each encodes and decodes every picture"
    )
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
