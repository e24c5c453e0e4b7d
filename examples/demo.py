"""Encode a photograph at three qualities, decode it, and show it beside JPEG at equal bytes.

Usage: python examples/demo.py [IMAGE]. Without an argument it takes a sample photograph of scikit-image or matplotlib.
Writes out/demo.png and prints a table.
"""

import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import vaecodec
from vaecodec.pictures.pixels import psnr_db

QUALITIES = (10, 40, 75)
SHOWN_QUALITY = 40  # low enough to see differences, high enough for JPEG to have a file of that size
CROP_PX = 300
ZOOM = 2
OUT = Path("out")


def sample_photograph() -> Path:
    """A photograph that lies inside an installed package."""
    try:
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        names = ("chelsea.png", "coffee.png", "astronaut.png")
    except ImportError:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "sample_data"
        names = ("grace_hopper.jpg",)
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise SystemExit("no sample photograph found: name one of your own, python examples/demo.py photo.jpg")


def jpeg_at(image: Image.Image, limit_bytes: int) -> tuple[Image.Image, int]:
    """The best JPEG (Pillow's defaults) of at most `limit_bytes`, or the smallest there is, and its size."""
    best = None
    for quality in range(1, 96):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if best is not None and buffer.tell() > limit_bytes:
            break
        best = buffer
    return Image.open(best).convert("RGB"), best.tell()


def busiest_crop(image: Image.Image, side_px: int) -> tuple[int, int, int, int]:
    """The square with the most detail: where codecs differ."""
    grey = np.asarray(image.convert("L"), np.float32)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    total = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    height, width = min(side_px, detail.shape[0]), min(side_px, detail.shape[1])
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(left), int(top), int(left) + width, int(top) + height


def side_by_side(panels: list[tuple[str, Image.Image]], box: tuple[int, int, int, int]) -> Image.Image:
    """The same crop of every picture, enlarged, each under its caption."""
    font = ImageFont.load_default(18)
    width, height = (box[2] - box[0]) * ZOOM, (box[3] - box[1]) * ZOOM
    sheet = Image.new("RGB", (len(panels) * (width + 10) + 10, height + 50), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, image) in enumerate(panels):
        left = 10 + number * (width + 10)
        sheet.paste(image.crop(box).resize((width, height), Image.Resampling.LANCZOS), (left, 40))
        draw.text((left, 10), caption, "black", font)
    return sheet


def main() -> None:
    """Run the demonstration."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else sample_photograph()
    image = Image.open(path).convert("RGB")
    image.info.clear()  # metadata costs every codec the same: leave it out of the comparison
    codec = vaecodec.Codec()
    codec.encode(image.crop((0, 0, 64, 64)))  # load the weights before anything is timed
    original = np.asarray(image)
    print(f"{path.name}: {image.width} x {image.height}, {original.size:,} bytes of pixels\n")
    print("quality    bytes     bpp  PSNR dB  encode ms  decode ms | JPEG bytes  PSNR dB")
    for quality in QUALITIES:
        start = time.perf_counter()
        data = codec.encode(image, quality)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        done = time.perf_counter()
        jpeg, jpeg_bytes = jpeg_at(image, len(data))
        bpp = 8 * len(data) / image.width / image.height
        ours, theirs = psnr_db(original, np.asarray(decoded)), psnr_db(original, np.asarray(jpeg))
        print(f"{quality:7} {len(data):8,} {bpp:7.3f} {ours:8.2f} {1000 * (encoded - start):10.0f} "
              f"{1000 * (done - encoded):10.0f} | {jpeg_bytes:10,} {theirs:8.2f}")  # fmt: skip
        if quality == SHOWN_QUALITY:
            panels = [
                ("original", image), (f"vaec, {len(data):,} bytes, {ours:.1f} dB", decoded),
                (f"JPEG, {jpeg_bytes:,} bytes, {theirs:.1f} dB", jpeg),
            ]  # fmt: skip
    OUT.mkdir(exist_ok=True)
    side_by_side(panels, busiest_crop(image, CROP_PX)).save(OUT / "demo.png")
    print(f"\nwrote {OUT / 'demo.png'}")


if __name__ == "__main__":
    main()
