"""Measures large pictures: time and peak memory from file to file, regions and previews against whole pictures."""

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

import numpy as np

import vaecodec
from benchmarks import codecs, datasets, results, timings
from benchmarks.tables import OURS
from vaecodec.pictures.pixels import psnr_db

QUALITY = timings.QUALITY[OURS]
REGION_PX = 512
REGIONS = 9  # evenly spread regions, of which some cover four tiles and some only one
PREVIEW_SCALE = 1 / 8
PREVIEW_MP = 12.5  # up to this size, previews are also compared with the downscaled picture
WARM_UP_PX = 600


class Mosaic:
    """A picture generated on access: photographs side by side, each row shifted against the one above.

    `encode_file` accepts it as an array: it has a shape, a dtype and row slices.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, megapixels: float, data: str | None) -> None:
        height = max(16, round((megapixels * 1e6 / 1.5) ** 0.5))
        self.shape = height, round(height * 1.5), 3
        self._photographs = [np.asarray(picture.load()) for picture in datasets.find(data).first(6).pictures]

    def __getitem__(self, rows: slice) -> np.ndarray:
        numbers = range(*rows.indices(self.shape[0]))
        samples = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for line, number in zip(samples, numbers, strict=True):
            line[:] = self._row(number)
        return samples

    def _row(self, number: int) -> np.ndarray:
        heights = [len(photograph) for photograph in self._photographs]
        storey, within = divmod(number, min(heights))
        line = np.concatenate([photograph[within] for photograph in self._photographs])
        copies = -(-self.shape[1] // len(line)) + 1
        shift = 331 * storey % len(line)  # a prime, so that edges of tiles and photographs meet in varying ways
        return np.concatenate([line] * copies)[shift : shift + self.shape[1]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size, each step in its own process; writes the JSON after every size."""
    options = _parser().parse_args(arguments)
    if options.worker:
        print(json.dumps(STEPS[options.worker](options)))
        return 0
    runs = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for megapixels in map(float, options.megapixels.split(",")):
            runs.append(_measure(options, megapixels, Path(folder)))
            print(_line(runs[-1]), flush=True)
            results.write_atomically(options.out, json.dumps(_result(options, runs), indent=1) + "\n")
    return 0


def _measure(options: argparse.Namespace, megapixels: float, folder: Path) -> dict[str, Any]:
    coded, decoded = folder / "picture.vaec", folder / f"picture.{options.format}"
    run: dict[str, Any] = {"load_before": [round(load, 1) for load in os.getloadavg()]}
    for step in options.steps.split(","):
        run |= _in_own_process(options, step, megapixels, coded, decoded)
    coded.unlink()
    decoded.unlink(missing_ok=True)
    return run


