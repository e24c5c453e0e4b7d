"""The path of a pixel: pictures to .vaec bytes and back, with the weights loaded once."""

import functools
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec import bitstream, pixels, sources, targets, tiles
from vaecodec.bitstream import DEFAULT_MAX_PIXELS, Header, Info, PixelFormat, TileMode
from vaecodec.errors import VaecImageError, VaecModelError, VaecResourceError
from vaecodec.metadata import merge_metadata

if TYPE_CHECKING:
    from vaecodec.model.network import Network

DEFAULT_QUALITY = 75

Output = Literal["pil", "numpy", "torch"]


class Codec:
    """Encodes and decodes with one set of weights on one device. Stateless after construction; any thread may use it.

    Args:
        model: path of a weights file; None is the built-in one.
        device: "auto" (CUDA where there is one, else CPU) or a torch device such as "cpu" or "cuda:1".

    The weights are loaded at the first picture that needs them. Torch's global settings are left as they are.
    """

    def __init__(self, model: str | Path | None = None, device: str = "auto") -> None:
        self.model = None if model is None else str(model)
        self.device = device

    def __repr__(self) -> str:
        return f"Codec(model={self.model!r}, device={self.device!r})"

    @property
    def network(self) -> "Network":
        """The loaded weights.

        Raises:
            VaecModelError: they are missing, damaged, or for a device that is not there.
        """
        return _load_network(self.model, self.device)

    def encode(
        self,
        image: pixels.Source,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **metadata: Any,
    ) -> bytes:
        """Encode a picture.

        Args:
            image: Pillow image, path, uint8 array [H, W] or [H, W, C] (C: 1 L, 2 LA, 3 RGB, 4 RGBA), or uint8 torch
                tensor [C, H, W]. Alpha is kept losslessly.
            quality: 1 (smallest) to 100 (about 40 dB on photographs); 75 if neither it nor a target is given.
            target_bytes: the largest quality whose file, metadata included, has at most so many bytes.
            target_bpp: the same in bits per pixel.
            target_psnr: the smallest quality whose picture has at least so many dB (over all samples but alpha).
            max_pixels: refuse larger pictures before their pixels are read; None only leaves the format's limit, 2^28.
            **metadata: exif, icc_profile, xmp: bytes replace what the image carries, None drops it.

        Returns:
            The .vaec file.

        Raises:
            VaecImageError: the picture's mode, size or type cannot be encoded, or an argument is out of range.
            VaecLimitError: it has more pixels than allowed.
            VaecTargetError: no quality from 1 to 100 meets the target.
            VaecModelError: the weights cannot be loaded.
            VaecResourceError: memory ran out.
        """
        wanted = targets.choose(quality, DEFAULT_QUALITY, bytes=target_bytes, bpp=target_bpp, psnr_db=target_psnr)
        with ExitStack() as files, _memory_errors():
            opened = pixels.open_source(image)
            if isinstance(opened, Image.Image) and opened is not image:
                files.callback(opened.close)
            bitstream.check_size(*pixels.size_of(opened), max_pixels=max_pixels)
            samples = pixels.to_samples(opened)
            extra = merge_metadata(pixels.metadata_of(opened), **metadata)
            return wanted.search(lambda quality: self._encode_samples(samples, quality, extra))

    def decode(
        self,
        source: sources.Source,
        *,
        output: Output = "pil",
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        on_error: Literal["raise", "partial"] = "raise",
    ) -> Any:
        """Decode a picture.

        Args:
            source: the .vaec file: bytes, a path, or an open binary file.
            output: "pil" (a Pillow image with its metadata in `info`), "numpy" (uint8 [H, W] or [H, W, C]) or "torch"
                (uint8 [C, H, W] on this codec's device).
            max_pixels: refuse larger pictures before anything is allocated for them.
            on_error: "partial" shows damaged tiles in grey and warns, instead of raising.

        Raises:
            VaecError: the file is damaged, too large, or needs other weights or a newer version; see `vaecodec.errors`.
            OSError: it cannot be read.
        """
        if output not in ("pil", "numpy", "torch") or on_error not in ("raise", "partial"):
            raise VaecImageError(f"output={output!r}, on_error={on_error!r}: see the documentation", code="ARGUMENT")
        with _memory_errors():
            partial = on_error == "partial"
            stream = bitstream.read(sources.read_all(source), max_pixels=max_pixels, partial=partial)
            samples, damage = tiles.decode_tiles(
                stream.tiles, stream.header, self._network_for(stream), partial=partial
            )
            for error in (*stream.damage, *damage):
                warnings.warn(str(error), UserWarning, stacklevel=2)
            return self._present(samples, stream.metadata, output)

    def encode_batch(self, images: Iterable[pixels.Source], quality: int | None = None, **options: Any) -> list[bytes]:
        """Encode several pictures; arguments and errors as `encode`."""
        return [self.encode(image, quality, **options) for image in images]

    def decode_batch(self, files: Iterable[sources.Source], **options: Any) -> list[Any]:
        """Decode several files; arguments and errors as `decode`."""
        return [self.decode(source, **options) for source in files]

    def _encode_samples(self, samples: NDArray[np.uint8], quality: int, metadata: dict[str, bytes]) -> targets.Attempt:
        height, width, channels = samples.shape
        network = self.network
        pixel_format = PixelFormat.from_mode(pixels.MODES[channels - 1])
        header = Header(pixel_format, width, height, network.model_id, quality)
        coded, decoded = tiles.encode_tiles(samples, header, network)
        colour = channels - pixel_format.has_alpha
        return targets.Attempt(
            data=bitstream.write(header, coded, metadata),
            psnr_db=lambda: pixels.psnr_db(samples[..., :colour], decoded[..., :colour]),
            pixels=width * height,
        )

    def _network_for(self, stream: bitstream.Bitstream) -> "Network | None":
        """The network, if a tile needs it, and only if it is the one that the file names."""
        if not any(tile and tile.mode == TileMode.LEARNED for tile in stream.tiles):
            return None
        network = self.network
        if network.model_id != stream.header.model_id:
            raise VaecModelError(
                f"the file was encoded with the model {stream.header.model_id.hex()}, this is {network.model_id.hex()}"
                f" ({self.model or 'built in'}): pass model= (--model) the weights file whose SHA-256 starts with it",
                code="MODEL_MISSING",
            )
        return network

    def _present(self, samples: NDArray[np.uint8], metadata: dict[str, bytes], output: Output) -> Any:
        if output == "pil":
            return pixels.to_image(samples, metadata)
        if output == "torch":
            from vaecodec.model import network  # torch loads only for those who ask for it

            return network.to_tensor(samples, self.device)
        return samples[..., 0] if samples.shape[2] == 1 else samples


