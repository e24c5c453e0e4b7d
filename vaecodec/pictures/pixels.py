"""Converts pictures of any kind to samples uint8 [H, W, C], and samples to Pillow images.

One direction is `open_source` -> `size_of` -> `to_samples` and `metadata_of`, or `open_rows`, which encoders read; the
other is `to_image`. Also here: the sample helpers that encoder, benchmarks and tests share, such as `pad_edge` and
`psnr_db`. Pixels are stored as given: EXIF orientation is kept as metadata and never applied here.
The modules for files, metadata and colours are imported with the first picture that needs them.
"""

import io
import math
import os
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageFile, UnidentifiedImageError

from vaecodec.errors import VaecImageError, VaecLimitError
from vaecodec.format import records
from vaecodec.pictures.metadata import METADATA_KEYS, as_info, without_thumbnails

MODES = ("L", "LA", "RGB", "RGBA")

Samples: TypeAlias = npt.NDArray[np.uint8]
Opened: TypeAlias = Image.Image | Samples


@runtime_checkable
class Tensor(Protocol):
    """The part of a torch tensor that this module uses, so that it need not import torch."""

    @property
    def dtype(self) -> object: ...
    def detach(self) -> Self: ...
    def cpu(self) -> Self: ...
    def numpy(self) -> npt.NDArray[Any]: ...


Source: TypeAlias = (
    Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[Any] | Tensor
)

RowSource: TypeAlias = Source | Any
"""A `Source`, or any object with `shape`, `dtype` and row slices."""

_STORED_MODE = (
    dict.fromkeys(("1", "L"), "L")
    | dict.fromkeys(("LA", "La"), "LA")
    | dict.fromkeys(("RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P"), "RGB")
    | dict.fromkeys(("RGBA", "RGBa", "PA"), "RGBA")
)
_ALPHA_MODE = {"L": "LA", "RGB": "RGBA"}
_TRANSPARENCY_RULE = {"1": "an int", "L": "an int", "RGB": "a tuple of 3 ints", "P": "bytes or an int"}
_PSNR_CHUNK_SAMPLES = 1 << 18


def open_source(source: Source) -> Opened:
    """Opens any supported picture source, without decoding its pixels.

    Args:
        source: a Pillow image (returned as is); a path (opened lazily; Pillow closes the file once a single-frame image
            is loaded); the bytes of a picture file, or an open binary file; a uint8 array [H, W] or [H, W, C] or a bool
            array [H, W] (False is 0, True is 255); or a uint8 torch tensor [C, H, W] or [H, W] on any device. C is 1
            (L), 2 (LA), 3 (RGB) or 4 (RGBA).

    Returns:
        A Pillow image, or a uint8 array [H, W, C] that may share memory with the source.

    Raises:
        VaecImageError: the source has an unsupported type (TYPE), dtype (DTYPE) or shape (SHAPE), or no pixels (SIZE),
            or Pillow fails to read the file (READ).
        VaecLimitError: (MAX_PIXELS) the file declares more pixels than Pillow allows.
        OSError: Pillow cannot read the file (FileNotFoundError and PIL.UnidentifiedImageError included).
    """
    if isinstance(source, (str, os.PathLike)):
        return open_image(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return open_image(io.BytesIO(source))
    if isinstance(source, Image.Image):
        if min(source.size) <= 0:
            raise _no_pixels(*source.size)
        return source
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), channel_axis=2)
    if isinstance(source, Tensor) and any(base.__module__.startswith("torch") for base in type(source).__mro__):
        return _from_tensor(source)
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        return open_image(source)  # type: ignore[arg-type]
    allowed = "a PIL image, a path, bytes, an open binary file, a numpy array or a torch tensor"
    raise VaecImageError(f"image is a {type(source).__name__}, must be {allowed}", code="TYPE")


@contextmanager
def opened_source(source: Source) -> Iterator[Opened]:
    """As `open_source`; closes the file at the end if it was given by its path."""
    opened = open_source(source)
    try:
        yield opened
    finally:
        if isinstance(source, str | os.PathLike) and isinstance(opened, Image.Image):
            opened.close()


