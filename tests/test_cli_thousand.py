"""A folder of photographs some of which are bad: the good ones are encoded, each bad one is named with its error."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from lossless_codec import damaged, vaec
from PIL import Image

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
LONG = "VAECODEC_LONG_TESTS" in os.environ


def coded(format: str, samples: np.ndarray) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    Image.fromarray(samples).save(file, format)
    return file.getvalue()


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Ten kinds of bad files by the end of their names, and the code of the error that each must give."""
    samples = picture(24, 32)
    png, jpeg = coded("PNG", samples), coded("JPEG", samples)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 2**14, 2**14, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    huge = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return {
        "empty.png": (b"", "INPUT"),
        "text.jpg": (b"these are no pixels\n" * 9, "INPUT"),
        "cut.png": (png[: len(png) // 2], "INPUT"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "INPUT"),
        "rowless.ppm": (coded("PPM", samples)[:-9], "INPUT"),
        "flipped.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "INPUT"),
        "deep.png": (coded("PNG", samples[..., 0].astype(np.uint16) * 256), "BIT_DEPTH"),
        "float.tif": (coded("TIFF", samples[..., 0].astype(np.float32)), "BIT_DEPTH"),
        "huge.png": (png[:8] + huge, "MAX_PIXELS"),
        "damaged.webp": (damaged(vaec(samples)), "TILE_CRC"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "each"),
    [(30, 1), pytest.param(950, 5, marks=pytest.mark.skipif(not LONG, reason="VAECODEC_LONG_TESTS is not set"))],
)
def test_a_folder_is_encoded_but_for_its_bad_files(good: int, each: int, tmp_path: Path, tiny_weights: Path) -> None:
    """So many good files and so many of each kind of bad ones: all good ones written, all bad ones named, exit 1."""
    photos, kinds = tmp_path / "photos", bad_files()
    photos.mkdir()
    for number in range(good):
        suffix, format = ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"))[number % 3]
        (photos / f"{number:03}{suffix}").write_bytes(coded(format, picture(16 + number % 9, 24, seed=number)))
    for kind, (data, _) in kinds.items():
        for number in range(each):
            (photos / f"{number}-{kind}").write_bytes(data)
    command = [sys.executable, "-m", "vaecodec", "encode", "-r", "photos", "--out-dir", "vaec", "-j", "2", "--json"]
    command += ["--model", str(tiny_weights), "--device", "cpu"]
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    failed = {record["path"]: record["code"] for record in records if record["status"] == "failed"}
    assert (ended.returncode, len(records)) == (1, good + each * len(kinds))
    assert failed == {
        str(Path("photos", f"{number}-{kind}")): code for kind, (_, code) in kinds.items() for number in range(each)
    }
    assert Counter(record["status"] for record in records) == {"done": good, "failed": each * len(kinds)}
    assert len(list((tmp_path / "vaec").iterdir())) == good
