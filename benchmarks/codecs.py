"""The adapters of all compared codecs."""

import argparse
import dataclasses
import importlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image, features

import vaecodec
from benchmarks import peers
from benchmarks.adapter import Codec, UnavailableError, needs

TUNES: dict[str, str | None] = {"vaecodec": None, "vaecodec-psnr": "psnr"}
"""The names of vaecodec by tune; None is the default tune."""

DEFAULT = (
    *TUNES, "jpeg", "jpeg-420", "jpeg-444", "webp", "avif", "avif-tuned", "avif-444", "heic", "jxl", "jpeg2000",
)  # fmt: skip


def default(device: str) -> tuple[str, ...]:
    """The default codecs of a comparison; on a GPU they include JPEG on the same GPU."""
    return (*DEFAULT, "jpeg-cuda") if device == "cuda" else DEFAULT


def open_codec(name: str, *, device: str = "cpu", model: Path | None = None) -> Codec:
    """Make the adapter with a name.

    Args:
        name: one of `names()`, or as in `own_codec`.
        device: "cpu" or "cuda", for codecs that support it.
        model: weights of vaecodec; None is the built-in file.

    Raises:
        UnavailableError: the name is unknown, or a package that the codec needs is not installed.
    """
    if name in TUNES:
        return _vaecodec(name, device, model, TUNES[name])
    if name in _PILLOW:
        return _PILLOW[name]()
    if name in peers.OPENERS:
        return peers.OPENERS[name](device)
    if ":" in name:
        return own_codec(name)
    raise UnavailableError(f"unknown codec, must be one of {', '.join(names())}, or module:function")


def own_codec(place: str) -> Codec:
    """A user's codec, from `module:function`; the function takes no arguments and returns a `Codec`.

    The module may also be in the current folder. Results record `module:function` as one of the codec's settings.

    Raises:
        UnavailableError: there is no such function, it fails, or what it returns is no codec with a name of its own.
    """
    module_name, _, function_name = place.partition(":")
    if not module_name or not function_name:
        raise UnavailableError("must be module:function")
    with _current_folder_searched():
        try:
            codec = getattr(importlib.import_module(module_name), function_name)()
        except Exception as error:  # whatever the user's code raises
            raise UnavailableError(f"{type(error).__name__}: {error}") from error
    if not isinstance(codec, Codec):
        raise UnavailableError(f"returns {type(codec).__name__}, must be benchmarks.adapter.Codec")
    if codec.name in names() or not re.fullmatch(r"[\w.-]+", codec.name):
        raise UnavailableError(
            f"its name is {codec.name!r}: must be of letters, digits, '.', '_', '-', and not be taken"
        )
    return dataclasses.replace(codec, settings={"place": place, **codec.settings})


def argument(place: str) -> Codec:
    """`own_codec` as an argparse type."""
    try:
        return own_codec(place)
    except UnavailableError as reason:
        raise argparse.ArgumentTypeError(f"{place}: {reason}") from reason


@contextmanager
def _current_folder_searched() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def names() -> tuple[str, ...]:
    """The names of all adapters, whether they can be used here or not."""
    return (*TUNES, *_PILLOW, *peers.OPENERS)


def _vaecodec(name: str, device: str, model: Path | None, tune: str | None) -> Codec:
    import torch

    tuned = {} if tune is None else {"tune": tune}
    if tune is not None and "tune" not in inspect.signature(vaecodec.Codec).parameters:
        raise UnavailableError(f"vaecodec {vaecodec.__version__} has no tune")
    try:
        codec = vaecodec.Codec(model, device, **tuned)
        probe = codec.encode(Image.new("RGB", (16, 16)), 50)
    except vaecodec.VaecModelError as error:
        raise UnavailableError(str(error)) from error
    return Codec(
        name=name,
        version=vaecodec.__version__,
        settings={"device": device, **tuned, "model_id": vaecodec.info(probe).header.model_id.hex()},
        qualities=(1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        encode=lambda image, quality: codec.encode(image, quality),
        decode=codec.decode,
        threads=torch.get_num_threads(),
    )


def _pillow(name: str, file_format: str, qualities: tuple[int, ...], *, library: str, **options: Any) -> Codec:
    """A codec behind Pillow's save and open; `library` is the library that Pillow must be built with."""
    if not features.check(library):
        raise UnavailableError(f"this Pillow was built without {library}")
    return _through_pillow(
        name, file_format, qualities, version=f"Pillow {Image.__version__}, {_library_version(library)}", **options
    )


def _through_pillow(name: str, file_format: str, qualities: tuple[int, ...], *, version: str, **options: Any) -> Codec:
    """A codec whose encoder takes `quality` in Pillow's save."""

    def encode(image: Image.Image, quality: int) -> bytes:
        file = io.BytesIO()
        image.save(file, file_format, quality=quality, **options)
        return file.getvalue()

    return Codec(name, version, {"format": file_format, **options}, qualities, encode, _open)


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _library_version(library: str) -> str:
    actual = "libjpeg_turbo" if library == "jpg" and features.check("libjpeg_turbo") else library
    return f"{actual} {features.version(actual)}"


def _jpeg2000() -> Codec:
    """OpenJPEG's lossy mode at a fixed compression ratio, which serves as quality: larger means smaller files."""
    base = _pillow("jpeg2000", "JPEG2000", (200, 100, 60, 36, 24, 16, 10, 6), library="jpg_2000")
    options = {
        "irreversible": True,
        "mct": 1,
        "quality_mode": "rates",
    }  # mct: Pillow does not decorrelate colours by default

    def encode(image: Image.Image, quality: int) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG2000", quality_layers=[quality], **options)
        return file.getvalue()

    return Codec(base.name, base.version, {**base.settings, **options}, base.qualities, encode, base.decode)


def _heic() -> Codec:
    with needs("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    library = f"pillow_heif {pillow_heif.__version__}, libheif {pillow_heif.libheif_version()}"
    return _through_pillow("heic", "HEIF", (10, 20, 30, 35, 40, 45, 50, 60, 80), version=library)


def _jxl() -> Codec:
    with needs("pillow_jxl"):
        import pillow_jxl  # noqa: F401  registers the format with Pillow
    return _through_pillow("jxl", "JXL", _TENS, version=f"pillow-jxl-plugin {metadata.version('pillow-jxl-plugin')}")


_TENS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
_FIVES = tuple(range(5, 100, 5))  # the qualities of CompressAI's published JPEG curve
_AVIF = (10, 25, 40, 55, 70, 80, 90, 95)

_PILLOW: dict[str, Callable[[], Codec]] = {
    "jpeg": lambda: _pillow("jpeg", "JPEG", _FIVES, library="jpg"),
    "jpeg-420": lambda: _pillow(
        "jpeg-420", "JPEG", (5, *_TENS), library="jpg", optimize=True, progressive=True, subsampling="4:2:0"
    ),
    "jpeg-444": lambda: _pillow(
        "jpeg-444", "JPEG", (5, *_TENS), library="jpg", optimize=True, progressive=True, subsampling="4:4:4"
    ),
    "webp": lambda: _pillow("webp", "WEBP", (1, 5, *_TENS, 100), library="webp", method=6),
    "avif": lambda: _pillow("avif", "AVIF", _AVIF, library="avif"),
    "avif-tuned": lambda: _pillow("avif-tuned", "AVIF", _AVIF, library="avif", advanced={"tune": "ssimulacra2"}),
    "avif-444": lambda: _pillow("avif-444", "AVIF", _AVIF, library="avif", subsampling="4:4:4"),
    "heic": _heic,
    "jxl": _jxl,
    "jpeg2000": _jpeg2000,
}
