"""What the latents give beside files: `vaecodec.latents` says what exactly, docs/uses.md what it is worth."""

from abc import abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecodec import bitstream, latents, pixels, sources, targets
from vaecodec.bitstream import Header, PixelFormat
from vaecodec.memory import clear_errors
from vaecodec.streaming import DEFAULT_QUALITY, Output, StreamingCodec

if TYPE_CHECKING:
    from vaecodec.model.network import Network


class ExploringCodec(StreamingCodec):
    """What `Codec` does with latents besides coding pictures."""

    @abstractmethod
    def encode(self, image: pixels.Source, quality: int | None = None) -> bytes:
        """Encode a picture."""

    @abstractmethod
    def decode(self, source: sources.Source, *, output: Output = "pil") -> Any:
        """Decode a picture."""

    @abstractmethod
    def _network_of(self, stream: bitstream.Bitstream) -> "Network | None": ...

    def sample(
        self,
        size: tuple[int, int],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        quality: int | None = None,
        output: Output = "pil",
    ) -> Any:
        """Draw a picture of (width, height) pixels from the model's own prior: see `latents.draw`."""
        bitstream.check_size(*size)
        with clear_errors():
            chosen, network = _quality(quality), self.network
            drawn = self._on_device(
                network, lambda where: latents.draw(*size, chosen, where, seed=seed, temperature=temperature)
            )
            header = Header(PixelFormat.RGB, *size, network.model_id, chosen, bitstream.tile_log2_for(size[0]))
            return self.decode(bitstream.write(header, drawn), output=output)

    def interpolate(
        self, a: pixels.Source, b: pixels.Source, steps: int, *, quality: int | None = None, output: Output = "pil"
    ) -> list[Any]:
        """Pictures between two of equal size, both included, equally spaced in latent space: see `latents.blends`."""
        with clear_errors():
            chosen, first, last = _quality(quality), _open_samples(a), _open_samples(b)
            blended = self._on_device(self.network, lambda where: latents.blends(first, last, steps, chosen, where))
            return [self._present(samples, {}, output) for samples in blended]

    def features(self, image: pixels.Source, quality: int | None = None) -> latents.Features:
        """The latents of a picture as float32 arrays: see `latents.Features`."""
        with clear_errors():
            chosen, samples = _quality(quality), _open_samples(image)
            return self._on_device(self.network, lambda where: latents.features_of_picture(samples, chosen, where))

    def features_from_bytes(self, source: sources.Source) -> latents.Features:
        """The latents that a .vaec file holds, without synthesizing its pixels: see `latents.features_of_stream`."""
        with clear_errors():
            stream = bitstream.read(sources.read_all(source))
            network = self._network_of(stream) or self.network
            return self._on_device(network, lambda where: latents.features_of_stream(stream, where))

    def rate_map(self, image: pixels.Source, quality: int | None = None) -> NDArray[np.float32]:
        """Bits that a file spends on each 16x16 block of a picture [rows, columns]: see `latents.block_bits`."""
        return self.rate_map_from_bytes(self.encode(image, _quality(quality)))

    def rate_map_from_bytes(self, source: sources.Source) -> NDArray[np.float32]:
        """The same of a .vaec file."""
        with clear_errors():
            stream = bitstream.read(sources.read_all(source))
            network = self._network_of(stream)
            if network is None:
                return latents.block_bits(stream, None)
            return self._on_device(network, lambda where: latents.block_bits(stream, where))

    def anomaly_score(self, image: pixels.Source, quality: int | None = None) -> float:
        """Bits per pixel under the model: high where a picture is unlike photographs, see `latents.bits_per_pixel`."""
        with clear_errors():
            chosen, samples = _quality(quality), _open_samples(image)
            return self._on_device(self.network, lambda where: latents.bits_per_pixel(samples, chosen, where))


def _quality(quality: int | None) -> int:
    """The quality asked for, checked."""
    return targets.check_quality(DEFAULT_QUALITY if quality is None else quality)


def _open_samples(image: pixels.Source) -> pixels.Samples:
    """Samples [H, W, C] of a picture of at most DEFAULT_MAX_PIXELS."""
    opened = pixels.open_source(image)
    with ExitStack() as files:
        if isinstance(opened, Image.Image) and opened is not image:
            files.callback(opened.close)
        bitstream.check_size(*pixels.size_of(opened))
        return pixels.to_samples(opened)
