"""The manifest: what came of each picture, as JSON lines beside the .vaec files; it is also what a run resumes from.

The folder manifest/ holds files of JSON lines, which together, in order of their names, are the manifest. Each is
written once and whole, because object stores cannot append: an empty one when a run begins, another after so many
pictures or seconds, and at the end. What a run that was killed had not written yet is missing, and its pictures are
done again, to the same files.
"""

import json
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Self

from vaecodec.cli.transcoding.places import Place
from vaecodec.errors import VaecError

FOLDER = "manifest"
SUFFIX = ".jsonl"

Record = dict[str, Any]
"""One line. "path": name of the picture in its place. "status": "done" or "failed".

Of those done: "output" (name of the .vaec file), "width", "height" (pixels), "mode", "quality", "model_id",
"input_bytes", "output_bytes", "bpp", "psnr_db" (all samples but alpha; null if nothing was lost), "seconds", and
"warnings" if there were any. Of those that failed: "code" and "message". Of both: "worker", the machine and process.
"""


class ManifestError(VaecError):
    """A manifest that is there cannot be understood."""

    default_code = "MANIFEST"


class Manifest:
    """Collects records and writes them. Its context begins with a file without records, and ends by writing the rest.

    Args:
        place: where the .vaec files go.
        records_each: at most this many in a file of the manifest.
        seconds_each: a record waits at most about so long to be written.
    """

    def __init__(self, place: Place, *, records_each: int = 1000, seconds_each: float = 20.0) -> None:
        self.place, self.records_each, self.seconds_each = place, records_each, seconds_each
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")  # names of later runs come later
        self._run = f"{started}-{secrets.token_hex(4)}"
        self._waiting: list[str] = []
        self._files = 0
        self._written_s = time.monotonic()

    def __enter__(self) -> Self:
        self._write()  # so that whatever this run leaves in the place, there is a manifest that tells whose it is
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._write()

    def add(self, record: Record) -> None:
        """Takes a record, and writes what has been waiting if that is much, or old; raises OSError."""
        self._waiting.append(json.dumps(record, allow_nan=False))
        if len(self._waiting) >= self.records_each or time.monotonic() - self._written_s >= self.seconds_each:
            self._write()

    def _write(self) -> None:
        text = "".join(f"{line}\n" for line in self._waiting)
        self.place.write(f"{FOLDER}/{self._run}-{self._files:08}{SUFFIX}", text.encode())
        self._waiting.clear()
        self._files += 1
        self._written_s = time.monotonic()


def read(place: Place, names: Iterable[str]) -> dict[str, Record]:
    """The last record of every picture.

    Args:
        place: where the .vaec files are.
        names: of the files there, of which some are the manifest's.

    Raises:
        ManifestError: a line is not one of a manifest.
        OSError: a file cannot be read.
    """
    records: dict[str, Record] = {}
    for name in sorted(name for name in names if is_manifest(name)):
        for number, line in enumerate(place.read(name).decode(errors="replace").splitlines(), 1):
            try:
                record = json.loads(line)
                records[record["path"]] = record
            except (ValueError, TypeError, KeyError) as error:
                raise ManifestError(f"{name}, line {number}, is not a record with a path: {line[:80]!r}") from error
    return records


def is_manifest(name: str) -> bool:
    """Whether a file beside the .vaec files is part of the manifest."""
    return name.startswith(f"{FOLDER}/") and name.endswith(SUFFIX)
