"""A zarr codec, "vaecodec": serializes picture chunks in arrays of version 3, through the numcodecs codec."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from vaecodec.errors import VaecFormatError
from vaecodec.interop.numcodecs import Vaec
from vaecodec.model.architecture import DEFAULT_TUNE

NAME = "vaecodec"


@dataclass(frozen=True)
class VaecCodec(ArrayBytesCodec):
    """Codes every chunk as a .vaec file; arguments and chunks as in `vaecodec.interop.numcodecs.Vaec`.

    Example:
        >>> serializer = VaecCodec(quality=60)
        >>> zarr.create_array("a.zarr", data=photos, chunks=(1, 512, 512, 3), serializer=serializer, compressors=None)
    """

    is_fixed_size = False

    quality: int = 75
    lossless: bool = False
    tune: str = DEFAULT_TUNE

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VaecCodec":
        """Creates the codec that an array's metadata describe."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """The description of the codec in an array's metadata."""
        return {"name": NAME, "configuration": self._settings()}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known in advance."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        data = await asyncio.to_thread(Vaec(**self._settings()).encode, chunk_data.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        samples = await asyncio.to_thread(Vaec().decode, chunk_data.to_bytes())
        if samples.size != np.prod(chunk_spec.shape):
            message = (
                f"chunk holds samples {list(samples.shape)}, must be {list(chunk_spec.shape)}: it is another array's"
            )
            raise VaecFormatError(message, code="SHAPE")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(samples.reshape(chunk_spec.shape))

    def _settings(self) -> dict[str, Any]:
        return {"quality": self.quality, "lossless": self.lossless, "tune": self.tune}
