"""Training pictures: folders and tar shards of images, held in memory as uint8, cut into augmented crops."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".vaec"}
SHRINK_PROBABILITY, SHRINK_MIN = 0.3, 0.5


def _shard_members(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Images of a tar shard; where a JSON list lies beside it, only those marked as free to redistribute (`free`)."""
    listing = shard.with_suffix(".json")
    free = {row["name"] for row in json.loads(listing.read_text()) if row.get("free", 1)} if listing.exists() else None
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.isfile() and (free is None or member.name in free):
                yield f"{shard.name}:{member.name}", tar.extractfile(member).read()


def _sources(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            yield from _shard_members(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield str(path), path.read_bytes()


def _decode(source: tuple[str, bytes]) -> tuple[str, NDArray[np.uint8] | None]:
    name, data = source
    try:
        return name, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError, RuntimeError, Image.DecompressionBombError):
        return name, None


class Pictures:
    """All training pictures of a folder, and random crops of them.

    Args:
        folder: holds images, or tar shards of images, at any depth.
        patch_px: side of the crops; smaller pictures are left out.
        limit: read no more than so many pictures.

    `skipped` names the files that could not be read or were too small.
    """

    def __init__(self, folder: Path, patch_px: int, *, limit: int | None = None) -> None:
        self.pictures: list[Tensor] = []
        self.skipped: list[str] = []
        with ThreadPoolExecutor(2) as pool:
            for name, picture in pool.map(_decode, _sources(folder)):
                if picture is None or min(picture.shape[:2]) < patch_px:
                    self.skipped.append(name)
                else:
                    self.pictures.append(torch.tensor(picture))
                if limit and len(self.pictures) >= limit:
                    break
        if not self.pictures:
            raise ValueError(f"no readable picture of at least {patch_px} px a side in {folder}")

    @classmethod
    def from_arrays(cls, arrays: Iterable[NDArray[np.uint8]]) -> Self:
        """Pictures [H, W, 3] uint8 that are in memory already."""
        pictures = cls.__new__(cls)
        pictures.pictures, pictures.skipped = [torch.tensor(array) for array in arrays], []
        return pictures

    def crop(self, rng: np.random.Generator, patch_px: int) -> Tensor:
        """One crop [3, patch_px, patch_px] uint8: random place, flips, quarter turns, now and then shrunk first."""
        picture = self.pictures[rng.integers(len(self.pictures))]
        height, width = picture.shape[:2]
        side = patch_px
        if rng.random() < SHRINK_PROBABILITY:
            side = min(int(patch_px / rng.uniform(SHRINK_MIN, 1.0)), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = picture[top : top + side, left : left + side].permute(2, 0, 1)
        if side != patch_px:
            resized = F.interpolate(crop[None].float(), (patch_px, patch_px), mode="bicubic", antialias=True)
            crop = resized[0].round_().clamp_(0, 255).to(torch.uint8)
        if rng.random() < 0.5:
            crop = crop.flip(2)
        return torch.rot90(crop, int(rng.integers(4)), (1, 2))

    def batch(self, rng: np.random.Generator, size: int, patch_px: int) -> Tensor:
        """Crops [size, 3, patch_px, patch_px] float32 in 0..1, channels last."""
        crops = torch.stack([self.crop(rng, patch_px) for _ in range(size)])
        return crops.to(memory_format=torch.channels_last).float() / 255
