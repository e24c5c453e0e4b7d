"""Measures batches on a GPU, with and without transfers, against JPEG on the same GPU, in images per second."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

import vaecodec
from benchmarks import datasets, gpu_jpeg, results
from benchmarks.adapter import UnavailableError
from benchmarks.tables import OURS
from benchmarks.timings import QUALITY


@dataclass(frozen=True, eq=False)  # compared by identity, so that it can be a key
class BatchCodec:
    """A codec for pictures that are already on the device.

    Attributes:
        name: its name in results.
        version: versions of everything that determines its speed.
        encode: encodes uint8 pictures [3, H, W] on the device to files in host memory.
        decode: decodes files to uint8 pictures [3, H, W] on the device.
    """

    name: str
    version: str
    encode: Callable[[Sequence[Tensor]], list[bytes]]
    decode: Callable[[Sequence[bytes]], list[Tensor]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; the exit code is 2 without a GPU or data."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("device is cuda, but torch finds no GPU", file=sys.stderr)
        return 2
    try:
        dataset = datasets.find(options.data)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    pictures = [torch.from_numpy(np.array(each.load())).permute(2, 0, 1).contiguous() for each in dataset.pictures]
    opened = open_all(options.device, options.model)
    rows = []
    for size in map(int, options.batches.split(",")):
        batch = [pictures[number % len(pictures)] for number in range(size)]
        rows += measure(batch, opened, device=options.device, repeats=options.repeats)
    for row in rows:
        print(f"{row['codec']}, batch {row['batch']}, {row['action']}: {row['images_per_s']:.1f} images/s")
    result = {
        "machine": {**results.machine(None), "device": _device_name(options.device)}, "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "dataset": dataset.describe(),
        "codecs": {codec.name: codec.version for codec in opened}, "batches": rows,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(result, indent=1) + "\n")
    print(options.out)
    return 0


def open_all(device: str, model: Path | None) -> list[BatchCodec]:
    """vaecodec, and JPEG on the GPU if a library for it is installed; prints a message if not."""
    codec = vaecodec.Codec(model, device)
    version = f"vaecodec {vaecodec.__version__}, model {codec.engine.model_id.hex()}"

    def encode(pictures: Sequence[Tensor]) -> list[bytes]:
        return codec.encode_batch(pictures, QUALITY[OURS])

    def decode(files: Sequence[bytes]) -> list[Tensor]:
        return codec.decode_batch(files, output="torch")

    opened = [BatchCodec(OURS, version, encode, decode)]
    try:
        jpeg = gpu_jpeg.open_backend()
    except UnavailableError as reason:
        print(f"jpeg: skipped: {reason}", file=sys.stderr)
        return opened
    jpeg_on_gpu = BatchCodec("jpeg", jpeg.version, lambda x: jpeg.encode(x, QUALITY["jpeg"]), jpeg.decode)
    return [*opened, jpeg_on_gpu]


def measure(
    pictures: Sequence[Tensor], opened: Sequence[BatchCodec], *, device: str, repeats: int
) -> list[dict[str, Any]]:
    """Times of one batch, all codecs in turn in every repeat.

    Args:
        pictures: uint8 [3, H, W] in host memory.
        opened: the codecs; each first decodes its own files, which also warms it up.
        device: the device to measure.
        repeats: number of turns; times are medians.

    Returns:
        A row for each codec and "encode" or "decode". "seconds" is from pictures on the device to files in host memory,
        or back; "seconds_with_transfers" has the pictures in host memory.

    Raises:
        ValueError: a codec does not decode to pictures of the same shapes.
    """
    present = [picture.to(device) for picture in pictures]
    actions: dict[tuple[BatchCodec, str, str], Callable[[], object]] = {}
    for codec in opened:
        files = codec.encode(present)
        shapes = [tuple(picture.shape) for picture in codec.decode(files)]
        if shapes != [tuple(picture.shape) for picture in pictures]:
            raise ValueError(f"{codec.name} decodes to {shapes}, must be as the {len(pictures)} pictures are")
        actions |= _actions(codec, pictures, present, files, device)
    seconds: dict[tuple[BatchCodec, str, str], list[float]] = {key: [] for key in actions}
    for _ in range(repeats):
        for key, action in actions.items():
            seconds[key].append(timed(action, device))
    megapixels = sum(picture.shape[1] * picture.shape[2] for picture in pictures) / 1e6
    rows = []
    for codec in opened:
        for name in ("encode", "decode"):
            alone, moved = (statistics.median(seconds[codec, name, where]) for where in ("device", "host"))
            rows.append({
                "codec": codec.name, "batch": len(pictures), "action": name, "seconds": round(alone, 6),
                "seconds_with_transfers": round(moved, 6), "images_per_s": round(len(pictures) / alone, 2),
                "megapixels_per_s": round(megapixels / alone, 3),
                "images_per_s_with_transfers": round(len(pictures) / moved, 2),
                "megapixels_per_s_with_transfers": round(megapixels / moved, 3),
            })  # fmt: skip
    return rows


def timed(action: Callable[[], object], device: str) -> float:
    """Seconds until all work of an action is done: between two events on a GPU that is idle before and after."""
    if device != "cuda":
        start = time.perf_counter()
        action()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    action()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def _actions(
    codec: BatchCodec, pictures: Sequence[Tensor], present: Sequence[Tensor], files: Sequence[bytes], device: str
) -> dict[tuple[BatchCodec, str, str], Callable[[], object]]:
    return {
        (codec, "encode", "device"): lambda: codec.encode(present),
        (codec, "encode", "host"): lambda: codec.encode([picture.to(device) for picture in pictures]),
        (codec, "decode", "device"): lambda: codec.decode(files),
        (codec, "decode", "host"): lambda: [picture.cpu() for picture in codec.decode(files)],
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set, repeated to fill a batch [sample]")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="device; cpu only shows that the benchmark works"
    )
    parser.add_argument("--batches", default="1,8,32", help="batch sizes")
    parser.add_argument("--repeats", type=int, default=10, help="number of turns; times are medians")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "throughput-cuda.json"), help="result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
