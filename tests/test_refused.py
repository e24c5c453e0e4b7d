"""What is no plain .vaec file is refused, everywhere by the same code: absurd fields, doubled metadata, polyglots."""

import io
import zipfile
from collections.abc import Callable

import pytest
from conftest import picture
from fuzz.parts import assemble, reseal, sound_chunk, take_apart
from lossless_codec import vaec
from PIL import Image

import vaecodec
from vaecodec.errors import VaecError

HEIGHT, WIDTH = 30, 40
SAMPLES = picture(HEIGHT, WIDTH)
SMALL = vaec(SAMPLES)
READERS: dict[str, Callable[[bytes], object]] = {
    "decode": vaecodec.decode,
    "decode partial": lambda data: vaecodec.decode(data, on_error="partial"),
    "info": vaecodec.info,
    "verify": vaecodec.verify,
    "pillow": lambda data: Image.open(io.BytesIO(data), formats=("VAEC",)),
}

PARTS = take_apart(vaec(SAMPLES, {"exif": b"II*\0", "xmp": b"<x/>"}))


def header(**fields: int) -> bytes:
    """The small file with other fields of the header, sealed."""
    return reseal(assemble(PARTS, header=fields), lengthens="file_bytes" not in fields)


def entry(mode: int, length: int) -> bytes:
    """The small file with another mode and length of its tile, sealed."""
    return reseal(assemble(PARTS, entries=(PARTS.entries[0]._replace(mode_length=mode << 28 | length),)))


def chunks(*kinds: bytes) -> bytes:
    """The small file with other metadata."""
    return reseal(assemble(PARTS, header={"flags_compat": 1}, chunks=tuple(sound_chunk(kind, b"12") for kind in kinds)))


def zipped() -> bytes:
    """An archive with a file in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("run.me", b"anything")
    return file.getvalue()


FOREIGN = {
    "zip": zipped(),
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "html": b"<html><script>1</script></html>",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\xff\xd9",
    "vaec": SMALL,
}
PLAIN = take_apart(SMALL)
REFUSED = {
    "no width": (header(width=0), "ZERO_DIM"),
    "no height": (header(height=0), "ZERO_DIM"),
    "width 2^32 - 1": (header(width=2**32 - 1), "FORMAT_DIM"),
    "2^18 + 1 high": (header(height=2**18 + 1), "FORMAT_DIM"),
    "2^18 x 2^18": (header(width=2**18, height=2**18), "FORMAT_DIM"),
    "2^16 x 2^16 is 0 in 32 bits": (header(width=2**16, height=2**16), "FORMAT_DIM"),
    "a column of 2^18": (header(width=1, height=2**18), "SHORT_FILE"),
    "2^14 x 2^14 without an index": (header(width=2**14, height=2**14, tile_log2=8), "SHORT_FILE"),
    "tiles of 1 pixel": (header(tile_log2=0), "TILE"),
    "tiles of 2^255": (header(tile_log2=255), "TILE"),
    "quality 0": (header(quality=0), "QUALITY"),
    "quality 255": (header(quality=255), "QUALITY"),
    "deblocking 65": (header(deblocking_cut=65), "DEBLOCKING"),
    "pixel format 255": (header(pixel_format=255), "PIXEL_FORMAT"),
    "version 255": (header(version=255), "VERSION"),
    "reserved": (header(reserved=1), "RESERVED"),
    "every feature": (header(flags_incompat=255), "FEATURE"),
    "shorter than it is": (header(file_bytes=44), "TRAILING_DATA"),
    "4 GB long": (header(file_bytes=2**32 - 1), "SHORT_FILE"),
    "mode 14": (entry(14, 20), "TILE_MODE"),
    "external of 20": (entry(15, 20), "TILE_LEN"),
    "learned of 2^28 - 1": (entry(0, 2**28 - 1), "TILE_LEN"),
    "packed of 0": (entry(1, 0), "TILE_LEN"),
    "solid of 2^28 - 1": (entry(2, 2**28 - 1), "TILE_LEN"),
    "payload beyond the end": (entry(1, HEIGHT * WIDTH * 3), "PAYLOAD_SUM"),
    "exif twice": (chunks(b"EXIF", b"EXIF"), "META"),
    "icc twice, apart": (chunks(b"ICCP", b"OWN1", b"ICCP"), "META"),
    "xmp twice": (chunks(b"XMP_", b"XMP_"), "META"),
    "metadata flagged, none there": (chunks(), "META"),
    "metadata not flagged": (header(flags_compat=0), "PAYLOAD_SUM"),
    **{f"{name} appended": (SMALL + data, "TRAILING_DATA") for name, data in FOREIGN.items()},
    **{f"{name} appended, sealed": (reseal(SMALL + data), "PAYLOAD_SUM") for name, data in FOREIGN.items()},
    **{
        f"{name} appended as metadata": (
            reseal(assemble(PLAIN, header={"flags_compat": 1}) + data),
            "META",
        )
        for name, data in FOREIGN.items()
    },
    **{f"{name} prepended": (data + SMALL, "BAD_MAGIC") for name, data in FOREIGN.items() if name != "vaec"},
    "blank line prepended": (b"\n" + SMALL, "BAD_MAGIC"),
    "byte order mark prepended": (b"\xef\xbb\xbf" + SMALL, "BAD_MAGIC"),
    "as text": (SMALL.decode("latin-1").encode(), "BAD_MAGIC"),
    "zero byte appended": (SMALL + b"\0", "TRAILING_DATA"),
    "line feed appended": (SMALL + b"\n", "TRAILING_DATA"),
    "nothing": (b"", "BAD_MAGIC"),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_file_is_refused_with_its_code(data: bytes, code: str) -> None:
    """Absurd fields, doubled metadata, anything before or behind: one code, the same from every reader.

    But partial reading puts up with damaged metadata and a missing end, and Pillow says of what does not begin with our
    magic only that nobody knows the format.
    """
    expected = dict.fromkeys(READERS, code)
    if code in ("META", "SHORT_FILE"):
        del expected["decode partial"]
    if code == "BAD_MAGIC":
        expected["pillow"] = "UnidentifiedImageError"
    assert {name: code_of(READERS[name], data) for name in expected} == expected


def code_of(reader: Callable[[bytes], object], data: bytes) -> str:
    """The code of the error that must come, or Pillow's class of it."""
    with pytest.raises(OSError, match=".") as caught:
        reader(data)
    return caught.value.code if isinstance(caught.value, VaecError) else type(caught.value).__name__


@pytest.mark.parametrize("source", [None, 1, ["a.vaec"], object()], ids=lambda source: type(source).__name__)
def test_what_is_no_source_is_refused(source: object) -> None:
    """SOURCE: neither bytes nor a path nor a file; the message names the type."""
    for name in ("decode", "decode partial", "info", "verify"):
        with pytest.raises(VaecError, match=f"got {type(source).__name__}") as caught:
            READERS[name](source)  # type: ignore[arg-type]
        assert caught.value.code == "SOURCE"


def test_the_polyglots_are_what_they_say() -> None:
    """Other programs do take the refused archives for archives: the test above is about real polyglots."""
    for data in (SMALL + FOREIGN["zip"], FOREIGN["zip"] + SMALL):
        assert zipfile.is_zipfile(io.BytesIO(data))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_unspoilt_file_is_read_by_all(reader: Callable[[bytes], object]) -> None:
    """What the files above are made of is itself sound."""
    reader(PARTS.data)
