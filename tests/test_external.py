"""Files that a model of another library decodes, seen without that library: told of, refused, never shown."""

import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vaecodec import Codec, VaecError
from vaecodec.cli import main
from vaecodec.errors import VaecCorruptError, VaecFormatError, VaecUnsupportedError
from vaecodec.format import container, external, sources
from vaecodec.format.external import External
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode

MODEL = External(bytes(range(32)), 7, "bmshj2018-hyperprior", (2, 3), (b"latents", b"", b"hyper"))
HEADER = Header(PixelFormat.RGB, 150, 90, MODEL.model_sha256[:4], 3, 12)

externals = st.builds(
    External,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32 - 1),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4).map(tuple),
    st.lists(st.binary(max_size=20), min_size=1, max_size=64).map(tuple),
    library=st.just("compressai"),
)


def file_of(payload: bytes) -> bytes:
    """A file whose only tile has this payload."""
    return container.write(HEADER, [Tile(TileMode.EXTERNAL, payload, 0)])


def refusal(payload: bytes) -> str:
    """The code of the error that a payload is refused with."""
    with pytest.raises(VaecError) as caught:
        External.unpack(payload)
    return caught.value.code


@given(externals)
def test_what_is_packed_is_unpacked(model: External) -> None:
    """Every field survives, and its name and hash are told by the first bytes alone."""
    payload = model.pack()
    assert External.unpack(payload) == model
    told = external.told_by(payload[: external.PREFIX_BYTES])
    assert told == f"compressai {model.name} {model.model_sha256[:4].hex()}"


@pytest.mark.parametrize("place", range(36, 40))
def test_a_head_that_no_encoder_writes_is_refused(place: int) -> None:
    """Library, length of the name, dimensions and strings: any other value is an error, not a wrong picture."""
    payload = bytearray(MODEL.pack())
    for value in set(range(256)) - {payload[place]}:
        payload[place] = value
        assert refusal(bytes(payload)) in ("EXTERNAL", "EXTERNAL_LIBRARY"), value


def test_strings_end_where_the_payload_ends() -> None:
    """A byte more or less, or a length beyond the end, is refused."""
    payload = MODEL.pack()
    lengths = 40 + len(MODEL.name) + 4 * len(MODEL.shape)
    longer = payload[:lengths] + struct.pack("<I", 2**32 - 1) + payload[lengths + 4 :]
    for damaged in (payload + b"x", payload[:-1], payload[:60], longer):
        assert refusal(damaged) == "EXTERNAL"
    assert refusal(payload.replace(b"bmshj", b"bm hj")) == "EXTERNAL"


def test_info_names_the_model(tmp_path: Path) -> None:
    """`info` and the writer tell the same; a name that cannot be read is not told."""
    data = file_of(MODEL.pack())
    found = sources.info(data)
    assert found.external == "compressai bmshj2018-hyperprior 00010203"
    assert found.external in repr(found)
    assert container.assemble(HEADER, [Tile(TileMode.EXTERNAL, MODEL.pack(), 0)]).info == found
    assert sources.info(file_of(bytes(60))).external == ""
    (tmp_path / "a.vaec").write_bytes(data)
    told = CliRunner().invoke(main, ["info", str(tmp_path / "a.vaec")])
    assert told.exit_code == 0 and found.external in told.output and "1 external" in told.output


def decode_all_ways(codec: Codec, data: bytes) -> list[Any]:
    """What can be asked of a file's pixels."""
    return [
        lambda: codec.decode(data),
        lambda: codec.decode(data, scale=1 / 8),
        lambda: codec.decode(data, on_error="partial"),
        lambda: codec.decode_region(data, (0, 0, 9, 9)),
        lambda: codec.decode_batch([data]),
    ]


def test_a_codec_says_which_model_is_wanted_and_how_to_give_it(tiny: Codec, tmp_path: Path) -> None:
    """However it is decoded: an error for programs and a recipe for people, and no picture."""
    for decode in decode_all_ways(tiny, file_of(MODEL.pack())):
        with pytest.raises(VaecUnsupportedError, match=r"bmshj2018-hyperprior.*Container\(model, 'bmshj") as caught:
            decode()
        assert caught.value.code == "EXTERNAL_MODEL"
    (tmp_path / "a.vaec").write_bytes(file_of(MODEL.pack()))
    told = CliRunner().invoke(main, ["decode", str(tmp_path / "a.vaec"), str(tmp_path / "a.png")])
    assert told.exit_code == 5 and "vaecodec[compressai]" in told.output


def test_a_payload_that_no_encoder_wrote_is_no_picture_either(tiny: Codec) -> None:
    """It is a crafted file, and said to be one."""
    with pytest.raises(VaecCorruptError, match="crafted"):
        tiny.decode(file_of(bytes(60)))


def test_alpha_is_never_external() -> None:
    """Alpha is kept without loss."""
    header = Header(PixelFormat.LA, 4, 4, bytes(4), 1)
    tile = Tile(TileMode.EXTERNAL, MODEL.pack(), 0)
    with pytest.raises(VaecFormatError) as caught:
        container.write(header, [tile, tile])
    assert (caught.value.code, caught.value.tile) == ("TILE_MODE", 1)
