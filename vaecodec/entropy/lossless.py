"""Lossless tiles: WebP through Pillow, zlib in older files, and tiles of one colour."""

import inspect
import io
import math
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from vaecodec.errors import VaecCorruptError, VaecUnsupportedError

Samples = npt.NDArray[np.uint8]

LEFT = 1
"""Filter bit: each sample less the one to its left."""

UP = 2
"""Filter bit: each sample less the one above it, after LEFT if both are set."""

PLANES = 4
"""Filter bit, for three channels only, before LEFT and UP: R - G, G, B - G instead of R, G, B, plane after plane."""

# Pillow's defaults for WebP's encoder. More effort takes ten times as long for 3 % fewer bytes.
_METHOD, _EFFORT = 4, 80

# libwebp's error numbers: out of memory in the encoder, or for its output.
_SHORTAGES = ("encoding error 1", "encoding error 2")
_DECODER_BYTES = 16  # a pixel

# RIFF, the remaining length, WEBP, VP8L, the length of its data, its signature 0x2f; then 14 bits each for width - 1
# and height - 1, one bit for alpha, three for the version.
_HEAD = struct.Struct("<4sI4s4sIBI")


# --- WebP -------------------------------------------------------------------------------------------------------------


def pack(samples: Samples) -> bytes:
    """Compresses a tile to a lossless WebP file.

    Args:
        samples: uint8 [h, w, c], not empty, c = 1 (written as grey RGB) or 3, at most 16383 pixels a side.

    Returns:
        The payload, hardly ever longer than raw + 300 bytes, where raw = h * w * c.

    Raises:
        TypeError: samples is not uint8.
        ValueError: samples is not 3-D or is empty.
        VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP.
    """
    return _webp(samples, method=_METHOD, effort=_EFFORT)


def quick_size(samples: Samples, *, is_thorough: bool = False) -> int:
    """Estimates the size of `pack` in bytes, in a tenth of its time, or a quarter if thorough; raises as `pack`.

    Only the thorough estimate predicts samples from their neighbours, which shrinks waves and gradients a hundredfold.
    """
    return len(_webp(samples, method=int(is_thorough), effort=_EFFORT))


def unpack(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Samples:
    """Decompresses a WebP tile; never allocates more than the shape requires.

    Args:
        payload: the result of `pack`.
        shape: (h, w, c) of the tile, each at least 1.

    Returns:
        uint8 [h, w, c].

    Raises:
        VaecCorruptError: (WEBP) the payload is not a lossless WebP file of one RGB picture of this size, or is damaged.
        VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP.
        ValueError: shape has no samples.
    """
    _check_webp()
    height, width, channels = shape
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}, each dimension must be at least 1")
    data = memoryview(payload).tobytes()
    if len(data) < _HEAD.size:
        raise _corrupt(f"a WebP file must have at least {_HEAD.size} bytes, this has {len(data)}", "WEBP")
    riff, after_8, webp, vp8l, after_20, signature, sizes = _HEAD.unpack_from(data)
    if (riff, webp, vp8l, signature) != (b"RIFF", b"WEBP", b"VP8L", 0x2F):
        raise _corrupt("must be a lossless WebP file", "WEBP")
    if after_8 != len(data) - 8 or after_20 + after_20 % 2 != len(data) - 20:
        raise _corrupt(f"the WebP file declares {after_8 + 8} bytes but has {len(data)}", "WEBP")
    if (sizes & 0x3FFF, sizes >> 14 & 0x3FFF, sizes >> 28) != (width - 1, height - 1, 0):
        raise _corrupt(f"the WebP file must have {width} x {height} pixels and no alpha", "WEBP")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            samples = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        bytearray(_DECODER_BYTES * height * width)  # raises MemoryError; libwebp does not report a lack of memory
        raise _corrupt(f"the WebP file is damaged ({error})", "WEBP") from error
    if samples.shape != (height, width, 3):
        raise _corrupt(f"the WebP file decodes to {samples.shape}, must be {(height, width, 3)}", "WEBP")
    return samples[..., :channels]


def _webp(samples: Samples, *, method: int, effort: int) -> bytes:
    _check_samples(samples)
    _check_webp()
    file = io.BytesIO()
    colours = samples if samples.shape[2] == 3 else np.repeat(samples, 3, 2)
    try:
        _save(Image.fromarray(colours), file, "WEBP", lossless=True, method=method, quality=effort, exact=True)
    except ValueError as error:
        if str(error) in _SHORTAGES:
            raise MemoryError("lossless WebP") from error
        raise
    return file.getvalue()


