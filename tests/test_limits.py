"""Limits: a small file that claims much costs nothing, at every entry point, and no source is read without end."""

import inspect
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import picture
from fuzz.forge import bomb
from lossless_codec import vaec
from PIL import Image

import vaecodec
from vaecodec import Codec
from vaecodec.cli import main
from vaecodec.errors import VaecError, VaecLimitError
from vaecodec.format import records, sources
from vaecodec.tiling.explore import Explorer

MAX_MS, MAX_BYTES = 100.0, 5 * 2**20  # of the thread, where 3 ms are usual and what is refused would take minutes
HEIGHT, WIDTH = 30, 40
SAMPLES = picture(HEIGHT, WIDTH)
SMALL = vaec(SAMPLES)
BOMB = bomb()
TOO_LARGE_EXIT = 6
REFUSALS = (VaecError, Image.DecompressionBombError)


def png_bomb() -> bytes:
    """A PNG of less than 100 bytes that claims 2^28 pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2**14, 2**14, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    sealed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


# --- the entry points -------------------------------------------------------------------------------------------------

CODEC = Codec(None, "cpu")
ENCODERS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "Codec.encode": lambda source, options: CODEC.encode(source, **options),
    "Codec.encode_batch": lambda source, options: CODEC.encode_batch([source], **options),
    "Codec.encode_file": lambda source, options: CODEC.encode_file(source, io.BytesIO(), **options),
    "encode": lambda source, options: vaecodec.encode(source, **options),
    "encode_file": lambda source, options: vaecodec.encode_file(source, io.BytesIO(), **options),
}
DECODERS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "Codec.decode": lambda source, options: CODEC.decode(source, **options),
    "Codec.decode_batch": lambda source, options: CODEC.decode_batch([source], **options),
    "Codec.decode_file": lambda source, options: CODEC.decode_file(source, io.BytesIO(), format="PNG", **options),
    "Codec.decode_region": lambda source, options: CODEC.decode_region(source, (0, 0, 1, 1), **options),
    "decode": lambda source, options: vaecodec.decode(source, **options),
    "decode preview": lambda source, options: vaecodec.decode(source, scale=1 / 8, **options),
    "decode_file": lambda source, options: vaecodec.decode_file(source, io.BytesIO(), format="PNG", **options),
    "decode_region": lambda source, options: vaecodec.decode_region(source, (0, 0, 1, 1), **options),
    "decode partial": lambda source, options: vaecodec.decode(source, on_error="partial", **options),
    "info": lambda source, options: vaecodec.info(source, **options),
    "verify": lambda source, options: vaecodec.verify(source, **options),
    "verify deep": lambda source, options: vaecodec.verify(source, deep=True, **options),
}
# Those without an option for it, which have the default limit: what takes pictures, and what takes files.
ANALYSERS: dict[str, Callable[[Any], object]] = {
    "Explorer.anomaly_score": CODEC.explore.anomaly_score,
    "Explorer.features": CODEC.explore.features,
    "Explorer.interpolate": lambda source: CODEC.explore.interpolate(SAMPLES, source, 2),
    "Explorer.rate_map": CODEC.explore.rate_map,
}
FILE_ANALYSERS: dict[str, Callable[[Any], object]] = {
    "Explorer.features_from_bytes": CODEC.explore.features_from_bytes,
    "Explorer.rate_map_from_bytes": CODEC.explore.rate_map_from_bytes,
}
COMMANDS = {
    "encode": ["encode", "-f", "-o", "{folder}/out.vaec", "{picture}"],
    "decode": ["decode", "-f", "-o", "{folder}/out.png", "{file}"],
    "decode --crop": ["decode", "--crop", "0,0,9,9", "-f", "-o", "{folder}/out.png", "{file}"],
    "decode --scale": ["decode", "--scale", "1/8", "-f", "-o", "{folder}/out.png", "{file}"],
    "verify": ["verify", "--deep", "{file}"],
    "thumbnail": ["thumbnail", "-f", "{file}", "{folder}/out.png"],
    "map": ["map", "-f", "-o", "{folder}/out.png", "{picture}"],
    "html": ["html", "-f", "-o", "{folder}/out.html", "{picture}"],
}
# Those that read only headers, have the default limit, or take no file of others'.
OTHER_COMMANDS = {"info", "compare", "desktop", "doctor", "sample", "train", "transcode", "view"}


def refusal(act: Callable[[], object]) -> tuple[type[VaecError], str]:
    """Class and code of the error that must come."""
    with pytest.raises(VaecError) as caught:
        act()
    return caught.type, caught.value.code


def peak_bytes(act: Callable[[], object]) -> int:
    """Peak of what Python and numpy allocate meanwhile, whether or not it fails."""
    tracemalloc.start()
    with suppress(*REFUSALS):
        act()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def shortest_ms(act: Callable[[], object]) -> float:
    """The shortest of ten runs, whether or not they fail: what else the machine does can only make a run longer."""

    def run_ms() -> float:
        start = time.thread_time()
        with suppress(*REFUSALS):
            act()
        return (time.thread_time() - start) * 1e3

    return min(run_ms() for _ in range(10))


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_the_limit_holds_at_every_function(name: str) -> None:
    """One pixel more than `max_pixels` is refused, the limit itself is not."""
    source, act = (SAMPLES, ENCODERS[name]) if name in ENCODERS else (SMALL, DECODERS[name])
    act(source, {"max_pixels": HEIGHT * WIDTH})
    assert refusal(lambda: act(source, {"max_pixels": HEIGHT * WIDTH - 1})) == (VaecLimitError, "MAX_PIXELS")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_limit_holds_at_every_command(name: str, tmp_path: Path) -> None:
    """The same of --max-pixels; the exit code is 6 and nothing is written."""
    (tmp_path / "in.vaec").write_bytes(SMALL)
    Image.fromarray(SAMPLES).save(tmp_path / "in.png")
    arguments = [
        part.format(folder=tmp_path, picture=tmp_path / "in.png", file=tmp_path / "in.vaec") for part in COMMANDS[name]
    ]
    refused = CliRunner().invoke(main, [*arguments, "--max-pixels", str(HEIGHT * WIDTH - 1)])
    assert (refused.exit_code, "MAX_PIXELS" in refused.stderr) == (TOO_LARGE_EXIT, True)
    assert not list(tmp_path.glob("out*"))
    assert CliRunner().invoke(main, [*arguments, "--max-pixels", str(HEIGHT * WIDTH)]).exit_code == 0


def test_no_entry_point_is_forgotten() -> None:
    """Every public function that takes pictures or files, and every command, is in the tables above."""
    functions = {
        name: member
        for prefix, scope in (("", vaecodec), ("Codec.", Codec), ("Explorer.", Explorer))
        for name, member in ((prefix + n, getattr(scope, n)) for n in (getattr(scope, "__all__", None) or dir(scope)))
        if inspect.isfunction(member) and not name.split(".")[-1].startswith("_")
    }
    takers = {
        name
        for name, function in functions.items()
        if {"source", "image", "files", "images", "a"} & inspect.signature(function).parameters.keys()
    }
    assert takers == {name.split()[0] for name in (*ENCODERS, *DECODERS, *ANALYSERS, *FILE_ANALYSERS)}
    assert set(main.commands) == {name.split()[0] for name in COMMANDS} | OTHER_COMMANDS


# --- bombs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_a_bomb_is_refused_at_no_cost(name: str) -> None:
    """4 kB that claim 2^28 pixels are refused within 100 ms and 5 MB."""
    assert len(BOMB) < 4096
    assert refusal(lambda: DECODERS[name](BOMB, {})) == (VaecLimitError, "MAX_PIXELS")
    assert peak_bytes(lambda: DECODERS[name](BOMB, {})) < MAX_BYTES
    assert shortest_ms(lambda: DECODERS[name](BOMB, {})) < MAX_MS


@pytest.mark.parametrize("name", ["info", "verify"])
def test_a_bomb_is_opened_by_its_header_alone(name: str) -> None:
    """Where the caller allows any size, what looks at headers and CRCs alone stays within 100 ms and 5 MB."""
    assert DECODERS[name](BOMB, {"max_pixels": None}).header.width == 2**14
    assert peak_bytes(lambda: DECODERS[name](BOMB, {"max_pixels": None})) < MAX_BYTES
    assert shortest_ms(lambda: DECODERS[name](BOMB, {"max_pixels": None})) < MAX_MS


def test_pillow_refuses_a_bomb_at_no_cost() -> None:
    """`Image.open` applies Pillow's own limit within 100 ms and 5 MB; without one it still opens only the header."""

    def open_it() -> Image.Image:
        return Image.open(io.BytesIO(BOMB))

    with pytest.raises(Image.DecompressionBombError):
        open_it()
    assert peak_bytes(open_it) < MAX_BYTES
    assert shortest_ms(open_it) < MAX_MS


