"""Laws of programs that are stopped while they write (tests/stress, `make stress` is the long form): short forms."""

import io
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossless_codec import LosslessCodec
from PIL import Image
from stress import writing

from vaecodec import codec
from vaecodec.errors import VaecImageError

if os.name != "posix":
    pytest.skip("signals and limits of POSIX", allow_module_level=True)

DECODE = ["decode", "-r", ".", "--out-dir", "out"]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two .vaec files that take a while to write."""
    return writing.lossless_files(_folder(tmp_path, "sources"), (250, 400))


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("way", "kills"), [("writer", 5), ("command", 3)])
def test_a_killed_program_leaves_a_whole_file(tmp_path: Path, sources: list[Path], way: str, kills: int) -> None:
    """Whenever it is killed, the file is the old or the new one, and the next run clears away what is left."""
    outcome = writing.kill_while_overwriting(way, sources, _folder(tmp_path, "target"), kills=kills)
    assert (outcome.broken, outcome.counts["kills"]) == ([], kills)


@pytest.mark.slow
def test_a_killed_save_of_pillow_is_never_another_picture(tmp_path: Path) -> None:
    """Pillow empties the file first, so it may be lost; but what is there is the picture or none."""
    pictures = writing.pictures(_folder(tmp_path, "sources"), (200, 300))
    outcome = writing.kill_while_overwriting("pillow", pictures, _folder(tmp_path, "target"), kills=3)
    assert (outcome.broken, outcome.counts["kills"]) == ([], 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_whole_files(tmp_path: Path, number: signal.Signals) -> None:
    """Whenever Ctrl-C or SIGTERM come, what is written is whole, nothing else is left, and the exit code tells."""
    writing.lossless_files(tmp_path, [300] * 10)
    outcome = writing.stop_command(DECODE, tmp_path, number=number, moments=(0, 0.3, 0.6, 0.9))
    assert (outcome.broken, outcome.counts["signals"]) == ([], 4)


@pytest.mark.slow
def test_several_programs_may_write_one_file(tmp_path: Path, sources: list[Path]) -> None:
    """Whoever reads it gets a whole file at any time."""
    outcome = writing.many_writers(sources, _folder(tmp_path, "target"), writers=4, reads=200)
    assert (outcome.broken, outcome.counts["reads"]) == ([], 200)


# --- Pillow's own way of writing --------------------------------------------------------------------------------------


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """A picture that is encoded without weights."""

    def encode(image: Any, **_: Any) -> bytes:
        if image.mode == "F":
            raise VaecImageError("this mode is refused")
        return LosslessCodec().encode(image)

    monkeypatch.setattr(codec, "encode", encode)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))


@pytest.mark.parametrize("side", [8, 100])
def test_a_new_file_that_pillow_cannot_write_is_removed(tmp_path: Path, picture: Image.Image, side: int) -> None:
    """Where the disk is full: an error, and no part of a file, also of one so small that it is written at the end."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            picture.crop((0, 0, side, side)).save(tmp_path / "new.vaec")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(tmp_path)


def test_a_picture_that_cannot_be_encoded_leaves_the_folder_as_it_was(tmp_path: Path, picture: Image.Image) -> None:
    """No new file, and an old one whole, although Pillow empties it before it asks other plugins."""
    refused = picture.convert("F")
    with pytest.raises(VaecImageError):
        refused.save(tmp_path / "a.vaec")
    assert not os.listdir(tmp_path)
    picture.save(tmp_path / "a.vaec")
    with pytest.raises(VaecImageError):
        refused.save(tmp_path / "a.vaec")
    assert (tmp_path / "a.vaec").read_bytes() == LosslessCodec().encode(picture)


def test_a_file_that_the_caller_opened_stays_the_callers(picture: Image.Image) -> None:
    """Its errors come through, and it is not closed for them."""

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError("no space")

    with Full() as file:
        with pytest.raises(OSError, match="no space"):
            picture.save(file, "VAEC")
        assert not file.closed


def test_a_file_need_not_have_flush(picture: Image.Image) -> None:
    """Pillow asks no more of a file than write."""

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    picture.save(pipe, "VAEC")
    assert pipe.data == LosslessCodec().encode(picture)
