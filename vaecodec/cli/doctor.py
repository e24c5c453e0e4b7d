"""Checks of this installation, for `vaecodec doctor`: versions, plugin, weights, exact arithmetic, conformance."""

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from PIL import Image, features

import vaecodec
from vaecodec.cli import conformance
from vaecodec.codec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.format import records, sources
from vaecodec.format.records import TileMode
from vaecodec.model import engines
from vaecodec.model.architecture import BUILT_IN
from vaecodec.model.engines import has_torch
from vaecodec.model.native_engine.binding import is_available
from vaecodec.pictures import pixels

PACKAGES = ("numpy", "pillow", "safetensors", "click", "rich")
TORCH_PACKAGES = ("torch", "constriction")
_LEAST_PSNR_DB = 25.0


class Check(NamedTuple):
    """A name, and a function that returns a finding or raises an error."""

    name: str
    look: Callable[[], str]


def checks(*, with_vectors: bool = False) -> list[Check]:
    """Returns all checks, the most basic first: if one fails, those after it usually fail too.

    Args:
        with_vectors: also decode the conformance vectors, with every engine on every device; takes some seconds.
    """
    packages = [Check(name, partial(version, name)) for name in (*PACKAGES, *(TORCH_PACKAGES if has_torch() else ()))]
    return [
        Check("vaecodec", lambda: f"{vaecodec.__version__}, format {records.VERSION}"),
        Check("python", lambda: f"{platform.python_version()}, {platform.platform()}"),
        *packages,
        Check("pillow plugin", _plugin),
        Check("webp", _webp),
        Check("engine", _engine),
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


def _webp() -> str:
    samples, codec = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8), Codec(device="cpu")
    if not np.array_equal(codec.decode(codec.encode(samples, lossless=True), output="numpy"), samples):
        raise VaecModelError("lossless WebP does not reproduce its samples: reinstall Pillow", code="WEBP")
    return f"lossless, libwebp {features.version('webp')}"


def _weights() -> str:
    return ", ".join(f"{tune} {Codec(device='cpu', tune=tune).engine.model_id.hex()}" for tune in BUILT_IN)


def _engine() -> str:
    chosen = engines.select("auto", "auto")
    others = [place for place in _places() if place[0] != chosen.kind]
    also = f"; also available: {', '.join(map(' on '.join, others))}" if others else ""
    return f"{chosen.kind}, because {chosen.reason}{also}"


def _places() -> list[tuple[str, str]]:
    """The usable engines, each with a device that it can use."""
    found = [("native", "cpu")] if is_available() else []
    if has_torch():
        from vaecodec.model.torch_engine.engine import pick_device

        found += [("torch", device) for device in dict.fromkeys(("cpu", str(pick_device("auto"))))]
    return found


def _codecs() -> dict[str, Codec]:
    """A codec for each engine and device, by name."""
    return {" on ".join(place): Codec(device=place[1], engine=place[0]) for place in _places()}


def _exact_arithmetic() -> str:
    codecs = _codecs()
    for codec in codecs.values():
        codec.engine.self_test()
    return f"{', '.join(codecs)}: equal to int64"


def _round_trip() -> str:
    """Encodes a picture that only the network compresses well, and decodes it with every engine."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    samples = np.asarray(Image.fromarray(noise).resize((288, 192), Image.Resampling.BICUBIC))
    data = Codec(device="cpu").encode(samples)
    if {entry.mode for entry in sources.info(data).index} != {TileMode.LEARNED}:
        raise VaecModelError("the network compresses a smooth picture worse than lossless WebP", code="ROUND_TRIP")
    found = []
    for place, codec in _codecs().items():
        psnr_db = pixels.psnr_db(samples, codec.decode(data, output="numpy"))
        if psnr_db < _LEAST_PSNR_DB:
            raise VaecModelError(
                f"PSNR with {place} is {psnr_db:.1f} dB, must be at least {_LEAST_PSNR_DB}", code="ROUND_TRIP"
            )
        found.append(f"{psnr_db:.1f} dB with {place}")
    return f"{len(data)} bytes, {', '.join(found)}"


def _conformance() -> str:
    return "; ".join(f"{place}: {conformance.check_all(codec)}" for place, codec in _codecs().items())
