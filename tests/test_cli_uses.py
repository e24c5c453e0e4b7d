"""Laws of the commands sample, map and html: what they write, what they refuse, with which exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import picture
from PIL import Image

from vaecodec import Codec
from vaecodec.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> Run:
    """Runs the command line with the tiny weights in a folder that holds a.png and b.png."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(picture(70, 90, seed=number)).save(name)
    weights = ("--model", str(tiny_weights), "--device", "cpu")
    return lambda command, *rest, **options: CliRunner().invoke(main, [command, *weights, *rest], **options)


def pixels_of(path: str) -> np.ndarray:
    """The samples of a picture file."""
    with Image.open(path) as image:
        return np.asarray(image)


def test_sample_writes_what_the_codec_draws(run: Run, tiny: Codec) -> None:
    """The file holds the picture of that size, seed, quality and temperature, and the JSON line tells of them."""
    result = run(
        "sample", "--size", "40x24", "--seed", "7", "-q", "30", "--temperature", "0.5", "-o", "s.png", "--json"
    )
    assert result.exit_code == 0, result.output
    expected = tiny.explore.sample((40, 24), seed=7, quality=30, temperature=0.5, output="numpy")
    assert np.array_equal(pixels_of("s.png"), expected)
    told = json.loads(result.stdout)
    assert (told["output"], told["status"], told["width"], told["seed"]) == ("s.png", "done", 40, 7)


def test_sample_goes_to_stdout_as_png(run: Run) -> None:
    """`-o -` writes nothing but the picture."""
    result = run("sample", "--size", "16x16", "-o", "-")
    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"\x89PNG")


@pytest.mark.parametrize("size", ["512", "0x-1", "axb", "1x2x3", ""])
def test_sample_needs_a_size(run: Run, size: str) -> None:
    """What is no size is wrong usage."""
    result = run("sample", "--size", size, "-o", "s.png")
    assert result.exit_code == 2
    assert "is not a size such as 512x512" in result.stderr


def test_sample_has_limits(run: Run) -> None:
    """A size that no file can have, or that is too large to draw, is refused with exit code 6, without a file."""
    for size in ("300000x1", "20000x20000"):
        result = run("sample", "--size", size, "-o", "s.png")
        assert result.exit_code == 6, result.output
    assert not Path("s.png").exists()


@pytest.mark.parametrize("source", ["a.png", "a.vaec", "-"])
def test_map_lies_over_the_picture(run: Run, tiny: Codec, source: str) -> None:
    """A picture, its .vaec file and stdin have the same map, of the size of the picture."""
    data = tiny.encode("a.png", 60)
    Path("a.vaec").write_bytes(data)
    result = run("map", source, "-q", "60", "-o", "m.png", "--json", input=Path("a.png").read_bytes())
    assert result.exit_code == 0, result.output
    assert pixels_of("m.png").shape == (70, 90, 3)
    assert json.loads(result.stdout)["bits"] == round(float(tiny.explore.rate_map_from_bytes(data).sum()))


def test_html_shows_every_picture_once(run: Run) -> None:
    """The page has one section a picture, in the order given, whatever is given twice."""
    result = run("html", "b.png", "a.png", "b.png", "-o", "p.html", "--title", "Holiday", "-q", "30")
    assert result.exit_code == 0, result.output
    page = Path("p.html").read_text()
    assert page.count('class="slider"') == 2
    assert page.index("<h2>b.png") < page.index("<h2>a.png")
    assert "<h1>Holiday</h1>" in page


@pytest.mark.parametrize("command", [("sample",), ("map", "a.png"), ("html", "a.png")])
def test_outputs_are_not_overwritten_unless_asked(run: Run, command: tuple[str, ...]) -> None:
    """An output that is there stays as it is; -f replaces it."""
    Path("o.png").write_bytes(b"mine")
    result = run(*command, "-o", "o.png")
    assert result.exit_code == 1
    assert "[EXISTS]" in result.stderr
    assert Path("o.png").read_bytes() == b"mine"
    assert run(*command, "-o", "o.png", "-f").exit_code == 0
    assert Path("o.png").read_bytes() != b"mine"


@pytest.mark.parametrize("command", [("map", "a.png"), ("html", "b.png", "a.png")])
def test_inputs_are_never_overwritten(run: Run, command: tuple[str, ...]) -> None:
    """Not even with -f, and whichever of the inputs it is."""
    before = Path("a.png").read_bytes()
    result = run(*command, "-o", "a.png", "-f")
    assert result.exit_code == 1
    assert "[SAME_FILE]" in result.stderr
    assert Path("a.png").read_bytes() == before


@pytest.mark.parametrize("command", [("map",), ("html", "a.png")])
def test_what_cannot_be_read_is_told_and_nothing_is_written(run: Run, command: tuple[str, ...]) -> None:
    """A missing file, a folder and a file that is no picture have exit code 3."""
    Path("folder").mkdir()
    Path("text.png").write_text("no picture")
    for source in ("missing.png", "folder", "text.png"):
        result = run(*command, source, "-o", "o.png")
        assert result.exit_code == 3, result.output
        assert "[INPUT]" in result.stderr
        assert not Path("o.png").exists()


@pytest.mark.parametrize("command", [("sample",), ("map", "a.png"), ("html", "a.png")])
def test_wrong_usage_is_told(run: Run, command: tuple[str, ...]) -> None:
    """A folder as output, JSON beside an output on stdout, and no output at all are wrong usage."""
    Path("folder").mkdir()
    for options, told in ((("-o", "folder"), "is a folder"), (("-o", "-", "--json"), "--json"), ((), "-o")):
        result = run(*command, *options)
        assert result.exit_code == 2, result.output
        assert told in result.stderr


def test_pictures_need_the_suffix_of_a_format(run: Run) -> None:
    """A map cannot be written under a name that means no picture format."""
    for command in (("sample",), ("map", "a.png")):
        result = run(*command, "-o", "out.xyz")
        assert result.exit_code == 2
        assert "must have the suffix of a format that Pillow writes" in result.stderr
