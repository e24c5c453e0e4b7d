"""Training pictures: folders and tar shards of images, held in memory as uint8 and cut into augmented crops."""

import functools
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vaecodec.pictures.pixels import to_samples
from vaecodec.training.errors import TrainingError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".vaec"}
SHRINK_PROBABILITY, SHRINK_MIN = 0.15, 0.5
ENLARGE_PROBABILITY, ENLARGE_MAX = 0.3, 2.0  # photographs as taken have less detail per pixel than reduced ones
WINDOW_PX = 1024  # only a window of a larger picture is kept, because a few hundred photographs would fill the memory
READ_AHEAD = 64

Found = tuple[str, bytes | Exception]


def _shard_members(shard: Path) -> Iterator[Found]:
    """Images of a tar shard; if there is a JSON list next to it, only those marked as `free` to redistribute."""
    listing = shard.with_suffix(".json")
    try:
        rows = json.loads(listing.read_text()) if listing.exists() else None
        free = None if rows is None else {row["name"] for row in rows if row.get("free", 1)}
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file and (free is None or member.name in free):
                    yield f"{shard.name}:{member.name}", file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield str(shard), error


def _sources(folder: Path) -> Iterator[Found]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            yield from _shard_members(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                yield str(path), error


def _decode(found: Found) -> tuple[str, NDArray[np.uint8] | str]:
    """Name and samples [H, W, 3] of a picture, without alpha, or the reason why it cannot be used."""
    name, data = found
    try:
        if isinstance(data, Exception):
            raise data
        with Image.open(io.BytesIO(data)) as image:
            samples = to_samples(image)
    except Exception as error:  # Pillow's readers fail in many ways, and one bad picture must not end a run
        return name, f"cannot be read: {error}"
    return name, np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]


def _decoded(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8] | str]]:
    sources = _sources(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while ahead := list(islice(sources, READ_AHEAD)):
            yield from pool.map(_decode, ahead)


class Pictures:
    """All training pictures of a folder, and random crops of them.

    Args:
        folder: holds images, or tar shards of images, at any depth.
        patch_px: side of the crops; smaller pictures are skipped.
        limit: read at most this many pictures.

    Attributes:
        pictures: uint8 [H, W, 3] each; a window of at most 1024 px a side of larger pictures.
        skipped: names of the files that could not be used, with reasons.

    Raises:
        TrainingError: (NO_PICTURES) no picture can be used.
    """

    def __init__(self, folder: Path, patch_px: int, *, limit: int | None = None) -> None:
        self.pictures: list[Tensor] = []
        self.skipped: dict[str, str] = {}
        rng = np.random.default_rng(0)
        for name, picture in _decoded(folder):
            if isinstance(picture, str):
                self.skipped[name] = picture
            elif min(picture.shape[:2]) < patch_px:
                size = f"{picture.shape[1]} x {picture.shape[0]}"
                self.skipped[name] = f"{size} px, must have at least {patch_px} x {patch_px}"
            else:
                self.pictures.append(torch.tensor(_window(picture, rng, max(WINDOW_PX, patch_px))))
            if limit and len(self.pictures) >= limit:
                break
        if not self.pictures:
            found = f"; {self.skipped_text()}" if self.skipped else ""
            raise TrainingError(
                f"{folder} holds no readable picture of at least {patch_px} px a side{found}", code="NO_PICTURES"
            )

    @classmethod
    def from_arrays(cls, arrays: Iterable[NDArray[np.uint8]]) -> Self:
        """Makes a set from pictures [H, W, 3] uint8 in memory."""
        pictures = cls.__new__(cls)
        pictures.pictures, pictures.skipped = [torch.tensor(array) for array in arrays], {}
        return pictures

    def skipped_text(self, *, names: int = 20) -> str:
        """The skipped files in one sentence, the first few by name."""
        listed = ", ".join(f"{name} ({why})" for name, why in islice(self.skipped.items(), names))
        more = len(self.skipped) - names
        return f"{len(self.skipped)} skipped: {listed}" + (f", and {more} more" if more > 0 else "")

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Cumulative pixel counts of the pictures, because a larger picture has more distinct crops."""
        return np.cumsum([picture.shape[0] * picture.shape[1] for picture in self.pictures])

    def crop(self, rng: np.random.Generator, patch_px: int) -> Tensor:
        """One crop [3, patch_px, patch_px] uint8: random position, flips and quarter turns, sometimes rescaled first.

        All pixels of all pictures are equally likely.
        """
        ends = self._ends
        picture = self.pictures[int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))]
        height, width = picture.shape[:2]
        side, chance = patch_px, rng.random()
        if chance < SHRINK_PROBABILITY:
            side = min(int(patch_px / rng.uniform(SHRINK_MIN, 1.0)), height, width)
        elif chance > 1 - ENLARGE_PROBABILITY:
            side = int(patch_px / rng.uniform(1.0, ENLARGE_MAX))
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


def _window(picture: NDArray[np.uint8], rng: np.random.Generator, side_px: int) -> NDArray[np.uint8]:
    """A random part of a picture, at most `side_px` wide and tall."""
    top, left = (int(rng.integers(max(1, length - side_px + 1))) for length in picture.shape[:2])
    return picture[top : top + side_px, left : left + side_px]
