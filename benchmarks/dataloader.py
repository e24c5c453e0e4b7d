"""Measures the rate of a DataLoader on .vaec files, against JPEG files of equal PSNR, and the bytes of both."""

import argparse
import bisect
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import vaecodec
from benchmarks import datasets, results
from vaecodec.data import Decoder, VaecDataset
from vaecodec.pictures.pixels import psnr_db

OUT = results.ROOT / "benchmarks" / "results" / "scale" / "dataloader.json"
SIZES = ((256, 256), (768, 512))
QUALITY = 75
JPEG_QUALITIES = range(1, 101)
BATCH = 8
COPIES = 4  # of each file, so that start and end of an epoch matter little


class Pair(NamedTuple):
    """One picture in both formats; PSNR in dB of each."""

    vaec: bytes
    jpeg: bytes
    vaec_db: float
    jpeg_db: float


class JpegDataset(Dataset[torch.Tensor]):
    """JPEG files as uint8 tensors [3, H, W], decoded by Pillow, as training code does today."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """A picture."""
        with Image.open(self.paths[index]) as image:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sizes and write the record; the exit code is 2 without data."""
    options = _parser().parse_args(arguments)
    try:
        dataset = datasets.find(options.data)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    codec = vaecodec.Codec(options.model, "cpu")
    load_average = os.getloadavg()[0]
    rows = []
    for width, height in SIZES:
        pictures = [cut(np.asarray(each.load()), width, height) for each in dataset.pictures]
        pairs = [pair(codec, picture) for picture in pictures]
        rows.append({"width": width, "height": height, **measure(pairs, options)})
        print(_line(rows[-1]))
    record = {
        "codec": {"version": vaecodec.__version__, "model_id": codec.engine.model_id.hex(), "quality": QUALITY},
        "machine": results.machine(1), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "dataset": dataset.describe(), "note": options.note,
        "workers": options.workers, "batch": BATCH, "repeats": options.repeats, "load_average": round(load_average, 1),
        "rows": rows,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(record, indent=1) + "\n")
    print(options.out)
    return 0


def cut(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The middle of a picture [H, W, 3], rotated first if its orientation differs from the crop's."""
    if (picture.shape[0] > picture.shape[1]) != (height > width):
        picture = np.rot90(picture)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"a picture is {picture.shape[1]} x {picture.shape[0]}, must be at least {width} x {height}")
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def pair(codec: vaecodec.Codec, picture: NDArray[np.uint8]) -> Pair:
    """A picture at our quality, and as the smallest JPEG with Pillow's defaults whose PSNR is not lower."""
    vaec = codec.encode(picture, QUALITY)
    vaec_db = psnr_db(picture, codec.decode(vaec, output="numpy"))

    def jpeg_db(quality: int) -> float:
        return psnr_db(picture, _pixels(_jpeg(picture, quality)))

    place = bisect.bisect_left(JPEG_QUALITIES, vaec_db, key=jpeg_db)
    jpeg = _jpeg(picture, JPEG_QUALITIES[min(place, len(JPEG_QUALITIES) - 1)])
    return Pair(vaec, jpeg, vaec_db, psnr_db(picture, _pixels(jpeg)))


def measure(pairs: Sequence[Pair], options: argparse.Namespace) -> dict[str, Any]:
    """Bytes and images per second of both formats, in alternating epochs; the first epoch warms up."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: _write(Path(folder), name, pairs) for name in ("vaec", "jpeg")}
        loaders = {
            "vaec": _loader(VaecDataset(paths["vaec"], decoder=Decoder(model=options.model)), options.workers),
            "jpeg": _loader(JpegDataset(paths["jpeg"]), options.workers),
        }
        for loader in loaders.values():
            _epoch_s(loader)
        seconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(options.repeats):
            for name, loader in loaders.items():
                seconds[name].append(_epoch_s(loader))
    count = len(pairs) * COPIES
    return {
        "images": count,
        **{f"{name}_images_per_s": round(count / statistics.median(seconds[name]), 2) for name in loaders},
        **{f"{name}_bytes": sum(len(getattr(each, name)) for each in pairs) // len(pairs) for name in loaders},
        **{f"{name}_psnr_db": round(statistics.mean(getattr(each, f"{name}_db") for each in pairs), 3)
           for name in loaders},
    }  # fmt: skip


def _loader(dataset: Any, workers: int) -> DataLoader[torch.Tensor]:
    return DataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=True)


def _epoch_s(loader: DataLoader[torch.Tensor]) -> float:
    start = time.perf_counter()
    count = sum(len(batch) for batch in loader)
    seconds = time.perf_counter() - start
    if count != len(loader.dataset):  # type: ignore[arg-type]
        raise RuntimeError(f"an epoch has {count} pictures, must have {len(loader.dataset)}")  # type: ignore[arg-type]
    return seconds


def _write(folder: Path, name: str, pairs: Sequence[Pair]) -> list[Path]:
    paths = []
    for copy in range(COPIES):
        for number, each in enumerate(pairs):
            paths.append(folder / f"{copy}-{number}.{name}")
            paths[-1].write_bytes(getattr(each, name))
    return paths


def _jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _pixels(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def _line(row: dict[str, Any]) -> str:
    parts = [
        f"{name} {row[f'{name}_images_per_s']:,.1f} images/s, {row[f'{name}_bytes']:,} bytes,"
        f" {row[f'{name}_psnr_db']:.2f} dB"
        for name in ("vaec", "jpeg")
    ]
    return f"{row['width']} x {row['height']}: {'; '.join(parts)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", default="kodak", help="folder or data set with pictures of at least 768 x 512")
    parser.add_argument("--workers", type=int, default=2, help="workers of each DataLoader")
    parser.add_argument("--repeats", type=int, default=5, help="number of epochs; rates are medians")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--note", default="", help="note about the machine, for the record")
    parser.add_argument("--out", type=Path, default=OUT, help="result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
