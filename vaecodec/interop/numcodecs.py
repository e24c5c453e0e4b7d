"""A numcodecs codec, "vaec": for picture chunks in zarr arrays of version 2, and wherever else numcodecs is used.

numcodecs finds it by the entry point of the installed package. docs/desktop.md tells how to use it.
"""

from typing import Any

import numpy as np
from numcodecs.abc import Codec as NumCodec
from numcodecs.compat import ensure_bytes, ndarray_copy
from numpy.typing import NDArray

from vaecodec.codec import decode, encode
from vaecodec.errors import VaecImageError
from vaecodec.model.architecture import DEFAULT_TUNE


class Vaec(NumCodec):
    """Codes arrays that are pictures; lossy unless `lossless`.

    Args:
        quality: 1 (smallest) to 100.
        lossless: keep every sample; `quality` is then ignored.
        tune: "eye" or "psnr", as in `vaecodec.Codec`.

    Example:
        >>> codec = numcodecs.get_codec({"id": "vaec", "quality": 60})
        >>> codec.decode(codec.encode(picture)).shape == picture.shape
        True
    """

    codec_id = "vaec"

    def __init__(self, quality: int = 75, lossless: bool = False, tune: str = DEFAULT_TUNE) -> None:
        self.quality, self.lossless, self.tune = quality, lossless, tune

    def encode(self, buf: Any) -> bytes:
        """Returns the .vaec file of a picture.

        Args:
            buf: uint8 [H, W] or [H, W, C], C from 1 to 4; axes of length 1 may come first.

        Raises:
            VaecImageError: the array is none of these.
        """
        rate = {"lossless": True} if self.lossless else {"quality": self.quality}
        return encode(picture_of(np.asarray(buf)), tune=self.tune, **rate)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Returns the samples, uint8 [H, W] or [H, W, C]; or copies them into `out`, which must have the same size.

        Raises:
            VaecError: the file is damaged, or larger than the default limit of `vaecodec.decode`.
        """
        return ndarray_copy(decode(ensure_bytes(buf), output="numpy"), out)


def picture_of(chunk: NDArray[Any]) -> NDArray[np.uint8]:
    """The single picture of a chunk, without leading axes of length 1.

    Raises:
        VaecImageError: (SHAPE) there is more than one.
    """
    shape = chunk.shape
    while len(shape) > 3 or (len(shape) == 3 and shape[2] > 4):
        if shape[0] != 1:
            message = (
                f"chunk has shape {list(chunk.shape)}, must be one picture [H, W] or [H, W, C]: chunks of 1 elsewhere"
            )
            raise VaecImageError(message, code="SHAPE")
        shape = shape[1:]
    return np.ascontiguousarray(chunk.reshape(shape))
