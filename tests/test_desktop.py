"""`vaecodec desktop` and `vaecodec thumbnail`: what is installed, what desktops then know, that it goes again."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import picture
from lossless_codec import vaec
from PIL import Image

from vaecodec.cli import installation, main

ORIENTATION = 0x0112


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account's data folder that is not there yet; the other folders where desktops look are empty."""
    for name in ("XDG_CONFIG_HOME", "HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def desktop(*arguments: str) -> Result:
    """What the command says."""
    return CliRunner().invoke(main, ["desktop", *arguments])


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file, without what the desktop's own tools make of them."""
    made = re.compile(r"mime/(?!packages/)|applications/mimeinfo\.cache")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not made.match(name)}


def section(path: Path) -> configparser.SectionProxy:
    """The only section of a desktop file."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    (name,) = parser.sections()
    return parser[name]


def test_installing_twice_is_installing_once_and_all_goes_again(home: Path) -> None:
    """The same files after the second time; nothing of them after --uninstall, and a second one is no error."""
    assert desktop("--install").exit_code == 0
    first = files_under(home)
    assert set(first) == {*installation.NAMES, installation.RECORD}
    assert desktop("--install").exit_code == 0
    assert files_under(home) == first
    for _ in range(2):
        assert desktop("--uninstall").exit_code == 0
        assert not home.exists()


def test_generated_files_go_only_if_nothing_else_is_there(home: Path) -> None:
    """And only folders that were not there before."""
    (home / "applications").mkdir(parents=True)
    desktop("--install")
    for name in ("globs", "mine"):
        (home / "mime" / name).touch()
    assert desktop("--uninstall").exit_code == 0
    for name in ("mime/globs", "mime/mine", "applications"):
        assert (home / name).exists()


def test_a_changed_file_is_not_called_foreign(home: Path) -> None:
    """When installing again: it says that it has been changed, and keeps it."""
    desktop("--install")
    changed = home / "applications" / "vaecodec-png.desktop"
    changed.write_text("mine")
    result = desktop("--install")
    assert result.exit_code == 1 and "has been changed since" in result.stderr and "[EXISTS]" in result.stderr
    assert changed.read_text() == "mine"


def test_what_is_not_ours_stays(home: Path) -> None:
    """Other files and folders, ours that were changed since; a foreign file of our name stops everything."""
    other = home / "applications" / "other.desktop"
    other.parent.mkdir(parents=True)
    other.write_text("[Desktop Entry]\n")
    (home / "thumbnailers").mkdir()
    assert desktop("--install").exit_code == 0
    changed = home / "applications" / "vaecodec-png.desktop"
    changed.write_text(changed.read_text() + "# mine\n")
    result = desktop("--uninstall")
    assert result.exit_code == 0 and "vaecodec-png.desktop has been changed since" in result.stdout
    assert set(files_under(home)) == {"applications/other.desktop", "applications/vaecodec-png.desktop"}
    assert (home / "thumbnailers").is_dir()
    result = desktop("--install")
    assert result.exit_code == 1 and "[EXISTS]" in result.stderr
    assert set(files_under(home)) == {"applications/other.desktop", "applications/vaecodec-png.desktop"}


def test_an_older_version_is_brought_up_to_date(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the record says was ours may be replaced."""
    monkeypatch.setattr(installation, "_program", lambda: ["/old/vaecodec"])
    desktop("--install")
    before = files_under(home)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    assert desktop("--install").exit_code == 0
    after = files_under(home)
    assert (
        set(after) == set(before)
        and after["thumbnailers/vaecodec.thumbnailer"] != before["thumbnailers/vaecodec.thumbnailer"]
    )


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": 1, "folders": []}', "\xff"])
def test_a_damaged_record_is_told(home: Path, record: str) -> None:
    """It and all else is kept, and the advice helps."""
    desktop("--install")
    (home / installation.RECORD).write_bytes(record.encode("latin-1"))
    before = files_under(home)
    result = desktop("--uninstall")
    assert result.exit_code == 1 and "[RECORD]" in result.stderr and "desktop --install" in result.stderr
    assert files_under(home) == before
    for step in ("--install", "--uninstall"):
        assert desktop(step).exit_code == 0
    assert files_under(home) == {}


