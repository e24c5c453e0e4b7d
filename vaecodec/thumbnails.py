"""Thumbnails: a small copy of a picture in its metadata, for previews in a small part of the time of the picture."""

import numpy as np

from vaecodec.bitstream import DEFAULT_MAX_PIXELS, Bitstream, Header, read
from vaecodec.errors import VaecError
from vaecodec.pixels import Samples, reduced
from vaecodec.rows import Rows

SCALE = 8
KEY = "thumbnail"  # of `Info.metadata`; a .vaec file, without metadata of its own
_ROWS_AT_A_TIME = 128 * SCALE


def samples_of(rows: Rows) -> Samples:
    """What a thumbnail shows of a picture: samples [ceil(H / 8), ceil(W / 8), C], each the mean of 8 x 8 of them."""
    height = rows.shape[0]
    tops = range(0, height, _ROWS_AT_A_TIME)
    return np.concatenate([reduced(rows.read(top, min(top + _ROWS_AT_A_TIME, height)), SCALE) for top in tops])


def stored_in(stream: Bitstream) -> Bitstream | None:
    """The thumbnail of a file; None if it has none, or one that is damaged or cannot be of this picture."""
    data = stream.metadata.get(KEY)
    if data is None:
        return None
    try:
        thumbnail = read(data, max_pixels=DEFAULT_MAX_PIXELS)
    except VaecError:
        return None
    return thumbnail if _facts(thumbnail.header, 1) == _facts(stream.header, SCALE) else None


def _facts(header: Header, scale: int) -> tuple[object, ...]:
    """What a picture and its thumbnail agree in."""
    return -(-header.width // scale), -(-header.height // scale), header.pixel_format, header.model_id
