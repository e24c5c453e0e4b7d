"""How near two pictures are to each other."""

import io
import math

import numpy as np
from PIL import Image

from vaecodec import pixels
from vaecodec.cli.batch import OutputError

_MS_SSIM_MIN_SIDE_PX = 161


def compare(reference: pixels.Samples, samples: pixels.Samples) -> dict[str, float | None]:
    """Measures how near a picture is to another.

    Args:
        reference: uint8 [H, W, C]; grey counts as RGB.
        samples: likewise, of the same height and width.

    Returns:
        "psnr_db" over RGB and alpha, None for equal pictures; "ms_ssim" and "ssimulacra2" over RGB, None where the
        package is not installed or (MS-SSIM) a side has less than 161 pixels.

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
    """Returns decibels to 4 places, or None for infinity, which JSON lacks."""
    return round(decibels, 4) if math.isfinite(decibels) else None


def _ms_ssim(a: pixels.Samples, b: pixels.Samples) -> float | None:
    try:
        from pytorch_msssim import ms_ssim
    except ImportError:
        return None
    if min(a.shape[:2]) < _MS_SSIM_MIN_SIDE_PX:
        return None
    from vaecodec.model.devices import Tensors

    cpu = Tensors("cpu")
    x, y = (cpu.by_channels(cpu.take(each))[None].double() for each in (a, b))
    return round(float(ms_ssim(x, y, data_range=255)), 6)


def _ssimulacra2(a: pixels.Samples, b: pixels.Samples) -> float | None:
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        return None
    files = io.BytesIO(), io.BytesIO()
    for file, samples in zip(files, (a, b), strict=True):
        Image.fromarray(samples).save(file, "PNG", compress_level=1)
    return round(float(compute_ssimulacra2(*files)), 4)
