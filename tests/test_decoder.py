"""Laws of decoding by rows of tiles: ahead or not, neighbours together or alone, the picture and its errors are one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import picture
from whole_pictures import decode_tiles, encode_tiles

from vaecodec import Codec
from vaecodec.errors import VaecMismatchError
from vaecodec.format import container
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.model import coding
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.tiling.canvas import Rect
from vaecodec.tiling.decode import DAMAGED_GREY, Decoder

pytestmark = pytest.mark.engines("native", "torch")

SIDE = 64


@pytest.fixture
def coded(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tile], Header]:
    """The tiles of a picture of 4 x 5 tiles of 64 pixels with alpha, one of them of one colour."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: SIDE))
    samples = picture(3 * SIDE + 20, 4 * SIDE + 30, 4)
    samples[SIDE : 2 * SIDE, 2 * SIDE : 3 * SIDE, :3] = 90
    header = Header(PixelFormat.RGBA, samples.shape[1], samples.shape[0], tiny.engine.model_id, 60)
    tiles, header, _ = encode_tiles(samples, header, tiny.engine)
    assert [tile.mode for tile in tiles[:20]].count(TileMode.LEARNED) == 19
    return tiles, header


def join_neighbours(monkeypatch: pytest.MonkeyPatch, most_px: int) -> None:
    """Lets neighbouring tiles of so many pixels go through the network together, in pictures and in previews."""
    monkeypatch.setattr(Decoder, "_joined_px", lambda self: most_px)


