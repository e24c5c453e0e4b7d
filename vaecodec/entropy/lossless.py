"""Lossless tiles: uint8 samples <-> the payload of a zlib tile, and the test for a tile of one colour.

A payload is one filter byte and one zlib stream. The filter makes samples small by predicting each from its neighbours;
all of its arithmetic is modulo 256, hence exactly reversible. docs/format.md states it completely.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt

from vaecodec.errors import VaecCorruptError

Samples = npt.NDArray[np.uint8]

LEFT = 1
"""Filter bit: each sample less the one to its left."""

UP = 2
"""Filter bit: each sample less the one above it, after LEFT if both are set."""

PLANES = 4
"""Filter bit, for three channels only, before LEFT and UP: R - G, G, B - G instead of R, G, B, plane after plane."""

# Neighbouring values of photographs rarely repeat as strings: there, run lengths and a Huffman code beat a search for
# matches, which in turn is what drawings, screens and masks need.
_STRATEGIES = (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)

_TRIAL_BANDS = 4
_TRIAL_BAND_ROWS = 16
_TRIAL_LEVEL = 4
_FINAL_LEVEL = 9


def pack(samples: Samples) -> bytes:
    """Compresses a tile with the filter and the zlib strategy that do best on a sample of its rows.

    Args:
        samples: uint8 [h, w, c], no dimension 0.

    Returns:
        The payload, at most raw + raw // 1000 + 64 bytes long, where raw = h * w * c.

    Raises:
        TypeError: samples is not uint8.
        ValueError: samples is not 3-D or is empty.
    """
    _check_samples(samples)
    sizes_bytes = {}
    for bits in range(_highest_filter(samples.shape[2]) + 1):
        sampled = _sampled_rows(_filtered(samples, bits), axis=_axes(bits)[0])
        for strategy in _STRATEGIES:
            sizes_bytes[bits, strategy] = len(_deflated(sampled, level=_TRIAL_LEVEL, strategy=strategy))
    bits, strategy = min(sizes_bytes, key=sizes_bytes.__getitem__)
    residual = _filtered(samples, bits).tobytes()
    stream = _deflated(residual, level=_FINAL_LEVEL, strategy=strategy)
    # Level 0 stores: it alone bounds the size whatever the strategy does to noise.
    return bytes([bits]) + min(stream, zlib.compress(residual, 0), key=len)


def unpack(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Samples:
    """Decompresses a tile; never allocates more than shape demands.

    Args:
        payload: What `pack` returned.
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


def _highest_filter(channels: int) -> int:
    return LEFT | UP | PLANES if channels == 3 else LEFT | UP


def _axes(bits: int) -> tuple[int, int]:
    """Which axes of a residual count rows and columns."""
    return (1, 2) if bits & PLANES else (0, 1)


def _filtered(samples: Samples, bits: int) -> Samples:
    residual = samples
    if bits & PLANES:
        red, green, blue = np.moveaxis(samples, 2, 0)
        residual = np.stack([red - green, green, blue - green])
    rows, columns = _axes(bits)
    if bits & LEFT:
        residual = np.diff(residual, axis=columns, prepend=np.uint8(0))
    if bits & UP:
        residual = np.diff(residual, axis=rows, prepend=np.uint8(0))
    return residual


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


def _sampled_rows(residual: Samples, *, axis: int) -> bytes:
    """Picks a few bands of rows, evenly spread, for trials that cost a fraction of the final run."""
    height = residual.shape[axis]
    if height > _TRIAL_BANDS * _TRIAL_BAND_ROWS:
        tops = np.linspace(0, height - _TRIAL_BAND_ROWS, _TRIAL_BANDS).astype(int)
        residual = residual.take((tops[:, None] + np.arange(_TRIAL_BAND_ROWS)).ravel(), axis)
    return residual.tobytes()


def _deflated(data: bytes, *, level: int, strategy: int) -> bytes:
    deflater = zlib.compressobj(level, strategy=strategy)
    return deflater.compress(data) + deflater.flush()


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


def _corrupt(message: str) -> VaecCorruptError:
    return VaecCorruptError(f"lossless payload: {message}", code="ZLIB")


def _check_samples(samples: Samples) -> None:
    if samples.dtype != np.uint8:
        raise TypeError(f"samples has dtype {samples.dtype}; uint8 is allowed")
    if samples.ndim != 3 or not samples.size:
        raise ValueError(f"samples has shape {samples.shape}; [h, w, c] with no dimension 0 is allowed")
