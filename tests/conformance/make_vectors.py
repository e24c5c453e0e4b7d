"""Writes the golden files: the only writer of vectors/ and manifest.json. Run it when the model or the format changes.

Usage: python tests/conformance/make_vectors.py
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import picture  # noqa: E402

from vaecodec import Codec, bitstream  # noqa: E402
from vaecodec.bitstream import Header, Tile  # noqa: E402

# name: (height, width, mode, quality, what it tests)
PICTURES = {
    "rgb": (64, 80, "RGB", 75, "one learned tile"),
    "rgb-low": (64, 64, "RGB", 1, "lowest quality"),
    "rgb-high": (64, 64, "RGB", 100, "highest quality, escapes"),
    "odd": (77, 53, "RGB", 50, "sides that are no multiples of 16"),
    "grey": (64, 64, "L", 60, "one channel"),
    "grey-alpha": (48, 64, "LA", 60, "alpha plane, packed"),
    "rgba": (64, 64, "RGBA", 40, "colour and alpha planes"),
    "one-pixel": (1, 1, "RGB", 50, "the smallest picture, one colour"),
    "column": (200, 1, "RGB", 50, "a width of one"),
    "row": (1, 200, "L", 50, "a height of one"),
    "two-tiles": (40, 1100, "RGB", 30, "two tiles whose transforms see each other"),
}


def build(codec: Codec) -> dict[str, tuple[bytes, str]]:
    """Files that decode, each with what it tests."""
    files = {}
    for number, (name, (height, width, mode, quality, tests)) in enumerate(PICTURES.items()):
        samples = picture(height, width, len(mode), seed=40 + number)
        image = Image.fromarray(samples[..., 0] if mode == "L" else samples)
        files[name] = codec.encode(image, quality), tests
    files["metadata"] = codec.encode(picture(32, 32, seed=70), 50, xmp=b"<x/>", exif=b"II*\0\x08\0\0\0\0\0"), "metadata"
    text = (np.indices((96, 96)).sum(0) // 8 % 2 * 255).astype(np.uint8)
    files["pattern"] = codec.encode(text, 75), "a tile packed without loss"
    return files


def damage(files: dict[str, tuple[bytes, str]]) -> dict[str, tuple[bytes, str, str]]:
    """Files that must be refused: bytes, what they test, the code of the error."""
    good = files["rgb"][0]
    stream = bitstream.read(good)
    (tile,) = stream.tiles
    assert tile is not None

    def with_byte(position: int, value: int) -> bytes:
        return good[:position] + bytes([value]) + good[position + 1 :]

    def resealed(payload: bytes, content_crc: int) -> bytes:
        return bitstream.write(stream.header, [Tile(tile.mode, payload, content_crc)])

    foreign = Header(stream.header.pixel_format, 80, 64, b"\xde\xad\xbe\xef", 75)
    swapped = tile.payload[4:8] + tile.payload[:4] + tile.payload[8:]
    return {
        "bad-magic": (with_byte(0, 0x88), "another magic", "BAD_MAGIC"),
        "bad-version": (with_byte(4, 2), "a later version", "VERSION"),
        "bad-feature": (with_byte(5, 1), "an unknown feature", "FEATURE"),
        "bad-reserved": (with_byte(22, 1), "a reserved bit", "RESERVED"),
        "bad-header": (with_byte(20, 74), "a changed header field", "HEADER_CRC"),
        "bad-payload": (with_byte(len(good) - 1, good[-1] ^ 1), "a flipped bit of the payload", "TILE_CRC"),
        "bad-short": (good[:-1], "a byte is missing", "SHORT_FILE"),
        "bad-long": (good + b"\0", "a byte too many", "TRAILING_DATA"),
        "bad-words": (resealed(swapped, tile.content_crc), "words exchanged and sealed again", "CODER_END"),
        "bad-latents": (resealed(tile.payload, tile.content_crc ^ 1), "other latents claimed", "LATENT_CRC"),
        "bad-model": (bitstream.write(foreign, [tile]), "another model named", "MODEL_MISSING"),
    }


def main() -> None:
    """Write vectors/ and manifest.json anew."""
    codec = Codec(None, "cpu")
    vectors = HERE / "vectors"
    vectors.mkdir(exist_ok=True)
    for old in vectors.iterdir():
        old.unlink()
    files = build(codec)
    manifest = {"model_id": codec.network.model_id.hex(), "valid": {}, "invalid": {}}
    for name, (data, tests) in files.items():
        (vectors / f"{name}.vaec").write_bytes(data)
        codec.decode(data).save(vectors / f"{name}.png", optimize=True)
        manifest["valid"][name] = {"tests": tests, "sha256": hashlib.sha256(data).hexdigest()}
    for name, (data, tests, code) in damage(files).items():
        (vectors / f"{name}.vaec").write_bytes(data)
        manifest["invalid"][name] = {"tests": tests, "code": code}
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
