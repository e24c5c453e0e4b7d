"""What the caller wants of a file, as a search over quality: a quality, a size, a rate or a PSNR."""

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from vaecodec.errors import VaecImageError, VaecTargetError

QUALITY_MIN, QUALITY_MAX = 1, 100


File = TypeVar("File", bound=Sized)  # bytes, or anything else whose length is that of the file


class Attempt(NamedTuple, Generic[File]):
    """One encoding: the file, its PSNR in dB (computed when asked for) and the picture's number of pixels."""

    data: File
    psnr_db: Callable[[], float]
    pixels: int


Encode = Callable[[int], Attempt[File]]


@dataclass(frozen=True)
class FixedQuality:
    """Encode once at the quality asked for."""

    quality: int

    def search(self, encode: Encode[File]) -> File:
        """The file."""
        return encode(self.quality).data


@dataclass(frozen=True)
class SizeTarget:
    """The largest quality whose file has at most `limit` bytes, or bits per pixel."""

    limit: float
    unit: str

    def search(self, encode: Encode[File]) -> File:
        """The file.

        Raises:
            VaecTargetError: (TARGET_SIZE) even quality 1 needs more.
        """
        best, low, high = None, QUALITY_MIN, QUALITY_MAX
        smallest = math.inf
        while low <= high:
            quality = (low + high) // 2
            attempt = encode(quality)
            size = self._size(attempt)
            smallest = min(smallest, size)
            if size <= self.limit:
                best, low = attempt, quality + 1
            else:
                high = quality - 1
        if best is None:
            raise VaecTargetError(
                f"the smallest file has {smallest:.6g} {self.unit}, {self.limit:.6g} were asked for", code="TARGET_SIZE"
            )
        return best.data

    def _size(self, attempt: Attempt[File]) -> float:
        return len(attempt.data) if self.unit == "bytes" else 8 * len(attempt.data) / attempt.pixels


@dataclass(frozen=True)
class PsnrTarget:
    """The smallest quality whose picture has at least `least_db` dB."""

    least_db: float

    def search(self, encode: Encode[File]) -> File:
        """The file.

        Raises:
            VaecTargetError: (TARGET_PSNR) even quality 100 has less.
        """
        best, low, high = None, QUALITY_MIN, QUALITY_MAX
        highest = -math.inf
        while low <= high:
            quality = (low + high) // 2
            attempt = encode(quality)
            reached = attempt.psnr_db()
            highest = max(highest, reached)
            if reached >= self.least_db:
                best, high = attempt, quality - 1
            else:
                low = quality + 1
        if best is None:
            raise VaecTargetError(
                f"quality {QUALITY_MAX} reaches {highest:.2f} dB, {self.least_db:.2f} dB were asked for",
                code="TARGET_PSNR",
            )
        return best.data


def choose(
    quality: int | None, default: int, *, bytes: int | None, bpp: float | None, psnr_db: float | None
) -> FixedQuality | SizeTarget | PsnrTarget:
    """The one thing that was asked for; `default` is the quality if nothing was.

    Raises:
        VaecImageError: (ARGUMENT) more than one was asked for, or a value is out of range.
    """
    asked = {"quality": quality, "target_bytes": bytes, "target_bpp": bpp, "target_psnr": psnr_db}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise VaecImageError(f"{' and '.join(given)} exclude each other: give one", code="ARGUMENT")
    if not given:
        return FixedQuality(default)
    (name, value), = given.items()  # fmt: skip
    if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(value) or value <= 0:
        raise VaecImageError(f"{name} is {value!r}, expected a positive number", code="ARGUMENT")
    if name == "quality":
        return FixedQuality(check_quality(value))
    if name == "target_psnr":
        return PsnrTarget(float(value))
    return SizeTarget(float(value), "bytes" if name == "target_bytes" else "bits per pixel")


def check_quality(quality: float) -> int:
    """The quality as an int.

    Raises:
        VaecImageError: (ARGUMENT) it is no whole number from 1 to 100.
    """
    if quality != int(quality) or not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise VaecImageError(f"quality is {quality!r}, allowed are whole numbers 1..100", code="ARGUMENT")
    return int(quality)
