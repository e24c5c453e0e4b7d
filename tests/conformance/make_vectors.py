"""Writes the conformance vectors: the only writer of vectors/ and manifest.json. Run it when model or format change.

Usage: python tests/conformance/make_vectors.py            writes them anew
       python tests/conformance/make_vectors.py --add      writes those that are missing, and leaves the others
       python tests/conformance/make_vectors.py --check    tells what it would change, and writes nothing
"""

import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # the package of this checkout, whatever is installed

import must_fail  # noqa: E402
import valid  # noqa: E402
from PIL import Image  # noqa: E402

from vaecodec import Codec  # noqa: E402
from vaecodec.errors import VaecError  # noqa: E402
from vaecodec.format import records, sources  # noqa: E402

LARGEST_DIFFERENCE = 1
SHARE_OF_SAMPLES = 0.001
FEWEST_SAMPLES = 4  # in a picture of 100 samples, one that is rounded otherwise would be more than its share
LARGEST_SET_BYTES = 300_000


def make(codec: Codec, kept: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """All files by name: NAME.vaec, NAME.png for those that decode, and manifest.json.

    Args:
        codec: with the weights that the vectors are for.
        kept: files by name that stay as they are; what the manifest among them says of those that decode stays, too.
    """
    engine, kept = codec.engine, kept or {}
    before = json.loads(kept["manifest.json"]) if kept else {"valid": {}, "invalid": {}}
    good = valid.build(engine)
    bad = must_fail.build(engine, good)
    files: dict[str, bytes] = {}
    manifest: dict[str, Any] = {"model_id": engine.model_id.hex(), "format": records.VERSION}
    manifest |= {"valid": {}, "invalid": {}}
    for name, vector in good.items():
        if name in before["valid"]:
            files |= {path: kept[path] for path in (f"vectors/{name}.vaec", f"vectors/{name}.png")}
            manifest["valid"][name] = before["valid"][name]
            continue
        image = codec.decode(vector.data)
        files[f"vectors/{name}.vaec"], files[f"vectors/{name}.png"] = vector.data, _png(image)
        manifest["valid"][name] = _facts(vector, image, files[f"vectors/{name}.png"])
    for name, made in bad.items():
        fault = made._replace(data=kept.get(f"vectors/{name}.vaec", made.data))
        _expect(codec, name, fault)
        files[f"vectors/{name}.vaec"] = fault.data
        facts = {"sha256": _sha256(fault.data), "error": fault.error, "code": fault.code}
        manifest["invalid"][name] = {"tests": fault.tests} | facts
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def main() -> None:
    """Write, or with --check compare, all files."""
    old = {f"vectors/{path.name}": path.read_bytes() for path in (HERE / "vectors").iterdir()}
    old["manifest.json"] = (HERE / "manifest.json").read_bytes()
    files = make(Codec(None, "cpu", tune="psnr"), old if "--add" in sys.argv[1:] else None)
    total_bytes = sum(map(len, files.values()))
    if total_bytes > LARGEST_SET_BYTES:
        sys.exit(f"the vectors have {total_bytes} bytes, at most {LARGEST_SET_BYTES} should ship with the package")
    changed = sorted(name for name in old.keys() | files.keys() if old.get(name) != files.get(name))
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(["these differ:", *changed]) if changed else 0)
    for name in old.keys() - files.keys():
        (HERE / name).unlink()
    for name in changed:
        if name in files:
            (HERE / name).write_bytes(files[name])
    count = sum(name.endswith(".vaec") for name in files)
    print(f"{count} vectors, {len(changed)} files changed, {total_bytes} bytes in all")


def _facts(vector: valid.Vector, image: Image.Image, png: bytes) -> dict[str, Any]:
    info = sources.info(vector.data)
    modes = [entry.mode for entry in info.index]
    is_exact = not any(mode.is_learned for mode in modes)
    samples = image.width * image.height * len(image.getbands())
    facts = {
        "tests": vector.tests, "sha256": _sha256(vector.data), "png_sha256": _sha256(png), "mode": image.mode,
        "width": image.width, "height": image.height, "quality": info.header.quality,
        "tiles": [mode.name.lower() for mode in modes],
        "metadata": {key: _sha256(data) for key, data in info.metadata.items()},
    }  # fmt: skip
    if not vector.has_picture:
        return facts
    return facts | {
        "largest_difference": 0 if is_exact else LARGEST_DIFFERENCE,
        "differing_samples": 0 if is_exact else max(FEWEST_SAMPLES, math.floor(SHARE_OF_SAMPLES * samples)),
    }


def _expect(codec: Codec, name: str, fault: must_fail.Fault) -> None:
    """Stop before a vector is written that is refused for another reason than it should be."""
    try:
        codec.decode(fault.data)
    except VaecError as error:
        if (type(error).__name__, error.code) == (fault.error, fault.code):
            return
        sys.exit(f"{name}: {type(error).__name__} {error.code} ({error}) instead of {fault.error} {fault.code}")
    sys.exit(f"{name} decodes, must be refused with {fault.code}")


def _png(image: Image.Image) -> bytes:
    bare, file = image.copy(), io.BytesIO()
    bare.info = {}
    bare.save(file, "PNG", optimize=True)
    return file.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
