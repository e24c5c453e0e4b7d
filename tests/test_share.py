"""Desktop files in share/: the type, the magic and the commands that they name are those of the package."""

import configparser
import re
import shlex
import subprocess
from pathlib import Path
from shutil import which
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from conftest import picture
from lossless_codec import vaec
from PIL import Image

from vaecodec.cli import main
from vaecodec.format.records import MAGIC
from vaecodec.interop.pillow_plugin import EXTENSION, MIME_TYPE

SHARE = Path(__file__).parents[1] / "share"


def entry(path: str, section: str) -> configparser.SectionProxy:
    """The only section of a desktop file."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(SHARE / path)
    assert parser.sections() == [section]
    return parser[section]


def test_the_type_is_that_of_the_plugin() -> None:
    """Name, suffix and first bytes, for desktops and for file(1)."""
    root = ElementTree.parse(SHARE / "mime/packages/vaecodec.xml").getroot()
    (found,) = root
    space = root.tag.removesuffix("mime-info")
    match, glob = found.find(f"{space}magic/{space}match"), found.find(f"{space}glob")
    assert match is not None and glob is not None
    assert found.get("type") == MIME_TYPE and glob.get("pattern") == f"*{EXTENSION}"
    magic = (SHARE / "magic").read_text()
    for text in (str(match.get("value")), re.findall(r"^0\tstring\t(\S+)", magic, re.MULTILINE)[0]):
        assert text.encode().decode("unicode_escape").encode("latin-1") == MAGIC
    assert f"!:mime\t{MIME_TYPE}" in magic


@pytest.mark.skipif(which("file") is None, reason="no file(1) here")
def test_file_knows_them(tmp_path: Path) -> None:
    """With the magic file that is given."""
    (tmp_path / "a").write_bytes(vaec(picture(8, 8)))
    command = ["file", "--brief", "-m", SHARE / "magic", tmp_path / "a"]
    assert "vaecodec picture" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("size", "wanted"), [((300, 200), (128, 85)), ((2100, 700), (128, 43)), ((40, 30), (40, 30))])
def test_the_thumbnailer_makes_thumbnails(size: tuple[int, int], wanted: tuple[int, int], tmp_path: Path) -> None:
    """A PNG of at most the size asked for, over the empty file that file managers make."""
    found = entry("thumbnailers/vaecodec.thumbnailer", "Thumbnailer Entry")
    assert found["MimeType"] == f"{MIME_TYPE};"
    source, target = tmp_path / "a.vaec", tmp_path / "thumbnail.png"
    source.write_bytes(vaec(picture(size[1], size[0])))
    target.touch()
    program, *arguments = shlex.split(found["Exec"])
    given = {"%i": str(source), "%o": str(target), "%s": "128"}
    result = CliRunner().invoke(main, [given.get(each, each) for each in arguments])
    assert (program, result.exit_code, result.stderr) == ("vaecodec", 0, "")
    with Image.open(target) as image:
        assert (image.format, image.size) == ("PNG", wanted)


def test_the_desktop_entry_decodes(tmp_path: Path) -> None:
    """To a PNG beside each file."""
    found = entry("applications/vaecodec-open.desktop", "Desktop Entry")
    assert found["MimeType"] == f"{MIME_TYPE};"
    for name in ("a.vaec", "b.vaec"):
        (tmp_path / name).write_bytes(vaec(picture(8, 8)))
    _, *arguments = shlex.split(found["Exec"])
    assert arguments.pop() == "%F"
    result = CliRunner().invoke(main, [*arguments, *map(str, sorted(tmp_path.iterdir()))])
    assert result.exit_code == 0 and (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


def test_fit_excludes_other_parts(tmp_path: Path) -> None:
    """Of the picture."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(8, 8)))
    for more in (("--scale", "1/2"), ("--crop", "0,0,4,4"), ("--keep-going",)):
        assert CliRunner().invoke(main, ["decode", str(tmp_path / "a.vaec"), "--fit", "4", *more]).exit_code == 2
