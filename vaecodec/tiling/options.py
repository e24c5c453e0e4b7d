"""Checked options of the public calls: a quality or a target to search for, and the form of decoded pictures."""

import math
import operator
import os
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import BinaryIO, Generic, Literal, NamedTuple, TypedDict, TypeVar

from vaecodec.errors import VaecImageError, VaecTargetError
from vaecodec.format.records import Header
from vaecodec.model.architecture import PREVIEW_SCALES, QUALITIES
from vaecodec.pictures import pixels
from vaecodec.pictures.metadata import KEEP, Exif, IccProfile, Xmp
from vaecodec.tiling.canvas import Rect

DEFAULT_QUALITY = 75
EFFORTS, DEFAULT_EFFORT = range(1, 10), 6
REFINING_STEPS = {7: 100, 8: 300, 9: 1000}  # steps of `training.refine`, by effort
QUALITY_MIN, QUALITY_MAX = QUALITIES[0], QUALITIES[-1]

Output = Literal["pil", "numpy", "torch"]
Target = str | os.PathLike[str] | BinaryIO

OnError = Literal["raise", "partial"]


class MetadataOptions(TypedDict, total=False):
    """Metadata that replaces that of the picture."""

    exif: Exif
    icc_profile: IccProfile
    xmp: Xmp


class EncodeOptions(MetadataOptions, total=False):
    """Keywords of `Codec.encode`."""

    target_bytes: int | None
    target_bpp: float | None
    target_psnr: float | None
    target_ssimulacra2: float | None
    lossless: bool
    effort: int
    quality_map: pixels.Source | None
    max_pixels: int | None


class EncodeFileOptions(EncodeOptions, total=False):
    """Keywords of `Codec.encode_file`."""

    overwrite: bool


class DecodeOptions(TypedDict, total=False):
    """Keywords of `Codec.decode`, except `output`, which determines the result type."""

    scale: float
    max_pixels: int | None
    on_error: OnError


class BatchOptions(DecodeOptions, total=False):
    """Keywords of `Codec.decode_batch`, except `output`."""

    return_errors: bool


class DecodeFileOptions(MetadataOptions, total=False):
    """Keywords of `Codec.decode_file`."""

    format: str | None
    quality: int | None
    subsampling: str | None
    max_pixels: int | None
    overwrite: bool


class RegionOptions(TypedDict, total=False):
    """Keywords of `Codec.decode_region`, except `output`."""

    max_pixels: int | None


File = TypeVar("File", bound=Sized)  # bytes, or an object with the length of the file


class Attempt(NamedTuple, Generic[File]):
    """One encoding.

    Attributes:
        data: the file.
        psnr_db: computes the PSNR.
        ssimulacra2: computes the score.
        pixels: of the picture.
        metadata_bytes: of the file.
        is_plain: whether all tiles are learned or of one colour, so that size and fidelity certainly rise with quality.
    """

    data: File
    psnr_db: Callable[[], float]
    ssimulacra2: Callable[[], float]
    pixels: int
    metadata_bytes: int = 0
    is_plain: bool = True


Encode = Callable[[int | None], Attempt[File]]
"""Encodes once at a quality; None is lossless."""


@dataclass(frozen=True)
class FixedQuality:
    """Encode once at a given quality; None is lossless."""

    quality: int | None

    def search(self, encode: Encode[File]) -> File:
        """The file."""
        return encode(self.quality).data


def _first_that_fits(encode: Encode[File], fits: Callable[[Attempt[File]], bool], *, largest: bool) -> File | None:
    """The file of the largest, or smallest, quality that fits; None if none does.

    A binary search, which assumes that size and fidelity rise with quality. If that is not certain and the search finds
    nothing, all other qualities are tried.
    """
    best, low, high = None, QUALITY_MIN, QUALITY_MAX
    tried, is_certain = set[int](), True
    while low <= high:
        quality = (low + high) // 2
        attempt = encode(quality)
        tried.add(quality)
        is_certain = is_certain and attempt.is_plain
        is_fitting = fits(attempt)
        if is_fitting:
            best = attempt.data
        if is_fitting == largest:
            low = quality + 1
        else:
            high = quality - 1
    if best is None and not is_certain:
        others = (quality for quality in sorted(QUALITIES, reverse=largest) if quality not in tried)
        best = next((attempt.data for attempt in map(encode, others) if fits(attempt)), None)
    return best


@dataclass(frozen=True)
class SizeTarget:
    """The largest quality whose file has at most `limit` bytes, or bits per pixel."""

    limit: float
    unit: str

    def search(self, encode: Encode[File]) -> File:
        """The file.

        Raises:
            VaecTargetError: (TARGET_SIZE) the file is too large at every quality.
        """
        sizes, metadata_bytes = list[float](), 0

        def fits(attempt: Attempt[File]) -> bool:
            nonlocal metadata_bytes
            size, metadata_bytes = len(attempt.data), attempt.metadata_bytes
            sizes.append(size if self.unit == "bytes" else 8 * size / attempt.pixels)
            return sizes[-1] <= self.limit

        best = _first_that_fits(encode, fits, largest=True)
        if best is None:
            message = f"the smallest file has {min(sizes):.6g} {self.unit}, the target is {self.limit:.6g}"
            if metadata_bytes:
                message += f"; {metadata_bytes:,} bytes of it are metadata: drop some (--strip, exif=None)"
            raise VaecTargetError(message, code="TARGET_SIZE")
        return best


