"""Files of lossless tiles, and a codec that writes them: what tests of the faces need in place of weights."""

import io
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np
import zlib_tiles
from numpy.typing import NDArray
from PIL import Image

from vaecodec import Codec
from vaecodec.format import container, records
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.pictures import metadata as metadata_rules
from vaecodec.pictures import pixels


def vaec(samples: NDArray[np.uint8], metadata: Mapping[str, bytes] | None = None, *, quality: int = 75) -> bytes:
    """A file of zlib tiles, 256 pixels a side, that holds samples [H, W, C] exactly."""
    mode = pixels.MODES[samples.shape[2] - 1]
    header = Header(PixelFormat.from_mode(mode), samples.shape[1], samples.shape[0], b"none", quality, tile_log2=8)
    tiles = []
    for box in header.boxes():
        area = samples[box.top : box.top + box.height, box.left : box.left + box.width]
        part = np.ascontiguousarray(area[..., -1:] if box.plane == "alpha" else area[..., : box.channels])
        tiles.append(Tile(TileMode.ZLIB, zlib_tiles.pack(part), zlib.crc32(part.tobytes())))
    return container.write(header, tiles, metadata)


def damaged(data: bytes, tile: int = 0) -> bytes:
    """The file with a bit of one payload flipped."""
    index = container.read_info(io.BytesIO(data)).index
    payloads_start = records.HEADER.size_bytes + len(index) * records.INDEX_ENTRY.size_bytes
    position = payloads_start + sum(entry.payload_bytes for entry in index[:tile]) + 5
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


class LosslessCodec(Codec):
    """Encodes without weights; `calls` holds the options of each call."""

    calls: ClassVar[list[dict[str, Any]]] = []

    def encode(self, image: pixels.Source, quality: int | None = None, **options: Any) -> bytes:
        """The picture in zlib tiles, whatever quality or target is asked for."""
        self.calls.append(options if quality is None else options | {"quality": quality})
        overrides = {key: options[key] for key in metadata_rules.METADATA_KEYS if key in options}
        with ExitStack() as files:
            opened = pixels.open_source(image)
            if opened is not image and isinstance(opened, Image.Image):
                files.callback(opened.close)
            metadata = metadata_rules.merge_metadata(pixels.metadata_of(opened), **overrides)
            pixels.warn_of_losses(opened, overrides)
            return vaec(pixels.to_samples(opened), metadata, quality=quality or 75)
