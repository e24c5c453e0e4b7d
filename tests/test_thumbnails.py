"""Thumbnails: what they show, that previews are them, and that nothing trusts them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import picture
from PIL import Image

import vaecodec
from vaecodec import Codec, bitstream, thumbnails
from vaecodec.cli import main
from vaecodec.model.network import Code, Network
from vaecodec.model.symbols import Symbols
from vaecodec.pixels import reduced
from vaecodec.rows import ArrayRows

XMP = b"<x:xmpmeta/>"


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the tiles whose latents are visited."""
    sizes, walk = list[tuple[int, int]](), Network.walk_together

    def watch(
        network: Network, rows: int, columns: int, qualities: list[int], codes: list[Code], **options: bool
    ) -> list[Symbols]:
        sizes.append((rows, columns))
        return walk(network, rows, columns, qualities, codes, **options)

    monkeypatch.setattr(Network, "walk_together", watch)
    return sizes


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_preview_is_the_thumbnail(tiny: Codec, walked: list[tuple[int, int]], channels: int) -> None:
    """At 1/8 the thumbnail is decoded and nothing else; it is the reduced picture, coded as any other."""
    samples = np.dstack([picture(150, 260), picture(150, 260, seed=1)])[..., :channels]
    file = tiny.encode(samples, 60, thumbnail=True)
    expected = tiny.decode(tiny.encode(reduced(samples, 8), 60), output="numpy")
    walked.clear()
    shown = tiny.decode(file, scale=1 / 8, output="numpy")
    assert set(walked) <= {(2, 3)}  # latents of 19 x 33 pixels
    np.testing.assert_array_equal(shown, expected)
    plain = tiny.encode(samples, 60)
    np.testing.assert_array_equal(tiny.decode(file, output="numpy"), tiny.decode(plain, output="numpy"))
    for scale in (1 / 2, 1 / 4):
        np.testing.assert_array_equal(
            tiny.decode(file, scale=scale, output="numpy"), tiny.decode(plain, scale=scale, output="numpy")
        )


def test_thumbnails_are_the_same_by_rows() -> None:
    """A picture that comes by rows has the thumbnail that it has as a whole, edges and all."""
    samples = picture(1024 + 77, 90)
    np.testing.assert_array_equal(thumbnails.samples_of(ArrayRows(samples)), reduced(samples, 8))


def test_files_are_the_same_by_rows(tiny: Codec, tmp_path: Path) -> None:
    """`encode_file` writes the bytes of `encode`, with a thumbnail, too."""
    samples = picture(140, 200)
    target = tmp_path / "a.vaec"
    info = tiny.encode_file(samples, target, 40, thumbnail=True, xmp=XMP)
    assert target.read_bytes() == tiny.encode(samples, 40, thumbnail=True, xmp=XMP)
    assert set(info.metadata) == {"xmp", "thumbnail"}


def test_a_target_counts_the_thumbnail(tiny: Codec) -> None:
    """The file has no more bytes than asked for, all in all."""
    samples = picture(200, 300)
    most = len(tiny.encode(samples, 50))
    file = tiny.encode(samples, target_bytes=most, thumbnail=True)
    assert len(file) <= most
    assert vaecodec.info(file).header.quality < 50
    assert thumbnails.stored_in(bitstream.read(file)).header.quality == vaecodec.info(file).header.quality


def with_thumbnail(file: bytes, thumbnail: bytes) -> bytes:
    """The file with another thumbnail."""
    stream = bitstream.read(file)
    return bitstream.write(stream.header, list(stream.tiles), stream.metadata | {"thumbnail": thumbnail})


def bad_thumbnails(codec: Codec) -> dict[str, bytes]:
    """Such as no encoder makes for a picture of 80 x 120 pixels."""
    good = codec.encode(picture(10, 15), 50)
    stream = bitstream.read(good)
    (tile,) = stream.tiles
    return {
        "empty": b"", "cut": good[:-1], "flipped": good[:-1] + bytes([good[-1] ^ 1]), "text": b"no picture",
        "too large": codec.encode(picture(80, 120), 50), "turned": codec.encode(picture(15, 10), 50),
        "grey": codec.encode(picture(10, 15)[..., :1], 50),
        "another model's": bitstream.write(dataclasses.replace(stream.header, model_id=b"none"), [tile], {}),
        "crafted": bitstream.write(stream.header, [tile._replace(payload=b"\1\2\3\4" * 9)], {}),
    }  # fmt: skip


def test_a_thumbnail_that_cannot_be_of_the_picture_is_passed_over(tiny: Codec) -> None:
    """Damaged, of another size, format or model, or crafted: the preview is made of the picture."""
    file = tiny.encode(picture(80, 120), 50)
    expected = tiny.decode(file, scale=1 / 8, output="numpy")
    for name, thumbnail in bad_thumbnails(tiny).items():
        shown = tiny.decode(with_thumbnail(file, thumbnail), scale=1 / 8, output="numpy")
        np.testing.assert_array_equal(shown, expected, err_msg=name)


def test_a_thumbnail_in_a_thumbnail_is_not_looked_at(tiny: Codec, walked: list[tuple[int, int]]) -> None:
    """However deep a file is nested, one step is taken."""
    file = tiny.encode(picture(80, 120), 50)
    for _ in range(30):
        file = with_thumbnail(tiny.encode(picture(10, 15), 50), file)
    nested = with_thumbnail(tiny.encode(picture(80, 120), 50), file)
    walked.clear()
    assert tiny.decode(nested, scale=1 / 8).size == (15, 10)
    assert walked == [(1, 1)]


def test_pillow_saves_shows_and_drops_it(tiny: Codec, walked: list[tuple[int, int]]) -> None:
    """`save(thumbnail=True)` makes it, drafts show it, with the picture's metadata; a copy that is saved has none."""
    file = io.BytesIO()
    Image.fromarray(picture(96, 160)).save(file, "VAEC", quality=50, thumbnail=True, xmp=XMP, model=tiny.model)
    assert set(vaecodec.info(file.getvalue()).metadata) == {"xmp", "thumbnail"}
    assert tiny.decode(file.getvalue(), scale=1 / 8).info["xmp"] == XMP
    assert "thumbnail" not in tiny.decode(file.getvalue()).info
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert "thumbnail" not in image.info
    again = tiny.encode(tiny.decode(file.getvalue()), 50)
    assert set(vaecodec.info(again).metadata) == {"xmp"}


def test_the_command_line_makes_it_and_leaves_it_out(tiny: Codec, tmp_path: Path) -> None:
    """`encode --thumbnail`; a decoded picture file has no trace of it."""
    source, coded, back = (str(tmp_path / name) for name in ("a.png", "a.vaec", "b.png"))
    Image.fromarray(picture(96, 160)).save(source)
    model = ["--model", str(tiny.model)]
    assert CliRunner().invoke(main, ["encode", "--thumbnail", "-q", "50", *model, source, coded]).exit_code == 0
    assert set(vaecodec.info(coded).metadata) == {"thumbnail"}
    assert CliRunner().invoke(main, ["decode", *model, coded, back]).exit_code == 0
    with Image.open(back) as image:
        assert image.size == (160, 96)
        assert not image.info
