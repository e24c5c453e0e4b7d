"""What a caller may ask for, checked: a quality or a target that is searched for, and how pictures come out."""

import math
import operator
import os
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import BinaryIO, Generic, Literal, NamedTuple, TypedDict, TypeVar

from vaecodec.errors import VaecImageError, VaecTargetError
from vaecodec.format.records import Header
from vaecodec.model.architecture import PREVIEW_SCALES, QUALITIES
from vaecodec.pictures.metadata import Exif, IccProfile, Xmp
from vaecodec.tiling.canvas import Rect

DEFAULT_QUALITY = 75
QUALITY_MIN, QUALITY_MAX = QUALITIES[0], QUALITIES[-1]

Output = Literal["pil", "numpy", "torch"]
Target = str | os.PathLike[str] | BinaryIO

OnError = Literal["raise", "partial"]


class MetadataOptions(TypedDict, total=False):
    """Metadata in the place of what a picture carries."""

    exif: Exif
    icc_profile: IccProfile
    xmp: Xmp


class EncodeOptions(MetadataOptions, total=False):
    """Keywords of `Codec.encode`."""

    target_bytes: int | None
    target_bpp: float | None
    target_psnr: float | None
    target_ssimulacra2: float | None
    max_pixels: int | None


class EncodeFileOptions(EncodeOptions, total=False):
    """Keywords of `Codec.encode_file`."""

    overwrite: bool


class DecodeOptions(TypedDict, total=False):
    """Keywords of `Codec.decode`, but for `output`, which decides what comes back."""

    scale: float
    max_pixels: int | None
    on_error: OnError


class BatchOptions(DecodeOptions, total=False):
    """Keywords of `Codec.decode_batch`, but for `output`."""

    return_errors: bool


class DecodeFileOptions(MetadataOptions, total=False):
    """Keywords of `Codec.decode_file`."""

    format: str | None
    quality: int | None
    subsampling: str | None
    max_pixels: int | None
    overwrite: bool


class RegionOptions(TypedDict, total=False):
    """Keywords of `Codec.decode_region`, but for `output`."""

    max_pixels: int | None


File = TypeVar("File", bound=Sized)  # bytes, or anything else whose length is that of the file


class Attempt(NamedTuple, Generic[File]):
    """One encoding: the file, how good it is (computed when asked for), and the picture's number of pixels."""

    data: File
    psnr_db: Callable[[], float]
    ssimulacra2: Callable[[], float]
    pixels: int
    metadata_bytes: int = 0


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
            message = f"the smallest file has {smallest:.6g} {self.unit}, {self.limit:.6g} were asked for"
            if attempt.metadata_bytes:
                message += f"; {attempt.metadata_bytes:,} bytes of it are metadata: drop some (--strip, exif=None)"
            raise VaecTargetError(message, code="TARGET_SIZE")
        return best.data

    def _size(self, attempt: Attempt[File]) -> float:
        return len(attempt.data) if self.unit == "bytes" else 8 * len(attempt.data) / attempt.pixels


@dataclass(frozen=True)
class FidelityTarget:
    """The smallest quality whose picture has at least `least` dB of PSNR, or points of SSIMULACRA2."""

    least: float
    metric: Literal["psnr", "ssimulacra2"]

    def search(self, encode: Encode[File]) -> File:
        """The file.

        Raises:
            VaecTargetError: (TARGET_PSNR, TARGET_SSIMULACRA2) even quality 100 has less.
        """
        best, low, high = None, QUALITY_MIN, QUALITY_MAX
        highest = -math.inf
        while low <= high:
            quality = (low + high) // 2
            attempt = encode(quality)
            reached = attempt.psnr_db() if self.metric == "psnr" else attempt.ssimulacra2()
            highest = max(highest, reached)
            if reached >= self.least:
                best, high = attempt, quality - 1
            else:
                low = quality + 1
        if best is None:
            unit = {"psnr": "dB", "ssimulacra2": "points of SSIMULACRA2"}[self.metric]
            raise VaecTargetError(
                f"quality {QUALITY_MAX} reaches {highest:.2f} {unit}, {self.least:.2f} {unit} were asked for",
                code=f"TARGET_{self.metric.upper()}",
            )
        return best.data