def encode(image: pixels.Source, quality: int | None = None, *, model: str | Path | None = None, device: str = "auto",
           **options: Any) -> bytes:  # fmt: skip
    """Encode a picture to .vaec bytes: `Codec(model, device).encode(image, quality, **options)`."""
    return Codec(model, device).encode(image, quality, **options)


def decode(source: sources.Source, *, model: str | Path | None = None, device: str = "auto", **options: Any) -> Any:
    """Decode .vaec bytes, a path or a file: `Codec(model, device).decode(source, **options)`."""
    return Codec(model, device).decode(source, **options)


def verify(
    source: sources.Source, *, deep: bool = False, model: str | Path | None = None, device: str = "auto"
) -> Info:
    """Check every CRC of a file, and with `deep` also decode it.

    Returns:
        What `vaecodec.info` tells of it.

    Raises:
        VaecError: the file is damaged, or (deep) needs other weights.
    """
    data = sources.read_all(source)
    bitstream.read(data, max_pixels=None)
    if deep:
        decode(data, model=model, device=device, output="numpy", max_pixels=None)
    return sources.info(data, max_pixels=None)


_loading = threading.Lock()


def _load_network(model: str | None, device: str) -> "Network":
    with _loading:
        return _cached_network(model, device)


@functools.lru_cache(maxsize=4)
def _cached_network(model: str | None, device: str) -> "Network":
    from vaecodec.model import weights  # the one deferred import on the way of a pixel: torch takes a second to load

    return weights.load(None if model is None else Path(model), device)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Memory that runs out is VaecResourceError, whoever notices it."""
    try:
        yield
    except MemoryError as error:
        raise VaecResourceError("not enough memory for this picture") from error
    except RuntimeError as error:  # torch's allocators raise subclasses or plain RuntimeError
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
            raise VaecResourceError(f"not enough memory for this picture ({error})") from error
        raise
