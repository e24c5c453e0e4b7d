"""Measures lossless sizes: PNG, WebP, JPEG XL, vaecodec and its earlier tiles, on photographs and drawings."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks import datasets, results
from vaecodec import Codec

sys.path.append(str(results.ROOT / "tests"))
import zlib_tiles

Samples = NDArray[np.uint8]
OUT = results.ROOT / "benchmarks" / "results" / "lossless.json"
TILE_PX, HEAD_BYTES, ENTRY_BYTES = 1024, 32, 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record; the exit code is 1 if a round trip failed."""
    options = _parser().parse_args(arguments)
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    codecs = dict(_codecs())
    for kind, pictures in _pictures(options.images).items():
        for name, samples in pictures.items():
            sizes.setdefault(kind, {})[name] = {codec: len(encode(samples)) for codec, encode in codecs.items()}
            print(kind, name, sizes[kind][name], file=sys.stderr, flush=True)
    report: dict[str, Any] = {
        "machine": results.machine(1), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "bytes": sizes,
    }  # fmt: skip
    results.write_atomically(options.out, json.dumps(report, indent=1) + "\n")
    print(table(sizes))
    return 0


def table(sizes: dict[str, dict[str, dict[str, int]]]) -> str:
    """Total bytes by kind of picture, relative to PNG's for the other codecs."""
    names = list(next(iter(next(iter(sizes.values())).values())))
    lines = ["| pictures | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for kind, pictures in sizes.items():
        sums = {name: sum(each[name] for each in pictures.values()) for name in names}
        cells = [f"{size:,}" if name == "png" else f"{100 * size / sums['png']:.1f} %" for name, size in sums.items()]
        lines.append(f"| {len(pictures)} {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _codecs() -> Iterator[tuple[str, Callable[[Samples], bytes]]]:
    yield "png", lambda samples: _saved(samples, "PNG", optimize=True)
    yield "webp", lambda samples: _saved(samples, "WEBP", lossless=True, exact=True)
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        print("JPEG XL is not installed: pip install pillow-jxl-plugin", file=sys.stderr)
    else:
        yield "jxl", lambda samples: _saved(samples, "JXL", lossless=True)
    yield "vaecodec", _vaec
    yield "zlib tiles", _older


def _saved(samples: Samples, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(file, form, **options)
    return file.getvalue()


def _vaec(samples: Samples) -> bytes:
    codec = Codec()
    data = codec.encode(samples, lossless=True)
    if not np.array_equal(codec.decode(data, output="numpy").reshape(samples.shape), samples):
        raise SystemExit("a lossless round trip changed a picture")
    return data


def _older(samples: Samples) -> bytes:
    """The size of files before WebP tiles: each tile of 1024 pixels separately, alpha apart."""
    colour = samples.shape[2] - (samples.shape[2] in (2, 4))
    data = bytes(HEAD_BYTES)
    for top in range(0, samples.shape[0], TILE_PX):
        for left in range(0, samples.shape[1], TILE_PX):
            tile = samples[top : top + TILE_PX, left : left + TILE_PX]
            planes = [tile[..., :colour], *([tile[..., colour:]] if colour < samples.shape[2] else [])]
            data += b"".join(bytes(ENTRY_BYTES) + zlib_tiles.pack(np.ascontiguousarray(plane)) for plane in planes)
    return data


def _pictures(images: int | None) -> dict[str, dict[str, Samples]]:
    """The pictures by kind and name."""
    made = {
        "screens": {f"{width} x {height}": _screen(width, height) for width, height in ((1280, 800), (1920, 1080))},
        "drawings": {f"{width} x {height}": _drawing(width, height) for width, height in ((800, 600), (1500, 1500))},
        "alpha masks": {f"{width} x {height}": _mask(width, height) for width, height in ((640, 480), (1200, 1200))},
    }
    try:
        kodak = datasets.find("kodak")
    except (FileNotFoundError, ValueError) as error:
        print(f"Kodak skipped: {error}", file=sys.stderr)
        return made
    pictures = kodak.pictures[:images]
    return {"Kodak": {each.name: np.asarray(Image.open(each.path).convert("RGB")) for each in pictures}} | made


def _screen(width: int, height: int) -> Samples:
    """A screenshot: windows with text."""
    image = Image.new("RGB", (width, height), (236, 238, 242))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for number, left in enumerate(range(20, width - 300, 420)):
        draw.rounded_rectangle((left, 30, left + 400, height - 40), 8, fill="white", outline=(170, 170, 180))
        draw.rectangle((left, 40, left + 400, 64), fill=(40 + 50 * number, 90, 180))
        for line, top in enumerate(range(72, height - 60, 17)):
            words = f"{line:3}  line {line * 7919 % 1000} of window {number}: the quick brown fox"
            draw.text((left + 8, top), words, fill=[(20, 20, 20), (150, 40, 30), (30, 60, 160)][line % 3], font=font)
    return np.asarray(image)


def _drawing(width: int, height: int) -> Samples:
    """A drawing: smooth-edged shapes and lines on paper."""
    image, rng = Image.new("RGB", (2 * width, 2 * height), (250, 248, 240)), np.random.default_rng(1)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, radius = (int(v) for v in rng.integers(0, (2 * width, 2 * height, 300)))
        draw.ellipse((x, y, x + radius + 8, y + radius + 8), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
        draw.line((x, y, *(int(v) for v in rng.integers(0, 2 * width, 2))), fill=(30, 30, 30), width=5)
    return np.asarray(image.reduce(2))


def _mask(width: int, height: int) -> Samples:
    """A grey mask with soft edges."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 2, y - height / 2) + 30 * np.sin(np.arctan2(y - height / 2, x - width / 2) * 7)
    return (255 * (1 - ((distance - 0.3 * width) / 12).clip(0, 1))).astype(np.uint8)[..., None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="number of Kodak pictures [all]")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
