"""Pictures for bench.js: python web/bench/files.py FOLDER OUT makes .vaec, and AVIF of about the same size."""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from vaecodec import Codec

QUALITY = 75
AVIF_SPEED = 6  # what Pillow takes by default


def avif_of_size(image: Image.Image, most_bytes: int) -> bytes:
    """The best AVIF that takes no more bytes."""
    found, low, high = b"", 1, 100
    while low <= high:
        quality, file = (low + high) // 2, BytesIO()
        image.save(file, "AVIF", quality=quality, speed=AVIF_SPEED)
        if file.tell() <= most_bytes:
            found, low = file.getvalue(), quality + 1
        else:
            high = quality - 1
    return found


def main() -> None:
    source, out = map(Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    codec = Codec()
    for path in sorted(source.glob("*.png")):
        with Image.open(path) as image:
            data = codec.encode(image.convert("RGB"), QUALITY)
            (out / f"{path.stem}.vaec").write_bytes(data)
            (out / f"{path.stem}.avif").write_bytes(avif_of_size(image, len(data)))


if __name__ == "__main__":
    main()
