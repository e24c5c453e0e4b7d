"""Prints hashes of what must not depend on the machine, computed under the settings given by environment and arguments.

Run by test_exactness.py in processes of their own: instruction sets are chosen when torch loads.
"""

import hashlib
import json
import sys

import numpy as np
import torch
from torch.nn import functional as F

from vaecodec import Codec, bitstream, tiles
from vaecodec.model.exact import ACTIVATION_LIMIT, HYPER_LIMIT, ROW_FRACTION_BITS, ROW_LIMIT, IntegerScales
from vaecodec.model.priors import SCALE_ROWS


def float_rows(stored: IntegerScales, z: torch.Tensor, quality: int) -> torch.Tensor:
    """The same network in float32, as a codec without the exact path would run it: the negative control."""
    h = z.float().clamp(-HYPER_LIMIT, HYPER_LIMIT) * stored.dequantize[quality - 1].float()[:, None, None] / 4096
    scale = 4096.0
    for number, layer in enumerate(stored.layers):
        weight = layer.weight.float() * (scale / 2.0**layer.shift)
        h = F.conv2d(h, weight, layer.bias.float() / 2.0**layer.shift, padding=weight.shape[-1] // 2)
        h = F.pixel_shuffle(h, 2) if number in (1, 3) else h
        h = h.clamp(0, ACTIVATION_LIMIT) if number < 3 else h.clamp(-ROW_LIMIT, ROW_LIMIT)
        scale = 1.0
    h = (h + stored.row_offset[quality - 1].float()[:, None, None]) * 2.0**-ROW_FRACTION_BITS
    return torch.round(h).clamp(0, SCALE_ROWS - 1).to(torch.uint8)


def hash_of(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def latents_of(codec: Codec, data: bytes) -> str:
    """Hash of all integers that come out of the file."""
    stream = bitstream.read(data)
    digest = hashlib.sha256()
    plain_crc = tiles._crc_of_symbols

    def spy(symbols: np.ndarray, crc: int) -> int:
        digest.update(symbols.astype("<i2").tobytes())
        return plain_crc(symbols, crc)

    tiles._crc_of_symbols = spy
    tiles.decode_tiles(stream.tiles, stream.header, codec.network)
    tiles._crc_of_symbols = plain_crc
    return digest.hexdigest()[:16]


def main(path: str) -> None:
    codec = Codec(None, "cpu")
    scales = codec.network.scales
    channels = scales.stored.dequantize.shape[1]
    z = torch.from_numpy(np.random.default_rng(1).normal(0, 3, (3, channels, 20, 20)).round()).float()
    with open(path, "rb") as file:
        data = file.read()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for layout in (torch.contiguous_format, torch.channels_last):
            laid = z.to(memory_format=layout)
            for autocast in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    batched = scales.rows(laid, 60)
                    single = torch.cat([scales.rows(one[None].to(memory_format=layout), 60) for one in laid])
                    floats = float_rows(scales.stored, laid, 60)
                    print(json.dumps({
                        "latents": latents_of(codec, data), "batched": hash_of(batched), "single": hash_of(single),
                        "float": hash_of(floats), "autocast": autocast,
                        "float_agrees": round(float((floats == batched).float().mean()), 4),
                    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
