"""Module-level functions that mirror the methods of `Codec`; the weights stay loaded between calls."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from vaecodec.codec.codec import Box, Codec, Model
from vaecodec.errors import translated_errors
from vaecodec.format import container, sources
from vaecodec.format.records import DEFAULT_MAX_PIXELS, Info
from vaecodec.model.architecture import DEFAULT_TUNE
from vaecodec.pictures import pixels
from vaecodec.tiling.options import (
    DecodeFileOptions,
    DecodeOptions,
    EncodeFileOptions,
    EncodeOptions,
    RegionOptions,
    Target,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


class DecodeHere(DecodeOptions, total=False):
    """Keywords of `decode`, except `output`."""

    model: Model
    device: str
    engine: str


class RegionHere(RegionOptions, total=False):
    """Keywords of `decode_region`, except `output`."""

    model: Model
    device: str
    engine: str


def _like(method: Callable[..., Any]) -> Callable[[Function], Function]:
    """Gives a function the signature and documentation of a method in addition to its own."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(method)
        _, *shared = signature.parameters.values()
        own = [each for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
        function.__signature__ = signature.replace(parameters=[*shared, *own])  # type: ignore[attr-defined]
        details = inspect.cleandoc(method.__doc__ or "").partition("\n\n")[2]
        function.__doc__ = f"{function.__doc__}\n\n{details}"
        return function

    return decorate


@_like(Codec.encode)
def encode(
    image: pixels.Source,
    quality: int | None = None,
    *,
    model: Model = None,
    device: str = "auto",
    tune: str = DEFAULT_TUNE,
    engine: str = "auto",
    **options: Unpack[EncodeOptions],
) -> bytes:
    """Encode a picture, with `Codec(model, device, tune, engine).encode`."""
    return Codec(model, device, tune, engine).encode(image, quality, **options)


@_like(Codec.encode_file)
def encode_file(
    source: pixels.RowSource,
    target: Target,
    quality: int | None = None,
    *,
    model: Model = None,
    device: str = "auto",
    tune: str = DEFAULT_TUNE,
    engine: str = "auto",
    **options: Unpack[EncodeFileOptions],
) -> Info:
    """Encode a picture of any size into a file, with `Codec(model, device, tune, engine).encode_file`."""
    return Codec(model, device, tune, engine).encode_file(source, target, quality, **options)


@overload
def decode(
    source: sources.Source, *, output: Literal["pil"] = "pil", **options: Unpack[DecodeHere]
) -> "Image.Image": ...
@overload
def decode(source: sources.Source, *, output: Literal["numpy"], **options: Unpack[DecodeHere]) -> pixels.Samples: ...
@overload
def decode(source: sources.Source, *, output: Literal["torch"], **options: Unpack[DecodeHere]) -> "Tensor": ...
@_like(Codec.decode)
def decode(
    source: sources.Source, *, model: Model = None, device: str = "auto", engine: str = "auto", **options: Any
) -> Any:
    """Decode a picture, with `Codec(model, device, engine=engine).decode`."""
    return Codec(model, device, engine=engine).decode(source, **options)


@_like(Codec.decode_file)
def decode_file(
    source: sources.Source,
    target: Target,
    *,
    model: Model = None,
    device: str = "auto",
    engine: str = "auto",
    **options: Unpack[DecodeFileOptions],
) -> Info:
    """Decode a file of any size into a picture file, with `Codec(model, device, engine=engine).decode_file`."""
    return Codec(model, device, engine=engine).decode_file(source, target, **options)


@overload
def decode_region(
    source: sources.Source, box: Box, *, output: Literal["pil"] = "pil", **options: Unpack[RegionHere]
) -> "Image.Image": ...
@overload
def decode_region(
    source: sources.Source, box: Box, *, output: Literal["numpy"], **options: Unpack[RegionHere]
) -> pixels.Samples: ...
@overload
def decode_region(
    source: sources.Source, box: Box, *, output: Literal["torch"], **options: Unpack[RegionHere]
) -> "Tensor": ...
@_like(Codec.decode_region)
def decode_region(
    source: sources.Source, box: Box, *, model: Model = None, device: str = "auto", engine: str = "auto", **options: Any
) -> Any:
    """Decode a rectangle of a picture, with `Codec(model, device, engine=engine).decode_region`."""
    return Codec(model, device, engine=engine).decode_region(source, box, **options)


def verify(
    source: sources.Source,
    *,
    deep: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    model: Model = None,
    device: str = "auto",
    engine: str = "auto",
) -> Info:
    """Check every CRC of a file and, with `deep`, also decode it.

    Args:
        source: as for `decode`, like the other options.
        deep: also decode the file.

    Returns:
        The result of `vaecodec.info` for the file.

    Raises:
        VaecError: the file is damaged, has more than `max_pixels`, or (deep) needs other weights.
        OSError: the file cannot be read.

    Example:
        >>> vaecodec.verify("photo.vaec", deep=True).header.width
        768
    """
    with translated_errors():
        data = sources.read_all(source)
        container.read(data, max_pixels=max_pixels)
        if deep:
            decode(data, model=model, device=device, engine=engine, output="numpy", max_pixels=max_pixels)
        return sources.info(data, max_pixels=max_pixels)
