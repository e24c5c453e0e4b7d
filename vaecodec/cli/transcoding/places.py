"""Where pictures come from and .vaec files go: a local folder, or a path in an object store through fsspec."""

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
    """A place cannot be opened: its protocol is unknown, a package is missing, or it is not a folder."""

    default_code = "PLACE"


@dataclass(frozen=True)
class Place:
    """A folder and everything below it. Names are relative to it, with "/" as separator, on every system.

    It can be sent to other processes. On other machines, a local folder must be mounted under the same path.

    Attributes:
        files: the file system.
        root: path of the folder there.
    """

    files: Any
    root: str

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yields name and size in bytes of every file, except hidden files and those in hidden folders.

        Raises:
            PlaceError: there is no such folder.
            OSError: the folder, or one below it, cannot be read.
        """
        self.files.invalidate_cache()
        if not self.files.isdir(self.root):
            raise PlaceError(f"{self.root!r} is not a folder")
        for parent, folders, found in self.files.walk(self.root, detail=True, on_error="raise"):
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            inside = parent.removeprefix(self.root).strip("/")
            for name, facts in found.items():
                is_hidden = not name or name.startswith(".")  # some stores list the folder itself with an empty name
                if not is_hidden and not self._may_wait(f"{parent}/{name}"):
                    yield f"{inside}/{name}".lstrip("/"), facts["size"]

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises OSError."""
        data: bytes = self.files.cat_file(self._path(name))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, and the folders that it needs, replacing an existing file; raises OSError.

        Local writes are atomic, and so are those of object stores. With other protocols (such as sftp), a worker that
        dies may leave a partial file, which no manifest lists.
        """
        path = self._path(name)
        _make_folder(self.files, path.rpartition("/")[0])
        if isinstance(self.files, LocalFileSystem):
            write_whole(path, data)
        else:
            self.files.pipe_file(path, data)

    def _may_wait(self, path: str) -> bool:
        """Whether this is a pipe or a device, which might block its reader forever."""
        return isinstance(self.files, LocalFileSystem) and os.path.exists(path) and not os.path.isfile(path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def open_place(uri: str) -> Place:
    """The place at a path or an address such as s3://bucket/photos; reads nothing yet.

    Raises:
        PlaceError: fsspec does not know the protocol, or a package for it is not installed.
    """
    try:
        files, root = fsspec.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise PlaceError(f"{uri!r} cannot be opened: {error}") from error
    return Place(files, root.rstrip("/"))


@functools.lru_cache(maxsize=4096)  # one request per folder and process, not per picture
def _make_folder(files: Any, path: str) -> None:
    files.makedirs(path, exist_ok=True)
