"""Train scikit-learn's logistic regression on a codec's latents, and beside it on raw pixels.

Usage: python examples/classify.py [--quality 50] [--json PATH]. Two small labelled sets that ship with scikit-learn and
scikit-image:

- digits: 1,797 handwritten digits of 8x8 pixels, enlarged to 48x48; 5-fold cross-validation;
- surfaces: 64x64 tiles of three photographs (brick, grass, gravel), enough turned and mirrored to leave no hint but the
  texture; trained on the upper half of each photograph, tested on the lower, so that no tile is in both.

Latents come from the bytes of .vaec files (`codec.explore.features_from_bytes`), without making a pixel of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sources import from_scikit_image, tiles_of

import vaecodec

DIGIT_PX, TILE_PX = 48, 64
SURFACES = ("brick.png", "grass.png", "gravel.png")

Floats = NDArray[np.floating]


def vector_of(codec: vaecodec.Codec, data: bytes) -> Floats:
    """One vector of a file: of every latent the mean and the mean magnitude over the picture, and z as it is.

    Magnitudes say how much of a pattern there is, wherever it is.
    """
    found = codec.explore.features_from_bytes(data)
    return np.concatenate([found.y.mean((1, 2)), np.abs(found.y).mean((1, 2)), found.z.ravel()])


def vector_with_places(codec: vaecodec.Codec, data: bytes) -> Floats:
    """All latents y of a file, where they are: what a digit needs."""
    return codec.explore.features_from_bytes(data).y.ravel()


def digits() -> tuple[list[NDArray[np.uint8]], NDArray[np.integer]]:
    """The digits as pictures [48, 48], and which they are."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (255 - found.images * (255 / 16)).round().astype(np.uint8)
    size = (DIGIT_PX, DIGIT_PX)
    return [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC)) for each in small], found.target


def surfaces(half: str) -> tuple[list[NDArray[np.uint8]], NDArray[np.integer]]:
    """Tiles [64, 64, 3] of the upper or lower half of the three photographs, and of which they are."""
    pictures, labels = [], []
    for label, name in enumerate(SURFACES):
        whole = from_scikit_image(name)
        middle = whole.shape[0] // 2
        for number, tile in enumerate(tiles_of(whole[:middle] if half == "upper" else whole[middle:], TILE_PX)):
            pictures.append(np.rot90(tile, number % 4)[:, :: 1 - 2 * (number % 2)].copy())
            labels.append(label)
    return pictures, np.array(labels)


def classifier() -> object:
    """Logistic regression on standardized numbers, the same for latents and for pixels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))


def measure_digits(codec: vaecodec.Codec, quality: int, count: int | None) -> dict[str, float]:
    """Accuracy in 5-fold cross-validation on the first `count` digits."""
    from sklearn.model_selection import cross_val_score

    pictures, labels = digits()
    files = [codec.encode(picture, quality) for picture in pictures[:count]]
    vectors = np.stack([vector_with_places(codec, data) for data in files])
    pixels = np.stack(pictures[:count]).reshape(len(files), -1).astype(float)
    latents, raw = (cross_val_score(classifier(), x, labels[:count], cv=5).mean() for x in (vectors, pixels))
    return _result(latents, raw, files, pixels_each=DIGIT_PX**2)


def measure_surfaces(codec: vaecodec.Codec, quality: int) -> dict[str, float]:
    """Accuracy on the lower halves after training on the upper ones."""
    (pictures, labels), (others, expected) = surfaces("upper"), surfaces("lower")
    files = [codec.encode(picture, quality) for picture in (*pictures, *others)]
    vectors = np.stack([vector_of(codec, data) for data in files])
    pixels = np.stack([*pictures, *others]).reshape(len(files), -1).astype(float)
    count = len(pictures)
    latents, raw = (classifier().fit(x[:count], labels).score(x[count:], expected) for x in (vectors, pixels))
    return _result(latents, raw, files, pixels_each=TILE_PX**2)


def _result(latents: float, raw: float, files: list[bytes], *, pixels_each: int) -> dict[str, float]:
    bpp = 8 * np.mean([len(data) for data in files]) / pixels_each
    return {
        "pictures": len(files), "latents_accuracy": round(float(latents), 4),
        "pixels_accuracy": round(float(raw), 4), "bpp": round(float(bpp), 3),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Measure both sets, print a table, write the JSON asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--digits", type=int, help="take only the first so many digits")
    parser.add_argument("--model", help="weights instead of the built-in ones")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args(arguments)
    codec = vaecodec.Codec(given.model)
    results = {
        "digits": measure_digits(codec, given.quality, given.digits),
        "surfaces": measure_surfaces(codec, given.quality),
    }
    print(f"{'set':10} {'pictures':>8} {'latents':>9} {'raw pixels':>11}   accuracy")
    for name, result in results.items():
        print(f"{name:10} {result['pictures']:8} {result['latents_accuracy']:9.1%} {result['pixels_accuracy']:11.1%}")
    if given.json:
        given.json.write_text(json.dumps({"quality": given.quality, **results}, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
