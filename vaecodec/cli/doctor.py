"""Checks of this installation, for `vaecodec doctor`: versions, plugin, weights, exact arithmetic, conformance."""

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from PIL import Image

import vaecodec
from vaecodec.cli import conformance
from vaecodec.codec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.format import records, sources
from vaecodec.format.records import TileMode
from vaecodec.model.architecture import BUILT_IN
from vaecodec.pictures import pixels

PACKAGES = ("torch", "numpy", "pillow", "constriction", "safetensors", "click")
_LEAST_PSNR_DB = 25.0


class Check(NamedTuple):
    """A name, and a function that returns what was found, or raises what is wrong."""

    name: str
    look: Callable[[], str]


def checks(*, with_vectors: bool = False) -> list[Check]:
    """Returns all checks, from the ground up: one that fails usually fails those below it.

    Args:
        with_vectors: also decode the conformance vectors, which takes some seconds, on every device.
    """
    packages = [Check(name, partial(version, name)) for name in PACKAGES]
    return [
        Check("vaecodec", lambda: f"{vaecodec.__version__}, format {records.VERSION}"),
        Check("python", lambda: f"{platform.python_version()}, {platform.platform()}"),
        *packages,
        Check("pillow plugin", _plugin),
        Check("devices", lambda: ", ".join(_devices())),
        Check("weights", _weights),
        Check("exact arithmetic", _exact_arithmetic),
        Check("round trip", _round_trip),
        *([Check("conformance", _conformance)] if with_vectors else []),
    ]


def _plugin() -> str:
    suffix = Image.registered_extensions().get(".vaec")
    if suffix is None or suffix not in Image.OPEN or suffix not in Image.SAVE:
        raise VaecModelError("Pillow does not open or save .vaec", code="PLUGIN")
    return "opens and saves .vaec"


def _weights() -> str:
    ids = {tune: Codec(device="cpu", tune=tune).engine.model_id.hex() for tune in BUILT_IN}
    return ", ".join(f"{tune} {model_id}" for tune, model_id in ids.items())


def _devices() -> list[str]:
    from vaecodec.model.torch_engine.engine import pick_device  # loads torch

    return list(dict.fromkeys(("cpu", str(pick_device("auto")))))


def _exact_arithmetic() -> str:
    devices = _devices()
    for device in devices:
        Codec(device=device).engine.self_test()
    return f"{', '.join(devices)} as int64"


def _round_trip() -> str:
    """Encodes on the CPU what only the network packs well, and decodes it on every device."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    samples = np.asarray(Image.fromarray(noise).resize((288, 192), Image.Resampling.BICUBIC))
    data = Codec(device="cpu").encode(samples)
    if {entry.mode for entry in sources.info(data).index} != {TileMode.LEARNED}:
        raise VaecModelError("the network packs a smooth picture worse than zlib does", code="ROUND_TRIP")
    found = []
    for device in _devices():
        psnr_db = pixels.psnr_db(samples, Codec(device=device).decode(data, output="numpy"))
        if psnr_db < _LEAST_PSNR_DB:
            raise VaecModelError(f"PSNR on {device} is {psnr_db:.1f} dB, must be {_LEAST_PSNR_DB}", code="ROUND_TRIP")
        found.append(f"{psnr_db:.1f} dB on {device}")
    return f"{len(data)} bytes, {', '.join(found)}"


def _conformance() -> str:
    return "; ".join(f"{device}: {conformance.check_all(Codec(device=device))}" for device in _devices())
