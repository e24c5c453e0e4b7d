"""Tell odd pictures from photographs by what they cost the model in bits.

Usage: python examples/odd_pictures.py [--quality 50] [--json PATH]. Tiles of eight photographs against four kinds of
odd ones: noise, text, medical and astronomical pictures, drawings. All ship with scikit-learn and scikit-image.

Two scores, as areas under the ROC curve (0.5 is guessing, 1 is perfect):

- bits: `codec.explore.anomaly_score`, bits per pixel under the model. What is odd and simple costs few bits, not many:
  a known limit of likelihoods (Nalisnick et al., "Do Deep Generative Models Know What They Don't Know?", ICLR 2019).
- relative: the same over the bits of a general lossless coder (WebP), which takes out how complex a picture is for any
  coder. Serra et al., "Input complexity and out-of-distribution detection with likelihood-based generative models"
  (ICLR 2020), subtract the two; our bits are of a lossy code, an order of magnitude fewer, so only a ratio compares.
"""

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sources import from_scikit_image, photographs, tiles_of

import vaecodec

TILE_PX = 128
FEW = 24  # tiles of one picture at most, so that large pictures do not decide alone
TEXT = ("page.png", "text.png")
OTHER_DOMAINS = ("retina.jpg", "ihc.png", "hubble_deep_field.jpg", "microaneurysms.png", "moon.png", "cell.png")
DRAWINGS = ("horse.png", "logo.png", "color.png", "phantom.png")

Tiles = list[NDArray[np.uint8]]


def some_tiles(pictures: Iterable[NDArray[np.uint8]]) -> Tiles:
    """Tiles of all pictures, of each the same number at most, evenly spread."""
    chosen = []
    for picture in pictures:
        tiles = tiles_of(picture, TILE_PX)
        chosen += tiles[:: -(-len(tiles) // FEW)] if tiles else []
    return chosen


def noise(count: int) -> Tiles:
    """Tiles of uniform noise, as many fine as coarse."""
    rng = np.random.default_rng(0)
    tiles = []
    for number in range(count):
        side = TILE_PX >> number % 3
        fine = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        tiles.append(np.asarray(fine.resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)))
    return tiles


def lossless_bpp(tile: NDArray[np.uint8]) -> float:
    """Bits per pixel of a tile as lossless WebP."""
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "WEBP", lossless=True)
    return 8 * file.tell() / (tile.shape[0] * tile.shape[1])


def scores(codec: vaecodec.Codec, tiles: Tiles, quality: int) -> dict[str, NDArray[np.float64]]:
    """Both scores of every tile."""
    bits = np.array([codec.explore.anomaly_score(tile, quality) for tile in tiles])
    return {"bits": bits, "relative": bits / np.array([lossless_bpp(tile) for tile in tiles])}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score all tiles, print a table, write the JSON asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--model", help="weights instead of the built-in ones")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args(arguments)
    codec = vaecodec.Codec(given.model)
    usual_tiles = some_tiles(photographs())
    kinds = {
        "noise": noise(48),
        "text": some_tiles(map(from_scikit_image, TEXT)),
        "other domains": some_tiles(map(from_scikit_image, OTHER_DOMAINS)),
        "drawings": some_tiles(map(from_scikit_image, DRAWINGS)),
    }
    from sklearn.metrics import roc_auc_score

    usual = scores(codec, usual_tiles, given.quality)
    results = {}
    print(f"{len(usual_tiles)} tiles of photographs: {usual['bits'].mean():.3f} bits per pixel\n")
    print(f"{'odd':14} {'tiles':>6} {'bits per pixel':>15} {'AUC, bits':>10} {'AUC, relative':>14}")
    for kind, tiles in kinds.items():
        odd = scores(codec, tiles, given.quality)
        is_odd = np.repeat([0, 1], [len(usual_tiles), len(tiles)])
        auc = {name: float(roc_auc_score(is_odd, np.concatenate([usual[name], odd[name]]))) for name in usual}
        results[kind] = {
            "tiles": len(tiles), "bpp": round(float(odd["bits"].mean()), 3),
            "auc_bits": round(auc["bits"], 3), "auc_relative": round(auc["relative"], 3),
        }  # fmt: skip
        print(f"{kind:14} {len(tiles):6} {results[kind]['bpp']:15.3f} {auc['bits']:10.3f} {auc['relative']:14.3f}")
    photos = {"tiles": len(usual_tiles), "bpp": round(float(usual["bits"].mean()), 3)}
    if given.json:
        given.json.write_text(json.dumps({"quality": given.quality, "photographs": photos, **results}, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