def open_image(file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Opens a picture file with Pillow, or with the package that it needs; raises as `open_source`.

    A pipe, which can be read only once, is read completely.

    Raises:
        VaecImageError: (PACKAGE) a package for HEIC or JPEG XL is missing.
    """
    from vaecodec.pictures import originals

    with _reading():
        file = seekable(file)
        image: Image.Image
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            found = originals.open_with_package(file)
            if found is None:
                raise
            image = found
        originals.inspect(image, is_file=True)
        return image


def seekable(file: str | os.PathLike[str] | BinaryIO) -> str | os.PathLike[str] | BinaryIO:
    """Returns the file unchanged, or its contents in memory if it is not seekable, such as a pipe; raises OSError."""
    if isinstance(file, str | os.PathLike):
        if stat.S_ISREG(os.stat(file).st_mode):
            return file
        with open(file, "rb") as opened:
            return io.BytesIO(opened.read())
    can_seek = getattr(file, "seekable", None)
    return file if can_seek and can_seek() else io.BytesIO(file.read())


def size_of(opened: Opened) -> tuple[int, int]:
    """Returns (width, height) in pixels of an opened picture from its header, without decoding it."""
    if isinstance(opened, Image.Image):
        return opened.size
    return opened.shape[1], opened.shape[0]


def to_samples(opened: Opened) -> Samples:
    """Decodes a picture to the samples to be stored; the current frame if it is an animation.

    L, LA, RGB and RGBA pass unchanged. Pillow's own conversion turns 1 into L, La into LA, RGBa and PA into RGBA, and
    P, RGBX, CMYK, YCbCr, HSV and LAB into RGB. Transparency of a palette or of `info["transparency"]` becomes alpha.

    Args:
        opened: the result of `open_source`; its pixels, mode and info are not changed.

    Returns:
        C-contiguous uint8 array [H, W, C], C = 1, 2, 3 or 4 for the modes of `MODES`. Its memory is writable, as torch
        requires, but may be that of the caller's array: copy before writing.

    CMYK is converted to sRGB with its ICC profile, or by Pillow if it has no usable profile.

    Raises:
        VaecImageError: more than 8 bits per sample (BIT_DEPTH), even if Pillow reduces them to 8; an unknown mode
            (MODE); a malformed `info["transparency"]` (TRANSPARENCY); a conversion that Pillow refuses (CONVERT); or a
            damaged file that Pillow fails to read (READ).
        OSError: Pillow cannot decode the file.
    """
    if not isinstance(opened, Image.Image):
        return np.require(opened, requirements=("C", "W"))
    _examine(opened)
    _load(opened)
    samples = np.array(_converted(opened, _stored_mode(opened)))
    return np.atleast_3d(samples)


def metadata_of(opened: Opened) -> dict[str, bytes]:
    """Collects the metadata of a picture.

    Decodes the picture first, because Pillow rotates TIFF pixels and drops the orientation on load, and PNG may have
    metadata after its pixels. Unreadable metadata is left out.

    Args:
        opened: the result of `open_source`.

    Returns:
        A dict with some of the keys of `METADATA_KEYS`, none of them empty. "icc_profile": only if the profile's colour
        space fits the stored mode. "exif": a TIFF structure without the "Exif" prefix, equal to `info["exif"]` if there
        is one, otherwise from `getexif()`. "xmp": a packet, UTF-8. Arrays have no metadata.

    Raises:
        VaecImageError, OSError: the picture itself cannot be stored or decoded, as in `to_samples`.
    """
    if not isinstance(opened, Image.Image):
        return {}
    _examine(opened)
    _load(opened)
    if not _may_carry(opened):
        return {}
    from vaecodec.pictures import carried

    return carried.carried_metadata(opened, _stored_mode(opened))


def warn_of_losses(
    opened: Opened, overrides: Mapping[str, object] | None = None, *, is_loaded: bool = True, stacklevel: int = 3
) -> None:
    """Warns, once, of what a picture holds and a .vaec file cannot: further frames, IPTC, a video, a gain map.

    Args:
        opened: the result of `open_source`. Further frames are reported only for files: a caller who passes an opened
            Pillow image means the current frame.
        overrides: as for `merge_metadata`: a caller who drops EXIF and XMP does not expect other metadata.
        is_loaded: False does not load the pixels, for files that reveal everything without them.
        stacklevel: as for `warnings.warn`.

    Raises:
        VaecImageError, OSError: as `metadata_of`.
    """
    if not isinstance(opened, Image.Image) or not _may_carry(opened):
        return
    from vaecodec.pictures import carried

    _examine(opened)
    if is_loaded:
        _load(opened)
    lost, lost_metadata = carried.left_out(opened, _stored_mode(opened))
    if overrides is None or any(overrides.get(key, "kept") for key in ("exif", "xmp")):
        lost += lost_metadata
    if lost:
        warnings.warn(f"a .vaec file cannot hold {', '.join(lost)}", UserWarning, stacklevel=stacklevel)


def to_image(samples: Samples, metadata: Mapping[str, bytes]) -> Image.Image:
    """Makes a Pillow image from decoded samples.

    Args:
        samples: uint8 array [H, W, C] with C = 1, 2, 3 or 4 for L, LA, RGB, RGBA. The image may share its memory.
        metadata: as from `metadata_of`; it becomes `info["icc_profile"]`, `info["exif"]` and `info["xmp"]`. The EXIF
            entry gets the "Exif" prefix of Pillow's JPEG and PNG readers: JPEG's `save(exif=info["exif"])` needs it,
            and `getexif()` and the other savers accept it.
    """
    image = Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)
    image.info.update(as_info(metadata))
    return image


def pad_edge(samples: Samples, multiple: int) -> Samples:
    """Pads samples [H, W, C] at the bottom and right to multiples of `multiple` pixels by repeating the edge.

    Returns `samples` itself if nothing is missing. Raises ValueError if `multiple` is below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}, must be at least 1")
    height, width, _ = samples.shape
    missing_rows, missing_columns = -height % multiple, -width % multiple
    if not missing_rows and not missing_columns:
        return samples
    return np.pad(samples, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")


def reduced(samples: Samples, scale: int) -> Samples:
    """Downscales samples [H, W, C] to the means of blocks of scale x scale pixels; repeats the right and bottom edges.

    Colours are weighted by alpha, so that the invisible colours of transparent pixels have no effect.
    """
    padded = pad_edge(samples, scale)
    height, width, channels = padded.shape
    blocks = padded.reshape(height // scale, scale, width // scale, scale, channels)
    means = blocks.mean((1, 3), dtype=np.float32)
    if channels in (2, 4):
        alpha = blocks[..., -1:].astype(np.float32)
        weights = alpha.sum((1, 3))
        shown = (blocks[..., :-1] * alpha).sum((1, 3)) / np.maximum(weights, 1)
        means[..., :-1] = np.where(weights > 0, shown, means[..., :-1])
    return means.round().astype(np.uint8)


def psnr_db(a: Samples, b: Samples) -> float:
    """The peak signal-to-noise ratio: 10 log10(255^2 / MSE), with one MSE over all samples of all channels.

    Args:
        a: uint8 array, usually RGB [H, W, 3].
        b: uint8 array of the same shape.

    Returns:
        Decibels; `math.inf` if a equals b.

    Raises:
        VaecImageError: (SHAPE) the shapes differ or are empty.
    """
    return decibels(squared_error(a, b), a.size)


def squared_error(a: Samples, b: Samples) -> int:
    """The exact sum of squared differences of two uint8 arrays of equal shape, computed a few rows at a time.

    Raises:
        VaecImageError: (SHAPE) the shapes differ or are empty.
    """
    if a.shape != b.shape or a.size == 0:
        raise VaecImageError(f"shapes are {a.shape} and {b.shape}, must be equal and not empty", code="SHAPE")
    rows, total = max(1, _PSNR_CHUNK_SAMPLES * len(a) // a.size), 0
    for top in range(0, len(a), rows):
        difference = np.subtract(a[top : top + rows], b[top : top + rows], dtype=np.int32)
        total += int(np.sum(difference * difference, dtype=np.int64))
    return total


def decibels(squared_error: int, count: int) -> float:
    """PSNR in dB of `count` samples with this sum of squared errors; `math.inf` if that is 0."""
    return 10 * math.log10(255**2 * count / squared_error) if squared_error else math.inf


def flatten_alpha(image: Image.Image, background: str | tuple[int, ...]) -> Image.Image:
    """Composites a transparent picture onto an opaque background.

    Args:
        image: any image that `to_samples` takes; not changed.
        background: a colour name or code that `PIL.ImageColor` knows, or (red, green, blue) with values 0..255.

    Returns:
        `image` itself if it has no transparency. Otherwise an L image (grey picture on a grey background) or an RGB
        image, with the info of `image` without its transparency and without an ICC profile that no longer fits.

    Raises:
        VaecImageError: (BACKGROUND) the background is not an opaque colour; or as `to_samples`.
    """
    paint = _opaque_colour(background)
    _examine(image)
    _load(image)
    stored_mode = _stored_mode(image)
    if stored_mode not in _ALPHA_MODE.values():
        return image
    source = _converted(image, stored_mode)
    is_grey = stored_mode == "LA" and len(set(paint)) == 1
    flat = Image.new("L" if is_grey else "RGB", image.size, paint[0] if is_grey else paint)
    metadata, opaque = without_thumbnails(metadata_of(image)), None
    if stored_mode == "LA" and not is_grey and (icc_profile := metadata.pop("icc_profile", b"")):
        from vaecodec.pictures import colour

        opaque = colour.to_srgb(source.getchannel("L"), icc_profile)
    flat.paste(opaque or source.convert(flat.mode), mask=source.getchannel("A"))
    flat.info = {key: image.info[key] for key in image.info.keys() - {"transparency", *METADATA_KEYS}}
    flat.info.update(as_info(metadata))
    return flat


@contextmanager
def _reading() -> Iterator[None]:
    """Turns errors of Pillow's readers other than OSError, which are many, into errors of this package."""
    try:
        yield
    except (OSError, MemoryError, Warning):
        raise
    except Image.DecompressionBombError as error:
        raise VaecLimitError(f"{error} Pillow's own limit is Image.MAX_IMAGE_PIXELS.", code="MAX_PIXELS") from error
    except Exception as error:
        message = f"the picture cannot be read: it is damaged or not supported ({type(error).__name__}: {error})"
        raise VaecImageError(message, code="READ") from error


def _load(image: Image.Image) -> None:
    with _reading():
        image.load()


def _examine(image: Image.Image) -> None:
    """Inspects the file of an image while that is open, and refuses what Pillow would reduce to 8 bits."""
    if not isinstance(image, ImageFile.ImageFile):
        return
    from vaecodec.pictures import originals

    original = originals.inspect(image)
    if original.is_too_deep and not _is_deep_mode(image.mode):  # `_stored_mode` reports deep modes
        message = f"the file has {original.bits} bits per sample, must have 8: convert it (magick IN -depth 8 OUT)"
        raise VaecImageError(f"{message}, or pass image.copy(), which Pillow has reduced to 8", code="BIT_DEPTH")


def _may_carry(image: Image.Image) -> bool:
    """Whether the image may have metadata: it comes from a file, or has entries in `info` or `getexif()`."""
    is_file = isinstance(image, ImageFile.ImageFile)
    return is_file or bool(image.info) or getattr(image, "_exif", None) is not None


def _is_deep_mode(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;")


def _no_pixels(width: int, height: int) -> VaecImageError:
    return VaecImageError(f"image size is {width} x {height}, both sides must be at least 1 pixel", code="SIZE")


def _wrong_dtype(dtype: object) -> VaecImageError:
    hint = "scale to 0..255, round and convert to uint8"
    return VaecImageError(f"image dtype is {dtype}, must be uint8 (or bool for [H, W]): {hint}", code="DTYPE")


def _from_tensor(tensor: Tensor) -> Samples:
    if str(tensor.dtype) not in ("torch.uint8", "torch.bool"):
        raise _wrong_dtype(tensor.dtype)  # before numpy() fails on a dtype that numpy lacks
    return _from_array(tensor.detach().cpu().numpy(), channel_axis=0)


def _from_array(array: npt.NDArray[Any], *, channel_axis: int) -> Samples:
    if array.dtype == np.bool_ and array.ndim == 2:
        array = array * np.uint8(255)
    if array.dtype != np.uint8:
        raise _wrong_dtype(array.dtype)
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[channel_axis] <= 4):
        layout = "[C, H, W]" if channel_axis == 0 else "[H, W, C]"
        raise VaecImageError(f"image shape is {array.shape}, must be [H, W] or {layout} with C 1 to 4", code="SHAPE")
    samples = np.atleast_3d(array if array.ndim == 2 else np.moveaxis(array, channel_axis, -1))
    if samples.size == 0:
        raise _no_pixels(samples.shape[1], samples.shape[0])
    return samples


def _stored_mode(image: Image.Image) -> str:
    """The mode of `MODES` that can hold everything in a loaded image."""
    mode = image.mode
    if _is_deep_mode(mode):
        hint = "scale to 0..255 first, round, and convert to uint8"
        if mode.startswith("I;16"):
            hint += ": Image.fromarray((numpy.asarray(image) / 257).round().astype(numpy.uint8)) if 65535 is white"
        raise VaecImageError(f"image mode is {mode}, must have 8 bits per sample: {hint}", code="BIT_DEPTH")
    if mode not in _STORED_MODE:
        raise VaecImageError(f"image mode is {mode}, must be one of {', '.join(_STORED_MODE)}", code="MODE")
    has_alpha = mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    if mode in _TRANSPARENCY_RULE and "transparency" in image.info:
        _check_transparency(mode, image.info["transparency"])
        has_alpha = True
    return _ALPHA_MODE[_STORED_MODE[mode]] if has_alpha else _STORED_MODE[mode]


def _check_transparency(mode: str, transparency: object) -> None:
    """Refuses values that Pillow misreads, such as an index left over from a palette image."""
    if mode == "RGB":
        is_valid = isinstance(transparency, tuple) and len(transparency) == 3
    else:
        is_valid = isinstance(transparency, int) or (mode == "P" and isinstance(transparency, bytes))
    if not is_valid:
        message = f"info['transparency'] of this {mode} image is {transparency!r}, must be {_TRANSPARENCY_RULE[mode]}"
        raise VaecImageError(f"{message}: delete it if the image is opaque", code="TRANSPARENCY")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    # Pillow writes info["transparency"] into the palette of the image that it converts.
    source = image.copy() if image.mode == "P" else image
    if image.mode == "CMYK" and (icc_profile := image.info.get("icc_profile")):
        from vaecodec.pictures import colour

        converted = colour.to_srgb(image, icc_profile)
        if converted is not None:
            return converted
    if image.mode == "L" and image.format == "PNG" and isinstance(image.info.get("transparency"), int):
        from vaecodec.pictures import originals

        source = image.copy()  # Pillow scales grey levels of few bits to 0..255, except the transparent one
        source.info["transparency"] *= 255 // (2 ** min(8, originals.inspect(image).bits) - 1)
    from PIL import ImageCms  # raises its own error, and takes time to import

    try:
        return source.convert(mode)
    except (ValueError, TypeError, ImportError, ImageCms.PyCMSError) as error:
        message = f"image mode is {image.mode}, which Pillow cannot convert to {mode}: {error}"
        raise VaecImageError(message, code="CONVERT") from error


def _opaque_colour(background: str | tuple[int, ...]) -> tuple[int, ...]:
    try:
        colour = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
    except (ValueError, TypeError):
        colour = ()
    if len(colour) != 3 or any(not isinstance(value, int) or not 0 <= value <= 255 for value in colour):
        allowed = "a colour name or (red, green, blue) with values 0..255"
        raise VaecImageError(f"background is {background!r}, must be {allowed}", code="BACKGROUND")
    return colour


# --- pictures by rows -------------------------------------------------------------------------------------------------


def open_rows(source: RowSource, *, max_pixels: int | None, overrides: Mapping[str, object] | None = None) -> "Rows":
    """Opens a picture in memory, or to be read there; `row_files.open_file` needs less memory for files.

    Args:
        source: as for `open_source`; also any object with `shape`, `dtype` and row slices that become arrays, such as
            memory-mapped, zarr and h5py arrays, which are read by rows; and `Rows` themselves.
        max_pixels: as for `records.check_size`.
        overrides: as for `warn_of_losses`, which is called here.

    Raises:
        VaecError, OSError: as `open_source`, `records.check_size`, `to_samples`.
    """
    if not isinstance(source, Rows):
        if _is_array_like(source):
            return checked_rows(ArrayRows(source), max_pixels)
        with opened_source(source) as opened:
            records.check_size(*size_of(opened), max_pixels=max_pixels)
            if not isinstance(opened, Image.Image):
                return ArrayRows(opened)
            rows = ArrayRows(to_samples(opened), metadata_of(opened))
            warn_of_losses(opened, overrides, stacklevel=4)
            return rows
    return checked_rows(source, max_pixels)


def checked_rows(rows: "Rows", max_pixels: int | None) -> "Rows":
    """Returns the rows; raises as `records.check_size`."""
    records.check_size(rows.shape[1], rows.shape[0], max_pixels=max_pixels)
    return rows


def _is_array_like(source: Any) -> bool:
    """Whether this is an array of samples of another library than numpy or torch."""
    if isinstance(source, np.ndarray | Tensor) or not (hasattr(source, "shape") and hasattr(source, "dtype")):
        return False
    shape = tuple(source.shape)
    if source.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and 1 <= shape[2] <= 4)):
        return True
    message = f"array has shape {shape} and dtype {source.dtype}, must be uint8 [H, W] or [H, W, C] with C 1 to 4"
    raise VaecImageError(message, code="SHAPE")


@runtime_checkable
class Rows(Protocol):
    """A picture of height x width pixels with 1 to 4 channels (L, LA, RGB, RGBA), read by rows.

    Attributes:
        shape: height, width, channels.
        metadata: as `pixels.metadata_of` gives it.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def metadata(self) -> dict[str, bytes]: ...

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels]; any rows in any order, but fastest from top to bottom."""
        ...

    def close(self) -> None:
        """Close files and free memory."""
        ...


class ArrayRows:
    """Rows of samples [H, W, C] uint8 in memory, or of an object whose row slices are such arrays.

    Memory-mapped arrays (`numpy.memmap`) and those of zarr and h5py work, and need not fit into memory.
    """

    def __init__(self, samples: Any, metadata: dict[str, bytes] | None = None) -> None:
        self._samples, self.metadata = samples, metadata or {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels; an array [H, W] has one channel."""
        height, width, channels = (*self._samples.shape, 1)[:3]
        return height, width, channels

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels]; a view if the array is contiguous in memory."""
        return np.ascontiguousarray(np.atleast_3d(np.asarray(self._samples[top:bottom])))

    def close(self) -> None:
        """Does nothing: the array belongs to the caller."""


class SequentialRows(ABC):
    """Rows from a sequential reader; going back restarts it. Subclasses define `shape` and `_blocks`."""

    shape: tuple[int, int, int]
    _top: int  # the first row of the picture that is held
    _held: list[Samples]  # rows from there on, in pieces

    def __init__(self, metadata: dict[str, bytes] | None = None) -> None:
        self.metadata = metadata or {}
        self._rewind()

    @abstractmethod
    def _blocks(self) -> Generator[Samples]:
        """Yields the picture from its first row, some rows [h, width, channels] at a time."""

    def read(self, top: int, bottom: int) -> Samples:
        """Samples [bottom - top, width, channels], kept until the next call, which may request some of them again.

        Raises:
            VaecImageError: (READ) the file ends too soon.
        """
        if top < self._top:
            self.close()
            self._rewind()
        samples = np.empty((bottom - top, *self.shape[1:]), np.uint8)
        held, self._held = self._held, []
        begins, filled = self._top, 0  # rows of the picture, and of the samples
        while held or filled < len(samples):
            block = held.pop(0) if held else self._next(begins)
            wanted = block[max(0, top - begins) :]
            taken = wanted[: len(samples) - filled]
            samples[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(wanted):
                self._held.append(wanted[len(taken) :])
            begins += len(block)
        self._top, self._held = top, [samples, *self._held]
        return samples

    def _next(self, row: int) -> Samples:
        block = next(self._reader, None)
        if block is None:
            message = f"the picture ends after {row} of its {self.shape[0]} rows: the file is damaged"
            raise VaecImageError(message, code="READ")
        return block

    def close(self) -> None:
        """Stops the reader, which closes its file."""
        self._reader.close()

    def _rewind(self) -> None:
        self._top, self._held = 0, []
        self._reader = self._blocks()