def test_a_strange_record_removes_nothing(home: Path) -> None:
    """Only files of our names with the content that was installed, and empty folders below the data folder."""
    (home / "vaecodec").mkdir(parents=True)
    (home / installation.RECORD).write_text('{"files": {"../x": "0"}, "folders": ["..", "../empty", 3]}')
    (home.parent / "x").write_text("mine")
    (home.parent / "empty").mkdir()
    assert desktop("--uninstall").exit_code == 0
    assert (home.parent / "x").exists() and (home.parent / "empty").exists()


def test_exactly_one_of_both() -> None:
    """Else it is wrong usage."""
    assert desktop().exit_code == desktop("--install", "--uninstall").exit_code == 2


@pytest.mark.parametrize("program", [["/opt/a/vaecodec"], ['/opt/a "b" $c `d` %e \\f/python', "-m", "vaecodec"]])
def test_the_installed_program_is_started(home: Path, monkeypatch: pytest.MonkeyPatch, program: list[str]) -> None:
    """Not the first one on the PATH; whatever its folder is called."""
    monkeypatch.setattr(installation, "_program", lambda: program)
    assert desktop("--install").exit_code == 0
    for name in installation.NAMES[1:]:
        found = section(home / name)
        parts = shlex.split(found["Exec"].replace("\\\\", "\\"))  # which, unlike shells, leaves \$ and \` in quotes
        assert [re.sub(r"\\([$`])", r"\1", each.replace("%%", "%")) for each in parts][: len(program)] == program
        assert found["TryExec"].replace("\\\\", "\\") == program[0]


@pytest.mark.skipif(shutil.which("desktop-file-validate") is None, reason="no desktop-file-validate here")
def test_desktop_entries_are_valid(home: Path) -> None:
    """By the tool of those who wrote the specification."""
    desktop("--install")
    entries = sorted((home / "applications").glob("*.desktop"))
    done = subprocess.run(["desktop-file-validate", *entries], capture_output=True, text=True, check=False)
    assert (len(entries), done.returncode, done.stdout) == (2, 0, "")


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips where one of the desktop's tools is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def told(*command: str | Path) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@needs("xdg-mime", "update-mime-database")
def test_xdg_mime_knows_the_type(home: Path, tmp_path: Path) -> None:
    """By the suffix, and by the first bytes; after --uninstall no more."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(8, 8)))
    (tmp_path / "no-suffix").write_bytes(vaec(picture(8, 8)))
    desktop("--install")
    for name in ("a.vaec", "no-suffix"):
        assert told("xdg-mime", "query", "filetype", tmp_path / name).strip() == "image/x-vaec"
    desktop("--uninstall")
    assert told("xdg-mime", "query", "filetype", tmp_path / "a.vaec").strip() != "image/x-vaec"


@needs("gio", "update-mime-database", "update-desktop-database")
def test_gio_opens_them_in_the_viewer(home: Path, tmp_path: Path) -> None:
    """The type by content, and the viewer before the conversion to PNG."""
    (tmp_path / "no-suffix").write_bytes(vaec(picture(8, 8)))
    desktop("--install")
    assert "standard::content-type: image/x-vaec" in told(
        "gio", "info", "-a", "standard::content-type", tmp_path / "no-suffix"
    )
    text = told("gio", "mime", "image/x-vaec")
    assert re.findall(r"vaecodec-\w+\.desktop", text)[0] == "vaecodec-open.desktop"
    assert "vaecodec-png.desktop" in text


@pytest.mark.parametrize(
    ("size", "px", "wanted"), [((300, 200), 128, (128, 85)), ((2100, 700), 300, (263, 88)), ((40, 30), 256, (40, 30))]
)
def test_thumbnails_have_the_size(size: tuple[int, int], px: int, wanted: tuple[int, int], tmp_path: Path) -> None:
    """A PNG no larger than asked for, over the empty file that file managers make; small pictures stay small."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(size[1], size[0])))
    (tmp_path / "a.png").touch()
    result = CliRunner().invoke(
        main, ["thumbnail", str(tmp_path / "a.vaec"), str(tmp_path / "a.png"), "--size", str(px)]
    )
    assert result.exit_code == 0
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", wanted)


