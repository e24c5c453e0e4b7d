"""Decodes a folder of files under every caller's setting, in this process's environment, and prints what came out.

Usage: `python -m exactness.probe FOLDER [CALLER ...]`, with NAME.vaec (of one tile) and its reference pixels NAME.npy
in FOLDER. Prints a line of JSON a setting: per file a hash of the latents, hashes of the rows of their tables in every
batch and layout, one of what a float32 network would have chosen, the largest difference of a sample from the
reference, and the number of samples that differ; and the hashes of rows of a field of noise, larger than the files.
Needs nothing but vaecodec, so that it runs beside any torch.
"""

import hashlib
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from exactness.settings import CALLERS, HONEST, THOROUGH
from vaecodec import Codec
from vaecodec.format import container
from vaecodec.format.records import Bitstream
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE, SCALE_ROWS
from vaecodec.model.coding import hyper_size
from vaecodec.model.engine import Engine
from vaecodec.model.scales import ACTIVATION_LIMIT, HYPER_LIMIT, ROW_FRACTION_BITS, IntegerScales
from vaecodec.model.torch_engine.engine import ExactScales

BATCH = 3
FIELD_SIDE, FIELD_QUALITY = 20, 60


class Item(NamedTuple):
    """A file of one learned tile, and its pixels [H, W, C] as the reference has them."""

    stream: Bitstream
    reference: NDArray[np.uint8]


def items_of(folder: Path) -> list[Item]:
    """All files of a folder."""
    paths = sorted(folder.glob("*.vaec"))
    return [Item(container.read(path.read_bytes()), np.load(path.with_suffix(".npy"))) for path in paths]


class Decoded(NamedTuple):
    """A file decoded: the hash of its latents, its hyper-latents [Z, h, w] int32, and its pixels [H, W, C]."""

    latents: str
    z: NDArray[np.int32]
    pixels: NDArray[np.uint8]


def float_rows(stored: IntegerScales, z: Tensor, quality: int) -> Tensor:
    """The same network in float32, as a codec without the exact path would run it: the negative control."""
    factor, offset = (torch.tensor(each[quality - 1]).float() for each in (stored.dequantize, stored.row_offset))
    h = z.float().clamp(-HYPER_LIMIT, HYPER_LIMIT) * factor[:, None, None] / 4096
    scale = 4096.0
    for number, layer in enumerate(stored.layers):
        weight, bias = (torch.tensor(each).float() for each in (layer.weight, layer.bias))
        weight *= scale / 2.0**layer.shift
        h = F.conv2d(h, weight, bias / 2.0**layer.shift, padding=weight.shape[-1] // 2)
        h = F.pixel_shuffle(h, 2) if number in (1, 3) else h
        h = h.clamp(0, ACTIVATION_LIMIT) if number < 3 else h
        scale = 1.0
    h = (h + offset[:, None, None]) * 2.0**-ROW_FRACTION_BITS
    return torch.round(h).clamp(0, SCALE_ROWS - 1).to(torch.uint8)


def decode(engine: Engine, stream: Bitstream) -> Decoded:
    """Decode a file of one learned tile; the CRCs of the file are not looked at, the hash is to tell."""
    header, (tile,) = stream.header, stream.tiles
    size = -(-header.height // LATENT_STRIDE), -(-header.width // LATENT_STRIDE)
    decoder = engine.reader(tile.payload)
    (symbols,) = coding.read(engine, *size, [header.quality], [decoder.read])
    decoder.finish()
    digest = hashlib.sha256(symbols.z.tobytes() + symbols.y.tobytes())
    y_hat = coding.dequantize(engine, [symbols], *size, [header.quality])
    z = symbols.z.astype(np.int32).reshape(*hyper_size(*size), -1).transpose(2, 0, 1)
    pixels, _ = engine.synthesize(y_hat, [header.quality], [header.deblocking_cut])
    return Decoded(digest.hexdigest()[:16], z, engine.to_numpy(pixels[0, : header.height, : header.width]))


def indexes_of(scales: ExactScales, hypers: Sequence[Tensor], quality: int, layout: torch.memory_format) -> list[str]:
    """Hashes of the table indexes of hyper-latents [Z, h, w] of one size, computed as one batch in one layout."""
    batch = torch.stack(list(hypers)).to(memory_format=layout)
    return [_hash(indexes) for indexes in scales.table_indexes(batch, quality)]


def row_hashes(scales: ExactScales, items: Sequence[Item], hypers: Sequence[Tensor]) -> list[list[str]]:
    """Per file all hashes of its rows that alone or in a batch, contiguous or channels-last, give: one, it is hoped."""
    sizes = defaultdict(list)
    for number, z in enumerate(hypers):
        sizes[z.shape].append(number)
    found = [set[str]() for _ in items]
    for numbers in sizes.values():
        for start in range(0, len(numbers), BATCH):
            group = numbers[start : start + BATCH]
            quality = items[group[0]].stream.header.quality
            for layout in (torch.contiguous_format, torch.channels_last):
                batched = indexes_of(scales, [hypers[n] for n in group], quality, layout)
                for number, rows in zip(group, batched, strict=True):
                    found[number] |= {rows, *indexes_of(scales, [hypers[number]], quality, layout)}
    return [sorted(hashes) for hashes in found]


def noise(channels: int) -> Tensor:
    """Hyper-latents [3, Z, 20, 20] as of five megapixels, from numpy's generator: torch's differs by processor."""
    values = np.random.default_rng(1).normal(0, 3, (BATCH, channels, FIELD_SIDE, FIELD_SIDE))
    return torch.from_numpy(values.round()).float()


def observe(codec: Codec, items: Sequence[Item], caller: str) -> dict[str, Any]:
    """What this process makes of all files under one caller's setting."""
    engine, start = codec.engine, time.perf_counter()
    with CALLERS[caller]():
        decoded = [decode(engine, item.stream) for item in items]
        hypers = [torch.from_numpy(one.z).float() for one in decoded]
        qualities = [item.stream.header.quality for item in items]
        stored, pairs = engine.scales.stored, list(zip(hypers, qualities, strict=True))
        control = [_hash(float_rows(stored, z[None], q)) for z, q in pairs] if caller in HONEST else None
        rows = row_hashes(engine.scales, items, hypers) if caller in THOROUGH else None
        field = noise(stored.dequantize.shape[1])
        field_rows = _hash(engine.scales.table_indexes(field, FIELD_QUALITY)) if caller in THOROUGH else None
        field_control = _hash(float_rows(stored, field, FIELD_QUALITY)) if caller in HONEST else None
    apart = [np.abs(one.pixels.astype(np.int16) - item.reference) for one, item in zip(decoded, items, strict=True)]
    return {
        "caller": caller, "latents": [one.latents for one in decoded], "rows": rows, "control": control,
        "field_rows": field_rows, "field_control": field_control,
        "largest_difference": [int(difference.max()) for difference in apart],
        "differing_samples": [int(np.count_nonzero(difference)) for difference in apart],
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def main(folder: Path, callers: Sequence[str]) -> None:
    """Print a line of JSON a setting."""
    codec, items = Codec(None, "cpu", engine="torch"), items_of(folder)
    versions = {
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    for caller in callers or CALLERS:
        print(json.dumps(versions | observe(codec, items, caller)), flush=True)


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
