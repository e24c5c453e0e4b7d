"""Measures the similarity of two pictures: PSNR, SSIMULACRA2, MS-SSIM."""

import math

import numpy as np

from vaecodec.cli.batch import OutputError
from vaecodec.pictures import pixels, ssimulacra2

_MS_SSIM_MIN_SIDE_PX = 161


def compare(reference: pixels.Samples, samples: pixels.Samples) -> dict[str, float | None]:
    """Measures how close a picture is to a reference.

    Args:
        reference: uint8 [H, W, C]; grey counts as RGB.
        samples: the same type, height and width.

    Returns:
        "psnr_db" over RGB and alpha, None for equal pictures; "ssimulacra2" over RGB, None if a side has less than 8
        pixels; "ms_ssim" over RGB, None if pytorch-msssim is not installed or a side has less than 161 pixels.

    Raises:
        OutputError: the sizes differ (SIZE_DIFFERS).
    """
    if reference.shape[:2] != samples.shape[:2]:
        (height, width), (rows, columns) = samples.shape[:2], reference.shape[:2]
        message = f"size is {width} x {height}, must be that of the reference, {columns} x {rows}"
        raise OutputError(message, code="SIZE_DIFFERS")
    mode = "RGB" if {reference.shape[2], samples.shape[2]} <= {1, 3} else "RGBA"
    a, b = (np.asarray(pixels.to_image(each, {}).convert(mode)) for each in (reference, samples))
    rgb = a[..., :3], b[..., :3]
    return {"psnr_db": finite(pixels.psnr_db(a, b)), "ms_ssim": _ms_ssim(*rgb), "ssimulacra2": _ssimulacra2(*rgb)}


def finite(decibels: float) -> float | None:
    """Returns decibels rounded to 4 places, or None for infinity, which JSON lacks."""
    return round(decibels, 4) if math.isfinite(decibels) else None


def _ms_ssim(a: pixels.Samples, b: pixels.Samples) -> float | None:
    try:
        from pytorch_msssim import ms_ssim
    except ImportError:
        return None
    if min(a.shape[:2]) < _MS_SSIM_MIN_SIDE_PX:
        return None
    from vaecodec.model.torch_engine.engine import TorchArrays

    cpu = TorchArrays("cpu")
    x, y = (cpu.by_channels(cpu.take(each))[None].double() for each in (a, b))
    return round(float(ms_ssim(x, y, data_range=255)), 6)


def _ssimulacra2(a: pixels.Samples, b: pixels.Samples) -> float | None:
    return round(ssimulacra2.score(a, b), 4) if min(a.shape[:2]) >= ssimulacra2.SMALLEST_SIDE else None