def test_thumbnails_stand_upright(tmp_path: Path) -> None:
    """Turned as EXIF says; nothing else of EXIF, where people were or with what, is in them."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, "maker"
    data = vaec(picture(200, 300), {"exif": exif.tobytes().removeprefix(b"Exif\0\0")})
    (tmp_path / "a.vaec").write_bytes(data)
    assert CliRunner().invoke(main, ["thumbnail", str(tmp_path / "a.vaec"), str(tmp_path / "a.png")]).exit_code == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (171, 256) and not image.getexif()


def test_damage_leaves_the_old_thumbnail(tmp_path: Path) -> None:
    """The exit code tells file managers; nothing half written stands there, nor beside it."""
    data = vaec(picture(200, 300))
    (tmp_path / "a.vaec").write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    old = (tmp_path / "a.png").read_bytes()
    result = CliRunner().invoke(main, ["thumbnail", str(tmp_path / "a.vaec"), str(tmp_path / "a.png")])
    assert result.exit_code == 4
    assert (tmp_path / "a.png").read_bytes() == old and sorted(os.listdir(tmp_path)) == ["a.png", "a.vaec"]


def test_a_thumbnail_is_never_written_over_its_picture(tmp_path: Path) -> None:
    """Whatever a file manager asks."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(20, 30)))
    assert CliRunner().invoke(main, ["thumbnail", str(tmp_path / "a.vaec"), str(tmp_path / "a.vaec")]).exit_code != 0


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.parametrize("name", ["b.vaec", "B.VAEC", "b.jpg", "b.txt"])
def test_thumbnails_are_named_as_png(name: str, options: list[str], tmp_path: Path) -> None:
    """What the shell makes of *.vaec overwrites no picture; no PNG calls itself JPEG."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(20, 30)))
    (tmp_path / name).write_bytes(b"mine")
    arguments = ["thumbnail", *options, str(tmp_path / "a.vaec"), str(tmp_path / name)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "ends in .png" in result.stderr and "[OUTPUT]" in result.stderr
    assert (tmp_path / name).read_bytes() == b"mine"


def test_thumbnails_overwrite_only_png(tmp_path: Path) -> None:
    """And empty files, whatever file managers call them; anything with --force."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(20, 30)))
    target = tmp_path / ".thumbnail.X3b9Qz"
    arguments = ["thumbnail", str(tmp_path / "a.vaec"), str(target)]
    target.write_bytes(b"mine")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "use -f" in result.stderr and target.read_bytes() == b"mine"
    assert CliRunner().invoke(main, [*arguments, "-f"]).exit_code == 0
    first = target.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert CliRunner().invoke(main, [*arguments, "--size", "9"]).exit_code == 0
    assert target.read_bytes() != first


@pytest.mark.parametrize("end", ["", "/"])
def test_thumbnails_go_into_folders(end: str, tmp_path: Path) -> None:
    """With the name of the picture, and the suffix of PNG."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(20, 30)))
    (tmp_path / "small").mkdir()
    arguments = ["thumbnail", str(tmp_path / "a.vaec"), f"{tmp_path / 'small'}{end}"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert os.listdir(tmp_path / "small") == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_thumbnails_wait_for_no_pipe(tmp_path: Path) -> None:
    """Which may never have a writer."""
    os.mkfifo(tmp_path / "a.vaec")
    arguments = ["-m", "vaecodec", "thumbnail", str(tmp_path / "a.vaec"), str(tmp_path / "a.png")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3 and "is not a file" in done.stderr


def test_thumbnails_load_little(tmp_path: Path) -> None:
    """A fresh process, most of whose time goes into loading, has neither torch nor the server of the viewer."""
    (tmp_path / "a.vaec").write_bytes(vaec(picture(20, 30)))
    code = "import sys; from vaecodec.cli import main; main(standalone_mode=False); print(*sys.modules)"
    command = [sys.executable, "-c", code, "thumbnail", "--quiet", str(tmp_path / "a.vaec"), str(tmp_path / "a.png")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.Image" in loaded
    assert not {"torch", "http.server", "vaecodec.cli.viewer", "rich"} & set(loaded)