def test_pillow_without_a_limit_opens_only_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAX_IMAGE_PIXELS = None is the caller's decision, and opening still costs nothing."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert Image.open(io.BytesIO(BOMB)).size == (2**14, 2**14)
    assert peak_bytes(lambda: Image.open(io.BytesIO(BOMB))) < MAX_BYTES
    assert shortest_ms(lambda: Image.open(io.BytesIO(BOMB))) < MAX_MS


def test_a_file_exchanged_for_a_bomb_after_opening_is_refused_at_no_cost() -> None:
    """What `Image.open` has checked cannot be exchanged before `load` for something larger."""

    def exchange_and_load() -> None:
        file = io.BytesIO(SMALL)
        with Image.open(file) as image:
            file.seek(0)
            file.write(BOMB)
            image.load()

    assert refusal(exchange_and_load) == (VaecLimitError, "MAX_PIXELS")
    assert peak_bytes(exchange_and_load) < MAX_BYTES


@pytest.mark.parametrize("name", [*ENCODERS, *ANALYSERS])
def test_a_bomb_of_another_format_is_refused_at_no_cost(name: str, tmp_path: Path) -> None:
    """A PNG that claims 2^28 pixels is refused as such before any is decoded."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb())
    act = partial(ENCODERS[name], path, {}) if name in ENCODERS else partial(ANALYSERS[name], path)
    assert refusal(act) == (VaecLimitError, "MAX_PIXELS")
    assert peak_bytes(act) < MAX_BYTES


@pytest.mark.parametrize("name", FILE_ANALYSERS)
def test_analysis_of_a_bomb_is_refused_at_no_cost(name: str) -> None:
    """The default limit holds where nothing else can be asked for."""
    assert refusal(lambda: FILE_ANALYSERS[name](BOMB)) == (VaecLimitError, "MAX_PIXELS")
    assert peak_bytes(lambda: FILE_ANALYSERS[name](BOMB)) < MAX_BYTES


def test_no_picture_beyond_the_limit_is_drawn() -> None:
    """`sample` takes no file, but a size."""
    assert refusal(lambda: CODEC.explore.sample((2**14, 2**14))) == (VaecLimitError, "MAX_PIXELS")


def test_commands_refuse_a_bomb(tmp_path: Path) -> None:
    """Exit code 6 from all that decode, 0 from what reads headers and CRCs alone."""
    path, png = tmp_path / "bomb.vaec", tmp_path / "other.png"
    path.write_bytes(BOMB)
    png.write_bytes(png_bomb())
    for arguments in (["decode", path], ["verify", "--deep", path], ["compare", path, path], ["encode", png]):
        assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == TOO_LARGE_EXIT, arguments
    for command in ("info", "verify"):
        assert CliRunner().invoke(main, [command, str(path)]).exit_code == 0
    assert sorted(tmp_path.iterdir()) == [path, png]


# --- sources without end ----------------------------------------------------------------------------------------------


class Stream(io.RawIOBase):
    """A pipe that delivers some bytes and then zeros for ever; `delivered` counts."""

    def __init__(self, data: bytes) -> None:
        self.data, self.delivered = data, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self.delivered < 2**24, "it reads on and on"
        end = self.delivered + min(len(buffer), 2**16)
        found = self.data[self.delivered : end].ljust(end - self.delivered, b"\0")
        buffer[: len(found)] = found
        self.delivered = end
        return len(found)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(("data", "code"), [(b"", "BAD_MAGIC"), (SMALL, "TRAILING_DATA")], ids=["nothing", "a file"])
def test_a_stream_without_end_is_refused(name: str, data: bytes, code: str) -> None:
    """No more is read than can belong to a file, and one byte."""
    stream = Stream(data)
    assert refusal(lambda: DECODERS[name](stream, {}))[1] == code
    assert stream.delivered == (len(data) + 1 if data else records.HEADER.size_bytes)


@pytest.mark.parametrize(("data", "code"), [(b"", "BAD_MAGIC"), (SMALL, "TRAILING_DATA")], ids=["nothing", "a file"])
def test_a_huge_file_is_not_read(data: bytes, code: str, tmp_path: Path) -> None:
    """A file of 2^40 bytes, nearly all of them a hole, is refused within 100 ms and 5 MB."""
    path = tmp_path / "huge.vaec"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert refusal(lambda: CODEC.decode(path))[1] == code
    assert peak_bytes(lambda: CODEC.decode(path)) < MAX_BYTES
    assert shortest_ms(lambda: CODEC.decode(path)) < MAX_MS


def test_a_claimed_length_alone_allocates_nothing() -> None:
    """32 bytes that claim 4 GB are read as 32 bytes, and refused."""
    claim = SMALL[:24] + b"\xff" * 4 + SMALL[28:32]
    assert refusal(lambda: CODEC.decode(Cut(claim)))[1] == "SHORT_FILE"
    assert peak_bytes(lambda: CODEC.decode(Cut(claim))) < 20 * 2**20


class Cut(Stream):
    """A pipe that ends."""

    def readinto(self, buffer: Any) -> int:
        found = self.data[self.delivered : self.delivered + len(buffer)]
        buffer[: len(found)] = found
        self.delivered += len(found)
        return len(found)


def test_a_long_file_is_read_whole_from_a_pipe() -> None:
    """What arrives in small pieces is put together."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    data = vaec(noise)
    assert len(data) > 2**17
    assert sources.read_all(Stream(data))[:-1] == sources.read_all(Cut(data)) == data
    assert (CODEC.decode(Cut(data), output="numpy") == noise).all()


# --- hostile metadata -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exif", [b"not a TIFF", b"II*\0\x08\0\0\0\xff\xff", b"II*\0\xff\xff\xff\xff", b"MM"])
def test_malformed_exif_costs_no_pixels(exif: bytes, tmp_path: Path) -> None:
    """EXIF is opaque to the format, and decoding upright leaves a picture as it is stored where EXIF is unreadable."""
    path, out = tmp_path / "in.vaec", tmp_path / "out.png"
    path.write_bytes(vaec(SAMPLES, {"exif": exif}))
    done = CliRunner().invoke(main, ["decode", "--auto-orient", "-o", str(out), str(path)])
    assert done.exit_code == 0, done.stderr
    assert (np.asarray(Image.open(out)) == SAMPLES).all()
