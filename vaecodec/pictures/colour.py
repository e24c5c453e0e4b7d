"""Colour management: ICC profiles made from a file's other colour information, and conversion to sRGB.

A .vaec file without a profile is sRGB. So chromaticities and gamma of PNG and TIFF, and the code points of PNG, AVIF
and HEIC (ITU-T H.273), become a profile, unless they mean sRGB. CMYK is converted to sRGB with its profile.
"""

import functools
import io
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
_DCI_WHITE = (0.314, 0.351)
_C_WHITE = (0.310, 0.316)
_E_WHITE = (1 / 3, 1 / 3)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {  # H.273, table 2
    1: SRGB,
    4: (*_C_WHITE, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C_WHITE, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (*_E_WHITE, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (*_DCI_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_UNKNOWN = (0, 2, 3)  # reserved and unspecified code points
_SRGB_CURVE = 13
PQ, _HLG = 16, 18

_SRGB_GAMMA = 0.45455  # the encoder's exponent that PNG files store for sRGB
_SAME_GAMMA = 0.01
_SAME_CHROMATICITY = 0.002
_PEAK_NITS, _PQ_NITS = 1000, 10000  # white of a profile; maximum of PQ
_CURVE_POINTS = 1024
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_HEADER = struct.Struct(">I4sI4s4s4s12x4s4s4xI4xQ4x3i4s44x")
_VERSION = 0x04400000


def of_gamma(gamma: float | None, chromaticities: Sequence[float] | None, *, is_grey: bool) -> bytes:
    """The profile for the gAMA and cHRM chunks of PNG.

    Args:
        gamma: the encoder's exponent, such as 0.45455; None is sRGB's curve.
        chromaticities: x and y of white, red, green and blue; None means those of sRGB.
        is_grey: whether the profile is for grey pictures, for which only white matters.

    Returns:
        The profile; b"" if the values are invalid, or mean sRGB within the rounding of files.
    """
    found = tuple(chromaticities or SRGB)
    count = 2 if is_grey else 8
    is_srgb_curve = gamma is None or abs(gamma - _SRGB_GAMMA) < _SAME_GAMMA
    is_near = all(abs(a - b) < _SAME_CHROMATICITY for a, b in zip(found[:count], SRGB[:count], strict=True))
    if (is_near and is_srgb_curve) or (gamma is not None and not 0.05 < gamma < 20):
        return b""
    curve = _srgb_curve() if is_srgb_curve or gamma is None else _para(1 / gamma)
    return _profile(found, curve, is_grey=is_grey)


def of_code_points(primaries: int, transfer: int, *, is_grey: bool) -> bytes:
    """The profile for H.273 code points, as in cICP of PNG and nclx of AVIF and HEIC.

    The highest value of a PQ picture stands for 1000 nits, and the profile names PQ for viewers that support it.

    Returns:
        The profile; b"" if the code points mean sRGB, are unspecified, or unknown. The curve of BT.709 counts as
        sRGB's, because viewers show both alike.
    """
    found = SRGB if primaries in _UNKNOWN else _PRIMARIES.get(primaries)
    curve = _curves().get(_SRGB_CURVE if transfer in _UNKNOWN else transfer)
    if found is None or curve is None or (found == SRGB and curve == _srgb_curve()):
        return b""
    return _profile(found, curve, is_grey=is_grey, code_points=(primaries, transfer))


def knows_code_points(primaries: int, transfer: int) -> bool:
    """Whether `of_code_points` knows these code points, or they are unspecified."""
    return (primaries in _UNKNOWN or primaries in _PRIMARIES) and (transfer in _UNKNOWN or transfer in _curves())


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Converts an image of mode L or CMYK to sRGB with its own profile; None if the profile is unusable."""
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.profileToProfile(image, own, _srgb_profile(), intent, "RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@functools.cache
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _curves() -> dict[int, bytes]:
    """Curves from stored to linear values, by H.273's number (table 3)."""
    srgb = _srgb_curve()
    return dict.fromkeys((1, 6, 7, 11, 12, 14, 15, _SRGB_CURVE), srgb) | {
        4: _para(2.2), 5: _para(2.8), 8: _para(1.0), PQ: _sampled(_pq), _HLG: _sampled(_hlg), 17: _para(2.6),
    }  # fmt: skip


def _srgb_curve() -> bytes:
    return _para(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _para(*numbers: float) -> bytes:
    return b"para" + struct.pack(">4xHxx", 0 if len(numbers) == 1 else 3) + _fixed(numbers)


def _sampled(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> bytes:
    values = np.clip(curve(np.linspace(0, 1, _CURVE_POINTS)), 0, 1)
    return b"curv" + struct.pack(">4xI", _CURVE_POINTS) + (values * 65535).round().astype(">u2").tobytes()


def _pq(value: NDArray[np.float64]) -> NDArray[np.float64]:
    root = value ** (1 / 78.84375)
    linear = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return linear * _PQ_NITS / _PEAK_NITS


def _hlg(value: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    return scene**1.2  # as displayed on a screen of 1000 nits


def _profile(
    chromaticities: Chromaticities, curve: bytes, *, is_grey: bool, code_points: tuple[int, int] | None = None
) -> bytes:
    """An ICC profile, version 4; b"" for invalid colours."""
    white = _xyz(*chromaticities[:2])
    if white is None:
        return b""
    cone = _BRADFORD @ white
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ np.array(_D50) / cone) @ _BRADFORD
    tags = {
        b"desc": _text("made of the file's colour information"),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(adapt.ravel()),
    }
    if is_grey:
        tags[b"kTRC"] = curve
    else:
        columns = [_xyz(*chromaticities[at : at + 2]) for at in (2, 4, 6)]
        if any(column is None for column in columns):
            return b""
        matrix = np.array(columns).T
        if abs(np.linalg.det(matrix)) < 1e-6:
            return b""
        matrix = adapt @ (matrix * np.linalg.solve(matrix, white))
        for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(column)
            tags[name + b"TRC"] = curve
        if code_points:
            tags[b"cicp"] = b"cicp\0\0\0\0" + bytes((*code_points, 0, 1))
    return _assembled(tags, b"GRAY" if is_grey else b"RGB ")


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    start, places, table, body = 128 + 4 + 12 * len(tags), dict[bytes, int](), b"", b""
    for name, content in tags.items():
        if content not in places:  # the three curves share one entry
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    white = [round(value * 65536) for value in _D50]
    size = start + len(body)
    head = _HEADER.pack(size, b"\0" * 4, _VERSION, b"mntr", space, b"XYZ ", b"acsp", b"\0" * 4, 0, 0, *white, b"\0" * 4)
    return head + struct.pack(">I", len(tags)) + table + body


def _xyz(x: float, y: float) -> NDArray[np.float64] | None:
    """XYZ with Y = 1; None for an invalid colour. Blue of primaries 10 has y = 0, and is scaled to X + Y + Z = 1."""
    if not (math.isfinite(x) and math.isfinite(y)) or not (0 <= x <= 1 and 0 <= y <= 1):
        return None
    return np.array([x, y, 1 - x - y]) / (y if y > 1e-4 else 1)


def _fixed(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(data), 28) + data