def rate_goal(
    quality: int | None, *, bytes: int | None, bpp: float | None, psnr: float | None, ssimulacra2: float | None = None
) -> FixedQuality | SizeTarget | FidelityTarget:
    """What was asked for; `DEFAULT_QUALITY` if nothing was.

    Raises:
        VaecImageError: (ARGUMENT) more than one was given, or a value is out of range.
    """
    asked = {
        "quality": quality, "target_bytes": bytes, "target_bpp": bpp, "target_psnr": psnr,
        "target_ssimulacra2": ssimulacra2,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise VaecImageError(f"{' and '.join(given)} exclude each other: give one", code="ARGUMENT")
    if not given:
        return FixedQuality(DEFAULT_QUALITY)
    (name, value), = given.items()  # fmt: skip
    if name == "quality" and (isinstance(value, bool) or not hasattr(value, "__float__") or not 1 <= value < math.inf):
        raise VaecImageError(f"quality is {value!r}, allowed are whole numbers 1..100", code="ARGUMENT")
    if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(value) or value <= 0:
        raise VaecImageError(f"{name} is {value!r}, expected a positive number", code="ARGUMENT")
    if name == "quality":
        return FixedQuality(check_quality(value))
    if name == "target_psnr":
        return FidelityTarget(float(value), "psnr")
    if name == "target_ssimulacra2":
        return FidelityTarget(float(value), "ssimulacra2")
    return SizeTarget(float(value), "bytes" if name == "target_bytes" else "bits per pixel")


def check_quality(quality: float) -> int:
    """The quality as an int.

    Raises:
        VaecImageError: (ARGUMENT) it is not a whole number from 1 to 100.
    """
    if quality != int(quality) or not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise VaecImageError(f"quality is {quality!r}, allowed are whole numbers 1..100", code="ARGUMENT")
    return int(quality)


class Presentation(NamedTuple):
    """How pictures come out: as what, reduced by 1, 2, 4 or 8, and whether damaged ones, too."""

    output: Output
    scale: int
    partial: bool

    @classmethod
    def checked(cls, output: Output, scale: float = 1, on_error: str = "raise") -> "Presentation":
        """Of the arguments of `Codec.decode`.

        Raises:
            VaecImageError: (ARGUMENT) one of them has another value than allowed.
        """
        if output not in ("pil", "numpy", "torch"):
            raise VaecImageError(f"output is {output!r}, must be 'pil', 'numpy' or 'torch'", code="ARGUMENT")
        if on_error not in ("raise", "partial"):
            raise VaecImageError(f"on_error is {on_error!r}, must be 'raise' or 'partial'", code="ARGUMENT")
        if scale not in [1 / reduction for reduction in (1, *PREVIEW_SCALES)]:
            raise VaecImageError(f"scale is {scale!r}, must be 1, 1/2, 1/4 or 1/8", code="ARGUMENT")
        return cls(output, round(1 / scale), on_error == "partial")


def window_of(box: tuple[int, int, int, int], header: Header) -> Rect:
    """The window of a picture that a box (left, top, right, bottom) means.

    Raises:
        VaecImageError: (BOX) it is empty or reaches beyond the picture.
    """
    try:
        left, top, right, bottom = map(operator.index, box)
    except (TypeError, ValueError):
        left = top = right = bottom = -1
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        message = f"box is {box}, must be whole numbers (left, top, right, bottom), not empty, within"
        raise VaecImageError(f"{message} {header.width} x {header.height} pixels", code="BOX")
    return Rect(top, bottom, left, right)