@dataclass(frozen=True)
class FidelityTarget:
    """The smallest quality whose picture has at least `least` dB of PSNR, or points of SSIMULACRA2."""

    least: float
    metric: Literal["psnr", "ssimulacra2"]

    def search(self, encode: Encode[File]) -> File:
        """The file.

        Raises:
            VaecTargetError: (TARGET_PSNR, TARGET_SSIMULACRA2) no quality reaches it.
        """
        reached = list[float]()

        def fits(attempt: Attempt[File]) -> bool:
            reached.append(attempt.psnr_db() if self.metric == "psnr" else attempt.ssimulacra2())
            return reached[-1] >= self.least

        best = _first_that_fits(encode, fits, largest=False)
        if best is None:
            unit = {"psnr": "dB", "ssimulacra2": "points of SSIMULACRA2"}[self.metric]
            raise VaecTargetError(
                f"the best quality reaches {max(reached):.2f} {unit}, the target is {self.least:.2f}",
                code=f"TARGET_{self.metric.upper()}",
            )
        return best


def rate_goal(
    quality: int | None,
    *,
    bytes: int | None,
    bpp: float | None,
    psnr: float | None,
    ssimulacra2: float | None = None,
    lossless: bool = False,
) -> FixedQuality | SizeTarget | FidelityTarget:
    """The requested quality or target; `DEFAULT_QUALITY` if there is none.

    Raises:
        VaecImageError: (ARGUMENT) more than one was given, or a value is out of range.
    """
    asked = {
        "quality": quality, "target_bytes": bytes, "target_bpp": bpp, "target_psnr": psnr,
        "target_ssimulacra2": ssimulacra2, "lossless": lossless or None,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise VaecImageError(f"{' and '.join(given)} cannot be combined: give only one", code="ARGUMENT")
    if not given:
        return FixedQuality(DEFAULT_QUALITY)
    (name, value), = given.items()  # fmt: skip
    if name == "lossless":
        return FixedQuality(None)
    if name == "quality" and (isinstance(value, bool) or not hasattr(value, "__float__") or not 1 <= value < math.inf):
        raise VaecImageError(f"quality is {value!r}, must be a whole number, 1..100", code="ARGUMENT")
    if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(value) or value <= 0:
        raise VaecImageError(f"{name} is {value!r}, must be a positive number", code="ARGUMENT")
    if name == "quality":
        return FixedQuality(check_quality(value))
    if name == "target_psnr":
        return FidelityTarget(float(value), "psnr")
    if name == "target_ssimulacra2":
        return FidelityTarget(float(value), "ssimulacra2")
    return SizeTarget(float(value), "bytes" if name == "target_bytes" else "bits per pixel")


def overrides(*, exif: Exif, icc_profile: IccProfile, xmp: Xmp) -> dict[str, object]:
    """The overrides for `merge_metadata`: those of a caller's three arguments that are not KEEP."""
    named = {"exif": exif, "icc_profile": icc_profile, "xmp": xmp}
    return {key: value for key, value in named.items() if value is not KEEP}


def check_quality(quality: float) -> int:
    """The quality as an int.

    Raises:
        VaecImageError: (ARGUMENT) the quality is not a whole number from 1 to 100.
    """
    if quality != int(quality) or not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise VaecImageError(f"quality is {quality!r}, must be a whole number, 1..100", code="ARGUMENT")
    return int(quality)


def refining_steps(effort: int, *, lossless: bool, has_map: bool = False) -> int:
    """Number of steps in which an encoder refines its symbols.

    Raises:
        VaecImageError: (ARGUMENT) the effort is not a whole number from 1 to 9, or asks to refine a lossless file; or
            there is a quality map, but nothing is quantized, or symbols are refined, which knows only one step size.
    """
    if effort not in EFFORTS or isinstance(effort, bool):
        raise VaecImageError(f"effort is {effort!r}, allowed are whole numbers 1..9", code="ARGUMENT")
    steps = REFINING_STEPS.get(int(effort), 0)
    if steps and lossless:
        raise VaecImageError(
            f"effort {effort} cannot be combined with lossless: there is nothing to refine", code="ARGUMENT"
        )
    if has_map and (steps or lossless):
        other = "lossless" if lossless else f"effort {effort}"
        raise VaecImageError(f"quality_map cannot be combined with {other}", code="ARGUMENT")
    return steps


class Presentation(NamedTuple):
    """The form of decoded pictures: output type, downscaling by 1, 2, 4 or 8, and whether damaged ones are returned."""

    output: Output
    scale: int
    partial: bool

    @classmethod
    def checked(cls, output: Output, scale: float = 1, on_error: str = "raise") -> "Presentation":
        """Checks the arguments of `Codec.decode`.

        Raises:
            VaecImageError: (ARGUMENT) a value is not allowed.
        """
        if output not in ("pil", "numpy", "torch"):
            raise VaecImageError(f"output is {output!r}, must be 'pil', 'numpy' or 'torch'", code="ARGUMENT")
        if on_error not in ("raise", "partial"):
            raise VaecImageError(f"on_error is {on_error!r}, must be 'raise' or 'partial'", code="ARGUMENT")
        if scale not in [1 / reduction for reduction in (1, *PREVIEW_SCALES)]:
            raise VaecImageError(f"scale is {scale!r}, must be 1, 1/2, 1/4 or 1/8", code="ARGUMENT")
        return cls(output, round(1 / scale), on_error == "partial")


def window_of(box: tuple[int, int, int, int], header: Header) -> Rect:
    """The window for a box (left, top, right, bottom) of a picture.

    Raises:
        VaecImageError: (BOX) the box is empty or extends beyond the picture.
    """
    try:
        left, top, right, bottom = map(operator.index, box)
    except (TypeError, ValueError):
        left = top = right = bottom = -1
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        message = f"box is {box}, must be whole numbers (left, top, right, bottom), not empty, within"
        raise VaecImageError(f"{message} {header.width} x {header.height} pixels", code="BOX")
    return Rect(top, bottom, left, right)