@pytest.fixture(params=["alone", "together", "ahead"])
def way(request: pytest.FixtureRequest, tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on few processors, as on a GPU, and with threads that read ahead."""
    if request.param == "together":
        join_neighbours(monkeypatch, 8 * SIDE**2)
    if request.param == "ahead":
        monkeypatch.setattr(type(tiny.engine), "helpers", 2)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_a_picture_is_the_same_whichever_way_it_is_decoded(
    tiny: Codec, coded: tuple[list[Tile], Header], scale: int
) -> None:
    """Within what may differ between machines."""
    shown, damage = decode_tiles(*coded, tiny.engine, scale=scale)
    with pytest.MonkeyPatch.context() as patched:
        join_neighbours(patched, 0)
        patched.setattr(type(tiny.engine), "helpers", 0)
        expected, _ = decode_tiles(*coded, tiny.engine, scale=scale)
    assert not damage
    difference = np.abs(shown.astype(int) - expected)
    assert difference.max() <= 1 and np.count_nonzero(difference) <= 1e-3 * difference.size


def test_neighbours_go_through_the_network_together(
    tiny: Codec, coded: tuple[list[Tile], Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned ones of one size, as many as may: not across one of another kind, and not the narrow last one."""
    counts, widths = list[int](), list[int]()
    dequantize, synthesize = coding.dequantize, type(tiny.engine).synthesize

    def count(engine: Engine, symbols: list[Symbols], *rest: Any) -> Array:
        counts.append(len(symbols))
        return dequantize(engine, symbols, *rest)

    def measure(engine: Engine, y_hat: Array, *rest: Any) -> tuple[Array, list[bool]]:
        widths.append(y_hat.shape[3])
        return synthesize(engine, y_hat, *rest)

    monkeypatch.setattr(coding, "dequantize", count)
    monkeypatch.setattr(type(tiny.engine), "synthesize", measure)
    join_neighbours(monkeypatch, 3 * SIDE**2)
    decode_tiles(*coded, tiny.engine)
    assert coded[1].height == 3 * SIDE + 20  # the tiles of the last row are low: more of them fit
    assert counts == [3, 1, 1, 2, 1, 1, 3, 1, 1, 4, 1]
    assert len(widths) == len(counts) and max(widths) > 3 * SIDE // 16


@pytest.mark.parametrize("scale", [1, 8])
def test_where_memory_does_not_suffice_for_neighbours_they_are_predicted_alone(
    tiny: Codec, coded: tuple[list[Tile], Header], scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is the same within what may differ."""
    expected, _ = decode_tiles(*coded, tiny.engine, scale=scale)
    refused, dequantize = list[int](), coding.dequantize

    def starve(engine: Engine, symbols: list[Symbols], *rest: Any) -> Array:
        if len(symbols) > 1:
            refused.append(len(symbols))
            raise MemoryError
        return dequantize(engine, symbols, *rest)

    monkeypatch.setattr(coding, "dequantize", starve)
    join_neighbours(monkeypatch, 3 * SIDE**2)
    shown, damage = decode_tiles(*coded, tiny.engine, scale=scale)
    assert refused and not damage
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.usefixtures("way")
def test_every_tile_that_does_not_decode_is_told(tiny: Codec, coded: tuple[list[Tile], Header]) -> None:
    """By its number, once, and shown in grey; without a report the first of them is raised."""
    tiles, header = coded
    for number in (1, 2, 13):
        tiles[number] = tiles[number]._replace(content_crc=tiles[number].content_crc ^ 1)
    tiles[25] = tiles[25]._replace(content_crc=1)
    shown, damage = decode_tiles(tiles, header, tiny.engine, partial=True)
    assert sorted(error.tile for error in damage) == [1, 2, 13, 25]
    assert (shown[:SIDE, SIDE : 3 * SIDE, :3] == DAMAGED_GREY).all()
    assert not (shown[:SIDE, 3 * SIDE :, :3] == DAMAGED_GREY).all()
    with pytest.raises(VaecMismatchError) as caught:
        decode_tiles(tiles, header, tiny.engine)
    assert (caught.value.tile, caught.value.code) == (1, "LATENT_CRC")


@pytest.mark.usefixtures("way")
def test_of_neighbours_that_do_not_synthesize_the_guilty_one_is_told(
    tiny: Codec, coded: tuple[list[Tile], Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beside it see its latents, and may be lost with it; all others are shown."""
    synthesize = type(tiny.engine).synthesize

    def refuse_left(engine: Engine, y_hat: Array, *rest: Any) -> tuple[Array, list[bool]]:
        pixels, are_finite = synthesize(engine, y_hat, *rest)
        return pixels, [each and y_hat.flatten()[0].item() != refused for each in are_finite]

    first = list[float]()
    monkeypatch.setattr(
        type(tiny.engine), "synthesize", lambda e, y, *r: (first.append(y.flatten()[0].item()), synthesize(e, y, *r))[1]
    )
    decode_tiles(*coded, tiny.engine)
    refused = first[0]
    monkeypatch.setattr(type(tiny.engine), "synthesize", refuse_left)
    _, damage = decode_tiles(*coded, tiny.engine, partial=True)
    assert 0 in {error.tile for error in damage} and len(damage) < 5


@pytest.mark.usefixtures("way")
def test_a_window_touches_only_what_it_needs(tiny: Codec, coded: tuple[list[Tile], Header]) -> None:
    """The tiles under it and within reach of its edges are fetched, once each, from the top down."""
    tiles, header = coded
    fetched = list[int]()

    class Watched(list[Tile]):
        def __getitem__(self, number: int) -> Tile:  # type: ignore[override]
            fetched.append(number)
            return super().__getitem__(number)

    window = Rect(SIDE + 5, SIDE + 40, 2 * SIDE, 2 * SIDE + 30)
    bands = [*Decoder(Watched(tiles), header, tiny.engine, window=window).bands()]
    whole, _ = decode_tiles(tiles, header, tiny.engine)
    near = np.abs(np.concatenate(bands).astype(int) - whole[SIDE + 5 : SIDE + 40, 2 * SIDE : 2 * SIDE + 30])
    assert near.max() <= 1
    assert sorted(fetched) == [1, 2, 3, 6, 7, 8, 11, 12, 13, 27]
    assert fetched[:9] == sorted(fetched[:9])


def test_a_small_preview_does_not_look_at_the_rest(tiny: Codec) -> None:
    """At 1/8 the base is read and no more: what is wrong after it goes unseen there, and nowhere else."""
    data = tiny.encode(picture(200, 150), 70)
    stream = container.read(data)
    (tile,) = stream.tiles
    forged = container.write(stream.header, [tile._replace(content_crc=tile.content_crc ^ 1)])
    assert np.array_equal(
        tiny.decode(forged, scale=1 / 8, output="numpy"), tiny.decode(data, scale=1 / 8, output="numpy")
    )
    decoders: list[Callable[[], object]] = [lambda: tiny.decode(forged), lambda: tiny.decode(forged, scale=1 / 4)]
    for decode in decoders:
        with pytest.raises(VaecMismatchError):
            decode()
