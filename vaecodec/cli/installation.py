"""Installs the files of share/ into the user's data folder, where desktops look for them, and removes them again.

A record next to them lists what was installed; nothing else is ever touched.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaecodec.errors import VaecError
from vaecodec.runtime.files import write_whole

NAMES = (
    "mime/packages/vaecodec.xml",
    "thumbnailers/vaecodec.thumbnailer",
    "applications/vaecodec-open.desktop",
    "applications/vaecodec-png.desktop",
)
RECORD = "vaecodec/desktop.json"
# Inner folders before outer ones.
_FOLDERS = ("mime/packages", "mime", "thumbnailers", "applications", "vaecodec", ".")
# Programs, where installed, that make desktops notice changes, each with its folder in the data folder.
REFRESHERS = (("update-mime-database", "mime"), ("update-desktop-database", "applications"))
REFRESH_S = 60
# What these programs leave in their folders, even if nothing is installed any more.
_GENERATED = {
    "mime": {
        "XMLnamespaces", "aliases", "generic-icons", "globs", "globs2", "icons", "image", "magic", "mime.cache",
        "subclasses", "treemagic", "types", "version",
    },
    "applications": {"mimeinfo.cache"},
}  # fmt: skip


def data_home() -> Path:
    """The user's data folder: $XDG_DATA_HOME, or ~/.local/share."""
    given = os.environ.get("XDG_DATA_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".local" / "share"


def install(home: Path) -> list[str]:
    """Installs or updates the files; returns messages about what could not be refreshed.

    Raises:
        VaecError: (EXISTS) such a file exists that this command did not install, or that has been changed since;
            nothing was changed.
        OSError: a file cannot be written.
    """
    try:
        record = _record(home)
    except VaecError:
        record = {"files": {}, "folders": []}  # it is made anew below
    program = _program()
    contents = {name: _with_program((_share() / name).read_text(encoding="utf-8"), program).encode() for name in NAMES}
    for name, content in contents.items():
        found = _hash_of(home / name)
        installed = record["files"].get(name)
        if found not in (None, installed, _hash(content)):
            reason = "has been changed since it was installed" if installed else "exists, but is not from this command"
            raise VaecError(f"{home / name} {reason}: move it away, and install again", code="EXISTS")
    made = [name for name in _FOLDERS if name in record["folders"] or not (home / name).exists()]
    record = {"files": {name: _hash(content) for name, content in contents.items()}, "folders": made}
    for name in _FOLDERS:
        (home / name).mkdir(parents=True, exist_ok=True)
    write_whole(
        home / RECORD, json.dumps(record, indent=1).encode()
    )  # first, so that a partial installation can be removed
    for name, content in contents.items():
        write_whole(home / name, content)
    return _refresh(home)


def uninstall(home: Path) -> list[str]:
    """Removes what `install` installed; returns messages about what is left, and why.

    Raises:
        VaecError: (RECORD) what was installed cannot be told; nothing was changed.
        OSError: a file cannot be removed.
    """
    record, messages = _record(home), []
    for name, expected in record["files"].items():
        found = _hash_of(home / name)
        if found == expected:
            (home / name).unlink()
        elif found is not None:
            messages.append(f"{home / name} has been changed since, and is kept")
    messages += _refresh(home) if record["files"] else []
    (home / RECORD).unlink(missing_ok=True)
    for name in record["folders"]:
        with suppress(OSError):  # it is not empty, or gone
            _remove_folder(home / name, _GENERATED.get(name, set()))
    return messages


def _remove_folder(folder: Path, generated: set[str]) -> None:
    """Removes a folder with nothing but generated files; raises OSError if there is anything else."""
    found = list(folder.iterdir())
    if generated.issuperset(path.name for path in found):
        for path in found:
            path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _share() -> Path:
    """The folder of the files: inside an installed package, or next to it in a checkout."""
    inside = Path(__file__).parents[1] / "share"
    return inside if inside.exists() else Path(__file__).parents[2] / "share"


def _record(home: Path) -> dict[str, Any]:
    """What was installed: hashes by name, and the folders that were created; ignores names that are not ours.

    Raises:
        VaecError: (RECORD) there is a record, but it is damaged.
    """
    try:
        found = json.loads((home / RECORD).read_text(encoding="utf-8"))
        files, folders = dict(found["files"]), list(found["folders"])
    except FileNotFoundError:
        files, folders = {}, []
    except (ValueError, KeyError, TypeError) as error:
        advice = "run `vaecodec desktop --install`, which makes it anew, and then --uninstall"
        raise VaecError(
            f"{home / RECORD}, the record of what was installed, is damaged: {advice}", code="RECORD"
        ) from error
    return {
        "files": {name: files[name] for name in NAMES if name in files},
        "folders": [name for name in _FOLDERS if name in folders],
    }


def _program() -> list[str]:
    """The command of this installation; its folder need not be on the desktop's PATH."""
    beside = Path(sys.executable).with_name("vaecodec")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "vaecodec"]


def _with_program(text: str, program: list[str]) -> str:
    """The desktop file, changed to start this installation's program instead of the first one on the PATH."""
    command = " ".join(map(_quoted, program))
    text = re.sub(r"^Exec=vaecodec\b", lambda _: f"Exec={command}", text, flags=re.MULTILINE)
    return re.sub(r"^TryExec=.*", lambda _: f"TryExec={_escaped(program[0])}", text, flags=re.MULTILINE)


def _quoted(argument: str) -> str:
    """Quotes an argument of Exec, as the Desktop Entry Specification demands."""
    if re.fullmatch(r"[\w@+=:,./-]+", argument):
        return argument
    marked = re.sub(r'(["`$\\])', r"\\\1", argument).replace("%", "%%")
    return _escaped(f'"{marked}"')


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")


def _refresh(home: Path) -> list[str]:
    messages = []
    for program, folder in REFRESHERS:
        found = shutil.which(program)
        if found is None:
            messages.append(f"{program} is not installed: desktops may notice only later")
        elif (home / folder).is_dir():
            try:
                done = subprocess.run(
                    [found, home / folder], capture_output=True, text=True, timeout=REFRESH_S, check=False
                )
                problem = done.stderr.strip() if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            messages += [f"{program}: {problem}"] if problem else []
    return messages


def _hash_of(path: Path) -> str | None:
    """Hash of a file's content; None if there is no file."""
    try:
        return _hash(path.read_bytes())
    except FileNotFoundError:
        return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
