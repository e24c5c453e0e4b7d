"""The writer of zlib tiles, which older files have: this package only reads them."""

import zlib

import numpy as np

from vaecodec.entropy.lossless import LEFT, PLANES, UP, Samples, _axes, _check_samples, _highest_filter

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
