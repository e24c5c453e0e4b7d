"""Encodes pictures to .vaec bytes and decodes them: `Codec`, and module-level functions that do the same."""

from vaecodec.codec.codec import Codec as Codec
from vaecodec.codec.functions import decode as decode
from vaecodec.codec.functions import decode_file as decode_file
from vaecodec.codec.functions import decode_region as decode_region
from vaecodec.codec.functions import encode as encode
from vaecodec.codec.functions import encode_file as encode_file
from vaecodec.codec.functions import verify as verify