# Pillow's own function, without the wrapper of our plugin.
_save = inspect.unwrap(Image.Image.save)


def _check_webp() -> None:
    if not features.check("webp"):
        message = "Pillow was built without WebP, which lossless tiles need: install Pillow from PyPI"
        raise VaecUnsupportedError(message, code="WEBP_MISSING")


# --- one colour, and zlib ---------------------------------------------------------------------------------------------


_SPARSE_ROWS = 64  # every 64th row is looked at first: most pictures vary in one of them


def is_solid(samples: Samples) -> bytes | None:
    """Returns the colour of a tile that has only one.

    Args:
        samples: uint8 [h, w, c], not empty.

    Returns:
        The c samples of a pixel if all pixels are equal, otherwise None.

    Raises:
        TypeError: samples is not uint8.
        ValueError: samples is not 3-D or is empty.
    """
    _check_samples(samples)
    colour = samples[0, 0]
    is_one = (samples[::_SPARSE_ROWS] == colour).all() and (samples == colour).all()
    return colour.tobytes() if is_one else None


def unpack_zlib(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Samples:
    """Decompresses a zlib tile of an older file; never allocates more than the shape requires.

    Args:
        payload: of the tile.
        shape: (h, w, c) of the tile, each at least 1.

    Returns:
        uint8 [h, w, c].

    Raises:
        VaecCorruptError: (ZLIB) the filter byte is unknown, or the stream is damaged, incomplete, followed by other
            bytes, or does not have exactly the length for the shape.
        ValueError: shape has no samples.
    """
    height, width, channels = shape
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}, each dimension must be at least 1")
    data = memoryview(payload).tobytes()
    highest = _highest_filter(channels)
    if not data or data[0] > highest:
        raise _corrupt(f"filter byte is {data[:1].hex() or 'missing'}, must be 00 to {highest:02x}")
    residual = np.frombuffer(_inflated(data[1:], size_bytes=math.prod(shape)), np.uint8)
    bits = data[0]
    return _unfiltered(residual.reshape((channels, height, width) if bits & PLANES else shape), bits)


def _highest_filter(channels: int) -> int:
    return LEFT | UP | PLANES if channels == 3 else LEFT | UP


def _axes(bits: int) -> tuple[int, int]:
    """The axes of a residual that are its rows and columns."""
    return (1, 2) if bits & PLANES else (0, 1)


def _unfiltered(residual: Samples, bits: int) -> Samples:
    rows, columns = _axes(bits)
    if bits & UP:
        residual = np.cumsum(residual, axis=rows, dtype=np.uint8)
    if bits & LEFT:
        residual = np.cumsum(residual, axis=columns, dtype=np.uint8)
    if bits & PLANES:
        red, green, blue = residual
        return np.stack([red + green, green, blue + green], axis=2)
    return residual


def _inflated(stream: bytes, *, size_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than expected detects a stream that is too long; without a limit it could fill the memory.
        data = inflater.decompress(stream, size_bytes + 1)
    except zlib.error as error:
        raise _corrupt(f"zlib stream is damaged ({error})") from error
    if len(data) > size_bytes:
        raise _corrupt(f"zlib stream holds more than {size_bytes} bytes, must hold exactly {size_bytes}")
    if not inflater.eof:
        raise _corrupt(f"zlib stream ends after {len(data)} bytes of data, must have {size_bytes} and a checksum")
    if len(data) < size_bytes:
        raise _corrupt(f"zlib stream holds {len(data)} bytes, must hold exactly {size_bytes}")
    if inflater.unused_data:
        raise _corrupt(f"zlib stream is followed by {len(inflater.unused_data)} bytes, must be followed by none")
    return data


def _corrupt(message: str, code: str = "ZLIB") -> VaecCorruptError:
    return VaecCorruptError(f"lossless payload: {message}", code=code)


def _check_samples(samples: Samples) -> None:
    if samples.dtype != np.uint8:
        raise TypeError(f"samples has dtype {samples.dtype}, must be uint8")
    if samples.ndim != 3 or not samples.size:
        raise ValueError(f"samples has shape {samples.shape}, must be [h, w, c] and not empty")
