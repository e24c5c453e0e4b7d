"""Cases of a round trip, drawn by hypothesis, and the law that each must keep."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from whole_pictures import decode_tiles, encode_tiles

from vaecodec import Codec
from vaecodec.errors import VaecImageError
from vaecodec.format import container, records
from vaecodec.format.records import Header
from vaecodec.pictures import pixels
from vaecodec.tiling.tile import floor_psnr_db

Samples = NDArray[np.uint8]

LARGEST_SIDE_PX = 300
FILE_BYTES, TILE_BYTES, RAW_FACTOR = 32, 12 + 500, 1.001
LARGEST_DIFFERENCE, SHARE_OF_SAMPLES, FEWEST_SAMPLES = 1, 0.001, 4

CONTENTS: dict[str, Callable[[int, int, int, np.random.Generator], Samples]] = {
    "photograph": lambda h, w, c, rng: picture(h, w, c, seed=int(rng.integers(2**32))),
    "rough photograph": lambda h, w, c, rng: (
        picture(h, w, c, seed=int(rng.integers(2**32))) ^ _noise(h, w, c, rng) % 16
    ),
    "noise": lambda h, w, c, rng: _noise(h, w, c, rng),
    "two colours": lambda h, w, c, rng: _noise(h, w, 1, rng) % 2 * _noise(1, 1, c, rng),
    "flat": lambda h, w, c, rng: np.broadcast_to(_noise(1, 1, c, rng), (h, w, c)).copy(),
    "half flat": lambda h, w, c, rng: np.where(np.arange(w)[:, None] < w // 2, picture(h, w, c), _noise(1, 1, c, rng)),
}

# How an array lies in memory; each gives an array equal to the samples that it gets.
LAYOUTS: dict[str, Callable[[Samples], Samples]] = {
    "contiguous": lambda a: a,
    "read-only": lambda a: _read_only(a.copy()),
    "every second": lambda a: a.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "columns first": lambda a: np.asfortranarray(a),
    "channels first": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 2, 0)), 0, 2),
    "cut out": lambda a: np.pad(a, ((1, 2), (3, 1), (0, 0)))[1:-2, 3:-1],
    "read-only and backwards": lambda a: _read_only(np.ascontiguousarray(a[:, ::-1]))[:, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}
CONVERTED = {
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "La": "LA",
    "RGBa": "RGBA",
    "HSV": "RGB",
}
REFUSED = ("I", "F", "I;16", "I;16B")
SOURCES = (*LAYOUTS, "tensor", "tensor view", *pixels.MODES, *CONVERTED, *REFUSED)


@dataclass(frozen=True)
class Case:
    """A picture and how it is handed over: as an array of some layout, a tensor, or a Pillow image of some mode."""

    width: int
    height: int
    channels: int
    content: str
    source: str
    quality: int
    seed: int
    is_repeated: bool


@dataclass
class Tally:
    """What was tried.

    Attributes:
        cases: how many; refused: of these, how many had a mode that cannot be stored, and were refused.
        repeated: how many were encoded twice.
        tiles: how many tiles were of each mode; sources and contents: how many cases were of each.
        largest_share_of_bound: size of a file, as a share of what it may have.
        largest_difference: levels between what the encoder foresaw and what was decoded.
    """

    cases: int = 0
    refused: int = 0
    repeated: int = 0
    tiles: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    contents: Counter[str] = field(default_factory=Counter)
    largest_share_of_bound: float = 0.0
    largest_difference: int = 0


def cases(largest_side_px: int = LARGEST_SIDE_PX) -> st.SearchStrategy[Case]:
    """Cases with sides from 1 pixel on; small ones are common."""
    side = st.integers(1, min(70, largest_side_px)) | st.integers(1, largest_side_px)
    content = st.sampled_from(("photograph", "photograph", *CONTENTS))
    return st.builds(
        Case, width=side, height=side, channels=st.integers(1, 4), content=content, source=st.sampled_from(SOURCES),
        quality=st.integers(1, 100), seed=st.integers(0, 2**32 - 1), is_repeated=st.sampled_from((True, False, False)),
    )  # fmt: skip


def check(codec: Codec, case: Case, tally: Tally) -> None:
    """Makes the round trip of a case, holds it against the law, and counts it.

    Size and mode come back exactly, alpha and tiles without loss bit by bit, learned tiles as the encoder foresaw them
    and not below their floor; the file is not larger than its bound; the caller's picture stays as it was; and
    encoding it again, laid out plainly, gives the same bytes. Modes with more than 8 bits are refused.
    """
    tally.cases += 1
    tally.sources[case.source] += 1
    if case.source in REFUSED:
        _check_refused(codec, case)
        tally.refused += 1
        return
    tally.contents[case.content] += 1
    source, samples = _source_and_samples(case)
    before = _snapshot(source)
    data = codec.encode(source, case.quality)
    assert _snapshot(source) == before, "the caller's picture was changed"
    stream = container.read(data)
    header = stream.header
    assert (header.width, header.height, header.quality) == (case.width, case.height, case.quality)
    decoded = _decoded(codec, case, data, samples.shape)
    _check_tiles(stream, samples, decoded, tally)
    bound = RAW_FACTOR * samples.size + FILE_BYTES + TILE_BYTES * len(stream.tiles)
    assert len(data) <= bound, f"{len(data)} bytes, allowed {bound:.0f}"
    tally.largest_share_of_bound = max(tally.largest_share_of_bound, len(data) / bound)
    if case.is_repeated:
        _check_repetition(codec, header, data, samples, decoded, tally)


def _check_refused(codec: Codec, case: Case) -> None:
    with pytest.raises(VaecImageError) as caught:
        codec.encode(Image.new(case.source, (case.width, case.height)), case.quality)
    assert caught.value.code == "BIT_DEPTH"


def _check_tiles(stream: records.Bitstream, samples: Samples, decoded: Samples, tally: Tally) -> None:
    for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
        assert tile is not None
        tally.tiles[f"{tile.mode.name.lower()} {box.plane}"] += 1
        channels = slice(-1, None) if box.plane == "alpha" else slice(0, box.channels)
        area = np.s_[box.top : box.top + box.height, box.left : box.left + box.width, channels]
        if box.plane == "alpha" or (samples[area] == samples[area][0, 0]).all():
            assert np.array_equal(samples[area], decoded[area]), f"{box} differs"
        else:
            reached_db = pixels.psnr_db(samples[area], decoded[area])
            assert reached_db >= floor_psnr_db(stream.header.quality), f"{reached_db:.1f} dB in {box}"


def _check_repetition(
    codec: Codec, header: Header, data: bytes, samples: Samples, decoded: Samples, tally: Tally
) -> None:
    coded, header, squared_error = encode_tiles(samples, header, codec.engine)
    assert container.write(header, coded) == data, "other bytes the second time"
    foreseen, _ = decode_tiles(coded, header, codec.engine)
    colour = np.s_[..., : samples.shape[2] - header.pixel_format.has_alpha]
    assert squared_error == pixels.squared_error(samples[colour], foreseen[colour]), "other than foreseen"
    difference = np.abs(np.subtract(foreseen, decoded, dtype=np.int16))
    assert difference.max() <= LARGEST_DIFFERENCE
    assert np.count_nonzero(difference) <= max(FEWEST_SAMPLES, SHARE_OF_SAMPLES * difference.size)
    tally.largest_difference = max(tally.largest_difference, int(difference.max()))
    tally.repeated += 1


def _decoded(codec: Codec, case: Case, data: bytes, shape: tuple[int, ...]) -> Samples:
    """The decoded samples [H, W, C], in the form that fits the source."""
    if case.source in LAYOUTS:
        array = codec.decode(data, output="numpy")
        assert array.dtype == np.uint8
        assert array.shape == (shape if shape[2] > 1 else shape[:2])
        return array.reshape(shape)
    if case.source.startswith("tensor"):
        tensor = codec.decode(data, output="torch")
        assert tensor.shape == (shape[2], *shape[:2])
        return tensor.permute(1, 2, 0).numpy()
    image = codec.decode(data)
    assert image.size == (case.width, case.height)
    assert image.mode == CONVERTED.get(case.source, case.source)
    return np.atleast_3d(np.asarray(image))


def _source_and_samples(case: Case) -> tuple[Any, Samples]:
    """What is handed over, and the samples [H, W, C] that it stands for."""
    rng = np.random.default_rng(case.seed)
    if case.source in pixels.MODES or case.source in CONVERTED:
        image = _image(case, rng)
        stored = CONVERTED.get(case.source, case.source)
        return image, np.atleast_3d(np.asarray(image.copy().convert(stored)))
    samples = np.ascontiguousarray(CONTENTS[case.content](case.height, case.width, case.channels, rng), np.uint8)
    if case.source == "broadcast":
        samples[:] = samples[:1]
    if case.source.startswith("tensor"):
        return _tensor(samples, is_view=case.source.endswith("view")), samples
    laid_out = LAYOUTS[case.source](samples.copy())
    return (laid_out[..., 0] if case.channels == 1 and case.seed % 2 else laid_out), samples


def _image(case: Case, rng: np.random.Generator) -> Image.Image:
    """A Pillow image of the mode `case.source`."""
    bands = {"1": 1, "P": 1, "PA": 2}.get(case.source) or len(Image.new(case.source, (1, 1)).getbands())
    samples = np.ascontiguousarray(CONTENTS[case.content](case.height, case.width, bands, rng), np.uint8)
    if case.source == "1":
        return Image.fromarray(samples[..., 0]).convert("1")
    if case.source == "P":
        return Image.fromarray(samples[..., 0]).quantize(16)
    image = Image.frombytes(case.source, (case.width, case.height), samples.tobytes())
    if case.source == "PA":
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    return image


def _tensor(samples: Samples, *, is_view: bool) -> Any:
    import torch

    tensor = torch.from_numpy(samples.copy()).permute(2, 0, 1)
    return tensor if is_view else tensor.contiguous()


def _snapshot(source: Any) -> bytes:
    if isinstance(source, Image.Image):
        return f"{source.mode} {source.size} {source.getpalette()} {source.info}".encode() + source.tobytes()
    return np.asarray(source).tobytes()


def _noise(height: int, width: int, channels: int, rng: np.random.Generator) -> Samples:
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def _read_only(array: Samples) -> Samples:
    array.flags.writeable = False
    return array
