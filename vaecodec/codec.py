"""The path of a pixel: pictures to .vaec bytes and back, with the weights loaded once."""

import functools
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec import bitstream, pixels, sources, targets, thumbnails, tiles
from vaecodec.batch_codec import BatchCodec, Wanted
from vaecodec.bitstream import DEFAULT_MAX_PIXELS, Header, Info, PixelFormat, TileMode
from vaecodec.errors import VaecCorruptError, VaecError, VaecModelError
from vaecodec.memory import Result, clear_errors, first_that_fits
from vaecodec.metadata import merge_metadata
from vaecodec.rasters import readers
from vaecodec.rows import ArrayRows
from vaecodec.streaming import DEFAULT_QUALITY, Output, Target

if TYPE_CHECKING:
    from vaecodec.model.devices import Tensors
    from vaecodec.model.network import Network


class Codec(BatchCodec):
    """Encodes and decodes with one set of weights on one device. Stateless after construction; any thread may use it.

    Args:
        model: path of a weights file; None is the built-in one.
        device: "auto" (CUDA where there is one, else CPU) or a torch device such as "cpu" or "cuda:1".

    The weights are loaded at the first picture that needs them. Torch's global settings are left as they are, but for
    one case: a process that was forked while torch was loaded is left with one torch thread, as it is in workers of
    torch's DataLoader, because torch would wait for the threads of the parent for ever.
    A picture for which the device's memory does not suffice is computed in parts, then on the CPU, with a warning.
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
            VaecResourceError: neither the device nor the computer has memory for them.
        """
        if self.device == "cpu":
            return first_that_fits(lambda: _load_network(self.model, "cpu"))
        return first_that_fits(lambda: _load_network(self.model, self.device), self._network_on_cpu)

    def encode(
        self,
        image: pixels.Source,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        thumbnail: bool = False,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **metadata: Any,
    ) -> bytes:
        """Encode a picture.

        Args:
            image: Pillow image, path, uint8 array [H, W] or [H, W, C] (C: 1 L, 2 LA, 3 RGB, 4 RGBA), or uint8 torch
                tensor [C, H, W]. Alpha is kept losslessly.
            quality: 1 (smallest) to 100 (about 43 dB on photographs); 75 if neither it nor a target is given.
            target_bytes: the largest quality whose file, metadata included, has at most so many bytes.
            target_bpp: the same in bits per pixel.
            target_psnr: the smallest quality whose picture has at least so many dB (over all samples but alpha).
            thumbnail: keep a copy of 1/8 of the size, for previews in a small part of the time: at quality 75, 2 to 3 %
                more bytes.
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
        with ExitStack() as files, clear_errors():
            opened = pixels.open_source(image)
            if isinstance(opened, Image.Image) and opened is not image:
                files.callback(opened.close)
            bitstream.check_size(*pixels.size_of(opened), max_pixels=max_pixels)
            samples = pixels.to_samples(opened)
            extra = merge_metadata(pixels.metadata_of(opened), **metadata)
            small = thumbnails.samples_of(ArrayRows(samples)) if thumbnail else None
            return wanted.search(lambda quality: self._encode_samples(samples, quality, extra, small))

    def decode(
        self,
        source: sources.Source,
        *,
        output: Output = "pil",
        scale: float = 1,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        on_error: Literal["raise", "partial"] = "raise",
    ) -> Any:
        """Decode a picture.

        Args:
            source: the .vaec file: bytes, a path, or an open binary file.
            output: "pil" (a Pillow image with its metadata in `info`), "numpy" (uint8 [H, W] or [H, W, C]) or "torch"
                (uint8 [C, H, W] on this codec's device).
            scale: 1, or 1/2, 1/4 or 1/8 for a preview of that scale, sides rounded up, in about half the time, at 1/8
                in a fifth to an eighth: an approximation of the reduced picture, see `model.preview`. At 1/8, the
                thumbnail if the file has one.
            max_pixels: refuse larger pictures before anything is allocated for them.
            on_error: "partial" shows damaged tiles in grey and warns, instead of raising.

        Raises:
            VaecError: the file is damaged, too large, or needs other weights or a newer version; see `vaecodec.errors`.
            OSError: it cannot be read.
        """
        wanted = Wanted.checked(output, scale, on_error)
        with clear_errors():
            stream = bitstream.read(sources.read_all(source), max_pixels=max_pixels, partial=wanted.partial)
            return self._decode_stream(stream, wanted)

    def _decode_stream(self, stream: bitstream.Bitstream, wanted: Wanted) -> Any:
        if wanted.scale == thumbnails.SCALE and (thumbnail := thumbnails.stored_in(stream)) is not None:
            with suppress(VaecCorruptError):  # it does not show what it should: the picture does
                picture, _ = self._decode_tiles(thumbnail, self._medium(wanted.output), partial=False, scale=1)
                return self._present(picture, stream.metadata, wanted.output)
        medium = self._medium(wanted.output)
        picture, damage = self._decode_tiles(stream, medium, partial=wanted.partial, scale=wanted.scale)
        for error in (*stream.damage, *damage):
            warnings.warn(str(error), UserWarning, stacklevel=3)
        return self._present(picture, stream.metadata, wanted.output)

    def _encode_samples(
        self,
        samples: NDArray[np.uint8],
        quality: int,
        metadata: dict[str, bytes],
        small: NDArray[np.uint8] | None = None,
    ) -> targets.Attempt[bytes]:
        if small is not None:
            metadata = metadata | {thumbnails.KEY: self._encode_samples(small, quality, {}).data}
        height, width, channels = samples.shape
        network = self.network
        pixel_format = PixelFormat.from_mode(pixels.MODES[channels - 1])
        wanted = Header(pixel_format, width, height, network.model_id, quality, bitstream.tile_log2_for(width))
        coded, header, squared_error = self._on_device(
            network, lambda where: tiles.encode_tiles(samples, wanted, where)
        )
        colour = channels - pixel_format.has_alpha
        return targets.Attempt(
            data=bitstream.write(header, coded, metadata),
            psnr_db=lambda: pixels.decibels(squared_error, width * height * colour),
            pixels=width * height,
        )

    def _decode_tiles(
        self, stream: bitstream.Bitstream, medium: tiles.Medium, *, partial: bool, scale: int
    ) -> tuple[Any, list[VaecError]]:
        def decode(network: "Network | None") -> tuple[Any, list[VaecError]]:
            return tiles.decode_tiles(stream.tiles, stream.header, network, partial=partial, scale=scale, medium=medium)

        network = self._network_of(stream)
        return decode(None) if network is None else self._on_device(network, decode)

    def _on_device(self, network: "Network", work: "Callable[[Network], Result]") -> Result:
        """The work done by the network, or by its twin on the CPU if the memory of its device does not suffice."""
        if network.device.type == "cpu":
            return work(network)
        return first_that_fits(lambda: work(network), lambda: work(self._network_on_cpu()))

    def _network_on_cpu(self) -> "Network":
        warnings.warn(
            f"not enough memory on the device {self.device!r}: computing on the CPU", UserWarning, stacklevel=2
        )
        return _load_network(self.model, "cpu")

    def _network_of(self, stream: bitstream.Bitstream) -> "Network | None":
        has_learned = any(tile and tile.mode == TileMode.LEARNED for tile in stream.tiles)
        return self._network_for(stream.header, has_learned=has_learned)

    def _network_for(self, header: Header, *, has_learned: bool) -> "Network | None":
        """The network, if a tile needs it, and only if it is the one that the file names."""
        if not has_learned:
            return None
        network = self.network
        if network.model_id != header.model_id:
            raise VaecModelError(
                f"the file was encoded with the model {header.model_id.hex()}, this is {network.model_id.hex()}"
                f" ({self.model or 'built in'}): pass model= (--model) the weights file whose SHA-256 starts with it",
                code="MODEL_MISSING",
            )
        return network

    def _medium(self, output: Output) -> tiles.Medium:
        """What pictures are put down in that are to come out so: tensors never leave their device."""
        return self._tensors() if output == "torch" else tiles.Arrays()

    def _tensors(self) -> "Tensors":
        from vaecodec.model.devices import Tensors  # torch loads only for those who ask for it

        return Tensors(self.device)

    def _present(self, samples: Any, metadata: dict[str, bytes], output: Output) -> Any:
        """A picture [H, W, C], an array or already a tensor, as it is to come out."""
        if output == "pil":
            return pixels.to_image(samples, metadata)
        if output == "torch":
            tensors = self._tensors()
            return tensors.by_channels(tensors.take(samples))
        return samples[..., 0] if samples.shape[2] == 1 else samples


def encode(image: pixels.Source, quality: int | None = None, *, model: str | Path | None = None, device: str = "auto",
           **options: Any) -> bytes:  # fmt: skip
    """Encode a picture to .vaec bytes: `Codec(model, device).encode(image, quality, **options)`."""
    return Codec(model, device).encode(image, quality, **options)


def decode(source: sources.Source, *, model: str | Path | None = None, device: str = "auto", **options: Any) -> Any:
    """Decode .vaec bytes, a path or a file: `Codec(model, device).decode(source, **options)`."""
    return Codec(model, device).decode(source, **options)


def encode_file(source: readers.Source, target: Target, quality: int | None = None, *, model: str | Path | None = None,
                device: str = "auto", **options: Any) -> Info:  # fmt: skip
    """Encode a picture of any size into a file: `Codec(model, device).encode_file(source, target, quality, ...)`."""
    return Codec(model, device).encode_file(source, target, quality, **options)


def decode_file(source: sources.Source, target: Target, *, model: str | Path | None = None, device: str = "auto",
                **options: Any) -> Info:  # fmt: skip
    """Decode a file of any size into a picture file: `Codec(model, device).decode_file(source, target, **options)`."""
    return Codec(model, device).decode_file(source, target, **options)


def decode_region(source: sources.Source, box: tuple[int, int, int, int], *, model: str | Path | None = None,
                  device: str = "auto", **options: Any) -> Any:  # fmt: skip
    """Decode a rectangle of a picture: `Codec(model, device).decode_region(source, box, **options)`."""
    return Codec(model, device).decode_region(source, box, **options)


def verify(
    source: sources.Source,
    *,
    deep: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    model: str | Path | None = None,
    device: str = "auto",
) -> Info:
    """Check every CRC of a file, and with `deep` also decode it.

    Returns:
        What `vaecodec.info` tells of it.

    Raises:
        VaecError: the file is damaged, has more than `max_pixels`, or (deep) needs other weights.
    """
    with clear_errors():
        data = sources.read_all(source)
        bitstream.read(data, max_pixels=max_pixels)
        if deep:
            decode(data, model=model, device=device, output="numpy", max_pixels=max_pixels)
        return sources.info(data, max_pixels=max_pixels)


_loading = threading.Lock()


def _renew_lock() -> None:
    """A thread that was loading when the process forked does not exist in the child, and would never let go."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _load_network(model: str | None, device: str) -> "Network":
    from vaecodec.model import devices  # deferred, as `weights` is: torch takes a second to load

    with _loading:
        devices.settle_after_fork()
        return _cached_network(model, device)


@functools.lru_cache(maxsize=4)
def _cached_network(model: str | None, device: str) -> "Network":
    from vaecodec.model import weights  # deferred, as above

    return weights.load(None if model is None else Path(model), device)
