"""Pictures for the examples that lie inside installed packages: nothing is downloaded."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png")


def from_scikit_image(name: str) -> NDArray[np.uint8]:
    """A picture [H, W, 3] that scikit-image ships in its wheel; SystemExit says what is missing."""
    try:
        import skimage
    except ImportError:
        raise SystemExit("this example needs scikit-image: pip install 'vaecodec[examples]'") from None
    path = Path(skimage.__file__).parent / "data" / name
    if not path.exists():
        raise SystemExit(f"this scikit-image ships no {name}: {path} is missing")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def photographs() -> list[NDArray[np.uint8]]:
    """Eight photographs [H, W, 3]: six of scikit-image, two of scikit-learn."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise SystemExit("this example needs scikit-learn: pip install 'vaecodec[examples]'") from None
    return [*map(from_scikit_image, PHOTOGRAPHS), *load_sample_images().images]


def tiles_of(picture: NDArray[np.uint8], side_px: int) -> list[NDArray[np.uint8]]:
    """The whole tiles [side_px, side_px, 3] of a picture, row by row, without overlap."""
    height, width = picture.shape[:2]
    return [
        picture[top : top + side_px, left : left + side_px]
        for top in range(0, height - side_px + 1, side_px)
        for left in range(0, width - side_px + 1, side_px)
    ]
