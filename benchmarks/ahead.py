"""Measures decoding a large picture with and without helper threads, which read tiles and predict their latents."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import vaecodec
from benchmarks import results, scale

OUT = results.ROOT / "benchmarks" / "results" / "scale" / "ahead.json"
QUALITY = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record."""
    options = _parser().parse_args(arguments)
    picture, rows = scale.Mosaic(options.megapixels, options.data)[:], []
    for name in options.engines.split(","):
        codec = vaecodec.Codec(options.model, "cpu", engine=name)
        data = codec.encode(picture, QUALITY)
        rows.append({"engine": name, "seconds": measure(codec, data, options)})
        print(rows[-1])
    height, width, _ = picture.shape
    record = {
        "codec": {"version": vaecodec.__version__, "model_id": codec.engine.model_id.hex(), "quality": QUALITY},
        "machine": results.machine(None), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "data": options.data, "width": width,
        "height": height, "repeats": options.repeats, "rows": rows,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(record, indent=1) + "\n")
    return 0


def measure(codec: vaecodec.Codec, data: bytes, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a decode by number of helpers, measured in turn; the first turn warms up."""
    seconds: dict[int, list[float]] = {helpers: [] for helpers in map(int, options.helpers.split(","))}
    for turn in range(1 + options.repeats):
        for helpers, found in seconds.items():
            with mock.patch.object(type(codec.engine), "helpers", helpers):
                start = time.perf_counter()
                codec.decode(data, output="numpy")
            if turn:
                found.append(time.perf_counter() - start)
    return {str(helpers): round(statistics.median(found), 4) for helpers, found in seconds.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set whose first pictures form the large picture")
    parser.add_argument("--megapixels", type=float, default=12.0, help="size of the picture")
    parser.add_argument("--engines", default="native,torch", help="native, torch or both")
    parser.add_argument("--helpers", default="0,1,2", help="numbers of helper threads")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns; times are medians")
    parser.add_argument("--model", type=Path, help="weights of vaecodec [built-in]")
    parser.add_argument("--out", type=Path, default=OUT, help="result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
