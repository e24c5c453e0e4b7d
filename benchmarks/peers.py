"""Codecs that need more than a wheel beside Pillow: JPEG on the GPU, and CompressAI's learned codecs."""

import struct
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.adapter import Codec, UnavailableError, needs

COMPRESSAI_STRIDE_PX = 64


def _jpeg_cuda(device: str) -> Codec:
    """nvJPEG behind torchvision, one picture at a time, transfers to and from the GPU included."""
    if device != "cuda":
        raise UnavailableError("JPEG on the GPU is for --device cuda")
    with needs("torchvision"):
        import torch
        from torchvision import io as codec

    def encode(image: Image.Image, quality: int) -> bytes:
        samples = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(device)
        return codec.encode_jpeg(samples, quality).cpu().numpy().tobytes()

    def decode(data: bytes) -> Image.Image:
        file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        samples = codec.decode_jpeg(file, mode=codec.ImageReadMode.RGB, device=device)
        return Image.fromarray(samples.permute(1, 2, 0).cpu().numpy())

    settings = {"device": device, "library": "nvJPEG"}
    return Codec("jpeg-cuda", f"torchvision {version('torchvision')}", settings, (50, 75, 90), encode, decode)


def _compressai(name: str, device: str) -> Codec:
    """A model of CompressAI's zoo: network and entropy coder, one model a quality, all held in memory."""
    with needs("compressai"):
        import torch
        from compressai import zoo
    opener = zoo.image_models[name]
    models: dict[int, Any] = {}
    trained, qualities = True, tuple(range(1, 9))
    try:
        models[1] = opener(quality=1, metric="mse", pretrained=True)
    except (OSError, RuntimeError):  # no network, or a download that was cut short
        trained, qualities = False, (4,)

    def model(quality: int) -> Any:
        if quality not in models:
            models[quality] = opener(quality=quality, metric="mse", pretrained=trained)
        ready = models[quality].to(device).eval()
        if not hasattr(ready, "is_prepared"):
            ready.update(force=True)
            ready.is_prepared = True
        return ready

    @torch.inference_mode()
    def encode(image: Image.Image, quality: int) -> bytes:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device).float() / 255
        bottom, right = -image.height % COMPRESSAI_STRIDE_PX, -image.width % COMPRESSAI_STRIDE_PX
        coded = model(quality).compress(torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate"))
        return _pack(image.size, quality, tuple(coded["shape"]), [strings[0] for strings in coded["strings"]])

    @torch.inference_mode()
    def decode(data: bytes) -> Image.Image:
        (width, height), quality, shape, strings = _unpack(data)
        x = model(quality).decompress([[string] for string in strings], shape)["x_hat"][0, :, :height, :width]
        return Image.fromarray((x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())

    settings = {"device": device, "weights": "published" if trained else "untrained: timing only"}
    label = f"compressai {version('compressai')}"
    return Codec(name, label, settings, qualities, encode, decode, timing_only=not trained)


_HEAD = struct.Struct("<HHBHHI")


def _pack(size: tuple[int, int], quality: int, shape: tuple[int, ...], strings: list[bytes]) -> bytes:
    """A file of 13 bytes and two strings: CompressAI has no file format of its own for its two strings."""
    first, second = strings
    return _HEAD.pack(*size, quality, *shape, len(first)) + first + second


def _unpack(data: bytes) -> tuple[tuple[int, int], int, tuple[int, int], list[bytes]]:
    width, height, quality, rows, columns, first = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    return (width, height), quality, (rows, columns), [body[:first], body[first:]]


OPENERS: dict[str, Callable[[str], Codec]] = {
    "jpeg-cuda": _jpeg_cuda,
    "bmshj2018-hyperprior": lambda device: _compressai("bmshj2018-hyperprior", device),
    "mbt2018-mean": lambda device: _compressai("mbt2018-mean", device),
}
