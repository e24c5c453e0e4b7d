"""The pictures for benchmarks: a folder, a known data set, or a sample from a dependency."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ("kodak", "clic2025-valid")
SUFFIXES = (".png", ".webp", ".ppm", ".bmp", ".tif", ".tiff")
KODAK_URL = "https://r0k.us/graphics/kodak/kodak/"
KODAK_SUMS = Path(__file__).with_name("kodak.sha256")


@dataclass(frozen=True)
class Picture:
    """One picture. `shrink` averages squares of this side, which removes traces of an earlier lossy codec."""

    name: str
    path: Path
    shrink: int = 1

    def load(self) -> Image.Image:
        """The picture as RGB; alpha and metadata are dropped, orientation is not applied."""
        with Image.open(self.path) as opened:
            image = opened.convert("RGB").reduce(self.shrink) if self.shrink > 1 else opened.convert("RGB")
        image.info.clear()  # Pillow would write ICC profiles from here into some formats but not others
        return image


@dataclass(frozen=True)
class Dataset:
    """Pictures in a fixed order under a name; and their folder, if the name alone does not tell it."""

    name: str
    pictures: tuple[Picture, ...]
    folder: str | None = None

    @cached_property
    def sha256(self) -> str:
        """A checksum over the names and bytes of all files, so that results of other pictures are never mixed in."""
        total = hashlib.sha256()
        for picture in self.pictures:
            digest = hashlib.sha256(picture.path.read_bytes()).hexdigest()
            total.update(f"{digest}  {picture.name}/{picture.shrink}\n".encode())
        return total.hexdigest()

    def describe(self) -> dict[str, object]:
        """The description of the data set in results."""
        where = {} if self.folder is None else {"folder": self.folder}
        images = [picture.name for picture in self.pictures]
        return {"name": self.name, "sha256": self.sha256, "images": images, **where}

    def first(self, count: int | None) -> "Dataset":
        """The first pictures of the data set, under a name that says so."""
        if count is None or count >= len(self.pictures):
            return self
        return replace(self, name=f"{self.name}-first{count}", pictures=self.pictures[:count])


def find(data: str | None) -> Dataset:
    """Find a data set.

    Args:
        data: a folder of lossless pictures, one of `KNOWN`, or None for a small sample.

    Raises:
        FileNotFoundError: the folder does not exist or holds no pictures, or a known set is neither on this machine nor
            downloadable; the message lists the places that were searched.
    """
    if data is None:
        return _sample()
    folder = _known(data) if data in KNOWN else Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"data is {data!r}: must be a folder or one of {', '.join(KNOWN)}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no picture with a suffix of {', '.join(SUFFIXES)}")
    pictures = tuple(Picture(path.name, path) for path in paths)
    if data in KNOWN:
        return Dataset(data, pictures)
    return Dataset(folder.resolve().name, pictures, str(folder.resolve()))


def _known(name: str) -> Path:
    places = list(_places(name))
    for place in places:
        if place.is_dir():
            return place
    if name == "kodak":
        return _download_kodak(places)
    raise FileNotFoundError(f"{name} is in none of {', '.join(map(str, places))}; set VAECODEC_DATA to its parent")


def _places(name: str) -> Iterator[Path]:
    if "VAECODEC_DATA" in os.environ:
        yield Path(os.environ["VAECODEC_DATA"]) / name
        yield Path(os.environ["VAECODEC_DATA"]) / "test" / name
    yield ROOT.parent / "shared" / "data" / "test" / name


def _download_kodak(places: list[Path]) -> Path:
    """The 24 pictures in pooch's cache, downloaded from their public site and checked against pinned checksums."""
    try:
        import pooch
    except ImportError as error:
        tried = ", ".join(map(str, places))
        raise FileNotFoundError(
            f"kodak is in none of {tried}; set VAECODEC_DATA to its parent, or install pooch to download it"
        ) from error
    sums = {name: sha256 for sha256, name in map(str.split, KODAK_SUMS.read_text().splitlines())}
    fetcher = pooch.create(path=pooch.os_cache("vaecodec") / "kodak", base_url=KODAK_URL, registry=sums)
    try:
        for name in sums:
            fetcher.fetch(name)
    except (OSError, ValueError) as error:  # requests raises OSError, a wrong checksum ValueError
        raise FileNotFoundError(f"kodak cannot be downloaded from {KODAK_URL}: {error}") from error
    return Path(fetcher.path)


def _sample() -> Dataset:
    """One photograph from matplotlib; a JPEG, so downscaled by two in both directions."""
    try:
        import matplotlib
    except ImportError as error:
        raise FileNotFoundError(
            "the sample is part of matplotlib, which is not installed: give a folder with --data"
        ) from error
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return Dataset("sample", (Picture(path.name, path, shrink=2),))
