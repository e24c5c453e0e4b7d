"""Samples without loss: lossless WebP through Pillow, the zlib tiles of older files, and tiles of one colour."""

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

# Of WebP's encoder: what Pillow takes by default. More effort takes ten times as long for 3 % fewer bytes.
_METHOD, _EFFORT = 4, 80

# As libwebp numbers them: no memory for the encoder, or for what it has written.
_SHORTAGES = ("encoding error 1", "encoding error 2")
_DECODER_BYTES = 16  # a pixel

# RIFF, the length of what follows, WEBP, VP8L, the length of its data; its signature, 0x2f; and 14 bits each of width
# and height less one, one bit for alpha, three for the version.
_HEAD = struct.Struct("<4sI4s4sIBI")


# --- WebP -------------------------------------------------------------------------------------------------------------


def pack(samples: Samples) -> bytes:
    """Compresses a tile as a WebP file without loss.

    Args:
        samples: uint8 [h, w, c], no dimension 0, c 1 (written as grey RGB) or 3, at most 16383 a side.

    Returns:
        The payload, hardly ever longer than raw + 300 bytes, where raw = h * w * c.

    Raises:
        TypeError: samples is not uint8.
        ValueError: samples is not 3-D or is empty.
        VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP.
    """
    return _webp(samples, method=_METHOD, effort=_EFFORT)


def quick_size(samples: Samples, *, is_thorough: bool = False) -> int:
    """About how many bytes `pack` would take, in a tenth of the time, or thoroughly in a quarter; raises as `pack`.

    Only the thorough one predicts samples from their neighbours: waves and gradients take a hundred times less then.
    """
    return len(_webp(samples, method=int(is_thorough), effort=_EFFORT))


def unpack(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Samples:
    """Decompresses a WebP tile; never allocates more than shape demands.

    Args:
        payload: What `pack` returned.
        shape: (h, w, c) of the tile, each at least 1.

    Returns:
        uint8 [h, w, c].

    Raises:
        VaecCorruptError: code WEBP, if it is no lossless WebP file of one RGB picture of this size, or is damaged.
        VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP.
        ValueError: shape has no samples.
    """
    _check_webp()
    height, width, channels = shape
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}; each dimension must be at least 1")
    data = memoryview(payload).tobytes()
    if len(data) < _HEAD.size:
        raise _corrupt(f"{len(data)} bytes are no WebP file; at least {_HEAD.size} are one", "WEBP")
    riff, after_8, webp, vp8l, after_20, signature, sizes = _HEAD.unpack_from(data)
    if (riff, webp, vp8l, signature) != (b"RIFF", b"WEBP", b"VP8L", 0x2F):
        raise _corrupt("a WebP file without loss and nothing else is allowed", "WEBP")
    if after_8 != len(data) - 8 or after_20 + after_20 % 2 != len(data) - 20:
        raise _corrupt(f"the WebP file says that it has {after_8 + 8} bytes; it has {len(data)}", "WEBP")
    if (sizes & 0x3FFF, sizes >> 14 & 0x3FFF, sizes >> 28) != (width - 1, height - 1, 0):
        raise _corrupt(f"the WebP file must have {width} x {height} pixels and no alpha", "WEBP")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            samples = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        bytearray(_DECODER_BYTES * height * width)  # libwebp does not say if memory ran out; this does
        raise _corrupt(f"the WebP file is damaged ({error})", "WEBP") from error
    if samples.shape != (height, width, 3):
        raise _corrupt(f"the WebP file decodes to {samples.shape}, {(height, width, 3)} is allowed", "WEBP")
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
            raise MemoryError("WebP without loss") from error
        raise
    return file.getvalue()


# Pillow's own, without what our plugin does for paths of .vaec files.
_save = inspect.unwrap(Image.Image.save)


def _check_webp() -> None:
    if not features.check("webp"):
        message = "this Pillow was built without WebP, which samples without loss need: install Pillow from PyPI"
        raise VaecUnsupportedError(message, code="WEBP_MISSING")


# --- one colour, and zlib ---------------------------------------------------------------------------------------------


def is_solid(samples: Samples) -> bytes | None:
    """Finds the colour of a tile that has only one.

    Args:
        samples: uint8 [h, w, c], no dimension 0.

    Returns:
        The c samples of any pixel if all pixels are equal, else None.

    Raises:
        TypeError: samples is not uint8.
        ValueError: samples is not 3-D or is empty.
    """
    _check_samples(samples)
    colour = samples[0, 0]
    is_one = (samples[0] == colour).all() and (samples == colour).all()  # most pictures differ in their first row
    return colour.tobytes() if is_one else None


def unpack_zlib(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Samples:
    """Decompresses a zlib tile, as older files have them; never allocates more than shape demands.

    Args:
        payload: of the tile.
        shape: (h, w, c) of the tile, each at least 1.

    Returns:
        uint8 [h, w, c].

    Raises:
        VaecCorruptError: code ZLIB, if the filter byte is unknown or the stream is damaged, unfinished, followed by
            other bytes, or not exactly as long as shape demands.
        ValueError: shape has no samples.
    """
    height, width, channels = shape
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}; each dimension must be at least 1")
    data = memoryview(payload).tobytes()
    highest = _highest_filter(channels)
    if not data or data[0] > highest:
        raise _corrupt(f"filter byte is {data[:1].hex() or 'missing'}; 00 to {highest:02x} is allowed")
    residual = np.frombuffer(_inflated(data[1:], size_bytes=math.prod(shape)), np.uint8)
    bits = data[0]
    return _unfiltered(residual.reshape((channels, height, width) if bits & PLANES else shape), bits)


def _highest_filter(channels: int) -> int:
    return LEFT | UP | PLANES if channels == 3 else LEFT | UP


def _axes(bits: int) -> tuple[int, int]:
    """Which axes of a residual count rows and columns."""
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
        # One byte more than expected tells a stream that is too long; no limit at all would let it fill the memory.
        data = inflater.decompress(stream, size_bytes + 1)
    except zlib.error as error:
        raise _corrupt(f"zlib stream is damaged ({error}); an intact one is allowed") from error
    if len(data) > size_bytes:
        raise _corrupt(f"zlib stream holds more than {size_bytes} bytes; exactly {size_bytes} is allowed")
    if not inflater.eof:
        raise _corrupt(
            f"zlib stream breaks off after {len(data)} bytes of data; {size_bytes} and a checksum is allowed"
        )
    if len(data) < size_bytes:
        raise _corrupt(f"zlib stream holds {len(data)} bytes; exactly {size_bytes} is allowed")
    if inflater.unused_data:
        raise _corrupt(f"zlib stream is followed by {len(inflater.unused_data)} bytes; 0 is allowed")
    return data


def _corrupt(message: str, code: str = "ZLIB") -> VaecCorruptError:
    return VaecCorruptError(f"lossless payload: {message}", code=code)


def _check_samples(samples: Samples) -> None:
    if samples.dtype != np.uint8:
        raise TypeError(f"samples has dtype {samples.dtype}; uint8 is allowed")
    if samples.ndim != 3 or not samples.size:
        raise ValueError(f"samples has shape {samples.shape}; [h, w, c] with no dimension 0 is allowed")
