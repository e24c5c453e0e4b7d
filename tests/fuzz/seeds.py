"""Twenty-five small files of all tile modes, pixel formats and kinds of metadata: what fuzzing starts from."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zlib_tiles
from conftest import picture
from numpy.typing import NDArray
from whole_pictures import decode_tiles, encode_tiles

from fuzz.parts import HEADER, Parts, sound_chunk, take_apart
from vaecodec import Codec
from vaecodec.format import container
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.model.engine import Engine
from vaecodec.pictures import pixels
from vaecodec.tiling import tile as tiles
from vaecodec.tiling.canvas import cut

Samples = NDArray[np.uint8]

EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # Orientation 6
ICC = bytes(16) + b"RGB " + bytes(20)
XMP = b"<x:xmpmeta/>"
ALL = {"icc_profile": ICC, "exif": EXIF, "xmp": XMP}


class Recipe(NamedTuple):
    """How to make a seed: a kind of picture, its height, width and mode, the quality, log2 of the tile, metadata.

    Encoders write no zlib tiles any more, and small pictures rarely need corrections: `tiles` asks for them.
    """

    kind: str
    height: int
    width: int
    mode: str = "RGB"
    quality: int = 50
    tile_log2: int = 10
    metadata: Mapping[str, bytes] = {}
    tiles: TileMode | None = None


RECIPES = {
    "learned": Recipe("grain", 32, 32, quality=75),
    "learned-low": Recipe("photo", 48, 64, quality=1),
    "learned-high": Recipe("grain", 24, 40, quality=100),
    "learned-grey": Recipe("grain", 33, 17, "L", 90),
    "learned-odd": Recipe("photo", 37, 53, quality=30, metadata={"xmp": XMP}),
    "learned-metadata": Recipe("photo", 24, 24, quality=40, metadata=ALL),
    "learned-alpha": Recipe("photo", 32, 40, "RGBA", 40),
    "learned-grey-alpha": Recipe("photo", 20, 32, "LA", 60, metadata={"exif": EXIF}),
    "learned-two": Recipe("photo", 16, 272, quality=30, tile_log2=8),
    "learned-two-down": Recipe("photo", 260, 16, "L", 20, tile_log2=8, metadata={"icc_profile": ICC}),
    "mixed": Recipe("half", 16, 264, quality=60, tile_log2=8),
    "mixed-alpha": Recipe("half", 8, 260, "RGBA", 60, tile_log2=8, metadata=ALL),
    "packed": Recipe("noise", 8, 8),
    "packed-grey": Recipe("noise", 5, 9, "L"),
    "packed-alpha": Recipe("noise", 6, 6, "LA"),
    "packed-text": Recipe("text", 32, 48, metadata={"xmp": XMP}),
    "solid": Recipe("solid", 16, 16),
    "solid-alpha": Recipe("solid", 300, 257, "RGBA", tile_log2=8),
    "one-pixel": Recipe("solid", 1, 1, "L"),
    "row": Recipe("photo", 1, 300, "LA", tile_log2=8),
    "older": Recipe("text", 32, 48, tiles=TileMode.ZLIB),
    "older-alpha": Recipe("noise", 6, 6, "LA", tiles=TileMode.ZLIB),
    "corrected": Recipe("grain", 16, 24, quality=20, tiles=TileMode.CORRECTED),
    "corrected-grey": Recipe("grain", 17, 15, "L", 30, metadata={"xmp": XMP}, tiles=TileMode.CORRECTED),
    "corrected-two": Recipe("photo", 4, 266, "RGBA", 20, tile_log2=8, tiles=TileMode.CORRECTED),
}


def seeds(codec: Codec) -> dict[str, Parts]:
    """Makes all seeds with the weights of a codec; the same weights give the same files on one machine."""
    made = {name: take_apart(encode(codec, recipe)) for name, recipe in RECIPES.items()}
    modes = {(entry.mode, len(parts.entries) > 1) for parts in made.values() for entry in parts.entries}
    ours = [mode for mode in TileMode if mode != TileMode.EXTERNAL]  # which another library writes
    if modes != {(mode, many) for mode in ours for many in (False, True)}:
        raise ValueError(f"seeds have the tiles {sorted(modes)}, must have each mode alone and beside others")
    return made


def encode(codec: Codec, recipe: Recipe, *, seed: int = 1) -> bytes:
    """Encodes the picture of a recipe; unlike `Codec.encode`, also in tiles of less than 1024 pixels."""
    samples = _samples(recipe, seed)
    engine = codec.engine
    header = Header(
        PixelFormat.from_mode(recipe.mode), recipe.width, recipe.height, engine.model_id, recipe.quality,
        recipe.tile_log2,
    )  # fmt: skip
    coded, header, _ = encode_tiles(samples, header, engine)
    if recipe.tiles == TileMode.ZLIB:
        coded = [_older(tile, cut(samples, box)) for tile, box in zip(coded, header.boxes(), strict=True)]
    if recipe.tiles == TileMode.CORRECTED:
        coded = _corrected(coded, header, samples, engine)
    return container.write(header, coded, recipe.metadata)


def _older(tile: Tile, samples: Samples) -> Tile:
    """A tile without loss as older encoders wrote it."""
    is_webp = tile.mode == TileMode.WEBP
    return Tile(TileMode.ZLIB, zlib_tiles.pack(samples), tile.content_crc) if is_webp else tile


def _corrected(coded: list[Tile], header: Header, samples: Samples, engine: Engine) -> list[Tile]:
    """The tiles, those that are learned with a correction."""
    shown, _ = decode_tiles(coded, header, engine)
    return [
        tiles._correct(tile, cut(samples, box), cut(shown, box), 34)[0] if tile.mode == TileMode.LEARNED else tile
        for tile, box in zip(coded, header.boxes(), strict=True)
    ]


def _samples(recipe: Recipe, seed: int) -> Samples:
    """uint8 [H, W, C] of a recipe."""
    shape = recipe.height, recipe.width, len(recipe.mode)
    if recipe.kind == "noise":
        return np.random.default_rng(seed).integers(0, 2, shape, np.uint8) * np.uint8(255)
    if recipe.kind == "solid":
        return np.broadcast_to(np.arange(40, 40 + shape[2], dtype=np.uint8), shape)
    if recipe.kind == "text":
        stripes = np.indices(shape[:2]).sum(0) // 4 % 2 * 255
        return np.repeat(stripes[..., None].astype(np.uint8), shape[2], 2)
    samples = picture(*shape, seed=seed)
    if recipe.kind == "grain":
        grain = np.random.default_rng(seed).normal(0, 12, shape)
        samples = np.clip(samples + grain, 0, 255).astype(np.uint8)
    if recipe.kind == "half":
        samples[:, 256:] = 77
    return samples


def photo_of(codec: Codec, height: int, width: int, channels: int) -> bytes:
    """Encodes a picture of that size with the busiest content that there is: what a hostile file is compared with."""
    return encode(codec, Recipe("grain", height, width, pixels.MODES[channels - 1], 90))


def write_corpus(folder: Path, files: Mapping[str, Parts]) -> None:
    """Writes what each target of `fuzz.targets` starts from, made of all seeds, one folder a target."""
    inputs: dict[str, dict[str, bytes]] = {"header": {}, "index": {}, "metadata": {}, "entropy": {}, "plugin": {}}
    for name, parts in files.items():
        inputs["header"][name] = parts.data
        inputs["plugin"][name] = parts.data
        inputs["index"][name] = parts.data[HEADER.size :][: 12 * len(parts.entries)]
        inputs["metadata"][name] = b"\0" + b"".join(
            chunk.kind + chunk.length.to_bytes(4, "little") + chunk.crc.to_bytes(4, "little") + chunk.data
            for chunk in (*parts.chunks, sound_chunk(b"OWN1", b"anything"))
        )
        for number, entry in enumerate(parts.entries):
            inputs["entropy"][f"{name}-{number}"] = bytes([entry.mode]) + entry.payload
    for target, files in inputs.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / target / name).write_bytes(data)


def main() -> None:
    """Command line: `python -m fuzz.seeds FOLDER`."""
    parser = argparse.ArgumentParser(description="Write the corpus that the atheris targets start from.")
    parser.add_argument("folder", type=Path)
    write_corpus(parser.parse_args().folder, seeds(Codec(None, "cpu")))


if __name__ == "__main__":
    main()
