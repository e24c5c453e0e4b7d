"""Measures denoising on noisy Kodak: vaecodec, weights trained to denoise, JPEG and non-local means.

Usage: python benchmarks/denoising.py [--model PATH] [--restorer PATH] [--out benchmarks/results/uses/denoising.json].
Adds Gaussian noise to crops of Kodak pictures; each codec codes the noisy crops at several qualities. PSNR is measured
against the clean crops. For each codec, the quality with the best mean PSNR is reported. Without the clean picture,
nobody would know that quality, so this favours the codecs slightly. Non-local means also gets the true deviation.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from benchmarks import codecs, datasets
from benchmarks.results import ROOT, write_atomically
from vaecodec import Codec
from vaecodec.pictures.pixels import psnr_db

OUT = ROOT / "benchmarks" / "results" / "uses" / "denoising.json"
DEVIATIONS = (5, 15, 25)
QUALITIES = {"vaecodec": (5, 15, 30, 50, 75), "jpeg": (5, 10, 20, 30, 50, 70, 85, 95)}
CROP_PX = 256
PICTURES = 4

Samples = NDArray[np.uint8]
Code = Callable[[Samples, int], tuple[Samples, int]]


class Best(NamedTuple):
    """The quality of a codec that denoises best: mean PSNR in dB against the clean crops, and mean bits per pixel."""

    psnr_db: float
    quality: int
    bpp: float


def noisy(clean: Samples, deviation: float, seed: int) -> Samples:
    """Adds Gaussian noise, with a deviation in levels, to a picture; clips and rounds to 8 bits."""
    noise = np.random.default_rng(seed).normal(0, deviation, clean.shape)
    return np.clip(clean + noise, 0, 255).round().astype(np.uint8)


def best(code: Code, qualities: Sequence[int], clean: Sequence[Samples], given: Sequence[Samples]) -> Best:
    """The best quality for coding the `given` pictures, compared with the `clean` ones."""
    found = []
    for quality in qualities:
        results = [code(picture, quality) for picture in given]
        psnr = np.mean([psnr_db(a, b) for a, (b, _) in zip(clean, results, strict=True)])
        bpp = np.mean([8 * size / (a.shape[0] * a.shape[1]) for a, (_, size) in zip(clean, results, strict=True)])
        found.append(Best(round(float(psnr), 3), quality, round(float(bpp), 3)))
    return max(found)


def non_local_means(picture: Samples, deviation: float) -> Samples:
    """Denoises with scikit-image's filter, with the parameters that its documentation recommends for known noise."""
    from skimage.restoration import denoise_nl_means

    sigma = deviation / 255
    found = denoise_nl_means(
        picture / 255, h=0.8 * sigma, sigma=sigma, fast_mode=True, patch_size=5, patch_distance=6, channel_axis=-1
    )
    return (found * 255).round().clip(0, 255).astype(np.uint8)


def measure(clean: Sequence[Samples], codes: dict[str, Code]) -> list[dict[str, Any]]:
    """One row per deviation: PSNR of the noisy crops, of non-local means, and the best of each codec."""
    rows = []
    for deviation in DEVIATIONS:
        given = [noisy(picture, deviation, seed) for seed, picture in enumerate(clean)]
        filtered = [non_local_means(picture, deviation) for picture in given]
        row: dict[str, Any] = {"deviation": deviation, "noisy_db": _mean_db(clean, given)}
        row["non_local_means_db"] = _mean_db(clean, filtered)
        for name, code in codes.items():
            row[name] = best(code, QUALITIES["jpeg" if name == "jpeg" else "vaecodec"], clean, given)._asdict()
        rows.append(row)
        print(row, flush=True)
    return rows


def with_restorer_of(earlier: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record with the restorer's results from an earlier one on the same pictures, without training it again."""
    if "restorer" not in earlier or earlier["dataset"] != record["dataset"]:
        return record
    found = {row["deviation"]: row["restorer"] for row in earlier["rows"]}
    rows = [row | {"restorer": found[row["deviation"]]} for row in record["rows"]]
    return record | {name: earlier[name] for name in ("restorer", "restorer_steps")} | {"rows": rows}


def _mean_db(a: Sequence[Samples], b: Sequence[Samples]) -> float:
    return round(float(np.mean([psnr_db(x, y) for x, y in zip(a, b, strict=True)])), 3)


def _vaec(codec: Codec) -> Code:
    def code(picture: Samples, quality: int) -> tuple[Samples, int]:
        data = codec.encode(picture, quality)
        return codec.decode(data, output="numpy"), len(data)

    return code


def _jpeg(picture: Samples, quality: int) -> tuple[Samples, int]:
    from PIL import Image

    jpeg = codecs.open_codec("jpeg")
    data = jpeg.encode(Image.fromarray(picture), quality)
    return np.asarray(jpeg.decode(data)), len(data)


def main(arguments: list[str] | None = None) -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="weights of vaecodec [built-in]")
    parser.add_argument("--restorer", help="weights trained with --degrade [results recorded before]")
    parser.add_argument("--steps", type=int, help="training steps of the restorer, for the record")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    try:
        found = datasets.find("kodak").first(PICTURES)
    except FileNotFoundError as reason:
        print(f"nothing measured: {reason}", file=sys.stderr)
        return
    clean = [_centre(np.asarray(picture.load())) for picture in found.pictures]
    codec = Codec(given.model, "cpu")
    codes: dict[str, Code] = {"vaecodec": _vaec(codec), "jpeg": _jpeg}
    record: dict[str, Any] = {"dataset": found.describe(), "crop_px": CROP_PX, "model": codec.engine.model_id.hex()}
    if given.restorer:
        restorer = Codec(given.restorer, "cpu")
        codes["restorer"] = _vaec(restorer)
        record |= {"restorer": restorer.engine.model_id.hex(), "restorer_steps": given.steps}
    record["rows"] = measure(clean, codes)
    if given.out.exists() and not given.restorer:
        record = with_restorer_of(json.loads(given.out.read_text()), record)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out, json.dumps(record, indent=1) + "\n")


def _centre(picture: Samples) -> Samples:
    top, left = ((length - CROP_PX) // 2 for length in picture.shape[:2])
    return picture[top : top + CROP_PX, left : left + CROP_PX]


if __name__ == "__main__":
    main()