def encode(options: argparse.Namespace) -> dict[str, Any]:
    """Encode rows to a file."""
    codec, mosaic = _warm_codec(options), Mosaic(options.mp, options.data)
    seconds = _timed(lambda: codec.encode_file(mosaic, options.coded, QUALITY, max_pixels=None))
    height, width, _ = mosaic.shape
    file_bytes = options.coded.stat().st_size
    return {
        "width": width, "height": height, "megapixels": round(width * height / 1e6, 3), "file_bytes": file_bytes,
        "encode": {**seconds, "mp_per_s": round(width * height / 1e6 / seconds["wall_s"], 3), **_peak()},
    }  # fmt: skip


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Decode the file to another file by rows."""
    codec, size = _warm_codec(options), vaecodec.info(options.coded, max_pixels=None).header
    seconds = _timed(lambda: codec.decode_file(options.coded, options.decoded, max_pixels=None))
    pace = size.width * size.height / 1e6 / seconds["wall_s"]
    return {"decode": {"format": options.format, **seconds, "mp_per_s": round(pace, 3), **_peak()}}


def region(options: argparse.Namespace) -> dict[str, Any]:
    """Decode squares at places spread over the file."""
    codec, size = _warm_codec(options), vaecodec.info(options.coded, max_pixels=None).header
    side = min(REGION_PX, size.width, size.height)
    times = []
    for number in range(REGIONS):
        left, top = (number * (whole - side) // max(1, REGIONS - 1) for whole in (size.width, size.height))
        box = left, top, left + side, top + side
        times.append(_timed(lambda box=box: codec.decode_region(options.coded, box, output="numpy", max_pixels=None)))
    summary = {f"{of}_{name}": round(take(each[name] for each in times), 4) for name in times[0]
               for of, take in (("mean", statistics.fmean), ("max", max))}  # fmt: skip
    return {"region": {"side_px": side, "places": REGIONS, **summary, **_peak()}}


def preview(options: argparse.Namespace) -> dict[str, Any]:
    """Decode a preview at 1/8, and compare it with the downscaled picture."""
    codec, size = _warm_codec(options), vaecodec.info(options.coded, max_pixels=None).header
    shown = {}
    codec.decode(
        codec.encode(np.zeros((64, 64, 3), np.uint8) + np.arange(64, dtype=np.uint8)[:, None, None]), scale=1 / 2
    )

    def show() -> None:
        shown["samples"] = codec.decode(options.coded, scale=PREVIEW_SCALE, output="numpy", max_pixels=None)

    found: dict[str, Any] = {"scale": PREVIEW_SCALE, **_timed(show), **_peak()}
    if size.width * size.height <= PREVIEW_MP * 1e6:
        whole = codec.decode(options.coded)
        found["psnr_db"] = round(psnr_db(np.asarray(whole.reduce(round(1 / PREVIEW_SCALE))), shown["samples"]), 2)
    return {"preview": found}


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "encode": encode, "decode": decode, "region": region, "preview": preview,
}  # fmt: skip


def _in_own_process(
    options: argparse.Namespace, step: str, megapixels: float, coded: Path, decoded: Path
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", step, "--mp", str(megapixels), "--coded", str(coded)]
    command += ["--decoded", str(decoded), "--threads", str(options.threads), "--format", options.format]
    command += ["--data", options.data] if options.data else []
    command += ["--model", str(options.model)] if options.model else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def _warm_codec(options: argparse.Namespace) -> vaecodec.Codec:
    """A codec that has coded a small picture, with the given number of threads."""
    import torch

    torch.set_num_threads(options.threads)
    codec = vaecodec.Codec(options.model, "cpu")
    codec.decode(codec.encode(Mosaic(WARM_UP_PX**2 / 1e6, options.data)[:]))
    return codec


def _timed(action: Callable[[], object]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return {
        "wall_s": round(time.perf_counter() - wall, 3),
        "processor_s": round(time.process_time() - processor, 3),
    }


def _peak() -> dict[str, int | None]:
    return {"peak_rss_bytes": timings.peak_rss_bytes()}


def _result(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    codec = codecs.open_codec(OURS, device="cpu", model=options.model)
    return {
        "codec": codec.describe(), "quality": QUALITY, "machine": results.machine(options.threads),
        "processors": os.cpu_count(), "note": options.note, "data": datasets.find(options.data).first(6).describe(),
        "commit": results.commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "runs": runs,
    }  # fmt: skip


def _line(run: dict[str, Any]) -> str:
    parts = [f"{run['megapixels']:.1f} MP"] if "megapixels" in run else []
    for step in STEPS:
        if step in run:
            peak = (run[step]["peak_rss_bytes"] or 0) / 2**20
            seconds = run[step].get("wall_s", run[step].get("mean_wall_s"))
            processor = run[step].get("processor_s", run[step].get("mean_processor_s"))
            parts.append(f"{step} {seconds:.2f} s ({processor:.2f} s of processors), {peak:.0f} MiB")
    return "; ".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set whose first pictures form the mosaic")
    parser.add_argument("--megapixels", default="0.4,2,12,48,100", help="sizes")
    parser.add_argument("--steps", default=",".join(STEPS), help="steps to measure; encode comes first")
    parser.add_argument("--format", default="ppm", help="format of decoded pictures: ppm, png, tif")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--note", help="note about other load on the machine, for the record")
    parser.add_argument("--scratch", type=Path, help="folder for the pictures, about 3 bytes per pixel")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "scale.json"), help="result")
    parser.add_argument("--worker", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--mp", type=float, help=argparse.SUPPRESS)
    for name in ("--coded", "--decoded"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
