"""JPEG on the GPU behind one interface for several libraries: the baseline for throughput on CUDA."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks.adapter import UnavailableError, needs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Backend:
    """nvJPEG through one library.

    Attributes:
        version: of the library.
        encode: encodes uint8 pictures [3, H, W] on the GPU, at a quality of 1 to 100, to files in host memory.
        decode: decodes files to uint8 pictures [3, H, W] on the GPU.
        device: the device that pictures must be on.
    """

    version: str
    encode: Callable[[Sequence["Tensor"], int], list[bytes]]
    decode: Callable[[Sequence[bytes]], list["Tensor"]]
    device: str = "cuda"


def open_backend() -> Backend:
    """The first of torchcodec, nvImageCodec and torchvision (deprecated there) that is installed.

    Raises:
        UnavailableError: none is installed, or there is no GPU; the message gives the reason for each.
    """
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError("JPEG on the GPU needs CUDA, which torch does not find")
    reasons = []
    for opener in (_torchcodec, _nvimgcodec, _torchvision):
        try:
            return opener()
        except UnavailableError as reason:
            reasons.append(str(reason))
    raise UnavailableError("; ".join(reasons))


def _torchcodec() -> Backend:
    with needs("torchcodec"):
        from torchcodec.decoders import decode_jpeg
        from torchcodec.encoders import JpegEncoder

    def encode(pictures: Sequence["Tensor"], quality: int) -> list[bytes]:
        files = [JpegEncoder(picture).to_tensor(quality=quality) for picture in pictures]
        return [_to_bytes(file) for file in files]

    return Backend(f"torchcodec {version('torchcodec')}", encode, lambda files: decode_jpeg(list(files), device="cuda"))


def _nvimgcodec() -> Backend:
    with needs("nvidia-nvimgcodec"):
        import torch
        from nvidia import nvimgcodec

        coder, reader = nvimgcodec.Encoder(), nvimgcodec.Decoder()

    def encode(pictures: Sequence["Tensor"], quality: int) -> list[bytes]:
        settings = nvimgcodec.EncodeParams(quality_type=nvimgcodec.QualityType.QUALITY, quality_value=quality)
        interleaved = [picture.permute(1, 2, 0).contiguous() for picture in pictures]
        stream = torch.cuda.current_stream().cuda_stream
        return [bytes(file) for file in coder.encode(interleaved, "jpeg", params=settings, cuda_stream=stream)]

    def decode(files: Sequence[bytes]) -> list["Tensor"]:
        stream = torch.cuda.current_stream().cuda_stream
        pictures = reader.decode([nvimgcodec.CodeStream(file) for file in files], cuda_stream=stream)
        return [torch.as_tensor(picture, device="cuda").permute(2, 0, 1) for picture in pictures]

    return Backend(f"nvimgcodec {nvimgcodec.__version__}", encode, decode)


def _torchvision() -> Backend:
    with needs("torchvision"):
        import torch
        from torchvision import io

    def encode(pictures: Sequence["Tensor"], quality: int) -> list[bytes]:
        return [_to_bytes(file) for file in io.encode_jpeg(list(pictures), quality)]

    def decode(files: Sequence[bytes]) -> list["Tensor"]:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return io.decode_jpeg(data, mode=io.ImageReadMode.RGB, device="cuda")

    return Backend(f"torchvision {version('torchvision')}", encode, decode)


def _to_bytes(file: "Tensor") -> bytes:
    return file.cpu().numpy().tobytes()
