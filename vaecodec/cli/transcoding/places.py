"""Where pictures come from and .vaec files go: a folder, or a place in an object store that fsspec knows."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vaecodec.errors import VaecError
from vaecodec.runtime.files import write_whole


class PlaceError(VaecError):
    """A place cannot be reached: its protocol is not known, its package is missing, or it is not a folder."""

    default_code = "PLACE"


@dataclass(frozen=True)
class Place:
    """A folder and everything below it. Names are relative to it, with "/" between their parts, on every system.

    Every process may have it: on other machines, a folder of this one must be mounted under the same path.

    Attributes:
        files: the file system.
        root: path of the folder there.
    """

    files: Any
    root: str

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yields name and size in bytes of every file; hidden ones, and what lies in hidden folders, are left out.

        Raises:
            PlaceError: there is no such folder.
            OSError: it, or a folder in it, cannot be read.
        """
        self.files.invalidate_cache()
        if not self.files.isdir(self.root):
            raise PlaceError(f"{self.root!r} is not a folder")
        for parent, folders, found in self.files.walk(self.root, detail=True, on_error="raise"):
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            inside = parent.removeprefix(self.root).strip("/")
            for name, facts in found.items():
                is_hidden = not name or name.startswith(".")  # some stores list the folder itself under no name
                if not is_hidden and not self._may_wait(f"{parent}/{name}"):
                    yield f"{inside}/{name}".lstrip("/"), facts["size"]

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises OSError."""
        data: bytes = self.files.cat_file(self._path(name))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, and the folders that it needs; a file of that name is replaced.

        On this computer as a whole or not at all. Object stores do the same; of the protocols that do not (such as
        sftp), a worker that dies may leave a part, which no manifest lists. Raises OSError.
        """
        path = self._path(name)
        _make_folder(self.files, path.rpartition("/")[0])
        if isinstance(self.files, LocalFileSystem):
            write_whole(path, data)
        else:
            self.files.pipe_file(path, data)

    def _may_wait(self, path: str) -> bool:
        """Whether this is a pipe or a device, which may keep its reader waiting for ever."""
        return isinstance(self.files, LocalFileSystem) and os.path.exists(path) and not os.path.isfile(path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def open_place(uri: str) -> Place:
    """The place of a path or of an address such as s3://bucket/photos; nothing is read yet.

    Raises:
        PlaceError: fsspec does not know the protocol, or needs a package for it that is not installed.
    """
    try:
        files, root = fsspec.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise PlaceError(f"{uri!r} cannot be opened: {error}") from error
    return Place(files, root.rstrip("/"))


@functools.lru_cache(maxsize=4096)  # one request a folder and process, not one a picture
def _make_folder(files: Any, path: str) -> None:
    files.makedirs(path, exist_ok=True)
