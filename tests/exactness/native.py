"""What the native engine makes of files and of their pictures, on every instruction set and number of threads."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from exactness.probe import FIELD_QUALITY, FIELD_SIDE, Item, decode, noise
from vaecodec.model import weights
from vaecodec.model.architecture import HYPER_STRIDE, LATENT_STRIDE
from vaecodec.model.native_engine import NativeEngine
from vaecodec.model.native_engine.binding import levels, use_level
from vaecodec.pictures import pixels
from vaecodec.tiling.tile import encode_latents

THREADS = (1, 2, 3, 8)


def observe(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """A row a setting: hashes of latents, pixels and what is encoded, a file each; distances from the reference."""
    stored, before = weights.load(), use_level()
    engines = [NativeEngine(stored, threads) for threads in THREADS]
    try:
        for level in levels():
            use_level(level)
            for engine in engines:
                yield {"instructions": level, "threads": engine.threads} | _of(engine, items)
    finally:
        use_level(before)


def analyzes_in_bfloat16(row: dict[str, Any]) -> bool:
    """Encoders may choose as they like, and are quicker where an instruction set has it."""
    return str(row["instructions"]).endswith("bf16")


def _of(engine: NativeEngine, items: Sequence[Item]) -> dict[str, Any]:
    start = time.perf_counter()
    engine.self_test()
    decoded = [decode(engine, item.stream) for item in items]
    apart = [np.abs(one.pixels.astype(np.int16) - item.reference) for one, item in zip(decoded, items, strict=True)]
    return {
        "latents": [one.latents for one in decoded],
        "pixels": [_hash(one.pixels) for one in decoded],
        "encoded": [_encoded(engine, item) for item in items],
        "field_rows": _field_rows(engine),
        "largest_difference": [int(difference.max()) for difference in apart],
        "differing_samples": [int(np.count_nonzero(difference)) for difference in apart],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _encoded(engine: NativeEngine, item: Item) -> str:
    """Of the payload of a picture, and of all that the encoder computes on the way to its pixels."""
    samples, quality = np.broadcast_to(item.reference, (*item.reference.shape[:2], 3)), item.stream.header.quality
    padded = pixels.pad_edge(samples, LATENT_STRIDE)
    tile, y_hat = encode_latents(engine, engine.analyze(padded, quality), quality)
    whole = slice(0, padded.shape[0]), slice(0, padded.shape[1])
    shown, cut, _ = engine.synthesize_like(y_hat, quality, padded, whole)
    small = b"".join(engine.preview(y_hat, scale).tobytes() for scale in (2, 4, 8))
    return hashlib.sha256(tile.payload + y_hat.tobytes() + shown.tobytes() + small + bytes([cut])).hexdigest()[:16]


def _field_rows(engine: NativeEngine) -> str:
    """As `probe.observe` has it: of table indexes [B, M, h, w]."""
    field = noise(engine.arch.hyper_channels).numpy().astype(np.int16)
    z = [np.ascontiguousarray(each.reshape(len(each), -1).T) for each in field]
    side = HYPER_STRIDE * FIELD_SIDE
    found = engine.table_indexes(z, side, side, [FIELD_QUALITY] * len(z))
    return _hash(found.transpose(0, 2, 1).reshape(len(z), -1, side, side))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
